// SPDX-License-Identifier: Apache-2.0
// The saved state of a device as named, typed fields, read from the constants of its layout.ts.

export type FieldType = "u8" | "u16" | "u32" | "i64";

/** One field of a state page. Plain JSON: a list of these travels with the state and says how to read it. */
export interface DeviceField {
  /** `rx-fifo` for `FIELD_RX_FIFO_U8X16`. */
  name: string;
  type: FieldType;
  /** 1, or the length of an array. */
  count: number;
  /** Bytes from the start of the state page. */
  offset: number;
}

const BYTES_PER_ELEMENT: Record<FieldType, number> = { u8: 1, u16: 2, u32: 4, i64: 8 };

const FIELD_CONSTANT = /^FIELD_([A-Z0-9_]+)_(U8|U16|U32|I64)(?:X([1-9][0-9]*))?$/;

export function fieldSizeBytes(field: DeviceField): number {
  return BYTES_PER_ELEMENT[field.type] * field.count;
}

/**
 * The fields that a device's layout declares, by offset. Other constants of the layout are passed over.
 *
 * @example
 * import * as layout from "../../assembly/devices/port92/layout.ts";
 * deviceFields(layout); // [{ name: "control", type: "u8", count: 1, offset: 0 }]
 */
export function deviceFields(layout: Readonly<Record<string, number>>): DeviceField[] {
  const fields: DeviceField[] = [];
  for (const [constant, offset] of Object.entries(layout)) {
    const match = FIELD_CONSTANT.exec(constant);
    if (match === null) continue;
    fields.push({
      name: match[1]!.toLowerCase().replaceAll("_", "-"),
      type: match[2]!.toLowerCase() as FieldType,
      count: Number(match[3] ?? 1),
      offset,
    });
  }
  return fields.sort((a, b) => a.offset - b.offset);
}

/** A copy of the fields at the offsets they have in the page; what lies between them is 0. Little-endian as in memory. */
export function saveDevice(memory: WebAssembly.Memory, state: number, fields: readonly DeviceField[]): Uint8Array {
  const page = new Uint8Array(memory.buffer, state);
  const saved = new Uint8Array(endOf(fields));
  for (const field of fields) {
    saved.set(page.subarray(field.offset, field.offset + fieldSizeBytes(field)), field.offset);
  }
  return saved;
}

/**
 * Copies saved fields into the state page of a device that has been reset. `savedFields` is the list that `saved` was
 * made with, when another version of the device made it: fields are matched by name and type, array length included.
 * Fields that this device does not have are ignored; fields that are not in the saved state keep their reset value.
 */
export function restoreDevice(
  memory: WebAssembly.Memory,
  state: number,
  fields: readonly DeviceField[],
  saved: Uint8Array,
  savedFields: readonly DeviceField[] = fields,
): void {
  if (saved.length < endOf(savedFields)) {
    throw new RangeError(`Saved device state has ${saved.length} bytes where its fields take ${endOf(savedFields)}`);
  }
  const page = new Uint8Array(memory.buffer, state);
  const byName = new Map(savedFields.map((field) => [field.name, field]));
  for (const field of fields) {
    const from = byName.get(field.name);
    if (from === undefined || from.type !== field.type || from.count !== field.count) continue;
    page.set(saved.subarray(from.offset, from.offset + fieldSizeBytes(from)), field.offset);
  }
}

/**
 * Gives the state page of a running device the form of another module: fields by name, as in `restoreDevice`, those that
 * are new with their value at power-on. What else is in the page is not touched.
 */
export function convertDevice(
  memory: WebAssembly.Memory,
  state: number,
  {
    fields,
    powerOn,
    saved,
    savedFields,
  }: {
    /** Of the other module. */
    fields: readonly DeviceField[];
    /** Its state page after `reset`. */
    powerOn: Uint8Array;
    /** By `saveDevice`, of the module in use. */
    saved: Uint8Array;
    savedFields: readonly DeviceField[];
  },
): void {
  const page = new Uint8Array(memory.buffer, state);
  for (const field of savedFields) page.fill(0, field.offset, field.offset + fieldSizeBytes(field));
  for (const field of fields) {
    page.set(powerOn.subarray(field.offset, field.offset + fieldSizeBytes(field)), field.offset);
  }
  restoreDevice(memory, state, fields, saved, savedFields);
}

/** Bytes from the start of the page to the end of the last field. */
export function endOf(fields: readonly DeviceField[]): number {
  return fields.reduce((end, field) => Math.max(end, field.offset + fieldSizeBytes(field)), 0);
}

/** A field list as text, so that saved state describes itself: `ier:u8@0 rx-fifo:u8x16@16`. */
export function formatFields(fields: readonly DeviceField[]): string {
  return fields
    .map(({ name, type, count, offset }) => `${name}:${type}${count > 1 ? `x${count}` : ""}@${offset}`)
    .join(" ");
}

/** The reverse of `formatFields`; undefined when it cannot be understood. */
export function parseFields(text: string): DeviceField[] | undefined {
  const fields: DeviceField[] = [];
  for (const word of text.split(" ").filter((part) => part !== "")) {
    const match = /^([a-z0-9-]+):(u8|u16|u32|i64)(?:x(\d{1,4}))?@(\d{1,4})$/.exec(word);
    if (match === null) return undefined;
    const [, name, type, count = "1", offset] = match;
    fields.push({ name: name!, type: type as FieldType, count: Number(count), offset: Number(offset) });
  }
  return fields;
}
