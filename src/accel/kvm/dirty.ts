// SPDX-License-Identifier: Apache-2.0
// Which pages of guest RAM were written: by the guest, as KVM saw it, and by the VMM itself.
//
// Whatever is collected was protected again before `collect` returns: a page that is read after that, and written after it
// was read, is found by the next `collect`. An entry point of its own: no update of this process needs it.
import {
  CONTROL_DIRTY_RING_ENTRIES,
  DIRTY_BITMAP_SIZE_BYTES,
  DIRTY_LOG,
  DIRTY_MARKS,
  PAGE_SIZE_BYTES,
} from "../../../assembly/layout.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import { KvmVm } from "../../../ffi/kvm/kvm.ts";
import type { DirtyTracker } from "../types.ts";
import { type DirtyRingModule, DirtyRings, loadDirtyRingModule } from "./dirty-ring.ts";

export interface DirtyTrackerOptions {
  vmFd: number;
  memory: WebAssembly.Memory;
  ramBase: number;
  ramSizeBytes: number;
  cpuCount: number;
}

/** The memory slot of guest RAM, at guest physical 0. */
const RAM_SLOT = 0;
/** KVM_CLEAR_DIRTY_LOG keeps the guest's page faults waiting: 256 MiB of RAM at a time. A multiple of 64. */
const CLEAR_PAGES = 0x1_0000;
const CLEAR_SIZE_BYTES = CLEAR_PAGES / 8;

/** The tracker for a VM: by its dirty rings when it was built with them, else by dirty log. */
export function openDirtyTracker(options: DirtyTrackerOptions): DirtyTracker {
  const hasRings = new Uint32Array(options.memory.buffer)[CONTROL_DIRTY_RING_ENTRIES >> 2] !== 0;
  return hasRings ? new RingTracker(options) : new LogTracker(options);
}

/** What both have: the pages that the VMM marks, and the slot's flag. */
abstract class KvmDirtyTracker implements DirtyTracker {
  protected readonly options: DirtyTrackerOptions;
  protected readonly vm: KvmVm;
  protected readonly bytes: Uint8Array;
  protected readonly pageCount: number;
  protected readonly module: DirtyRingModule;
  #isOn = false;

  constructor(options: DirtyTrackerOptions) {
    this.options = options;
    this.vm = new KvmVm(options.vmFd);
    this.bytes = new Uint8Array(options.memory.buffer);
    this.pageCount = options.ramSizeBytes / PAGE_SIZE_BYTES;
    this.module = loadDirtyRingModule(options.memory);
  }

  get isOn(): boolean {
    return this.#isOn;
  }

  start(): void {
    if (this.#isOn) return;
    this.bytes.fill(0, DIRTY_MARKS, DIRTY_MARKS + DIRTY_BITMAP_SIZE_BYTES);
    this.prepare();
    this.#isOn = true;
    this.#setSlotFlags(abi.KVM_MEM_LOG_DIRTY_PAGES);
  }

  collect(bitmap: number): void {
    this.harvest(bitmap);
    this.module.moveBitmap(bitmap, DIRTY_MARKS, this.pageCount);
  }

  stop(): void {
    if (!this.#isOn) return;
    this.#setSlotFlags(0);
    this.#isOn = false;
    this.finish();
  }

  markDirty(gpa: number, sizeBytes: number): void {
    if (!this.#isOn || sizeBytes <= 0) return;
    const firstPage = Math.floor(gpa / PAGE_SIZE_BYTES);
    const endPage = Math.min(Math.ceil((gpa + sizeBytes) / PAGE_SIZE_BYTES), this.pageCount);
    if (firstPage < endPage) this.module.markPages(firstPage, endPage - firstPage);
  }

  #setSlotFlags(flags: number): void {
    const { ramBase, ramSizeBytes } = this.options;
    this.vm.setUserMemoryRegion(RAM_SLOT, 0, ramSizeBytes, this.bytes, ramBase, flags);
  }

  protected abstract prepare(): void;
  /** Adds what the guest wrote to the bitmap, or to DIRTY_MARKS, and protects those pages. */
  protected abstract harvest(bitmap: number): void;
  protected abstract finish(): void;
}

/**
 * By KVM_GET_DIRTY_LOG. Where KVM can, pages are protected by KVM_CLEAR_DIRTY_LOG only: starting then touches no page table,
 * and the first `collect`, for which every page is dirty, protects all of RAM in pieces.
 */
class LogTracker extends KvmDirtyTracker {
  #isManual = false;

  protected prepare(): void {
    const wanted = abi.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | abi.KVM_DIRTY_LOG_INITIALLY_SET;
    const modes = this.vm.checkExtension(abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & wanted;
    this.#isManual = (modes & abi.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) !== 0;
    if (this.#isManual) this.vm.enableCap(abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, modes);
  }

  protected harvest(bitmap: number): void {
    this.vm.getDirtyLog(RAM_SLOT, this.pageCount, this.bytes.subarray(DIRTY_LOG, DIRTY_LOG + DIRTY_BITMAP_SIZE_BYTES));
    if (this.#isManual) this.#protect();
    this.module.moveBitmap(bitmap, DIRTY_LOG, this.pageCount);
  }

  /** Pieces without a dirty page need no call: in a pause that is most of them. */
  #protect(): void {
    for (let page = 0; page < this.pageCount; page += CLEAR_PAGES) {
      const start = DIRTY_LOG + page / 8;
      const log = this.bytes.subarray(start, start + CLEAR_SIZE_BYTES);
      if (!hasBits(new Int32Array(log.buffer, start, CLEAR_SIZE_BYTES / 4))) continue;
      this.vm.clearDirtyLog(RAM_SLOT, page, Math.min(CLEAR_PAGES, this.pageCount - page), log);
    }
  }

  protected finish(): void {}
}

function hasBits(words: Int32Array): boolean {
  for (let index = 0; index < words.length; index++) if (words[index] !== 0) return true;
  return false;
}

/** By dirty rings: the cost is that of the pages that were written, however large RAM is. */
class RingTracker extends KvmDirtyTracker {
  readonly #rings = new DirtyRings(this.options.memory, this.vm);
  readonly #vcpus = Array.from({ length: this.options.cpuCount }, (_, index) => index);

  /** Entries that were left when tracking ended would be found now. */
  protected prepare(): void {
    this.finish();
  }

  protected harvest(): void {
    this.#rings.empty(this.#vcpus);
  }

  protected finish(): void {
    this.#rings.empty(this.#vcpus);
    this.bytes.fill(0, DIRTY_MARKS, DIRTY_MARKS + DIRTY_BITMAP_SIZE_BYTES);
  }
}
