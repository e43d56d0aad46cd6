// SPDX-License-Identifier: Apache-2.0
// Front ends, peers and carriers for tests of character devices.
import { Buffer } from "node:buffer";
import { eventfd } from "../../../ffi/eventfd.ts";
import { close, duplicate, read, write } from "../../../ffi/fd.ts";
import type { HostChardev, HostChardevState, Report } from "../../../src/backends/chardev/base.ts";
import { restore } from "../../../src/backends/chardev/create.ts";
import type { ChardevFrontend } from "../../../src/backends/chardev/types.ts";
import type { VmmError } from "../../../src/errors.ts";
import { Reactor } from "../../../src/runtime/reactor.ts";
import { assert } from "../../harness.ts";

export const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

/** Waits for something that must come; the runner's time limit is the only one. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await tick();
}

/** `byteCount` bytes from `offset` of an endless stream in which a lost or doubled byte shows. */
export function streamBytes(offset: number, byteCount: number): Uint8Array {
  return Uint8Array.from({ length: byteCount }, (_, index) => {
    const at = offset + index;
    return (Math.imul(at, 0x9e3779b1) >>> 24) ^ (at & 0xff);
  });
}

/** Checks that received pieces are the stream, in order and complete so far. */
export class StreamCheck {
  byteCount = 0;

  add(piece: Uint8Array): void {
    const expected = streamBytes(this.byteCount, piece.byteLength);
    assert.ok(Buffer.compare(piece, expected) === 0, `stream differs within ${piece.byteLength} of ${this.byteCount}`);
    this.byteCount += piece.byteLength;
  }
}

/** A front end with a given amount of room, which remembers what it saw. */
export class TestFrontend implements ChardevFrontend {
  space = Number.MAX_SAFE_INTEGER;
  input = Buffer.alloc(0);
  readonly events: string[] = [];

  inputSpaceBytes(): number {
    return this.space;
  }

  receive(bytes: Uint8Array): void {
    assert.ok(bytes.byteLength <= this.space, "more than there is room for");
    this.space -= bytes.byteLength;
    this.input = Buffer.concat([this.input, bytes]);
  }

  opened(): void {
    this.events.push("opened");
  }

  closed(): void {
    this.events.push("closed");
  }

  drained(): void {
    this.events.push("drained");
  }

  get text(): string {
    return this.input.toString();
  }
}

/** The other side of a device: raw fds, read and written when the test says so. */
export class Peer {
  readonly #inFd: number;
  readonly #outFd: number;
  readonly #buffer = new Uint8Array(65536);
  received = Buffer.alloc(0);

  constructor(inFd: number, outFd = inFd) {
    this.#inFd = inFd;
    this.#outFd = outFd;
  }

  /** Reads what is there, at most `limit` bytes; false at the end of the stream. */
  read(limit = this.#buffer.byteLength): boolean {
    const count = read(this.#inFd, this.#buffer.subarray(0, limit));
    if (count) this.received = Buffer.concat([this.received, this.#buffer.subarray(0, count)]);
    return count !== 0;
  }

  /** Bytes taken. */
  write(bytes: Uint8Array | string): number {
    return write(this.#outFd, typeof bytes === "string" ? Buffer.from(bytes) : bytes) ?? 0;
  }

  async expect(text: string): Promise<void> {
    await until(() => {
      this.read();
      return this.received.byteLength >= text.length;
    });
    assert.is(this.received.toString(), text);
    this.received = Buffer.alloc(0);
  }

  close(): void {
    close(this.#inFd);
    if (this.#outFd !== this.#inFd) close(this.#outFd);
  }
}

/** A reactor whose worker is up: from here on the runtime opens no fds of its own. */
export async function warmReactor(): Promise<Reactor> {
  // Deno opens a socket pair for signals with the first handler, or else half a second after its start.
  const ignore = (): void => {};
  process.on("SIGUSR2", ignore);
  process.off("SIGUSR2", ignore);
  const reactor = new Reactor();
  const fd = eventfd(1);
  await new Promise<void>((resolve) => {
    const watch = reactor.watch(fd, { readable: true }, () => {
      watch.close();
      resolve();
    });
  });
  close(fd);
  return reactor;
}

/** Collects reports. */
export class Reports {
  readonly errors: VmmError[] = [];
  readonly report: Report = (error) => this.errors.push(error);
}

/** What a carrier does: the state as JSON, the fds as duplicates (as SCM_RIGHTS makes them). */
export function carry(device: HostChardev): HostChardevState {
  const state = JSON.parse(JSON.stringify(device.save())) as HostChardevState;
  const copies = new Map<number, number>();
  for (const [role, fd] of Object.entries(state.fds)) {
    const copy = duplicate(fd);
    copies.set(fd, copy);
    state.fds[role] = copy;
  }
  if (state.madeNonBlocking !== undefined) state.madeNonBlocking = state.madeNonBlocking.map((fd) => copies.get(fd)!);
  return state;
}

/** A whole update in one process: the new device goes on where the old one stopped. */
export function handOver(device: HostChardev, frontend: ChardevFrontend, reactor: Reactor): HostChardev {
  device.freeze();
  const successor = restore(carry(device), reactor);
  device.release();
  successor.attach(frontend);
  successor.thaw();
  return successor;
}
