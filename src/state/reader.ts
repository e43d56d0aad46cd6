// SPDX-License-Identifier: Apache-2.0
// Reads a state image, trusting nothing in it: every size is checked before it is used.
import { VmmError } from "../errors.ts";
import { crc32 } from "../runtime/checksum.ts";
import { PRODUCER } from "../version.ts";
import {
  ARCHITECTURE,
  CRC_OFFSET,
  CRC_START,
  type Directory,
  FORMAT_VERSION,
  HEADER_SIZE_BYTES,
  MAGIC,
  MAX_IMAGE_SIZE_BYTES,
  type PartEntry,
  type SectionEntry,
} from "./format.ts";

function refuse(message: string, cause?: unknown): VmmError {
  return new VmmError("state-refused", message, cause === undefined ? undefined : { cause });
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** One section, with checked access to its parts. */
export class StateSection {
  readonly entry: SectionEntry;
  readonly #image: Uint8Array;

  constructor(entry: SectionEntry, image: Uint8Array) {
    this.entry = entry;
    this.#image = image;
  }

  get version(): number {
    return this.entry.version;
  }

  /** `vcpu 1`: how messages name this section. */
  get title(): string {
    return `${this.entry.id} ${this.entry.instance}`;
  }

  has(name: string): boolean {
    return this.#find(name) !== undefined;
  }

  /** How much of the image must be there for all of the section to be. */
  get endOffset(): number {
    let end = 0;
    for (const { offset, sizeBytes } of this.entry.parts) if (offset + sizeBytes > end) end = offset + sizeBytes;
    return end;
  }

  /** Bytes of a part. `sizeBytes` is what the reader expects. @throws VmmError "state-refused" when it differs */
  part(name: string, sizeBytes?: number): Uint8Array {
    const part = this.#get(name);
    if (sizeBytes !== undefined && part.sizeBytes !== sizeBytes) {
      throw refuse(`State part ${name} of ${this.title} has ${part.sizeBytes} bytes instead of ${sizeBytes}`);
    }
    return this.#image.subarray(part.offset, part.offset + part.sizeBytes);
  }

  /** What the writer says of the bytes of a part: its `PartPlan.type`. */
  typeOf(name: string): string {
    return this.#get(name).type;
  }

  #get(name: string): PartEntry {
    const part = this.#find(name);
    if (part === undefined) throw refuse(`State section ${this.title} has no part ${name}`);
    return part;
  }

  #find(name: string): PartEntry | undefined {
    for (const part of this.entry.parts) if (part.name === name) return part;
    return undefined;
  }

  /** The value of a section made by `StateWriter.addJson`. */
  json(): unknown {
    try {
      return JSON.parse(text(this.part("value")));
    } catch (error) {
      if (error instanceof VmmError) throw error;
      throw refuse(`State section ${this.title} is not JSON`, error);
    }
  }
}

/** Why a section cannot be read by who knows these; undefined when it can. */
export function unreadable(
  { id, instance, version }: SectionEntry,
  known: Readonly<Record<string, number>>,
  producer: string,
): string | undefined {
  const highest = Object.hasOwn(known, id) ? known[id]! : 0;
  if (version >= 1 && version <= highest) return undefined;
  const reads = highest === 0 ? "does not know it" : `reads versions up to ${highest}`;
  return `State section ${id} ${instance} has version ${version}, written by ${producer}; this is ${PRODUCER}, which ${reads}`;
}

export class StateReader {
  readonly producer: string;
  readonly #sections: StateSection[];

  /**
   * `known` maps each section id that the caller can read to the highest version it can read.
   * @param isArriving only header and directory are there yet: the caller calls `checkChecksum` when all is
   * @throws VmmError "state-refused", naming what is wrong, and both versions when that is the reason
   */
  constructor(image: Uint8Array, known: Readonly<Record<string, number>>, { isArriving = false } = {}) {
    const directory = readDirectory(image, { isArriving });
    this.producer = directory.producer;
    this.#sections = [];
    for (const entry of directory.sections) {
      const problem = unreadable(entry, known, this.producer);
      if (problem === undefined) this.#sections.push(new StateSection(entry, image));
      else if (entry.required) throw refuse(problem);
    }
  }

  /** The section, or undefined when the writer had none. */
  find(id: string, instance = 0): StateSection | undefined {
    for (const section of this.#sections) {
      if (section.entry.id === id && section.entry.instance === instance) return section;
    }
    return undefined;
  }

  /** @throws VmmError "state-refused" when the section is missing */
  section(id: string, instance = 0): StateSection {
    const section = this.find(id, instance);
    if (section === undefined) throw refuse(`State section ${id} ${instance} is missing`);
    return section;
  }

  /** All that can be read: optional sections that are unknown or too new are left out. */
  sections(): readonly StateSection[] {
    return this.#sections;
  }
}

/** Checks the header and gives the size in bytes that it says the image has. `header` may be all of the image. */
export function readHeader(header: Uint8Array): number {
  if (header.length < HEADER_SIZE_BYTES) {
    throw refuse(`State image is cut short: ${header.length} bytes, the header alone has ${HEADER_SIZE_BYTES}`);
  }
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  if (text(header.subarray(0, 8)) !== MAGIC) throw refuse("State image has a wrong magic: it is not Baton's state");
  const version = view.getUint32(8, true);
  if (version !== FORMAT_VERSION) {
    throw refuse(`State image has format version ${version}; ${PRODUCER} reads version ${FORMAT_VERSION}`);
  }
  return Number(view.getBigUint64(16, true));
}

/** @throws VmmError "state-refused" when the image is not what was written */
export function checkChecksum(image: Uint8Array): void {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (view.getUint32(CRC_OFFSET, true) === crc32(image.subarray(CRC_START))) return;
  throw refuse("State image is damaged: its CRC-32 does not match");
}

/**
 * Checks header, checksum and directory. Used by itself to show an image that this version cannot read.
 * @param isArriving see `StateReader`
 */
export function readDirectory(image: Uint8Array, { isArriving = false } = {}): Directory {
  if (image.length > MAX_IMAGE_SIZE_BYTES) {
    throw refuse(`State image has ${image.length} bytes, more than the limit of ${MAX_IMAGE_SIZE_BYTES}`);
  }
  const sizeBytes = readHeader(image);
  if (sizeBytes !== image.length) {
    throw refuse(`State image is cut short or too long: ${image.length} bytes, its header says ${sizeBytes}`);
  }
  if (!isArriving) checkChecksum(image);
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const architecture = text(image.subarray(32, 40));
  if (architecture !== ARCHITECTURE.padEnd(8, "\0")) {
    const name = JSON.stringify(architecture.replace(/\0+$/, ""));
    throw refuse(`State image is of architecture ${name} instead of ${ARCHITECTURE}`);
  }
  const directorySizeBytes = view.getUint32(24, true);
  if (HEADER_SIZE_BYTES + directorySizeBytes > image.length) {
    throw refuse(`State image has a directory of ${directorySizeBytes} bytes, more than the image holds`);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text(image.subarray(HEADER_SIZE_BYTES, HEADER_SIZE_BYTES + directorySizeBytes)));
  } catch (error) {
    throw refuse("State image has a directory that is not JSON", error);
  }
  return checkDirectory(parsed, image.length);
}

function checkDirectory(value: unknown, imageSizeBytes: number): Directory {
  const directory = value as Partial<Directory> | null;
  if (typeof directory?.producer !== "string" || !Array.isArray(directory.sections)) {
    throw refuse("State image has a directory without producer and sections");
  }
  const seen = new Set<string>();
  for (const section of directory.sections as Partial<SectionEntry>[]) {
    const { id, instance, version, required, parts } = section ?? {};
    const isNamed = typeof id === "string" && Number.isSafeInteger(instance) && instance! >= 0;
    const isVersioned = Number.isSafeInteger(version) && version! >= 0 && typeof required === "boolean";
    if (!isNamed || !isVersioned || !Array.isArray(parts)) {
      throw refuse(`State image has a directory entry that is not a section: ${JSON.stringify(section).slice(0, 100)}`);
    }
    if (seen.has(`${id} ${instance}`)) throw refuse(`State section ${id} ${instance} is there twice`);
    seen.add(`${id} ${instance}`);
    for (const part of parts as Partial<PartEntry>[]) {
      const inside =
        typeof part?.name === "string" &&
        typeof part.type === "string" &&
        Number.isSafeInteger(part.offset) &&
        Number.isSafeInteger(part.sizeBytes) &&
        part.offset! >= HEADER_SIZE_BYTES &&
        part.sizeBytes! >= 0 &&
        part.offset! + part.sizeBytes! <= imageSizeBytes;
      if (!inside) throw refuse(`State section ${id} ${instance} has a part outside the image`);
    }
  }
  return directory as Directory;
}
