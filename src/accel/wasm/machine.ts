// SPDX-License-Identifier: Apache-2.0
// The engine's side of a VM that has state: vCPUs, interrupt controllers, clocks. Whether it ever runs makes no difference.
import { WASM_PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { deviceClock } from "../../machine/clock-origin.ts";
import type { ScratchMachine, StateMachine, StateVm } from "../state/types.ts";
import { ENGINE_TSC_KHZ, engineTsc, Kvmclock } from "./clock.ts";
import { configureIrqchip, type IrqchipExports, IrqchipState, instantiateIrqchip } from "./irqchip-state.ts";
import { EngineVcpu, engineSystem, type GuestRam } from "./vcpu.ts";

/** What is below the state of devices: state pages, control page, interrupt controllers. */
const SCRATCH_SIZE_BYTES = 2 * WASM_PAGE_SIZE_BYTES;

export interface EngineMachine extends StateMachine {
  vcpus: readonly EngineVcpu[];
  irqchip: IrqchipExports;
  clock: Kvmclock;
  /** What the guest's TSC is without its offset. */
  hostTsc: () => bigint;
}

/** Brings it to its power-on state. */
export function powerOn({ vcpus, irqchip, clock, hostTsc }: EngineMachine): void {
  const tsc = hostTsc();
  for (const [index, vcpu] of vcpus.entries()) {
    vcpu.powerOn(tsc);
    irqchip.resetLapic(index);
  }
  irqchip.reset();
  clock.set(0n);
}

/** In power-on state. Without `ram` it never runs. */
export function createMachine(
  memory: WebAssembly.Memory,
  cpuids: readonly Uint8Array[],
  ram?: GuestRam,
): EngineMachine {
  configureIrqchip(memory, { cpuCount: cpuids.length, tscKhz: ENGINE_TSC_KHZ });
  const irqchip = instantiateIrqchip(memory, deviceClock(memory));
  const hostTsc = engineTsc(memory);
  const chips = new IrqchipState(memory, irqchip, hostTsc);
  const clock = new Kvmclock(memory);
  const vcpus = cpuids.map((_, index) => new EngineVcpu(memory, index, chips, ram));
  const vm: StateVm = {
    getIrqchip: (chip) => chips.getIrqchip(chip),
    setIrqchip: (chip) => chips.setIrqchip(chip),
    getPit2: (state) => chips.getPit2(state),
    setPit2: (state, savedMonotonicOffset) => chips.setPit2(state, savedMonotonicOffset),
    getClock: (data) => clock.save(data),
    setClock: (data) => clock.restore(data),
  };
  const machine: EngineMachine = {
    system: engineSystem,
    vm,
    vcpus,
    cpuids,
    tscOrigin: "engine",
    irqchip,
    clock,
    hostTsc,
  };
  powerOn(machine);
  return machine;
}

export function createScratch(cpuids: readonly Uint8Array[]): ScratchMachine {
  const pages = SCRATCH_SIZE_BYTES / WASM_PAGE_SIZE_BYTES;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  return { ...createMachine(memory, cpuids), close: () => {} };
}
