// SPDX-License-Identifier: Apache-2.0
// How many instructions vCPU 0 of a Baton in another process has run: read out of its memory, /proc/PID/mem.
//
// Guest RAM is a file that is mapped into the VMM's Wasm memory, whose control page says where: so RAM's place tells where that
// memory begins.
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { CPU_INSTRUCTIONS } from "../../assembly/cpu/layout.ts";
import { CONTROL_RAM_BASE, CPU_STATE_BASE, PAGE_SIZE_BYTES, RAM_MIN_BASE } from "../../assembly/layout.ts";

const HUGE_PAGE_SIZE_BYTES = 2 * 2 ** 20;

export class InstructionCounter implements Disposable {
  readonly #fd: number;
  readonly #memory: number;

  /** @throws Error when its memory cannot be read, or has no guest yet */
  constructor(pid: number, ramName: string) {
    this.#fd = openSync(`/proc/${pid}/mem`, "r");
    try {
      this.#memory = this.#findMemory(ramAddresses(pid, ramName));
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  read(): number {
    return Number(this.#read(this.#memory + CPU_STATE_BASE + CPU_INSTRUCTIONS).getBigUint64(0, true));
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  #findMemory(addresses: readonly number[]): number {
    for (const address of addresses) {
      // Guest physical 0 is on the first boundary of a huge page from RAM_MIN_BASE on.
      for (let skipped = 0; skipped < HUGE_PAGE_SIZE_BYTES; skipped += PAGE_SIZE_BYTES) {
        const ramBase = RAM_MIN_BASE + skipped;
        try {
          if (this.#read(address - ramBase + CONTROL_RAM_BASE).getUint32(0, true) === ramBase) return address - ramBase;
        } catch {
          // Nothing is mapped there: it is not the place.
        }
      }
    }
    throw new Error("There is no Wasm memory with guest RAM in it");
  }

  #read(address: number): DataView {
    const bytes = new Uint8Array(8);
    // Addresses of user space are exact in a double.
    readSync(this.#fd, bytes, 0, bytes.length, address);
    return new DataView(bytes.buffer);
  }
}

function ramAddresses(pid: number, ramName: string): number[] {
  const lines = readFileSync(`/proc/${pid}/maps`, "utf8").split("\n");
  const ofRam = lines.filter((line) => line.includes(`/memfd:${ramName} `) && / 0{8} /.test(line));
  return ofRam.map((line) => Number.parseInt(line, 16));
}
