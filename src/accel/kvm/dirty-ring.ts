// SPDX-License-Identifier: Apache-2.0
// KVM's dirty rings, emptied by a vCPU's thread when its own is full and by the tracker for all of them.
//
// A page that is taken out of a ring is not protected until KVM_RESET_DIRTY_RINGS returns, and until then nobody may read it
// to send it. So both hold one lock over both steps: whoever finds a page marked finds it protected.
import { CONTROL_DIRTY_RING_ENTRIES, CONTROL_RAM_PAGES } from "../../../assembly/layout.ts";
import { modules } from "../../../build/dirty-ring.ts";
import type { KvmVm } from "../../../ffi/kvm/kvm.ts";
import { VmmError } from "../../errors.ts";

/** Exports of assembly/dirty-ring/module.ts; addresses are offsets in the memory. */
export interface DirtyRingModule {
  lock(): void;
  unlock(): void;
  harvestRing(vcpu: number, entryCount: number, pageCount: number): number;
  moveBitmap(target: number, source: number, pageCount: number): void;
  markPages(fromPage: number, pageCount: number): void;
}

export function loadDirtyRingModule(memory: WebAssembly.Memory): DirtyRingModule {
  const module = new WebAssembly.Module(Uint8Array.fromBase64(modules["dirty-ring"]));
  return new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as DirtyRingModule;
}

/** A pending signal ends a reset early, without an error; it is served before the next one. */
const MAX_EMPTY_RESETS = 1000;

export class DirtyRings {
  readonly #module: DirtyRingModule;
  readonly #vm: KvmVm;
  readonly #entryCount: number;
  readonly #pageCount: number;

  constructor(memory: WebAssembly.Memory, vm: KvmVm) {
    const words = new Uint32Array(memory.buffer);
    this.#module = loadDirtyRingModule(memory);
    this.#vm = vm;
    this.#entryCount = words[CONTROL_DIRTY_RING_ENTRIES >> 2]!;
    this.#pageCount = words[CONTROL_RAM_PAGES >> 2]!;
  }

  /** Moves what is in the rings of these vCPUs to DIRTY_MARKS, and protects the pages. For any thread. */
  empty(vcpus: Iterable<number>): void {
    this.#module.lock();
    try {
      let count = 0;
      for (const vcpu of vcpus) {
        const harvested = this.#module.harvestRing(vcpu, this.#entryCount, this.#pageCount);
        if (harvested === this.#entryCount) throw overrun(vcpu);
        count += harvested;
      }
      this.#reset(count);
    } finally {
      this.#module.unlock();
    }
  }

  #reset(count: number): void {
    let emptyResets = 0;
    for (let left = count; left > 0; ) {
      const done = this.#vm.resetDirtyRings();
      left -= done;
      if (done === 0 && ++emptyResets === MAX_EMPTY_RESETS) {
        throw new VmmError(
          "dirty-ring",
          `KVM_RESET_DIRTY_RINGS leaves ${left} of ${count} harvested entries: ${ADVICE}`,
        );
      }
    }
  }
}

const ADVICE = "this host's KVM overran a ring; start the VM without dirty-ring-size";

/**
 * KVM leaves the guest while there is room for the pages that one exit can write, so no ring is ever full to the last entry.
 * A KVM that interprets guest code may forget to: then entries are lost, and with them pages.
 */
function overrun(vcpu: number): VmmError {
  return new VmmError("dirty-ring", `The dirty ring of vCPU ${vcpu} has lost entries: ${ADVICE}`);
}
