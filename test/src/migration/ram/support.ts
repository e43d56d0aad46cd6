// SPDX-License-Identifier: Apache-2.0
// Two small guests' RAM without guests, for tests of what moves it from one to the other.
import { DIRTY_BITMAP_SIZE_BYTES, SCRATCH_BITMAPS } from "../../../../assembly/layout.ts";
import { close } from "../../../../ffi/fd.ts";
import { socketPair } from "../../../../ffi/socket.ts";
import type { MemoryBackendSpec } from "../../../../src/config/types.ts";
import { createMemory, type MappedRam, mapRam } from "../../../../src/memory/ram.ts";

export const PAGE = 4096;
export const BITMAP = SCRATCH_BITMAPS;
export const OTHER_BITMAP = SCRATCH_BITMAPS + DIRTY_BITMAP_SIZE_BYTES;

/** RAM of a VM that is not there. */
export class Ram implements Disposable {
  readonly memory: WebAssembly.Memory;
  readonly ramBase: number;
  readonly ramSizeBytes: number;
  readonly bytes: Uint8Array;
  readonly fd: number;
  readonly mapped: MappedRam;

  constructor(pages: number, backend: Partial<MemoryBackendSpec> = {}) {
    this.ramSizeBytes = pages * PAGE;
    this.memory = createMemory(this.ramSizeBytes);
    const sizeBytes = this.ramSizeBytes;
    const ram = mapRam(this.memory, {
      qomType: "memory-backend-memfd",
      id: "ram0",
      sizeBytes,
      share: true,
      ...backend,
    });
    this.mapped = ram;
    this.ramBase = ram.base;
    this.fd = ram.fd!;
    this.bytes = new Uint8Array(this.memory.buffer, ram.base, sizeBytes);
  }

  page(index: number): Uint8Array {
    return this.bytes.subarray(index * PAGE, (index + 1) * PAGE);
  }

  /** Fills pages so that each tells which it is, and in which generation. Incompressible. */
  fill(pages: Iterable<number>, generation = 1): void {
    for (const page of pages) {
      const words = new Uint32Array(this.memory.buffer, this.ramBase + page * PAGE, PAGE / 4);
      let word = Math.imul(page + 1, 0x9e37_79b1) ^ generation;
      for (let index = 0; index < words.length; index++) {
        word ^= word << 13;
        word ^= word >>> 17;
        word ^= word << 5;
        words[index] = word;
      }
    }
  }

  setBits(bitmap: number, pages: Iterable<number>): void {
    const bits = new Uint8Array(this.memory.buffer, bitmap, DIRTY_BITMAP_SIZE_BYTES);
    for (const page of pages) bits[page >> 3] = bits[page >> 3]! | (1 << (page & 7));
  }

  bits(bitmap: number): number[] {
    const bits = new Uint8Array(this.memory.buffer, bitmap, DIRTY_BITMAP_SIZE_BYTES);
    return range(0, this.ramSizeBytes / PAGE).filter((page) => ((bits[page >> 3]! >> (page & 7)) & 1) === 1);
  }

  /** Pages in which the other differs. */
  differing(other: Ram): number[] {
    return range(0, this.ramSizeBytes / PAGE).filter((page) => Buffer.compare(this.page(page), other.page(page)) !== 0);
  }

  [Symbol.dispose](): void {
    close(this.fd);
  }
}

export const range = (from: number, end: number): number[] => Array.from({ length: end - from }, (_, n) => from + n);

/** Connected sockets: [near ends, far ends]. */
export class Sockets implements Disposable {
  readonly near: number[] = [];
  readonly far: number[] = [];
  readonly #open = new Set<number>();

  constructor(count: number) {
    for (let index = 0; index < count; index++) {
      const [near, far] = socketPair();
      this.near.push(near);
      this.far.push(far);
      this.#open.add(near).add(far);
    }
  }

  close(fd: number): void {
    if (this.#open.delete(fd)) close(fd);
  }

  [Symbol.dispose](): void {
    for (const fd of this.#open) close(fd);
  }
}
