// SPDX-License-Identifier: Apache-2.0
// Mapping files over a WebAssembly.Memory and anonymous memory of our own (mmap(2), madvise(2)).
import { SysError } from "./error.ts";
import { check, lazyCall } from "./libc.ts";
import { addressOf, errno, libcFunction } from "./native.ts";

// <asm-generic/mman-common.h>, <linux/mman.h>
const PROT_READ = 0x1;
const PROT_WRITE = 0x2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;
const ADVICE = {
  /** MADV_DONTNEED: pages of private memory are dropped, and zero when they are next touched. */
  "drop-private": 4,
  /** MADV_REMOVE: pages are dropped from the file that is mapped, and with it from every mapping. */
  "drop-shared": 9,
  /** MADV_NOHUGEPAGE: only single pages, which can be dropped one by one. */
  "no-huge": 15,
  /** MADV_DONTDUMP: kept out of core dumps. */
  "no-dump": 16,
  /** MADV_POPULATE_WRITE: page tables are filled now. */
  populate: 23,
} as const;
export type Advice = keyof typeof ADVICE;

const cMadvise = lazyCall("int madvise(uintptr_t addr, size_t length, int advice)");
const mmap = libcFunction("uintptr_t mmap(uintptr_t addr, size_t length, int prot, int flags, int fd, int64_t offset)");

function map(address: bigint, sizeBytes: number, prot: number, flags: number, fd: number, offset: number): bigint {
  const result = BigInt(mmap(address, sizeBytes, prot, flags, fd, offset) as number | bigint);
  if (BigInt.asUintN(64, result) === MAP_FAILED) {
    throw new SysError("mmap", errno(), `fd ${fd}, ${sizeBytes} bytes at offset ${offset}`);
  }
  return result;
}

export interface MapOptions {
  fd: number;
  /** Offset in the file; a multiple of the page size. */
  fileOffset?: number;
  sizeBytes: number;
  /** MAP_PRIVATE instead of MAP_SHARED: writes stay in this process. */
  private?: boolean;
  /** For an fd that was opened for reading only. A write to it ends the process. */
  readOnly?: boolean;
}

function assertInside(view: Uint8Array, offset: number, sizeBytes: number): void {
  if (offset < 0 || offset % 4096 !== 0 || offset + sizeBytes > view.byteLength) {
    throw new RangeError(
      `Mapping of ${sizeBytes} bytes at ${offset} lies outside a memory of ${view.byteLength} bytes`,
    );
  }
}

/** The lowest offset in `view`, not below `offset`, whose address is a multiple of `alignmentBytes`. */
export function alignOffset(view: Uint8Array, offset: number, alignmentBytes: number): number {
  const excess = Number((addressOf(view) + BigInt(offset)) % BigInt(alignmentBytes));
  return excess === 0 ? offset : offset + alignmentBytes - excess;
}

/**
 * Maps a file over `view` at `offset`, so that JavaScript, Wasm and the kernel see the same bytes there.
 *
 * SAFETY: MAP_FIXED replaces what was mapped. The range is checked to lie inside `view`, which the caller guarantees to be
 * the whole of a shared WebAssembly.Memory with initial = maximum: it never moves and is not freed while in use.
 */
export function mapOver(view: Uint8Array, offset: number, options: MapOptions): void {
  assertInside(view, offset, options.sizeBytes);
  const flags = MAP_FIXED | (options.private === true ? MAP_PRIVATE : MAP_SHARED);
  const address = addressOf(view) + BigInt(offset);
  const prot = options.readOnly === true ? PROT_READ : PROT_READ | PROT_WRITE;
  map(address, options.sizeBytes, prot, flags, options.fd, options.fileOffset ?? 0);
}

/**
 * Puts fresh anonymous zero pages over `view` at `offset`: drops a mapping, or gives private guest RAM.
 *
 * SAFETY: as for `mapOver`.
 */
export function mapAnonymousOver(view: Uint8Array, offset: number, sizeBytes: number): void {
  assertInside(view, offset, sizeBytes);
  const flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
  map(addressOf(view) + BigInt(offset), sizeBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
}

/** Anonymous private memory that nothing frees: a stack for a process made by clone(2). Returns its lowest address. */
export function mapStack(sizeBytes: number): bigint {
  return map(0n, sizeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/** Advises the kernel about `view[offset, offset + sizeBytes)`. */
export function advise(view: Uint8Array, offset: number, sizeBytes: number, advice: Advice): void {
  assertInside(view, offset, sizeBytes);
  const result = cMadvise(addressOf(view) + BigInt(offset), sizeBytes, ADVICE[advice]);
  check("madvise", result, `${advice}, ${sizeBytes} bytes`);
}
