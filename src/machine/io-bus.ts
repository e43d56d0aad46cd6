// SPDX-License-Identifier: Apache-2.0
// Port I/O: finds the device behind a port and calls its Wasm module. One bus for each thread that serves exits.
//
// Every access goes through the device's gate (module-gate.ts), which tells what module to call.
import type { DeviceName } from "../../build/devices.ts";
import { realtimeNs } from "../../ffi/clock.ts";
import { deviceClock } from "./clock-origin.ts";
import { type DeviceExports, type DeviceHost, instantiateDevice, instantiateModule } from "./device-module.ts";
import type { DeviceInstance } from "./device-table.ts";
import { signalMain } from "./doorbell.ts";
import { ModuleGate } from "./module-gate.ts";

/** This thread's instance of a module. */
interface LoadedModule {
  generation: number;
  exports: DeviceExports;
}

interface PortTarget {
  readonly device: DeviceInstance;
  /** Takes accesses of 16 and 32 bits as a whole. */
  readonly isWide: boolean;
  readonly gate: ModuleGate;
  loaded: LoadedModule;
  /** The one before: it may come back. */
  previous: LoadedModule | undefined;
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

export class IoBus {
  readonly #ports = new Map<number, PortTarget>();
  readonly #targets = new Map<DeviceInstance, PortTarget>();
  readonly #memory: WebAssembly.Memory;
  readonly #host: DeviceHost;

  /** `setIrqLine` drives an interrupt line of the board's interrupt controllers. */
  constructor(
    memory: WebAssembly.Memory,
    devices: readonly DeviceInstance[],
    setIrqLine: (gsi: number, level: number) => void,
  ) {
    const words = new Int32Array(memory.buffer);
    const gsiOf = new Map(devices.map((device) => [device.state, device.gsi]));
    this.#memory = memory;
    this.#host = {
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
      const target: PortTarget = {
        device,
        isWide: WIDE_DEVICES.has(device.module),
        gate: new ModuleGate(memory, device.state),
        loaded: { generation: 0, exports: instantiateDevice(device.module, memory, this.#host) },
        previous: undefined,
      };
      this.#targets.set(device, target);
      for (let offset = 0; offset < device.ioSizeBytes; offset++) this.#ports.set(device.ioBase + offset, target);
    }
  }

  /**
   * For the main thread, which goes into a module without its gate: it is the one that swaps modules, and `adopt` has it
   * go on with the new one.
   */
  exportsOf(device: DeviceInstance): DeviceExports {
    return this.#targets.get(device)!.loaded.exports;
  }

  /** This thread's instance of a module that may come to model a device. */
  instantiate(module: WebAssembly.Module): DeviceExports {
    return instantiateModule(module, this.#memory, this.#host);
  }

  /** From now on this thread has that instance for the device. */
  adopt(device: DeviceInstance, loaded: LoadedModule): void {
    const target = this.#targets.get(device)!;
    target.previous = target.loaded;
    target.loaded = loaded;
  }

  /** Goes into the module that models the device now; `target.gate.leave` has to follow. */
  #enter(target: PortTarget): DeviceExports {
    for (;;) {
      const generation = target.gate.enter();
      if (generation === target.loaded.generation) return target.loaded.exports;
      try {
        this.adopt(target.device, this.#load(target, generation));
        return target.loaded.exports;
      } catch (error) {
        target.gate.leave();
        if (generation === 0) throw error;
        // The main thread has made an instance of the very same bytes; what is missing here is memory, say.
        target.gate.refuse(generation);
      }
    }
  }

  #load({ device, gate, previous }: PortTarget, generation: number): LoadedModule {
    if (previous?.generation === generation) return previous;
    const bytes = gate.module();
    const exports =
      bytes === undefined
        ? instantiateDevice(device.module, this.#memory, this.#host)
        : this.instantiate(new WebAssembly.Module(bytes));
    return { generation, exports };
  }

  /**
   * A guest's `in`. A port with nothing behind it reads as all ones, as on a PC. An access that is wider than the device
   * becomes several, to consecutive ports, as on an ISA bus.
   */
  read(port: number, sizeBytes: number): number {
    const target = this.#ports.get(port);
    if (isWhole(target, port, sizeBytes)) {
      if (target === undefined) return 0xff;
      const exports = this.#enter(target);
      try {
        return exports.read(target.device.state, port - target.device.ioBase, sizeBytes);
      } finally {
        target.gate.leave();
      }
    }
    let value = 0;
    for (let byte = 0; byte < sizeBytes; byte++) value |= (this.read(port + byte, 1) & 0xff) << (8 * byte);
    return value >>> 0;
  }

  /** A guest's `out`, split like an `in`. */
  write(port: number, sizeBytes: number, value: number): void {
    const target = this.#ports.get(port);
    if (isWhole(target, port, sizeBytes)) {
      if (target === undefined) return;
      const exports = this.#enter(target);
      try {
        exports.write(target.device.state, port - target.device.ioBase, sizeBytes, value);
      } finally {
        target.gate.leave();
      }
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

/** Gives the calling thread's bus, which is made when it is first asked for: that compiles all device modules. */
export function busOnDemand(...parts: ConstructorParameters<typeof IoBus>): () => IoBus {
  let bus: IoBus | undefined;
  return () => {
    bus ??= new IoBus(...parts);
    return bus;
  };
}
