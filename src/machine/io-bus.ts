// SPDX-License-Identifier: Apache-2.0
// Port I/O: finds the device behind a port and calls its Wasm module. One bus for each thread that serves exits.
import { CONTROL_DOORBELL, CONTROL_EVENTS } from "../../assembly/layout.ts";
import type { DeviceName } from "../../build/devices.ts";
import { realtimeNs } from "../../ffi/clock.ts";
import { deviceClock } from "./clock-origin.ts";
import { type DeviceExports, type DeviceHost, instantiateDevice } from "./device-module.ts";
import type { DeviceInstance } from "./device-table.ts";

interface PortTarget {
  device: DeviceInstance;
  exports: DeviceExports;
  /** Takes accesses of 16 and 32 bits as a whole. */
  isWide: boolean;
}

/** All others have an 8-bit interface. */
const WIDE_DEVICES: ReadonlySet<DeviceName> = new Set(["acpi-pm", "debug-exit"]);

/** Output rings that this very thread empties, by the device's state page: what does it. */
const ringsEmptiedHere = new WeakMap<WebAssembly.Memory, Map<number, () => void>>();

/**
 * Says that the calling thread is the one that empties the output ring of the device at `state`. When it runs a vCPU
 * itself and that finds the ring full, `empty` is called: nobody else will make room.
 */
export function emptyRingHere(memory: WebAssembly.Memory, state: number, empty: () => void): void {
  const rings = ringsEmptiedHere.get(memory) ?? new Map<number, () => void>();
  ringsEmptiedHere.set(memory, rings.set(state, empty));
}

/** Tells the main thread that something happened: sets bits of `CONTROL_EVENTS` and rings the doorbell. */
export function signalMain(words: Int32Array, events: number): void {
  Atomics.or(words, CONTROL_EVENTS >> 2, events);
  Atomics.add(words, CONTROL_DOORBELL >> 2, 1);
  Atomics.notify(words, CONTROL_DOORBELL >> 2);
}

export class IoBus {
  readonly #ports = new Map<number, PortTarget>();
  readonly #targets = new Map<DeviceInstance, DeviceExports>();

  /** `setIrqLine` drives an interrupt line of the board's interrupt controllers. */
  constructor(
    memory: WebAssembly.Memory,
    devices: readonly DeviceInstance[],
    setIrqLine: (gsi: number, level: number) => void,
  ) {
    const words = new Int32Array(memory.buffer);
    const gsiOf = new Map(devices.map((device) => [device.state, device.gsi]));
    const host: DeviceHost = {
      setIrq: (state, level) => {
        const gsi = gsiOf.get(state);
        if (gsi !== undefined) setIrqLine(gsi, level);
      },
      signal: (event) => signalMain(words, event),
      monotonicNs: deviceClock(memory),
      realtimeNs,
      takeOutput: (state) => {
        const empty = ringsEmptiedHere.get(memory)?.get(state);
        empty?.();
        return empty === undefined ? 0 : 1;
      },
    };
    for (const device of devices) {
      const exports = instantiateDevice(device.module, memory, host);
      const isWide = WIDE_DEVICES.has(device.module);
      this.#targets.set(device, exports);
      for (let offset = 0; offset < device.ioSizeBytes; offset++) {
        this.#ports.set(device.ioBase + offset, { device, exports, isWide });
      }
    }
  }

  exportsOf(device: DeviceInstance): DeviceExports {
    return this.#targets.get(device)!;
  }

  /**
   * A guest's `in`. A port with nothing behind it reads as all ones, as on a PC. An access that is wider than the device
   * becomes several, to consecutive ports, as on an ISA bus.
   */
  read(port: number, sizeBytes: number): number {
    const target = this.#ports.get(port);
    if (isWhole(target, port, sizeBytes)) {
      if (target === undefined) return 0xff;
      return target.exports.read(target.device.state, port - target.device.ioBase, sizeBytes);
    }
    let value = 0;
    for (let byte = 0; byte < sizeBytes; byte++) value |= (this.read(port + byte, 1) & 0xff) << (8 * byte);
    return value >>> 0;
  }

  /** A guest's `out`, split like an `in`. */
  write(port: number, sizeBytes: number, value: number): void {
    const target = this.#ports.get(port);
    if (isWhole(target, port, sizeBytes)) {
      target?.exports.write(target.device.state, port - target.device.ioBase, sizeBytes, value);
      return;
    }
    for (let byte = 0; byte < sizeBytes; byte++) this.write(port + byte, 1, (value >>> (8 * byte)) & 0xff);
  }
}

/** An access goes to the device as it is: a byte, or all of it within a device that takes more at once. */
function isWhole(target: PortTarget | undefined, port: number, sizeBytes: number): boolean {
  if (sizeBytes === 1) return true;
  return target?.isWide === true && port + sizeBytes <= target.device.ioBase + target.device.ioSizeBytes;
}
