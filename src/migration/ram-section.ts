// SPDX-License-Identifier: Apache-2.0
// Section `ram` of a state image in a file: where the guest's RAM is, and how to tell that it is the right one.
import { modules } from "../../build/dirty.ts";
import { VmmError } from "../errors.ts";
import type { MappedRam } from "../memory/ram.ts";
import type { StateReader } from "../state/reader.ts";

export const RAM_SECTION = "ram";
export const RAM_SECTION_VERSION = 1;

const PAGE_SIZE_BYTES = 4096;
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

/** RAM that follows the image in its file: page p at `offset + p * 4096`, as far as it is not zero. */
export interface RamInFile {
  where: "in-file";
  sizeBytes: number;
  /** From the start of the image. */
  offset: number;
}

export type RamLocation = RamInPlace | RamInFile;

/** The page hash of the dirty-page scanner, on this memory. */
export function pageHasher(memory: WebAssembly.Memory): (address: number) => bigint {
  const module = new WebAssembly.Module(Uint8Array.fromBase64(modules.dirty));
  const { hashPage } = new WebAssembly.Instance(module, { env: { memory } }).exports as {
    hashPage(address: number): bigint;
  };
  return hashPage;
}

/** Hashes of pages spread over all of RAM, none of which is zero as far as that can be had. */
export function sampleRam(memory: WebAssembly.Memory, ram: MappedRam): [number, string][] {
  const hashPage = pageHasher(memory);
  const pageCount = ram.backend.sizeBytes / PAGE_SIZE_BYTES;
  const stride = Math.max(1, Math.floor(pageCount / SAMPLE_COUNT));
  const samples: [number, string][] = [];
  for (let start = 0; start < pageCount && samples.length < SAMPLE_COUNT; start += stride) {
    const page = findTouched(memory, ram.base, start, Math.min(start + stride, pageCount));
    samples.push([page, formatHash(hashPage(ram.base + page * PAGE_SIZE_BYTES))]);
  }
  return samples;
}

/** How far a page that is not zero is looked for. */
const SEARCH_PAGES = 16;

function findTouched(memory: WebAssembly.Memory, ramBase: number, from: number, to: number): number {
  for (let page = from; page < Math.min(from + SEARCH_PAGES, to); page++) {
    const words = new BigUint64Array(memory.buffer, ramBase + page * PAGE_SIZE_BYTES, PAGE_SIZE_BYTES / 8);
    for (const word of words) if (word !== 0n) return page;
  }
  return from;
}

function formatHash(hash: bigint): string {
  return BigInt.asUintN(64, hash).toString(16).padStart(16, "0");
}

/** @throws VmmError "ram-differs" when the RAM is not the one whose pages were sampled */
export function checkSamples(memory: WebAssembly.Memory, ram: MappedRam, location: RamInPlace): void {
  const hashPage = pageHasher(memory);
  const path = ram.backend.memPath ?? ram.backend.id;
  for (const [page, expected] of location.samples) {
    const found = formatHash(hashPage(ram.base + page * PAGE_SIZE_BYTES));
    if (found === expected) continue;
    throw new VmmError(
      "ram-differs",
      `The RAM in '${path}' is not what the state belongs to: page ${page} has hash ${found} instead of ${expected}. ` +
        `The guest left its RAM in '${location.path}': was it cleared by the reboot, written to, or is it older?`,
    );
  }
}

/** @throws VmmError "state-refused" */
export function readRamLocation(reader: StateReader, ramSizeBytes: number): RamLocation {
  const section = reader.section(RAM_SECTION);
  const location = section.json() as
    | (Partial<Omit<RamInPlace, "where"> & Omit<RamInFile, "where">> & { where?: string })
    | null;
  const refuse = (what: string): VmmError =>
    new VmmError("state-refused", `State section ${section.title} has ${what}`);
  if (location?.sizeBytes !== ramSizeBytes) {
    throw refuse(`RAM of ${location?.sizeBytes} bytes, the machine has ${ramSizeBytes}`);
  }
  switch (location.where) {
    case "in-place": {
      const isSampled =
        typeof location.path === "string" &&
        Array.isArray(location.samples) &&
        location.samples.every((sample) => isSample(sample, ramSizeBytes));
      if (!isSampled) throw refuse("page hashes that make no sense");
      return location as unknown as RamInPlace;
    }
    case "in-file":
      if (!Number.isSafeInteger(location.offset) || location.offset! < 0) throw refuse("RAM at no offset");
      return location as unknown as RamInFile;
    default:
      throw refuse(`RAM in a place that is not known: ${JSON.stringify(location.where)}`);
  }
}

function isSample(sample: unknown, ramSizeBytes: number): boolean {
  if (!Array.isArray(sample) || sample.length !== 2) return false;
  const [page, hash] = sample as unknown[];
  const isPage = Number.isSafeInteger(page) && (page as number) >= 0;
  return isPage && ((page as number) + 1) * PAGE_SIZE_BYTES <= ramSizeBytes && typeof hash === "string";
}
