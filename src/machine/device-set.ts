// SPDX-License-Identifier: Apache-2.0
// All devices of one VM, as the main thread sees them: power-on, timers, saved state.
import * as acpiPm from "../../assembly/devices/acpi-pm/layout.ts";
import * as debugExit from "../../assembly/devices/debug-exit/layout.ts";
import * as i8042 from "../../assembly/devices/i8042/layout.ts";
import * as mc146818 from "../../assembly/devices/mc146818/layout.ts";
import * as port92 from "../../assembly/devices/port92/layout.ts";
import * as uart16550 from "../../assembly/devices/uart16550/layout.ts";
import { RING_CAPACITY_BYTES } from "../../assembly/layout.ts";
import { monotonicNs } from "../../ffi/clock.ts";
import { VmmError } from "../errors.ts";
import type { StateReader } from "../migration/state/reader.ts";
import type { StateWriter } from "../migration/state/writer.ts";
import { type DeviceField, deviceFields, restoreDevice, saveDevice } from "./device-fields.ts";
import type { AcpiPmExports, DeviceExports, Uart16550Exports } from "./device-module.ts";
import type { DeviceInstance } from "./device-table.ts";
import { IoBus } from "./io-bus.ts";
import { SerialPort } from "./serial-port.ts";

const LAYOUTS = {
  "acpi-pm": acpiPm,
  "debug-exit": debugExit,
  i8042,
  mc146818,
  port92,
  uart16550,
} as const;
type DeviceModule = keyof typeof LAYOUTS;

/** Sections `device/NAME` that this Baton reads, with their versions. */
export const DEVICE_SECTIONS: Readonly<Record<string, number>> = Object.fromEntries(
  Object.entries(LAYOUTS).map(([name, layout]) => [sectionId(name), layout.STATE_VERSION]),
);

function sectionId(module: string): string {
  return `device/${module}`;
}

const OUTPUT_PART_SIZE_BYTES = 4 + RING_CAPACITY_BYTES;

/** setTimeout takes no more. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

export class DeviceSet {
  readonly #memory: WebAssembly.Memory;
  readonly #table: readonly DeviceInstance[];
  readonly #setIrqLine: (gsi: number, level: number) => void;
  readonly serialPorts: readonly SerialPort[];
  #bus: IoBus | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    memory: WebAssembly.Memory,
    table: readonly DeviceInstance[],
    setIrqLine: (gsi: number, level: number) => void,
  ) {
    this.#memory = memory;
    this.#table = table;
    this.#setIrqLine = setIrqLine;
    this.serialPorts = table
      .filter(({ ring }) => ring !== undefined)
      .map((device) => new SerialPort(memory, device, () => this.#exports(device) as Uart16550Exports));
    const words = new Uint32Array(memory.buffer);
    for (const { ring, state } of table) {
      if (ring !== undefined) words[(state + uart16550.HOST_RING_INDEX) >> 2] = ring;
    }
  }

  /** This thread's instances of the device modules; compiled at first use, which is after the guest runs. */
  get #devices(): IoBus {
    this.#bus ??= new IoBus(this.#memory, this.#table, this.#setIrqLine);
    return this.#bus;
  }

  #exports(device: DeviceInstance): DeviceExports {
    return this.#devices.exportsOf(device);
  }

  #find(module: DeviceModule): DeviceInstance | undefined {
    return this.#table.find((device) => device.module === module);
  }

  /** Power-on values for all devices. */
  reset(): void {
    for (const device of this.#table) this.#exports(device).reset(device.state);
    this.armTimers();
  }

  /** Lets go of vCPUs that wait for room in an output ring; what they write goes to its reserve. For parking them. */
  freezeOutput(): void {
    for (const { device } of this.serialPorts) (this.#exports(device) as Uart16550Exports).freeze(device.state);
  }

  thawOutput(): void {
    for (const { device } of this.serialPorts) (this.#exports(device) as Uart16550Exports).thaw(device.state);
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
    return new DataView(this.#memory.buffer).getUint32(device.state + debugExit.FIELD_EXIT_CODE_U32, true);
  }

  /** Lets due devices act, and sets the one timer for the next. */
  armTimers(): void {
    clearTimeout(this.#timer);
    let nextNs: bigint | undefined;
    for (const device of this.#table) {
      const exports = this.#exports(device);
      if (exports.tick === undefined || exports.nextDeadlineNs === undefined) continue;
      let deadlineNs = exports.nextDeadlineNs(device.state);
      if (deadlineNs >= 0n && deadlineNs <= monotonicNs()) {
        exports.tick(device.state);
        deadlineNs = exports.nextDeadlineNs(device.state);
      }
      if (deadlineNs >= 0n && (nextNs === undefined || deadlineNs < nextNs)) nextNs = deadlineNs;
    }
    if (nextNs === undefined) return;
    const delayMs = Math.min(Math.max(Number(nextNs - monotonicNs()) / 1e6, 0), MAX_TIMEOUT_MS);
    this.#timer = setTimeout(() => this.armTimers(), delayMs);
  }

  stopTimers(): void {
    clearTimeout(this.#timer);
  }

  /** Plans a section for each device; the returned function fills them in. Output still in a ring is part of it. */
  planState(writer: StateWriter): () => void {
    const fills = this.#table.map((device) => {
      const layout = LAYOUTS[device.module as DeviceModule];
      const fields = deviceFields(layout);
      const port = this.#portOf(device);
      const section = writer.plan(
        { id: sectionId(device.module), instance: device.instance, version: layout.STATE_VERSION },
        [
          {
            name: "fields",
            type: describeFields(fields),
            sizeBytes: saveDevice(this.#memory, device.state, fields).length,
          },
          ...(port === undefined
            ? []
            : [{ name: "output", type: "u32 count, u8[]", sizeBytes: OUTPUT_PART_SIZE_BYTES }]),
        ],
      );
      return () => {
        writer.view(section, "fields").set(saveDevice(this.#memory, device.state, fields));
        if (port === undefined) return;
        const output = writer.view(section, "output");
        const pending = port.pendingOutput();
        new DataView(output.buffer, output.byteOffset).setUint32(0, pending.length, true);
        output.set(pending, 4);
      };
    });
    return () => {
      for (const fill of fills) fill();
    };
  }

  /** @throws VmmError "state-refused" */
  restoreState(reader: StateReader): void {
    for (const device of this.#table) {
      const fields = deviceFields(LAYOUTS[device.module as DeviceModule]);
      const section = reader.section(sectionId(device.module), device.instance);
      const savedType = section.entry.parts.find(({ name }) => name === "fields")?.type ?? "";
      const isSame = savedType === describeFields(fields);
      // Another version's fields may not cover all of ours: those keep their power-on values.
      if (!isSame) this.#exports(device).reset(device.state);
      const savedFields = isSame ? fields : parseFields(savedType, section.title);
      try {
        restoreDevice(this.#memory, device.state, fields, section.part("fields"), savedFields);
      } catch (error) {
        if (error instanceof VmmError) throw error;
        throw new VmmError("state-refused", `State section ${section.title} does not fit its field list`, {
          cause: error,
        });
      }
      const port = this.#portOf(device);
      if (port === undefined) continue;
      const output = section.part("output");
      const count = output.length >= 4 ? new DataView(output.buffer, output.byteOffset).getUint32(0, true) : Infinity;
      if (count > Math.min(output.length - 4, RING_CAPACITY_BYTES)) {
        throw new VmmError("state-refused", `State part output of ${section.title} is longer than a ring`);
      }
      port.restoreOutput(output.subarray(4, 4 + count));
    }
  }

  #portOf(device: DeviceInstance): SerialPort | undefined {
    return this.serialPorts.find((port) => port.device === device);
  }
}

/** A field list as text, so that the image describes itself: `ier:u8@0 rx-fifo:u8x16@16`. */
function describeFields(fields: readonly DeviceField[]): string {
  return fields
    .map(({ name, type, count, offset }) => `${name}:${type}${count > 1 ? `x${count}` : ""}@${offset}`)
    .join(" ");
}

/** The reverse of `describeFields`. @throws VmmError "state-refused" */
function parseFields(text: string, title: string): DeviceField[] {
  return text.split(" ").map((word) => {
    const match = /^([a-z0-9-]+):(u8|u16|u32|i64)(?:x(\d{1,4}))?@(\d{1,4})$/.exec(word);
    if (match === null) {
      throw new VmmError(
        "state-refused",
        `State section ${title} has the field ${JSON.stringify(word)}, which is not understood`,
      );
    }
    const [, name, type, count = "1", offset] = match;
    return { name: name!, type: type as DeviceField["type"], count: Number(count), offset: Number(offset) };
  });
}
