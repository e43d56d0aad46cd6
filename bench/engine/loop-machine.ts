// SPDX-License-Identifier: Apache-2.0
// The engine with nothing around it: one vCPU on the calling thread, RAM with a program in it, and one port.
import { CACHE_CPUID, CPU_INSTRUCTIONS } from "../../assembly/cpu/layout.ts";
import { CPU_CACHES_BASE, CPU_STATE_BASE, RAM_MIN_BASE, WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { setBootState } from "../../src/accel/state/boot-state.ts";
import { type CpuExports, instantiateCpu } from "../../src/accel/wasm/cpu-module.ts";
import { engineCpuid } from "../../src/accel/wasm/cpuid.ts";
import { createMachine } from "../../src/accel/wasm/machine.ts";
import { protectedModeState } from "../../src/machine/boot/vcpu-state.ts";
import type { IoBus } from "../../src/machine/io-bus.ts";

/** A budget of `run`, instructions. */
const BUDGET = 1 << 22;
/** `run` has used its budget up: assembly/cpu/module.ts. */
const RAN = 0;

export class LoopMachine {
  readonly #cpu: CpuExports;
  readonly #state: DataView;

  /** `program` is placed and entered at `gpa`, in 32-bit protected mode. `onWrite` gets what it writes to ports. */
  constructor(
    program: Uint8Array,
    {
      gpa,
      ramSizeBytes,
      onWrite,
    }: { gpa: number; ramSizeBytes: number; onWrite: (port: number, value: number) => void },
  ) {
    const pages = (RAM_MIN_BASE + ramSizeBytes) / WASM_PAGE_SIZE_BYTES;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const bytes = new Uint8Array(memory.buffer);
    const cpuid = engineCpuid(1);
    const { vcpus, irqchip } = createMachine(memory, [cpuid]);
    bytes.set(cpuid, CPU_CACHES_BASE + CACHE_CPUID);
    bytes.set(program, RAM_MIN_BASE + gpa);
    setBootState(vcpus[0]!, protectedModeState(gpa, {}));
    const ports: Pick<IoBus, "read" | "write"> = {
      read: () => 0xff,
      write: (port, _sizeBytes, value) => onWrite(port, value),
    };
    this.#cpu = instantiateCpu(memory, { irqchip, bus: () => ports as IoBus, onAccess: () => {} });
    this.#cpu.select(0, RAM_MIN_BASE, BigInt(ramSizeBytes));
    this.#cpu.stateChanged();
    this.#state = new DataView(memory.buffer, CPU_STATE_BASE);
  }

  /** Instructions since the start. Within a write to a port too many, by up to what the engine runs at a time: 8192. */
  get instructions(): number {
    return Number(this.#state.getBigUint64(CPU_INSTRUCTIONS, true));
  }

  runWhile(isWanted: () => boolean): void {
    while (isWanted()) {
      const reason = this.#cpu.run(BUDGET);
      if (reason !== RAN) throw new Error(`The engine has stopped for reason ${reason}`);
    }
  }
}
