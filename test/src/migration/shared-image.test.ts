// SPDX-License-Identifier: Apache-2.0
import { WASM_PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { close } from "../../../ffi/fd.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { mapAnonymousOver, mapOver } from "../../../ffi/mmap.ts";
import type { VmmError } from "../../../src/errors.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import type { PlannedGuest } from "../../../src/migration/guest-image.ts";
import { FRAME_REFUSED, FRAME_RUNNING, FRAME_STATE } from "../../../src/migration/messages.ts";
import { type ArrivingImage, SHARED_IMAGE_SIZE_BYTES, SharedImage } from "../../../src/migration/shared-image.ts";
import { HEADER_SIZE_BYTES } from "../../../src/state/format.ts";
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
/** Size and how much is filled in. */
const WORDS_SIZE_BYTES = 8;

/** Both sides of one shared image, and of a channel. */
interface Sides extends Disposable {
  old: SharedImage;
  oldChannel: FrameChannel;
  young: SharedImage;
  channel: FrameChannel;
  /** What both share. */
  shared: Uint8Array;
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

/** What the new side hears of it first. */
function announced({ young, channel }: Sides, silenceMs = SILENCE_MS): ArrivingImage {
  const { type, payload } = channel.receiveNow(0, TIMEOUT_MS);
  assert.equal([type, payload.length], [FRAME_STATE, 0]);
  return young.arrive(channel, silenceMs);
}

test("a vCPU can be read while the next one is not there yet", () => {
  using all = sides();
  let image: ArrivingImage | undefined;
  let isTaken = false;
  const planned = guest(() => {
    image = announced(all);
    const reader = image.read(KNOWN);
    image.await(reader.section("vcpu", 0).endOffset);
    assert.equal(reader.section("vcpu", 0).part("regs").slice(), REGS[0]);
    assert.not(isTaken);
    const { code, message } = failure(image);
    assert.is(code, "peer-silent", message);
    assert.is(image.completeMs, 0);
  });
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

test("one image comes after the other", () => {
  using all = sides();
  for (let round = 0; round < 3; round++) {
    all.old.send(all.oldChannel, guest(), options);
    const image = announced(all);
    const reader = image.read(KNOWN);
    image.finish();
    assert.equal(reader.section("vcpu", 1).part("regs").slice(), REGS[1]);
  }
});

test("what has been received cannot be changed by the other side any more", () => {
  using all = sides();
  all.old.send(all.oldChannel, guest(), options);
  const image = announced(all);
  image.finish();
  all.shared.fill(0xff);
  assert.equal(image.read(KNOWN).section("vcpu", 1).part("regs").slice(), REGS[1]);
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
  all.old.send(all.oldChannel, guest(), options);
  all.shared[WORDS_SIZE_BYTES + HEADER_SIZE_BYTES + 2]! ^= 1;
  const { code, message } = failure(announced(all));
  assert.is(code, "state-refused");
  assert.match(message, "CRC-32");
});

test("sizes that make no sense are refused", () => {
  using all = sides();
  const words = new Uint32Array(all.shared.buffer, 0, 2);
  const arrive = (sizeBytes: number, filledBytes: number): VmmError => {
    words.set([sizeBytes, filledBytes]);
    try {
      return failure(all.young.arrive(all.channel, SILENCE_MS));
    } catch (error) {
      return error as VmmError;
    }
  };
  assert.match(arrive(SHARED_IMAGE_SIZE_BYTES, 0).message, `An image of ${SHARED_IMAGE_SIZE_BYTES} bytes is announced`);
  assert.match(arrive(0xffff_ffff, 0).message, "An image of 4294967295 bytes is announced");
  assert.match(arrive(4096, 4097).message, "filled in 4097 bytes of an image, out of 0 to 4096");
  assert.match(arrive(0, 0).message, "An image of 0 bytes is announced");
  words.set([4096, 200]);
  const image = all.young.arrive(all.channel, SILENCE_MS);
  image.await(200);
  words.set([4096, 100]);
  assert.match(failure(image).message, "filled in 100 bytes of an image, out of 200 to 4096");
});

test("a peer that gives up, says something else or goes ends the waiting", () => {
  const outcomes: [code: string, message: string, act: (channel: FrameChannel) => void][] = [
    ["refused", "not today", (channel) => channel.sendNow(FRAME_REFUSED, bytes("not today"), [], TIMEOUT_MS)],
    [
      "stream",
      "sent RUNNING where nothing was expected",
      (channel) => channel.sendNow(FRAME_RUNNING, bytes(""), [], TIMEOUT_MS),
    ],
    ["peer-gone", "ended the stream", (channel) => channel.close()],
  ];
  for (const [code, message, act] of outcomes) {
    using all = sides();
    const words = new Uint32Array(all.shared.buffer, 0, 2);
    words.set([4096, 0]);
    const image = all.young.arrive(all.channel, TIMEOUT_MS);
    act(all.oldChannel);
    const error = failure(image);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test.run();
