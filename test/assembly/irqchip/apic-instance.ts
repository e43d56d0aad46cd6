// SPDX-License-Identifier: Apache-2.0
// A vCPU's local APIC without the rest of the vCPU, as the tests compile it.
import { vcpuWaker } from "../../../src/accel/wasm/sleep.ts";

export interface Clocks {
  hostTsc(): bigint;
  monotonicNs(): bigint;
}

export interface ApicExports {
  select(index: number, ramBase: number, ramSizeBytes: bigint): void;
  readApic(offset: number, sizeBytes: number): bigint;
  writeApic(offset: number, sizeBytes: number, value: number): void;
  readX2apic(msr: number): bigint;
  writeX2apic(msr: number, value: bigint): number;
  writeApicBase(value: bigint): number;
  readTscDeadline(): bigint;
  writeTscDeadline(value: bigint): void;
  readCr8(): bigint;
  writeCr8(value: bigint): number;
  initApic(): void;
  highestInterrupt(): number;
  acknowledge(): number;
  nextDeadline(): bigint;
  sleepNs(): bigint;
  runTimers(): void;
}

export function instantiateApic(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  index: number,
  clocks: Clocks,
): ApicExports {
  const instance = new WebAssembly.Instance(module, {
    env: { memory },
    host: {
      ...clocks,
      readTsc: (place: number) => new DataView(memory.buffer).setBigUint64(place, clocks.hostTsc(), true),
      wakeVcpu: vcpuWaker(memory),
    },
  });
  const apic = instance.exports as unknown as ApicExports;
  apic.select(index, 0, 0n);
  return apic;
}
