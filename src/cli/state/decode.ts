// SPDX-License-Identifier: Apache-2.0
// A part of a state image in readable form. What a type does not explain is dumped: a part never fails to be shown.
import { KVM_MSR_ENTRY_SIZE_BYTES, KVM_MSRS_HEADER_SIZE_BYTES, KVM_REGS_SIZE_BYTES } from "../../../ffi/kvm/abi.ts";
import { REGISTER_ORDER } from "../../accel/state/boot-state.ts";
import { type DeviceField, endOf, fieldSizeBytes, parseFields } from "../../machine/device-fields.ts";

/** `["rip", "0x100000"]`: a register, an MSR, a field, a JSON path, a place in a dump; and what it holds. */
export type Line = readonly [label: string, text: string];

export interface Decoded {
  lines: Line[];
  /** What a `json` part holds, the lines as an object for other known types; undefined when bytes had to be dumped. */
  value: unknown;
  /** Bytes that the dump leaves out. */
  omittedBytes: number;
}

const ROW_LENGTH = 16;

const NUMBERS = {
  u8: { sizeBytes: 1, read: (view: DataView, offset: number) => view.getUint8(offset) },
  u16: { sizeBytes: 2, read: (view: DataView, offset: number) => view.getUint16(offset, true) },
  u32: { sizeBytes: 4, read: (view: DataView, offset: number) => view.getUint32(offset, true) },
  u64: { sizeBytes: 8, read: (view: DataView, offset: number) => view.getBigUint64(offset, true) },
  i32: { sizeBytes: 4, read: (view: DataView, offset: number) => view.getInt32(offset, true) },
  i64: { sizeBytes: 8, read: (view: DataView, offset: number) => view.getBigInt64(offset, true) },
  f64: { sizeBytes: 8, read: (view: DataView, offset: number) => view.getFloat64(offset, true) },
};
/** `u64`, `u64 monotonic_ns`, `f64 ms[]`, `u8[]`: one of the numbers of a plain part. */
const PLAIN_NUMBER = /^(u8|u16|u32|u64|i32|i64|f64)(?: (\w+))?(\[\])?$/;

/** Decodes a part by its type (docs/state-format.md); a dump in it has at most `maxDumpBytes`. */
export function decodePart(type: string, bytes: Uint8Array, maxDumpBytes: number): Decoded {
  if (type === "json") return decodeJson(bytes) ?? dumpOf(bytes, maxDumpBytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lines = decodeRegs(type, view) ?? decodeMsrs(type, view) ?? decodeFields(type, view);
  if (lines !== undefined) return { lines, value: Object.fromEntries(lines), omittedBytes: 0 };
  return decodePlain(type, bytes, maxDumpBytes) ?? dumpOf(bytes, maxDumpBytes);
}

/** The row of a dump at `offset`. */
export function dumpRow(bytes: Uint8Array, offset: number, end = offset + ROW_LENGTH): Line {
  const row = [...bytes.subarray(offset, Math.min(end, offset + ROW_LENGTH))];
  return [`[0x${digits(offset, 2)}]`, row.map((byte) => digits(byte, 1)).join(" ")];
}

function dumpOf(bytes: Uint8Array, maxDumpBytes: number, start = 0): Decoded {
  const end = Math.min(bytes.length, start + maxDumpBytes);
  const lines: Line[] = [];
  for (let offset = start; offset < end; offset += ROW_LENGTH) lines.push(dumpRow(bytes, offset, end));
  return { lines, value: undefined, omittedBytes: bytes.length - end };
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** All the hex digits of a number of `sizeBytes`. */
function digits(value: number | bigint, sizeBytes: number): string {
  return value.toString(16).padStart(2 * sizeBytes, "0");
}

function decodeJson(bytes: Uint8Array): Decoded | undefined {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return { lines: [...leaves(value, "")], value, omittedBytes: 0 };
  } catch {
    // Not JSON, or nested too deeply for the stack: the bytes can be shown all the same.
    return undefined;
  }
}

function* leaves(value: unknown, path: string): Generator<Line> {
  if (typeof value !== "object" || value === null || Object.keys(value).length === 0) {
    yield [path === "" ? "value" : path, JSON.stringify(value)];
    return;
  }
  for (const [key, child] of Object.entries(value)) {
    if (Array.isArray(value)) yield* leaves(child, `${path}[${key}]`);
    else if (/^[\w-]+$/.test(key)) yield* leaves(child, path === "" ? key : `${path}.${key}`);
    else yield* leaves(child, `${path}[${JSON.stringify(key)}]`);
  }
}

function decodeRegs(type: string, view: DataView): Line[] | undefined {
  if (type !== "struct kvm_regs" || view.byteLength !== KVM_REGS_SIZE_BYTES) return undefined;
  return REGISTER_ORDER.map((name, index) => [name, hex(view.getBigUint64(index * 8, true))]);
}

/** u32 nmsrs, u32 pad, then for each MSR u32 index, u32 reserved, u64 data. */
function decodeMsrs(type: string, view: DataView): Line[] | undefined {
  if (type !== "struct kvm_msrs" || view.byteLength < KVM_MSRS_HEADER_SIZE_BYTES) return undefined;
  const count = view.getUint32(0, true);
  if (view.byteLength !== KVM_MSRS_HEADER_SIZE_BYTES + count * KVM_MSR_ENTRY_SIZE_BYTES) return undefined;
  return Array.from({ length: count }, (_, position) => {
    const entry = KVM_MSRS_HEADER_SIZE_BYTES + position * KVM_MSR_ENTRY_SIZE_BYTES;
    return [hex(view.getUint32(entry, true)), hex(view.getBigUint64(entry + 8, true))];
  });
}

function decodeFields(type: string, view: DataView): Line[] | undefined {
  const fields = parseFields(type);
  if (fields === undefined || endOf(fields) > view.byteLength) return undefined;
  // A device without state has no fields, and no bytes either.
  if (fields.length === 0 && view.byteLength > 0) return undefined;
  return fields.flatMap((field) => fieldLines(field, view));
}

/** Registers are read in hex; `i64` are times. */
function fieldLines(field: DeviceField, view: DataView): Line[] {
  const { name, type, count, offset } = field;
  const { read, sizeBytes } = NUMBERS[type];
  const values = Array.from({ length: count }, (_, index) => read(view, offset + index * sizeBytes));
  if (count === 1) return [[name, type === "i64" ? `${values[0]}` : hex(values[0]!)]];
  const texts = values.map((value) => (type === "i64" ? `${value}` : digits(value, sizeBytes)));
  if (fieldSizeBytes(field) <= ROW_LENGTH) return [[name, texts.join(" ")]];
  const lines: Line[] = [];
  for (let index = 0; index < count; index += ROW_LENGTH) {
    lines.push([`${name}[${hex(index)}]`, texts.slice(index, index + ROW_LENGTH).join(" ")]);
  }
  return lines;
}

/** Numbers one behind the other; the last may be an array, and one of bytes is dumped. */
function decodePlain(type: string, bytes: Uint8Array, maxDumpBytes: number): Decoded | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lines: Line[] = [];
  let offset = 0;
  const words = type.split(", ");
  for (const [position, word] of words.entries()) {
    const [, kind, name = "value", array] = PLAIN_NUMBER.exec(word) ?? [];
    if (kind === undefined || (array !== undefined && position < words.length - 1)) return undefined;
    if (kind === "u8" && array !== undefined) {
      const dump = dumpOf(bytes, maxDumpBytes, offset);
      return { ...dump, lines: [...lines, ...dump.lines] };
    }
    const { read, sizeBytes } = NUMBERS[kind as keyof typeof NUMBERS];
    const count = array === undefined ? 1 : (bytes.length - offset) / sizeBytes;
    if (!Number.isInteger(count) || offset + count * sizeBytes > bytes.length) return undefined;
    for (let index = 0; index < count; index++) {
      lines.push([array === undefined ? name : `${name}[${index}]`, `${read(view, offset + index * sizeBytes)}`]);
    }
    offset += count * sizeBytes;
  }
  return offset === bytes.length ? { lines, value: Object.fromEntries(lines), omittedBytes: 0 } : undefined;
}
