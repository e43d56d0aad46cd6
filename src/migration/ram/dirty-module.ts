// SPDX-License-Identifier: Apache-2.0
// The Wasm module `dirty` on a VM's memory: one instance for each thread.
import { modules } from "../../../build/dirty.ts";

/** Exports of assembly/dirty/module.ts that moving RAM uses; addresses are offsets in the memory. */
export interface DirtyModule {
  countDirty(bitmap: number, pageCount: number): number;
  /** `pageCount` when there is none. Wasm's numbers are signed; page numbers have far fewer bits. */
  nextDirtyPage(bitmap: number, pageCount: number, fromPage: number): number;
  nextCleanPage(bitmap: number, pageCount: number, fromPage: number): number;
  setRange(bitmap: number, fromPage: number, pageCount: number): void;
  clearRange(bitmap: number, fromPage: number, pageCount: number): void;
  countLeadingZeroPages(pages: number, pageCount: number): number;
  countLeadingDataPages(pages: number, pageCount: number): number;
  zeroPages(ram: number, fromPage: number, pageCount: number, written: number): void;
  /** Signed, as every i64 of Wasm is. */
  hashPage(page: number): bigint;
}

export function loadDirtyModule(memory: WebAssembly.Memory): DirtyModule {
  const module = new WebAssembly.Module(Uint8Array.fromBase64(modules.dirty));
  return new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as DirtyModule;
}
