// SPDX-License-Identifier: Apache-2.0
// Running streams in both directions, updated again and again: no byte may be lost or doubled.
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { close, makeFifo, O_NOCTTY, O_NONBLOCK, O_RDWR, open } from "../../../ffi/fd.ts";
import { AF_UNIX, unixAddress } from "../../../ffi/sockaddr.ts";
import { accept, connect, listen, socket } from "../../../ffi/socket.ts";
import type { HostChardev } from "../../../src/backends/chardev/base.ts";
import { create } from "../../../src/backends/chardev/create.ts";
import type { ChardevFrontend } from "../../../src/backends/chardev/types.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";
import { handOver, Peer, StreamCheck, streamBytes, tick, until, warmReactor } from "./support.ts";

const test = describe("src/backends/chardev: streams");
const directory = temporaryDirectory();
const reactor = await warmReactor();
test.after(() => reactor.close());

const STREAM_SIZE_BYTES = 600_000;
const UPDATES = 25;

/** A small generator with a seed (mulberry32), so that a failure can be had again. */
function generator(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

/** A slow guest: takes and gives a few bytes at a time, holds back while much is queued. */
class SlowFrontend implements ChardevFrontend {
  device: HostChardev | undefined;
  readonly check = new StreamCheck();
  readonly #random: (limit: number) => number;
  #room = 0;
  sent = 0;
  drains = 0;

  constructor(random: (limit: number) => number) {
    this.#random = random;
  }

  inputSpaceBytes(): number {
    return this.#room;
  }

  receive(bytes: Uint8Array): void {
    assert.ok(bytes.byteLength <= this.#room);
    this.#room -= bytes.byteLength;
    this.check.add(bytes);
  }

  drained(): void {
    this.drains++;
  }

  /** One step of the guest. */
  step(): void {
    if (this.#random(3) > 0) {
      this.#room = this.#random(40_000);
      this.device!.acceptInput();
    }
    if (this.device!.queuedBytes < 100_000 && this.sent < STREAM_SIZE_BYTES) {
      const output = streamBytes(this.sent, Math.min(1 + this.#random(30_000), STREAM_SIZE_BYTES - this.sent));
      this.sent += output.byteLength;
      this.device!.write(output);
    }
  }
}

/** A slow person: reads and writes a few bytes at a time. */
class SlowPeer {
  readonly check = new StreamCheck();
  readonly #peer: Peer;
  readonly #random: (limit: number) => number;
  sent = 0;

  constructor(peer: Peer, random: (limit: number) => number) {
    this.#peer = peer;
    this.#random = random;
  }

  step(): void {
    if (this.#random(3) > 0) {
      assert.ok(this.#peer.read(1 + this.#random(30_000)), "the stream has ended");
      this.check.add(this.#peer.received);
      this.#peer.received = Buffer.alloc(0);
    }
    if (this.sent < STREAM_SIZE_BYTES) {
      const size = Math.min(1 + this.#random(30_000), STREAM_SIZE_BYTES - this.sent);
      this.sent += this.#peer.write(streamBytes(this.sent, size));
    }
  }
}

async function runStreams(device: HostChardev, peer: Peer, seed: number): Promise<void> {
  const random = generator(seed);
  const frontend = new SlowFrontend(random);
  frontend.device = device;
  device.attach(frontend);
  const person = new SlowPeer(peer, random);
  let updates = 0;
  while (Math.min(frontend.check.byteCount, person.check.byteCount) < STREAM_SIZE_BYTES || updates < UPDATES) {
    frontend.step();
    person.step();
    if (random(4) === 0) await tick();
    if (updates < UPDATES && random(5) === 0) {
      updates++;
      if (random(4) === 0) {
        // An update that fails: the device goes on.
        frontend.device.freeze();
        frontend.step();
        person.step();
        await tick();
        frontend.device.thaw();
      } else {
        frontend.device = handOver(frontend.device, frontend, reactor);
      }
    }
  }
  await until(() => frontend.device!.queuedBytes === 0);
  assert.is(updates, UPDATES);
  assert.ok(frontend.drains > 0);
  assert.is(frontend.check.byteCount, STREAM_SIZE_BYTES);
  assert.is(person.check.byteCount, STREAM_SIZE_BYTES);
  peer.close();
  frontend.device.close();
}

test("socket server", async () => {
  const path = join(directory, "server");
  const address = { type: "unix", path } as const;
  const device = create({ backend: "socket", id: "s", address, server: true, wait: false }, reactor);
  const fd = socket(AF_UNIX);
  connect(fd, unixAddress(path));
  await until(() => device.connected);
  await runStreams(device, new Peer(fd), 1);
});

test("socket client", async () => {
  const path = join(directory, "client");
  const address = { type: "unix", path } as const;
  const serverFd = listen(unixAddress(path));
  const device = create({ backend: "socket", id: "s", address, server: false, wait: false }, reactor);
  const fd = accept(serverFd)!;
  close(serverFd);
  await runStreams(device, new Peer(fd), 2);
});

test("pty", async () => {
  const device = create({ backend: "pty", id: "t" }, reactor);
  const peer = new Peer(open(device.filename.slice(4), O_RDWR | O_NOCTTY | O_NONBLOCK));
  await until(() => device.connected);
  await runStreams(device, peer, 3);
});

test("pipe", async () => {
  const path = join(directory, "pipe");
  makeFifo(`${path}.in`);
  makeFifo(`${path}.out`);
  const device = create({ backend: "pipe", id: "p", path }, reactor);
  const peer = new Peer(open(`${path}.out`, O_RDWR | O_NONBLOCK), open(`${path}.in`, O_RDWR | O_NONBLOCK));
  await runStreams(device, peer, 4);
});

test.run();
