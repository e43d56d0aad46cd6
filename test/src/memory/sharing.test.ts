// SPDX-License-Identifier: Apache-2.0
// Anonymous RAM that moves to a memfd while somebody writes it.
import { readFileSync } from "node:fs";
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { close, pread, seekData, seekHole } from "../../../ffi/fd.ts";
import { addressOf } from "../../../ffi/native.ts";
import { createMemory, excludeFromDumps, type MappedRam, mapRam, releaseRam } from "../../../src/memory/ram.ts";
import { canBeShared, movedBytes, PIECE_SIZE_BYTES, shareNextPiece } from "../../../src/memory/sharing.ts";
import { loadDirtyModule } from "../../../src/migration/ram/dirty-module.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("memory/sharing");
/** The last piece is a short one. */
const SIZE_BYTES = 2 * PIECE_SIZE_BYTES + 16 * PAGE_SIZE_BYTES;

class TestRam implements Disposable {
  readonly memory = createMemory(SIZE_BYTES);
  readonly ram: MappedRam;
  readonly bytes: Uint8Array;
  readonly #scanner = loadDirtyModule(this.memory);

  constructor({ prealloc = false } = {}) {
    const backend = {
      qomType: "memory-backend-ram" as const,
      id: "ram0",
      sizeBytes: SIZE_BYTES,
      share: false,
      prealloc,
    };
    this.ram = mapRam(this.memory, backend);
    this.bytes = new Uint8Array(this.memory.buffer, this.ram.base, SIZE_BYTES);
    excludeFromDumps(this.memory, this.ram);
  }

  next(whileStanding: (action: () => void) => void = (action) => action()): void {
    shareNextPiece(this.memory, this.ram, this.#scanner, whileStanding);
  }

  all(): void {
    while (!this.ram.isShared) this.next();
  }

  fillPage(page: number, value: number): void {
    this.bytes.fill(value, page * PAGE_SIZE_BYTES, (page + 1) * PAGE_SIZE_BYTES);
  }

  /** What the memfd has, of all of RAM. */
  file(): Uint8Array {
    const bytes = new Uint8Array(SIZE_BYTES);
    assert.is(pread(this.ram.fd!, bytes, 0), SIZE_BYTES);
    return bytes;
  }

  /** Lines of /proc/self/smaps about RAM, by mapping. */
  mappings(): string[][] {
    const start = addressOf(this.bytes);
    const found: string[][] = [];
    let isInside = false;
    for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
      const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
      if (range !== null) {
        const [from, end] = [BigInt(`0x${range[1]}`), BigInt(`0x${range[2]}`)];
        isInside = from < start + BigInt(SIZE_BYTES) && end > start;
        if (isInside) found.push([]);
      }
      if (isInside) found.at(-1)!.push(line);
    }
    return found;
  }

  [Symbol.dispose](): void {
    releaseRam(this.memory, this.ram);
  }
}

test("every page is the same afterwards, in memory and in the file, and what is written then is in both", () => {
  using test = new TestRam();
  const { bytes, ram } = test;
  for (let page = 0; page < SIZE_BYTES / PAGE_SIZE_BYTES; page += 3) test.fillPage(page, 1 + (page % 250));
  const before = bytes.slice();
  assert.is(canBeShared(ram), true);
  test.all();
  assert.equal([ram.isShared, ram.backend.share, ram.moved, movedBytes(ram)], [true, true, undefined, SIZE_BYTES]);
  assert.ok(Buffer.from(bytes).equals(before));
  assert.ok(Buffer.from(test.file()).equals(before));
  bytes[SIZE_BYTES - 1] = 77;
  assert.is(test.file()[SIZE_BYTES - 1], 77);
});

test("what is written between the copies counts: changed pages, pages that were zero, pages that become zero", () => {
  using test = new TestRam();
  test.fillPage(4, 1);
  test.fillPage(5, 2);
  test.next((action) => {
    test.fillPage(4, 3);
    test.fillPage(5, 0);
    test.fillPage(3, 4);
    test.fillPage(127, 5);
    action();
  });
  const expected = test.bytes.slice();
  assert.equal(
    [3, 4, 5, 127].map((page) => expected[page * PAGE_SIZE_BYTES]),
    [4, 3, 0, 5],
  );
  test.all();
  assert.ok(Buffer.from(test.file()).equals(expected));
  assert.ok(Buffer.from(test.bytes).equals(expected));
});

test("pages that nobody has written get no memory", () => {
  using test = new TestRam();
  test.fillPage(40, 1);
  test.all();
  const { fd } = test.ram;
  assert.is(seekData(fd!, 0), 40 * PAGE_SIZE_BYTES);
  assert.is(seekHole(fd!, 40 * PAGE_SIZE_BYTES), 41 * PAGE_SIZE_BYTES);
  assert.is(seekData(fd!, 41 * PAGE_SIZE_BYTES), undefined);
});

test("preallocated RAM stays allocated", () => {
  using test = new TestRam({ prealloc: true });
  test.all();
  assert.is(seekHole(test.ram.fd!, 0), SIZE_BYTES);
});

test("an attempt that fails leaves RAM as it is, and the next one goes on; nothing of the first comes back", async () => {
  using test = new TestRam();
  const { ram } = test;
  test.fillPage(1, 1);
  test.fillPage(200, 9);
  test.next();
  assert.equal([movedBytes(ram), ram.isShared, ram.fd], [PIECE_SIZE_BYTES, false, undefined]);
  const failure = new Error("The guest is busy");
  const fail = (): never => {
    throw failure;
  };
  assert.is(await rejection(() => test.next(fail)), failure);
  assert.equal([movedBytes(ram), ram.isShared, test.bytes[200 * PAGE_SIZE_BYTES]], [PIECE_SIZE_BYTES, false, 9]);
  // Half of RAM is in the memfd, half is not: both can be written.
  test.fillPage(1, 2);
  test.fillPage(200, 0);
  const expected = test.bytes.slice();
  test.all();
  assert.ok(Buffer.from(test.bytes).equals(expected));
  assert.ok(Buffer.from(test.file()).equals(expected));
});

test("a memfd that takes no more is an error that leaves the piece where it is", async () => {
  using test = new TestRam();
  const { ram } = test;
  test.fillPage(1, 1);
  test.fillPage(200, 9);
  test.next();
  const { fd } = ram.moved!;
  // One that cannot be written stands for a host that has no memory.
  ram.moved!.fd = 9999;
  assert.match((await rejection(() => test.next())).message, /EBADF/);
  ram.moved!.fd = fd;
  assert.equal([movedBytes(ram), test.bytes[200 * PAGE_SIZE_BYTES]], [PIECE_SIZE_BYTES, 9]);
  test.all();
  assert.is(test.file()[200 * PAGE_SIZE_BYTES], 9);
});

test("a failure right after the last piece was moved costs nothing", async () => {
  using test = new TestRam();
  const { ram } = test;
  test.fillPage(SIZE_BYTES / PAGE_SIZE_BYTES - 1, 3);
  while (movedBytes(ram) < 2 * PIECE_SIZE_BYTES) test.next();
  const failure = new Error("The guest does not go on");
  const failAfterwards = (action: () => void): void => {
    action();
    throw failure;
  };
  assert.is(await rejection(() => test.next(failAfterwards)), failure);
  assert.equal([movedBytes(ram), ram.isShared], [SIZE_BYTES, false]);
  test.next(() => assert.unreachable("nothing is left to be done"));
  assert.is(ram.isShared, true);
  assert.is(test.file()[SIZE_BYTES - 1], 3);
});

test("RAM is one mapping in the end, which is kept out of core dumps", () => {
  using test = new TestRam();
  test.fillPage(0, 1);
  test.next();
  const isDumped = (lines: string[]): boolean =>
    !/^VmFlags:.* dd\b/.test(lines.find((line) => line.startsWith("VmFlags"))!);
  assert.ok(test.mappings().length >= 2);
  assert.not(test.mappings().some(isDumped));
  test.all();
  const mappings = test.mappings();
  assert.is(mappings.length, 1, mappings.map(([head]) => head).join("\n"));
  assert.match(mappings[0]![0]!, /rw-s .* \/memfd:ram0 /);
  assert.not(mappings.some(isDumped));
});

test("RAM that is given up in between leaves no memfd", () => {
  const test = new TestRam();
  test.next();
  const { fd } = test.ram.moved!;
  test[Symbol.dispose]();
  assert.throws(() => close(fd), /EBADF/);
});

test.run();
