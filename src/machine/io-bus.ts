// SPDX-License-Identifier: Apache-2.0
// Port I/O: finds the device behind a port and calls its Wasm module. One bus for each thread that serves exits.
import { CONTROL_DOORBELL, CONTROL_EVENTS } from "../../assembly/layout.ts";
import { monotonicNs, realtimeNs } from "../../ffi/clock.ts";
import { type DeviceExports, type DeviceHost, instantiateDevice } from "./device-module.ts";
import type { DeviceInstance } from "./device-table.ts";

interface PortTarget {
  device: DeviceInstance;
  exports: DeviceExports;
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
      monotonicNs,
      realtimeNs,
    };
    for (const device of devices) {
      const exports = instantiateDevice(device.module, memory, host);
      this.#targets.set(device, exports);
      for (let offset = 0; offset < device.ioSizeBytes; offset++) {
        this.#ports.set(device.ioBase + offset, { device, exports });
      }
    }
  }

  exportsOf(device: DeviceInstance): DeviceExports {
    return this.#targets.get(device)!;
  }

  /** A guest's `in`. A port with nothing behind it reads as all ones, as on a PC. */
  read(port: number, sizeBytes: number): number {
    const target = this.#ports.get(port);
    if (target === undefined) return 0xffff_ffff;
    return target.exports.read(target.device.state, port - target.device.ioBase, sizeBytes);
  }

  /** A guest's `out`. */
  write(port: number, sizeBytes: number, value: number): void {
    const target = this.#ports.get(port);
    if (target === undefined) return;
    target.exports.write(target.device.state, port - target.device.ioBase, sizeBytes, value);
  }
}
