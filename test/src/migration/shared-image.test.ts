// SPDX-License-Identifier: Apache-2.0
import { WASM_PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { close } from "../../../ffi/fd.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { mapAnonymousOver, mapOver } from "../../../ffi/mmap.ts";
import { currentCpu } from "../../../ffi/process.ts";
import type { VmmError } from "../../../src/errors.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import type { PlannedGuest } from "../../../src/migration/guest-image.ts";
import {
  FRAME_FILLING,
  FRAME_REFUSED,
  FRAME_RUNNING,
  FRAME_STATE,
  subjectOf,
} from "../../../src/migration/messages.ts";
import { type ArrivingImage, SHARED_IMAGE_SIZE_BYTES, SharedImage } from "../../../src/migration/shared-image.ts";
import { HEADER_SIZE_BYTES } from "../../../src/state/format.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { StateWriter } from "../../../src/state/writer.ts";
import { bytes } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";
import { warmReactor } from "../backends/support.ts";
import { transportPair } from "./channel/support.ts";

const test = describe("src/migration/shared-image");
const reactor = await warmReactor();
test.after(() => reactor.close());

const KNOWN = { machine: 1, vcpu: 1 };
const REGS = [Uint8Array.of(1, 2, 3), Uint8Array.of(4, 5, 6)];
const TIMEOUT_MS = 1000;
const SILENCE_MS = 30;
/** The words at the start of the shared memory: see src/migration/shared-image.ts. */
const SIZE_WORD = 0;
const FILLED_WORD = 1;
const OLD_CPU_WORD = 2;
const NEW_CPU_WORD = 3;
const NO_CPU = 0xffff;
const FILLING = { type: FRAME_FILLING, payload: Uint8Array.of(FRAME_STATE), fds: [] };

/** Both sides of one shared image, and of a channel. */
interface Sides extends Disposable {
  old: SharedImage;
  oldChannel: FrameChannel;
  young: SharedImage;
  channel: FrameChannel;
  /** What both share, and the words that it begins with. */
  shared: Uint8Array;
  words: Uint32Array;
}

function sides(): Sides {
  const fd = memfdCreate("test-image", SHARED_IMAGE_SIZE_BYTES);
  const [old, young] = [new SharedImage(fd, 0), new SharedImage(fd, 0)];
  const pages = SHARED_IMAGE_SIZE_BYTES / WASM_PAGE_SIZE_BYTES;
  const shared = new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer);
  mapOver(shared, 0, { fd, sizeBytes: SHARED_IMAGE_SIZE_BYTES });
  const [one, other] = transportPair();
  const [oldChannel, channel] = [new FrameChannel(one, reactor), new FrameChannel(other, reactor)];
  return {
    old,
    oldChannel,
    young,
    channel,
    shared,
    words: new Uint32Array(shared.buffer, 0, 4),
    [Symbol.dispose]() {
      oldChannel.close();
      channel.close();
      old.close();
      young.close();
      mapAnonymousOver(shared, 0, SHARED_IMAGE_SIZE_BYTES);
      close(fd);
    },
  };
}

/** A guest with a machine and two vCPUs; `afterFirst` is called between them, when the first may be looked at. */
function guest(afterFirst: () => void = () => {}, bigBytes = 0): PlannedGuest {
  const writer = new StateWriter();
  writer.addJson({ id: "machine", version: 1 }, { padding: "x".repeat(bigBytes) });
  const bind = REGS.map((regs, instance) => {
    const section = writer.plan({ id: "vcpu", instance, version: 1 }, [{ name: "regs", type: "u8[]", sizeBytes: 3 }]);
    const progress = instance === 0 ? writer.planProgress() : undefined;
    return () => {
      const [view, tell] = [writer.view(section, "regs"), progress?.()];
      return () => {
        view.set(regs);
        tell?.();
        if (instance === 0) afterFirst();
      };
    };
  });
  const sizeBytes = writer.lay({ isFixed: true });
  const fills = bind.map((step) => step());
  return {
    sizeBytes,
    take: (onProgress) => {
      writer.onProgress = onProgress;
      for (const fill of fills) fill();
      return writer.seal();
    },
  };
}

/** Why waiting for all of an image fails. */
function failure(image: ArrivingImage): VmmError {
  try {
    image.finish();
  } catch (error) {
    return error as VmmError;
  }
  return assert.unreachable("it has all come") as never;
}

const options = { type: FRAME_STATE, timeoutMs: TIMEOUT_MS };

/** What the new side hears when it may read along. */
function announced({ young, channel }: Sides, silenceMs = SILENCE_MS): ArrivingImage {
  const frame = channel.receiveNow(1, TIMEOUT_MS);
  assert.equal([frame.type, subjectOf(frame)], [FRAME_FILLING, FRAME_STATE]);
  return young.arrive(channel, frame, silenceMs);
}

/** Has the sides believe that the other one is on another CPU than this thread, which both are on, or on the same. */
function setApart({ words }: Sides, isApart: boolean): void {
  const cpu = isApart ? NO_CPU : currentCpu() + 1;
  words[OLD_CPU_WORD] = cpu;
  words[NEW_CPU_WORD] = cpu;
}

test("on another CPU a vCPU can be read while the next one is not there yet", () => {
  using all = sides();
  let image: ArrivingImage | undefined;
  let isTaken = false;
  const planned = guest(() => {
    image = announced(all);
    setApart(all, true);
    const reader = image.read(KNOWN);
    image.await(reader.section("vcpu", 0).endOffset);
    assert.equal(reader.section("vcpu", 0).part("regs").slice(), REGS[0]);
    assert.not(isTaken);
    assert.is(failure(image).code, "peer-silent");
    setApart(all, false);
    assert.is(failure(image).code, "peer-silent", "who does not spin is woken up at the end");
    assert.is(image.completeMs, 0);
  });
  setApart(all, true);
  all.old.send(all.oldChannel, planned, {
    ...options,
    onTaken: () => {
      isTaken = true;
      assert.is(failure(image!).code, "peer-silent", "it may not be seen yet");
    },
  });
  image!.finish();
  assert.ok(image!.completeMs > 0);
  assert.equal(image!.read(KNOWN).section("vcpu", 1).part("regs").slice(), REGS[1]);
});

test("one image comes after the other, to be read along or not", () => {
  using all = sides();
  for (let round = 0; round < 4; round++) {
    const isApart = round < 2;
    setApart(all, isApart);
    all.old.send(all.oldChannel, guest(), options);
    let reader: StateReader;
    if (isApart) {
      const image = announced(all);
      reader = image.read(KNOWN);
      image.finish();
    } else {
      const { type, payload } = all.channel.receiveNow(0, TIMEOUT_MS);
      assert.equal([type, payload.length], [FRAME_STATE, 0]);
      reader = new StateReader(all.young.receive(), KNOWN);
    }
    assert.equal(reader.section("vcpu", 1).part("regs").slice(), REGS[1]);
  }
  assert.is(all.words[NEW_CPU_WORD], currentCpu() + 1);
  assert.is(all.words[OLD_CPU_WORD], currentCpu() + 1);
});

test("what has been received cannot be changed by the other side any more", () => {
  using all = sides();
  all.old.send(all.oldChannel, guest(), options);
  const image = all.young.receive();
  all.shared.fill(0xff);
  assert.equal(new StateReader(image, KNOWN).section("vcpu", 1).part("regs").slice(), REGS[1]);
});

test("an image that is too large goes through the channel", () => {
  using all = sides();
  const sent: [type: number, sizeBytes: number][] = [];
  const oldChannel = { sendNow: (type: number, image: Uint8Array) => sent.push([type, image.length]) };
  const planned = guest(undefined, SHARED_IMAGE_SIZE_BYTES);
  all.old.send(oldChannel as unknown as FrameChannel, planned, options);
  assert.equal(sent, [[FRAME_STATE, planned.sizeBytes]]);
});

test("an image that was damaged on its way is refused", () => {
  using all = sides();
  setApart(all, true);
  all.old.send(all.oldChannel, guest(), options);
  all.shared[all.words.byteLength + HEADER_SIZE_BYTES + 2]! ^= 1;
  const { code, message } = failure(announced(all));
  assert.is(code, "state-refused");
  assert.match(message, "CRC-32");
});

test("sizes that make no sense are refused", () => {
  using all = sides();
  setApart(all, true);
  const arrive = (sizeBytes: number): ArrivingImage => {
    all.words[SIZE_WORD] = sizeBytes;
    return all.young.arrive(all.channel, FILLING, SILENCE_MS);
  };
  for (const sizeBytes of [0, HEADER_SIZE_BYTES - 1, SHARED_IMAGE_SIZE_BYTES, 0xffff_ffff]) {
    const message = `An image of ${sizeBytes} bytes is announced`;
    assert.throws(() => arrive(sizeBytes), message);
    assert.throws(() => all.young.receive(), message);
  }
  const image = arrive(4096);
  all.words[FILLED_WORD] = 4097;
  assert.match(failure(image).message, "filled in 4097 bytes of an image, out of 1 to 4096");
  all.words[FILLED_WORD] = 200;
  image.await(200);
  all.words[FILLED_WORD] = 100;
  assert.match(failure(image).message, "filled in 100 bytes of an image, out of 201 to 4096");
  all.words[FILLED_WORD] = 200;
  all.oldChannel.sendNow(FRAME_STATE, new Uint8Array(0), [], TIMEOUT_MS);
  assert.match(failure(image).message, "filled in 200 bytes of an image, out of 201 to 4096");
});

test("a peer that gives up, says something else or goes ends the waiting", () => {
  const outcomes: [code: string, message: string, act: (channel: FrameChannel) => void][] = [
    ["refused", "not today", (channel) => channel.sendNow(FRAME_REFUSED, bytes("not today"), [], TIMEOUT_MS)],
    ["stream", "sent RUNNING where STATE was", (channel) => channel.sendNow(FRAME_RUNNING, bytes(""), [], TIMEOUT_MS)],
    ["peer-gone", "ended the stream", (channel) => channel.close()],
  ];
  for (const [code, message, act] of outcomes) {
    using all = sides();
    all.words.set([4096, 0]);
    const image = all.young.arrive(all.channel, FILLING, TIMEOUT_MS);
    act(all.oldChannel);
    const error = failure(image);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test.run();
