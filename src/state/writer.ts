// SPDX-License-Identifier: Apache-2.0
// Builds a state image in two steps: sections are planned while the guest runs, filled in while it stands.
import { VmmError } from "../errors.ts";
import { crc32 } from "../runtime/checksum.ts";
import { PRODUCER } from "../version.ts";
import {
  ARCHITECTURE,
  align,
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

const SPACE = 0x20;

export interface SectionHead {
  id: string;
  instance?: number;
  version: number;
  /** Default true. */
  required?: boolean;
}

/** What a part will be: a name, a type for readers, and how many bytes. */
export interface PartPlan {
  name: string;
  type: string;
  sizeBytes: number;
  /** It may turn out to have less: see `StateWriter.shorten`. */
  isLimit?: boolean;
}

/**
 * The two steps of a planned section: called once the image is laid out, it looks up the places of its parts; what it
 * returns fills them in. Only the second step is inside the pause, so all that can be done beforehand is done in the first.
 */
export type BindSection = () => () => void;

/** One step out of several. */
export function bindAll(sections: readonly BindSection[]): BindSection {
  return () => {
    const fills = sections.map((bind) => bind());
    return () => {
      for (const fill of fills) fill();
    };
  };
}

export class StateWriter {
  readonly #sections: SectionEntry[] = [];
  readonly #values = new Map<PartEntry, Uint8Array>();
  #image: Uint8Array | undefined;
  /** The first part with `isLimit`; it comes last in the image, which ends where it turns out to end. */
  #last: PartEntry | undefined;
  /** Where the directory says how many bytes that part has. */
  #lastSizeText: Uint8Array | undefined;
  /** Hears, while an image laid out with `isFixed` is filled in, how many bytes from its start are as they will be, but for its header. */
  onProgress: ((image: Uint8Array, sizeBytes: number) => void) | undefined;

  /** Plans a section. Call `view` for each part once `lay` has been called. */
  plan(head: SectionHead, parts: PartPlan[]): SectionEntry {
    if (this.#image !== undefined) throw new Error("The state image is laid out already");
    const entry: SectionEntry = {
      id: head.id,
      instance: head.instance ?? 0,
      version: head.version,
      required: head.required ?? true,
      parts: parts.map(({ name, type, sizeBytes }) => ({ name, type, offset: 0, sizeBytes })),
    };
    this.#last ??= entry.parts[parts.findIndex(({ isLimit }) => isLimit)];
    this.#sections.push(entry);
    return entry;
  }

  /** Plans a section whose bytes are known now. */
  add(head: SectionHead, parts: { name: string; type: string; bytes: Uint8Array }[]): void {
    const planned = parts.map(({ name, type, bytes }) => ({ name, type, sizeBytes: bytes.length }));
    const entry = this.plan(head, planned);
    for (const [index, part] of entry.parts.entries()) this.#values.set(part, parts[index]!.bytes);
  }

  /** Plans a section of one JSON value. */
  addJson(head: SectionHead, value: unknown): void {
    this.add(head, [{ name: "value", type: "json", bytes: new TextEncoder().encode(JSON.stringify(value)) }]);
  }

  /** A step between sections: when it is filled in, `onProgress` hears that all that was planned before it is there. */
  planProgress(): BindSection {
    const planned = this.#sections.length;
    return () => {
      const image = this.#image!;
      const next = this.#sections[planned]?.parts[0];
      const sizeBytes = next?.offset ?? image.length;
      return () => this.onProgress?.(image, sizeBytes);
    };
  }

  /**
   * Lays the image out: directory and header are written, every part has its place. Returns the image's size in bytes.
   * @param isFixed the sections lie in the order in which they were planned, and nothing is cut off: for somebody who reads along
   */
  lay({ isFixed = false } = {}): number {
    if (isFixed) this.#last = undefined;
    // Offsets are part of the directory and the directory comes first: lay the parts out behind a directory of bounded
    // size, which is that of the same directory with the longest offsets there can be.
    const directory: Directory = { producer: PRODUCER, sections: this.#sections };
    const encoder = new TextEncoder();
    for (const section of this.#sections) for (const part of section.parts) part.offset = 0xffff_ffff;
    const directoryRoom = align(encoder.encode(JSON.stringify(directory)).length);
    let offset = HEADER_SIZE_BYTES + directoryRoom;
    const place = (part: PartEntry): void => {
      part.offset = offset;
      offset += align(part.sizeBytes);
    };
    for (const section of this.#sections) for (const part of section.parts) if (part !== this.#last) place(part);
    if (this.#last !== undefined) place(this.#last);
    // A reader would refuse it: too late, if that is the next program.
    if (offset > MAX_IMAGE_SIZE_BYTES) {
      throw new VmmError(
        "state-too-large",
        `The state image would have ${offset} bytes, more than the limit of ${MAX_IMAGE_SIZE_BYTES}: is there a monitor client or a console that does not read?`,
      );
    }
    const image = new Uint8Array(offset);
    const json = JSON.stringify(directory);
    const text = encoder.encode(json);
    const view = new DataView(image.buffer);
    encoder.encodeInto(MAGIC, image);
    view.setUint32(8, FORMAT_VERSION, true);
    view.setBigUint64(16, BigInt(offset), true);
    view.setUint32(24, text.length, true);
    encoder.encodeInto(ARCHITECTURE, image.subarray(32, 40));
    image.set(text, HEADER_SIZE_BYTES);
    if (this.#last !== undefined) {
      const part = JSON.stringify(this.#last);
      const upToSize = json.slice(0, json.indexOf(part) + part.lastIndexOf(":") + 1);
      const start = HEADER_SIZE_BYTES + encoder.encode(upToSize).length;
      this.#lastSizeText = image.subarray(start, start + String(this.#last.sizeBytes).length);
    }
    for (const [part, bytes] of this.#values) image.set(bytes, part.offset);
    this.#image = image;
    return offset;
  }

  /** The place of a planned part in the laid-out image. */
  view(section: SectionEntry, name: string): Uint8Array {
    const part = section.parts.find((candidate) => candidate.name === name);
    if (part === undefined || this.#image === undefined) throw new Error(`No part ${name} in ${section.id}`);
    return this.#image.subarray(part.offset, part.offset + part.sizeBytes);
  }

  /**
   * Says that a part planned with `isLimit` has only its first `sizeBytes` bytes. One such part of an image is cut off there; of
   * others the rest stays zero.
   */
  shorten(section: SectionEntry, name: string, sizeBytes: number): void {
    const last = this.#last;
    if (last === undefined || last.name !== name || !section.parts.includes(last)) return;
    const text = this.#lastSizeText;
    if (text === undefined || sizeBytes > last.sizeBytes)
      throw new Error(`Part ${name} cannot have ${sizeBytes} bytes`);
    last.sizeBytes = sizeBytes;
    // JSON allows spaces around a number: the directory keeps its length.
    const digits = String(sizeBytes);
    for (let index = 0; index < text.length; index++) {
      text[index] = index < digits.length ? digits.charCodeAt(index) : SPACE;
    }
  }

  /** Adds the checksum and gives the finished image. */
  seal(): Uint8Array {
    let image = this.#image;
    if (image === undefined) throw new Error("The state image is not laid out");
    const view = new DataView(image.buffer);
    if (this.#last !== undefined) {
      image = image.subarray(0, this.#last.offset + align(this.#last.sizeBytes));
      view.setBigUint64(16, BigInt(image.length), true);
    }
    view.setUint32(CRC_OFFSET, crc32(image.subarray(CRC_START)), true);
    return image;
  }
}
