// SPDX-License-Identifier: Apache-2.0
// All devices of one VM, as the main thread sees them: power-on, timers, saved state.
import { HOST_RING_INDEX } from "../../assembly/devices/uart16550/layout.ts";
import { type DeviceName, deviceStates } from "../../build/devices.ts";
import { VmmError } from "../errors.ts";
import type { StateReader, StateSection } from "../state/reader.ts";
import { type BindSection, bindAll, type StateWriter } from "../state/writer.ts";
import {
  CLOCK_ORIGIN_SECTION,
  CLOCK_ORIGIN_SECTION_VERSION,
  deviceClock,
  isOfThisBoot,
  planClockOrigin,
  type RestoreOptions,
  restoreClockOrigin,
} from "./clock-origin.ts";
import { parseFields, restoreDevice } from "./device-fields.ts";
import type { AcpiPmExports, DeviceExports, Uart16550Exports } from "./device-module.ts";
import type { DeviceInstance } from "./device-table.ts";
import { IoBus } from "./io-bus.ts";
import { SerialPort } from "./serial-port.ts";

/** Sections of the devices, and of the clock they go by, that this Baton reads, with their versions. */
export const DEVICE_SECTIONS: Readonly<Record<string, number>> = deviceSections();

/** Of debug-exit: what the guest reported. Every version has it. */
const EXIT_CODE_FIELD = "exit-code";

function deviceSections(): Record<string, number> {
  const versions: Record<string, number> = { [CLOCK_ORIGIN_SECTION]: CLOCK_ORIGIN_SECTION_VERSION };
  for (const name in deviceStates) versions[sectionId(name)] = deviceStates[name as DeviceName].version;
  return versions;
}

function sectionId(module: string): string {
  return `device/${module}`;
}

/** The module that models a device, as far as the device's state is concerned. */
export interface DeviceModel {
  /** 0 for the built-in module (module-gate.ts). */
  generation: number;
  version: number;
  /** Fields of its state, as `formatFields` gives them, and where the last one ends. */
  fields: string;
  sizeBytes: number;
}

/** setTimeout takes no more. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

export class DeviceSet {
  readonly #memory: WebAssembly.Memory;
  readonly #table: readonly DeviceInstance[];
  /** Of the devices whose module was swapped. */
  readonly #swapped = new Map<DeviceInstance, DeviceModel>();
  readonly #setIrqLine: (gsi: number, level: number) => void;
  readonly serialPorts: readonly SerialPort[];
  readonly #nowNs: () => bigint;
  #bus: IoBus | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isFrozen = false;
  /** Goes back from modules that a thread could not use. Set by who swaps modules. */
  settleModules: (() => void) | undefined;

  constructor(
    memory: WebAssembly.Memory,
    table: readonly DeviceInstance[],
    setIrqLine: (gsi: number, level: number) => void,
  ) {
    this.#memory = memory;
    this.#table = table;
    this.#setIrqLine = setIrqLine;
    this.#nowNs = deviceClock(memory);
    const words = new Uint32Array(memory.buffer);
    const ports: SerialPort[] = [];
    for (const device of table) {
      if (device.ring === undefined) continue;
      words[(device.state + HOST_RING_INDEX) >> 2] = device.ring;
      ports.push(new SerialPort(memory, device, () => this.#exports(device) as Uart16550Exports));
    }
    this.serialPorts = ports;
  }

  /** This thread's instances of the device modules; compiled at first use, which is after the guest runs. */
  get #devices(): IoBus {
    this.#bus ??= new IoBus(this.#memory, this.#table, this.#setIrqLine);
    return this.#bus;
  }

  #exports(device: DeviceInstance): DeviceExports {
    return this.#devices.exportsOf(device);
  }

  get table(): readonly DeviceInstance[] {
    return this.#table;
  }

  modelOf(device: DeviceInstance): DeviceModel {
    return this.#swapped.get(device) ?? { generation: 0, ...deviceStates[device.module] };
  }

  /** This thread's instance of a module, for `exchange`. */
  instantiate(module: WebAssembly.Module): DeviceExports {
    return this.#devices.instantiate(module);
  }

  /** This thread's instance of the module in use. */
  exportsOf(device: DeviceInstance): DeviceExports {
    return this.#exports(device);
  }

  /** Another module models the device from now on. Its state must have the new form, and nobody be in the old module. */
  exchange(device: DeviceInstance, model: DeviceModel, exports: DeviceExports): void {
    this.#devices.adopt(device, { generation: model.generation, exports });
    this.#swapped.set(device, model);
  }

  #find(module: DeviceName): DeviceInstance | undefined {
    return this.#table.find((device) => device.module === module);
  }

  /** Power-on values for all devices. */
  reset(): void {
    for (const device of this.#table) this.#exports(device).reset(device.state);
    this.armTimers();
  }

  /**
   * Lets go of vCPUs that wait for the main thread: for room in an output ring, where what they write goes to its reserve,
   * or for another module. For parking them.
   */
  freezeOutput(): void {
    this.settleModules?.();
    this.#isFrozen = true;
    for (const { device } of this.serialPorts) this.freezePort(device);
  }

  thawOutput(): void {
    this.#isFrozen = false;
    for (const { device } of this.serialPorts) this.thawPort(device);
  }

  /** Has who waits inside of a serial port leave it. Other devices have nobody wait. */
  freezePort(device: DeviceInstance): void {
    if (this.#portOf(device) !== undefined) (this.#exports(device) as Uart16550Exports).freeze(device.state);
  }

  /** Undoes `freezePort`, unless all output is frozen. */
  thawPort(device: DeviceInstance): void {
    const port = this.#portOf(device);
    if (port === undefined || this.#isFrozen) return;
    port.renewReserve();
    (this.#exports(device) as Uart16550Exports).thaw(device.state);
  }

  /** Presses the power button. */
  powerButton(): void {
    const pm = this.#find("acpi-pm")!;
    (this.#exports(pm) as AcpiPmExports).powerButton(pm.state);
  }

  /** Ends S3 sleep: sets the wake status. */
  wakeUp(): void {
    const pm = this.#find("acpi-pm")!;
    (this.#exports(pm) as AcpiPmExports).wakeUp(pm.state);
  }

  /** Exit code that a payload reported to isa-debug-exit. */
  debugExitCode(): number {
    const device = this.#find("debug-exit")!;
    const field = parseFields(this.modelOf(device).fields)!.find(({ name }) => name === EXIT_CODE_FIELD)!;
    return new DataView(this.#memory.buffer).getUint32(device.state + field.offset, true);
  }

  /** Lets due devices act, and sets the one timer for the next. */
  armTimers(): void {
    clearTimeout(this.#timer);
    let nextNs: bigint | undefined;
    for (const device of this.#table) {
      const exports = this.#exports(device);
      if (exports.tick === undefined || exports.nextDeadlineNs === undefined) continue;
      let deadlineNs = exports.nextDeadlineNs(device.state);
      if (deadlineNs >= 0n && deadlineNs <= this.#nowNs()) {
        exports.tick(device.state);
        deadlineNs = exports.nextDeadlineNs(device.state);
      }
      if (deadlineNs >= 0n && (nextNs === undefined || deadlineNs < nextNs)) nextNs = deadlineNs;
    }
    if (nextNs === undefined) return;
    const delayMs = Math.min(Math.max(Number(nextNs - this.#nowNs()) / 1e6, 0), MAX_TIMEOUT_MS);
    this.#timer = setTimeout(() => this.armTimers(), delayMs);
  }

  stopTimers(): void {
    clearTimeout(this.#timer);
  }

  /** Plans a section for the clock and one for each device. Output still in a ring is part of it. */
  planState(writer: StateWriter): BindSection {
    return bindAll([
      planClockOrigin(writer, this.#memory),
      ...this.#table.map((device) => this.#planDevice(writer, device)),
    ]);
  }

  #planDevice(writer: StateWriter, device: DeviceInstance): BindSection {
    // The version is that of the built-in module, whatever models the device now: a program that takes the guest back after
    // an update that failed has only that one, and reads other fields than its own by their names.
    const { version } = deviceStates[device.module];
    const { fields, sizeBytes } = this.modelOf(device);
    const port = this.#portOf(device);
    const section = writer.plan({ id: sectionId(device.module), instance: device.instance, version }, [
      { name: "fields", type: fields, sizeBytes },
      ...(port === undefined
        ? []
        : [{ name: "output", type: "u32 count, u8[]", sizeBytes: 4 + port.maxPendingBytes, isLimit: true }]),
    ]);
    return () => {
      const page = this.#page(device, sizeBytes);
      const saved = writer.view(section, "fields");
      const output = port === undefined ? undefined : writer.view(section, "output");
      return () => {
        saved.set(page);
        if (output === undefined) return;
        const pending = port!.pendingOutput();
        new DataView(output.buffer, output.byteOffset).setUint32(0, pending.length, true);
        output.set(pending, 4);
        writer.shorten(section, "output", 4 + pending.length);
      };
    };
  }

  /** @throws VmmError "state-refused" */
  restoreState(reader: StateReader, { isSameBoot = isOfThisBoot(reader) }: RestoreOptions = {}): void {
    restoreClockOrigin(reader, this.#memory, isSameBoot);
    for (const device of this.#table) {
      const section = reader.section(sectionId(device.module), device.instance);
      this.#restoreFields(device, section);
      const port = this.#portOf(device);
      if (port === undefined) continue;
      const output = section.part("output");
      const view = new DataView(output.buffer, output.byteOffset, output.byteLength);
      const count = output.length < 4 ? Number.POSITIVE_INFINITY : view.getUint32(0, true);
      if (count > output.length - 4) {
        throw new VmmError("state-refused", `State part output of ${section.title} is shorter than it says`);
      }
      port.restoreOutput(output.subarray(4, 4 + count));
    }
  }

  /** The fields of this version are copied as they lie; those of another are matched by name. */
  #restoreFields(device: DeviceInstance, section: StateSection): void {
    const { fields, sizeBytes } = deviceStates[device.module];
    const saved = section.part("fields");
    const savedType = section.typeOf("fields");
    if (savedType === fields && saved.length === sizeBytes) {
      this.#page(device, sizeBytes).set(saved);
      return;
    }
    const savedFields = parseFields(savedType);
    if (savedFields === undefined) {
      throw new VmmError("state-refused", `State section ${section.title} has a field list that is not understood`);
    }
    // Fields that the other version does not have keep their power-on values.
    this.#exports(device).reset(device.state);
    try {
      restoreDevice(this.#memory, device.state, parseFields(fields)!, saved, savedFields);
    } catch (error) {
      throw new VmmError("state-refused", `State section ${section.title} does not fit its field list`, {
        cause: error,
      });
    }
  }

  /** The saved part of a device's state page. */
  #page(device: DeviceInstance, sizeBytes: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, device.state, sizeBytes);
  }

  #portOf(device: DeviceInstance): SerialPort | undefined {
    for (const port of this.serialPorts) if (port.device === device) return port;
    return undefined;
  }
}
