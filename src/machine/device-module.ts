// SPDX-License-Identifier: Apache-2.0
// Loads the Wasm modules of the devices: their exports, their host, and one compilation for each thread.
import { type DeviceName, modules } from "../../build/devices.ts";

/**
 * What every device module exports. `state` is the address of the device's state page.
 *
 * Wasm hands out 32 bit results as signed numbers: keep the low `sizeBytes` of what `read` returns.
 */
export interface DeviceExports {
  /** Power-on values. */
  reset(state: number): void;
  read(state: number, offset: number, sizeBytes: number): number;
  write(state: number, offset: number, sizeBytes: number, value: number): void;
  /** Devices with a clock: does what is due. Early and late calls are harmless. */
  tick?(state: number): void;
  /** Devices with a clock: monotonic time of the next `tick`, or -1. Changes are announced with EVENT_TIMER. */
  nextDeadlineNs?(state: number): bigint;
}

export interface TimedDeviceExports extends DeviceExports {
  tick(state: number): void;
  nextDeadlineNs(state: number): bigint;
}

export interface Uart16550Exports extends DeviceExports {
  /** How many bytes `receive` takes now; EVENT_CHARDEV says when to ask again. */
  receiveSpace(state: number): number;
  /** A byte from the line. 1, or 0 when there was no space and the byte stays the caller's. */
  receive(state: number, byte: number): number;
  /** After every taking of bytes from the ring, and after a restore. */
  outputDrained(state: number): void;
  /** After vCPUs were asked to park: a write that waits for room in the ring ends at once, with its byte in the ring's reserve. */
  freeze(state: number): void;
  /** Before vCPUs run again. */
  thaw(state: number): void;
}

export interface AcpiPmExports extends TimedDeviceExports {
  powerButton(state: number): void;
  /** The machine left S3; after its reset, before the guest runs. */
  wakeUp(state: number): void;
  /** Sets status bit `gpe` (0 to 15) of GPE0. */
  raiseGpe(state: number, gpe: number): void;
}

interface ExportsByName {
  uart16550: Uart16550Exports;
  mc146818: TimedDeviceExports;
  "acpi-pm": AcpiPmExports;
}

/** The exports of a module, where more is known of it than that it is a device. */
export type ExportsOf<Name extends DeviceName> = Name extends keyof ExportsByName ? ExportsByName[Name] : DeviceExports;

/** What device modules import. Unless said otherwise it may be called with the device's lock held: it must not call back. */
export interface DeviceHost {
  /** The interrupt line of the device at `state`, called only when its level (0 or 1) changes. */
  setIrq(state: number, level: number): void;
  /** Sets `EVENT_*` bits and rings the doorbell. */
  signal(event: number): void;
  /** The devices' clock (clock-origin.ts): never goes back while a guest lives. */
  monotonicNs(): bigint;
  /** Nanoseconds since 1970. */
  realtimeNs(): bigint;
  /**
   * The output ring of the device at `state` is full. 1 when the calling thread is the one that empties it, and has done
   * so; else 0, and the device waits for the other thread. Called without the lock.
   */
  takeOutput(state: number): number;
}

/** Compiled modules cannot be shared between threads without posting them, so each thread has its own cache. */
const compiled = new Map<DeviceName, WebAssembly.Module>();

function compile(name: DeviceName): WebAssembly.Module {
  let module = compiled.get(name);
  if (module === undefined) {
    module = new WebAssembly.Module(Uint8Array.fromBase64(modules[name]));
    compiled.set(name, module);
  }
  return module;
}

/** An instance of the built-in module for the calling thread. It serves all devices of its kind, by their state pages. */
export function instantiateDevice<Name extends DeviceName>(
  name: Name,
  memory: WebAssembly.Memory,
  host: DeviceHost,
): ExportsOf<Name> {
  return instantiateModule(compile(name), memory, host) as ExportsOf<Name>;
}

/** An instance of any device module for the calling thread. @throws WebAssembly.LinkError, RuntimeError, RangeError */
export function instantiateModule(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  host: DeviceHost,
): DeviceExports {
  const imports = { env: { memory }, host: { ...host } };
  return new WebAssembly.Instance(module, imports).exports as unknown as DeviceExports;
}
