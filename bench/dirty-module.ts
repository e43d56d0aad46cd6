// SPDX-License-Identifier: Apache-2.0
// The Wasm module `dirty` over a memory, with its types: for its benchmark and its tests.
import { modules } from "../build/dirty.ts";

/** Exports of assembly/dirty/module.ts; addresses are offsets in the memory. */
export interface DirtyModule {
  countDirty(bitmap: number, pageCount: number): number;
  nextDirtyPage(bitmap: number, pageCount: number, fromPage: number): number;
  nextCleanPage(bitmap: number, pageCount: number, fromPage: number): number;
  countLeadingZeroPages(pages: number, pageCount: number): number;
  countLeadingDataPages(pages: number, pageCount: number): number;
  zeroPages(ram: number, fromPage: number, pageCount: number, written: number): void;
  /** start | length << 32 */
  nextDirtyRun(bitmap: number, pageCount: number, fromPage: number): bigint;
  collectDirty(bitmap: number, pageCount: number, fromPage: number, out: number, outCapacity: number): number;
  clearRange(bitmap: number, fromPage: number, pageCount: number): void;
  setRange(bitmap: number, fromPage: number, pageCount: number): void;
  orBitmap(target: number, source: number, pageCount: number): void;
  /** 0 or 1 */
  isZeroPage(page: number): number;
  scanZeroPages(pages: number, pageCount: number, outBitmap: number): number;
  /** Signed, as every i64 of Wasm is. */
  hashPage(page: number): bigint;
}

const WASM_PAGE_SIZE_BYTES = 65536;

export function loadDirtyModule(sizeBytes: number): { bytes: Uint8Array<SharedArrayBuffer>; dirty: DirtyModule } {
  const pages = Math.ceil(sizeBytes / WASM_PAGE_SIZE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const module = new WebAssembly.Module(Uint8Array.from(atob(modules.dirty), (char) => char.charCodeAt(0)));
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  return {
    bytes: new Uint8Array(memory.buffer as unknown as SharedArrayBuffer),
    dirty: exports as unknown as DirtyModule,
  };
}
