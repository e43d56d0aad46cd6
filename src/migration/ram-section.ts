// SPDX-License-Identifier: Apache-2.0
// Section `ram` of a state image: where the guest's RAM is, and how to tell that it is the right one.
import { statSync } from "node:fs";
import { DIRTY_BITMAP_SIZE_BYTES } from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";
import type { Vm } from "../machine/vm.ts";
import { existingRanges, type MappedRam } from "../memory/ram.ts";
import type { StateReader } from "../state/reader.ts";
import type { BindSection, StateWriter } from "../state/writer.ts";
import { loadDirtyModule } from "./ram/dirty-module.ts";

export const RAM_SECTION = "ram";
export const RAM_SECTION_VERSION = 1;

const PAGE_SIZE_BYTES = 4096;
const PRESENT = "present";
const CHECKS = "checks";

/** One bit for each page. */
function bitmapSize(ramSizeBytes: number): number {
  return Math.ceil(ramSizeBytes / PAGE_SIZE_BYTES / 8);
}

/** What is known of the pages that the file has, beside where they are. */
export interface FilePages {
  /** Address of the bitmap of those pages, in the linear memory. */
  present: number;
  /** See RamFileOptions. */
  checks: SharedArrayBuffer;
}

/** Puts what the section says of the pages that the file has where `pages` wants it. @throws VmmError "state-refused" */
export function readPages(
  reader: StateReader,
  memory: WebAssembly.Memory,
  ramSizeBytes: number,
  pages: FilePages,
): void {
  const section = reader.section(RAM_SECTION);
  const bitmap = section.part(PRESENT, bitmapSize(ramSizeBytes));
  new Uint8Array(memory.buffer, pages.present, DIRTY_BITMAP_SIZE_BYTES).fill(0);
  new Uint8Array(memory.buffer, pages.present, bitmap.length).set(bitmap);
  new Uint8Array(pages.checks).set(section.part(CHECKS, pages.checks.byteLength));
}

/** Enough to notice another file, an empty one, or one that a reboot has scrambled; few enough to cost nothing. */
const SAMPLE_COUNT = 64;

/** RAM that stays where it is while there is no VMM: capability `x-ignore-shared`. */
export interface RamInPlace {
  where: "in-place";
  sizeBytes: number;
  /** For people: the new command line may name another path of the same memory. */
  path: string;
  /** Hashes of some pages, `[page, hash]` with the hash in hexadecimal (assembly/dirty/hash.ts). */
  samples: [number, string][];
}

/**
 * RAM that follows the image in its file: page p at `offset + p * 4096`, as far as the bitmap in part `present` says that it
 * is there. All others are zero. Part `checks` has what the pages are checked by.
 */
export interface RamInFile {
  where: "in-file";
  sizeBytes: number;
  /** From the start of the image. */
  offset: number;
}

/** RAM in a memfd that the next kernel is to have. */
export interface RamRetained {
  where: "retained";
  sizeBytes: number;
  /** The live update session. */
  session: string;
  /** As in `RamInPlace`. */
  samples: [number, string][];
}

/** RAM that came before the image, on the same stream. */
export interface RamInStream {
  where: "in-stream";
  sizeBytes: number;
}

export type RamLocation = RamInPlace | RamInFile | RamRetained | RamInStream;

/**
 * Where RAM is to be: where it is, if that is asked for and possible, else `otherwise`. As in QEMU only RAM in a shared file
 * that has a name is left where it is: a memfd ends with its last process, as does the file of a back end in a directory.
 */
export function locateRam<T extends { where: RamLocation["where"] }>(
  vm: Vm,
  inPlace: boolean,
  otherwise: T,
): (T & { sizeBytes: number }) | RamInPlace {
  const { sizeBytes, qomType, memPath } = vm.ram.backend;
  const isNamed =
    qomType === "memory-backend-file" && statSync(memPath!, { throwIfNoEntry: false })?.isDirectory() === false;
  if (!inPlace || !vm.ram.isShared || !isNamed) return { ...otherwise, sizeBytes };
  return { where: "in-place", sizeBytes, path: memPath!, samples: [] };
}

/** Hash and page number in decimal: no sample is longer than this in JSON. */
const SAMPLE_SIZE_BYTES = 32;

/**
 * Plans the section; what it says of pages is taken when it is filled in, as the guest stands then.
 * @param pages what the file has, for RAM in a file
 */
export function planRam(writer: StateWriter, vm: Vm, location: RamLocation, pages?: FilePages): BindSection {
  const json = (value: RamLocation): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
  const isSampled = location.where === "in-place" || location.where === "retained";
  // JSON may end with any number of spaces.
  const sizeBytes = json(location).length + (isSampled ? SAMPLE_COUNT * SAMPLE_SIZE_BYTES : 0);
  const presentSizeBytes = bitmapSize(location.sizeBytes);
  const section = writer.plan({ id: RAM_SECTION, version: RAM_SECTION_VERSION }, [
    { name: "value", type: "json", sizeBytes },
    ...(pages === undefined
      ? []
      : [
          { name: PRESENT, type: "bitmap of pages", sizeBytes: presentSizeBytes },
          { name: CHECKS, type: "u32[]", sizeBytes: pages.checks.byteLength },
        ]),
  ]);
  return () => {
    const value = writer.view(section, "value");
    const present = pages && writer.view(section, PRESENT);
    const checks = pages && writer.view(section, CHECKS);
    return () => {
      present?.set(new Uint8Array(vm.memory.buffer, pages!.present, presentSizeBytes));
      checks?.set(new Uint8Array(pages!.checks));
      value.fill(0x20);
      value.set(json(isSampled ? { ...location, samples: sampleRam(vm.memory, vm.ram) } : location));
    };
  };
}

/** How far a page that is not zero is looked for. */
const SEARCH_PAGES = 16;

/**
 * Hashes of pages spread over what there is of RAM, none of which is zero as far as that can be had. What is not there is not
 * looked at: that would make it.
 */
function sampleRam(memory: WebAssembly.Memory, ram: MappedRam): [number, string][] {
  const { hashPage, countLeadingZeroPages } = loadDirtyModule(memory);
  const ranges = [...existingRanges(ram)].map(({ offset, sizeBytes }) => {
    const first = Math.floor(offset / PAGE_SIZE_BYTES);
    return { first, pageCount: Math.ceil((offset + sizeBytes) / PAGE_SIZE_BYTES) - first };
  });
  const total = ranges.reduce((sum, { pageCount }) => sum + pageCount, 0);
  const stride = Math.max(1, Math.floor(total / SAMPLE_COUNT));
  const samples: [number, string][] = [];
  /** How many pages before the next sample. */
  let skipped = 0;
  for (const { first, pageCount } of ranges) {
    for (; skipped < pageCount && samples.length < SAMPLE_COUNT; skipped += stride) {
      const start = first + skipped;
      const lookedAt = Math.min(SEARCH_PAGES, stride, pageCount - skipped);
      const zeroPages = countLeadingZeroPages(ram.base + start * PAGE_SIZE_BYTES, lookedAt);
      const page = zeroPages < lookedAt ? start + zeroPages : start;
      samples.push([page, formatHash(hashPage(ram.base + page * PAGE_SIZE_BYTES))]);
    }
    skipped -= pageCount;
  }
  return samples;
}

function formatHash(hash: bigint): string {
  return BigInt.asUintN(64, hash).toString(16).padStart(16, "0");
}

/** @throws VmmError "ram-differs" when the RAM is not the one whose pages were sampled */
export function checkSamples(memory: WebAssembly.Memory, ram: MappedRam, location: RamInPlace | RamRetained): void {
  const { hashPage } = loadDirtyModule(memory);
  const path = ram.backend.memPath ?? ram.backend.id;
  const left = location.where === "in-place" ? location.path : location.session;
  for (const [page, expected] of location.samples) {
    const found = formatHash(hashPage(ram.base + page * PAGE_SIZE_BYTES));
    if (found === expected) continue;
    throw new VmmError(
      "ram-differs",
      `The RAM in '${path}' is not what the state belongs to: page ${page} has hash ${found} instead of ${expected}. ` +
        `The guest left its RAM in '${left}': was it cleared by the reboot, written to, or is it older?`,
    );
  }
}

/** @throws VmmError "state-refused" */
export function readRamLocation(reader: StateReader, ramSizeBytes: number): RamLocation {
  const section = reader.section(RAM_SECTION);
  const location = section.json() as
    | (Partial<Omit<RamInPlace, "where"> & Omit<RamInFile, "where"> & Omit<RamRetained, "where">> & { where?: string })
    | null;
  const refuse = (what: string): VmmError =>
    new VmmError("state-refused", `State section ${section.title} has ${what}`);
  if (location?.sizeBytes !== ramSizeBytes) {
    throw refuse(`RAM of ${location?.sizeBytes} bytes, the machine has ${ramSizeBytes}`);
  }
  switch (location.where) {
    case "in-place": {
      const isSampled = typeof location.path === "string" && areSamples(location.samples, ramSizeBytes);
      if (!isSampled) throw refuse("page hashes that make no sense");
      return location as unknown as RamInPlace;
    }
    case "retained": {
      if (typeof location.session !== "string") throw refuse("RAM in no live update session");
      if (!areSamples(location.samples, ramSizeBytes)) throw refuse("page hashes that make no sense");
      return location as unknown as RamRetained;
    }
    case "in-stream":
      return { where: "in-stream", sizeBytes: ramSizeBytes };
    case "in-file":
      if (!Number.isSafeInteger(location.offset) || location.offset! < 0) throw refuse("RAM at no offset");
      return location as unknown as RamInFile;
    default:
      throw refuse(`RAM in a place that is not known: ${JSON.stringify(location.where)}`);
  }
}

function areSamples(samples: unknown, ramSizeBytes: number): boolean {
  return Array.isArray(samples) && samples.every((sample) => isSample(sample, ramSizeBytes));
}

function isSample(sample: unknown, ramSizeBytes: number): boolean {
  if (!Array.isArray(sample) || sample.length !== 2) return false;
  const [page, hash] = sample as unknown[];
  const isPage = Number.isSafeInteger(page) && (page as number) >= 0;
  return isPage && ((page as number) + 1) * PAGE_SIZE_BYTES <= ramSizeBytes && typeof hash === "string";
}
