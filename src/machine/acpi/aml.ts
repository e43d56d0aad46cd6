// SPDX-License-Identifier: Apache-2.0
// ACPI Machine Language, as much of it as the DSDT needs: each function encodes one term, terms nest as arguments.
// https://uefi.org/specs/ACPI/6.5/20_AML_Specification.html

/** Encoded AML. */
export type Aml = readonly number[];

const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const ROOT_CHAR = 0x5c;
const EXT_OP_PREFIX = 0x5b;
const DEVICE_OP = 0x82;

/** Small resource items: type << 3 | length. */
const IRQ_DESCRIPTOR = 0x22;
const IO_PORT_DESCRIPTOR = 0x47;
const END_TAG = 0x79;
const IO_DECODE_16 = 1;

const ascii = (text: string): number[] => Array.from(text, (character) => character.charCodeAt(0));

function littleEndian(value: number, sizeBytes: number): number[] {
  return Array.from({ length: sizeBytes }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff);
}

/**
 * A term that starts with its length, which counts its own encoding.
 *
 *   one byte:   00 llllll
 *   more bytes: nn 00 llll, then nn bytes of llllllll, lowest bits first
 */
function sized(opcode: Aml, body: Aml): Aml {
  if (body.length + 1 < 0x40) return [...opcode, body.length + 1, ...body];
  const extraCount = body.length + 2 < 0x1000 ? 1 : body.length + 3 < 0x10_0000 ? 2 : 3;
  const length = body.length + 1 + extraCount;
  return [...opcode, (extraCount << 6) | (length & 0xf), ...littleEndian(length >>> 4, extraCount), ...body];
}

/** A path of one name segment, padded to four characters; `\` in front makes it absolute. */
function path(text: string): Aml {
  const segment = text.replace(/^\\/, "");
  if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) throw new RangeError(`${text} is no AML name`);
  return [...(text.startsWith("\\") ? [ROOT_CHAR] : []), ...ascii(segment.padEnd(4, "_"))];
}

/** An unsigned number of up to 32 bits, in its shortest form. */
export function integer(value: number): Aml {
  if (value === 0) return [ZERO_OP];
  if (value === 1) return [ONE_OP];
  if (value <= 0xff) return [BYTE_PREFIX, value];
  if (value <= 0xffff) return [WORD_PREFIX, ...littleEndian(value, 2)];
  return [DWORD_PREFIX, ...littleEndian(value, 4)];
}

export function string(text: string): Aml {
  return [STRING_PREFIX, ...ascii(text), 0];
}

/** A compressed ID such as `PNP0501`: three letters of five bits and four hexadecimal digits, big-endian. */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`${id} is no EISA ID`);
  const [first, second, third] = ascii(id).map((code) => code - 0x40) as [number, number, number];
  const vendor = (first << 10) | (second << 5) | third;
  const product = Number.parseInt(id.slice(3), 16);
  return [DWORD_PREFIX, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff];
}

/** `Package () {elements}` */
export function pack(...elements: Aml[]): Aml {
  return sized([PACKAGE_OP], [elements.length, ...elements.flat()]);
}

/** `Name (path, value)` */
export function name(namePath: string, value: Aml): Aml {
  return [NAME_OP, ...path(namePath), ...value];
}

/** `Scope (path) {terms}` */
export function scope(scopePath: string, ...terms: Aml[]): Aml {
  return sized([SCOPE_OP], [...path(scopePath), ...terms.flat()]);
}

/** `Device (path) {terms}` */
export function device(devicePath: string, ...terms: Aml[]): Aml {
  return sized([EXT_OP_PREFIX, DEVICE_OP], [...path(devicePath), ...terms.flat()]);
}

/** `ResourceTemplate () {descriptors}` */
export function resourceTemplate(...descriptors: Aml[]): Aml {
  // A checksum of zero means that there is none.
  const bytes = [...descriptors.flat(), END_TAG, 0];
  return sized([BUFFER_OP], [...integer(bytes.length), ...bytes]);
}

/** `IO (Decode16, base, base, 1, size)` */
export function io(base: number, sizeBytes: number): Aml {
  const alignment = 1;
  return [IO_PORT_DESCRIPTOR, IO_DECODE_16, ...littleEndian(base, 2), ...littleEndian(base, 2), alignment, sizeBytes];
}

/** `IRQNoFlags () {irq}`: edge triggered, active high, as ISA has it. */
export function irqNoFlags(irq: number): Aml {
  return [IRQ_DESCRIPTOR, ...littleEndian(1 << irq, 2)];
}
