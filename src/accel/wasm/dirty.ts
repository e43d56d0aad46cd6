// SPDX-License-Identifier: Apache-2.0
// Which pages of guest RAM were written, as the engine's PAGE_FLAGS have it. How vCPUs that run are told that flags were taken:
// `protectPages` in assembly/cpu/write-tracking.ts.
import {
  CPU_PENDING,
  CPU_PENDING_FLUSH,
  CPU_PENDING_PROTECT,
  PAGE_DIRTY,
  PAGE_HAS_CODE,
} from "../../../assembly/cpu/layout.ts";
import {
  CONTROL_PROTECTIONS,
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  DIRTY_BITMAP_SIZE_BYTES,
  DIRTY_MARKS,
  PAGE_FLAGS_BASE,
  PAGE_SIZE_BYTES,
} from "../../../assembly/layout.ts";
import { modules } from "../../../build/dirty.ts";
import type { DirtyTracker } from "../types.ts";
import { setPending } from "./sleep.ts";

interface FlagsModule {
  takeDirtyFlags(bitmap: number, pageCount: number): void;
}

/** Says that the VMM has written pages: they are dirty, and what was translated of them is void. */
export class PageFlags {
  readonly #flags: Uint8Array;
  readonly #words: Int32Array;
  readonly #cpuCount: number;

  constructor(memory: WebAssembly.Memory, ramSizeBytes: number, cpuCount: number) {
    this.#flags = new Uint8Array(memory.buffer, PAGE_FLAGS_BASE, ramSizeBytes / PAGE_SIZE_BYTES);
    this.#words = new Int32Array(memory.buffer);
    this.#cpuCount = cpuCount;
  }

  note(gpa: number, sizeBytes: number): void {
    const end = Math.min(Math.ceil((gpa + sizeBytes) / PAGE_SIZE_BYTES), this.#flags.length);
    let hadCode = false;
    for (let page = Math.floor(gpa / PAGE_SIZE_BYTES); page < end; page++) {
      if ((Atomics.or(this.#flags, page, PAGE_DIRTY) & PAGE_HAS_CODE) !== 0) hadCode = true;
    }
    if (hadCode) this.tellVcpus(CPU_PENDING_FLUSH);
  }

  tellVcpus(bits: number): void {
    for (let index = 0; index < this.#cpuCount; index++) {
      const place = CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES + CPU_PENDING;
      setPending(this.#words, place >> 2, bits);
    }
  }
}

export class EngineDirtyTracker implements DirtyTracker {
  readonly #module: FlagsModule;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #pageFlags: PageFlags;
  readonly #pageCount: number;
  #isOn = false;

  constructor(memory: WebAssembly.Memory, ramSizeBytes: number, pageFlags: PageFlags) {
    const module = new WebAssembly.Module(Uint8Array.fromBase64(modules.dirty));
    this.#module = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as FlagsModule;
    this.#words = new Int32Array(memory.buffer);
    this.#bytes = new Uint8Array(memory.buffer);
    this.#pageFlags = pageFlags;
    this.#pageCount = ramSizeBytes / PAGE_SIZE_BYTES;
  }

  get isOn(): boolean {
    return this.#isOn;
  }

  start(): void {
    if (this.#isOn) return;
    this.#isOn = true;
    // What is there already is nobody's business.
    this.collect(DIRTY_MARKS);
    this.#bytes.fill(0, DIRTY_MARKS, DIRTY_MARKS + DIRTY_BITMAP_SIZE_BYTES);
  }

  collect(bitmap: number): void {
    Atomics.add(this.#words, CONTROL_PROTECTIONS >> 2, 1);
    this.#module.takeDirtyFlags(bitmap, this.#pageCount);
    Atomics.add(this.#words, CONTROL_PROTECTIONS >> 2, 1);
    this.#pageFlags.tellVcpus(CPU_PENDING_PROTECT);
  }

  stop(): void {
    this.#isOn = false;
  }

  markDirty(gpa: number, sizeBytes: number): void {
    if (sizeBytes > 0) this.#pageFlags.note(gpa, sizeBytes);
  }
}
