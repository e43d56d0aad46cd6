// SPDX-License-Identifier: Apache-2.0
// The engine's Wasm module `cpu`, and what it calls: ports, devices, clocks.
import { modules } from "../../../build/cpu.ts";
import { realtimeNs } from "../../../ffi/clock.ts";
import { deviceClock } from "../../machine/clock-origin.ts";
import type { IoBus } from "../../machine/io-bus.ts";
import { collectGarbage } from "../../runtime/garbage.ts";
import { Kvmclock, tscKhzOf, tscReader, tscScale } from "./clock.ts";
import type { IrqchipExports } from "./irqchip-state.ts";
import { vcpuWaker } from "./sleep.ts";

/** Exports of assembly/cpu/module.ts. */
export interface CpuExports {
  select(index: number, ramBase: number, ramSizeBytes: bigint): void;
  prepare(): void;
  stateChanged(): void;
  settle(): void;
  run(budget: number): number;
  sleepNs(): bigint;
}

/** Looks at the clock between two collections of what they leave: 36 MB, 4 s of a busy vCPU. */
const READS_PER_COLLECTION = 200_000;

/** What a vCPU reaches beside RAM. */
export interface Surroundings {
  irqchip: IrqchipExports;
  bus: () => IoBus;
  /** After each access to a port. */
  onAccess: () => void;
}

let compiled: WebAssembly.Module | undefined;

/** Takes JavaScriptCore 6 ms: beforehand, where somebody waits for the vCPU. */
export function compileCpu(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(Uint8Array.fromBase64(modules.cpu));
  return compiled;
}

/** An instance for the calling thread, of one vCPU. */
export function instantiateCpu(memory: WebAssembly.Memory, { irqchip, bus, onAccess }: Surroundings): CpuExports {
  const clock = new Kvmclock(memory);
  const khz = tscKhzOf(memory);
  /** Ports of the interrupt controllers, a byte each. */
  const chipPorts = new Set<number>();
  for (let port = 0; port < 0x500; port++) if (irqchip.hasPort(port) !== 0) chipPorts.add(port);
  const readByte = (port: number): number =>
    chipPorts.has(port) ? irqchip.readPort(port) & 0xff : bus().read(port, 1) & 0xff;
  const writeByte = (port: number, value: number): void => {
    if (chipPorts.has(port)) irqchip.writePort(port, value & 0xff);
    else bus().write(port, 1, value & 0xff);
  };
  const hasChip = (port: number, sizeBytes: number): boolean => {
    for (let index = 0; index < sizeBytes; index++) if (chipPorts.has(port + index)) return true;
    return false;
  };
  const storeTsc = tscReader(memory);
  let reads = 0;
  const host = {
    readPort(port: number, sizeBytes: number): number {
      onAccess();
      if (!hasChip(port, sizeBytes)) return bus().read(port, sizeBytes);
      let value = 0;
      for (let index = 0; index < sizeBytes; index++) value |= readByte(port + index) << (8 * index);
      return value;
    },
    writePort(port: number, sizeBytes: number, value: number): void {
      onAccess();
      if (!hasChip(port, sizeBytes)) {
        bus().write(port, sizeBytes, sizeBytes === 4 ? value >>> 0 : value & ((1 << (8 * sizeBytes)) - 1));
        return;
      }
      for (let index = 0; index < sizeBytes; index++) writeByte(port + index, value >>> (8 * index));
    },
    // Nothing is mapped outside RAM and the interrupt controllers.
    readMmio: (gpa: bigint, sizeBytes: number): bigint =>
      irqchip.hasAddress(gpa) === 0 ? 0xffff_ffff_ffff_ffffn : BigInt(irqchip.readIoapic(gpa, sizeBytes) >>> 0),
    writeMmio(gpa: bigint, sizeBytes: number, value: bigint): void {
      if (irqchip.hasAddress(gpa) !== 0) irqchip.writeIoapic(gpa, sizeBytes, Number(BigInt.asIntN(32, value)));
    },
    wakeVcpu: vcpuWaker(memory),
    readTsc(place: number): void {
      if (++reads === READS_PER_COLLECTION) {
        reads = 0;
        collectGarbage();
      }
      storeTsc(place);
    },
    monotonicNs: deviceClock(memory),
    kvmclockNs: (tsc: bigint) => clock.atTsc(BigInt.asUintN(64, tsc)),
    wallClockNs: realtimeNs,
    tscMultiplier: () => tscScale(khz[0]!).multiplier,
    tscShift: () => tscScale(khz[0]!).shift,
  };
  return new WebAssembly.Instance(compileCpu(), { env: { memory }, host }).exports as unknown as CpuExports;
}
