// SPDX-License-Identifier: Apache-2.0
// The VM's one linear memory and the RAM back end mapped into it.
import {
  CONTROL_RAM_BASE,
  RAM_ALIGNMENT_BYTES,
  RAM_MAX_SIZE_BYTES,
  RAM_MIN_BASE,
  WASM_PAGE_SIZE_BYTES,
} from "../../assembly/layout.ts";
import { close, lockFile, O_CREAT, O_RDWR, open, pread, seekData, seekHole, status, truncate } from "../../ffi/fd.ts";
import { F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, memfdCreate } from "../../ffi/memfd.ts";
import { advise, alignOffset, mapAnonymousOver, mapOver } from "../../ffi/mmap.ts";
import type { MachineSpec, MemoryBackendSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { checkDax, daxGeometry } from "./dax.ts";

/** <linux/fcntl.h> O_TMPFILE: __O_TMPFILE | O_DIRECTORY. */
const O_TMPFILE = 0o20200000;

/** The RAM back end that the machine uses. */
export function ramBackend(spec: MachineSpec): MemoryBackendSpec {
  for (const backend of spec.memoryBackends) if (backend.id === spec.machine.memoryBackend) return backend;
  throw new VmmError("memory-backend", `object '${spec.machine.memoryBackend}' not found`);
}

/** A linear memory with room for that much RAM. Initial and maximum are equal, so that it never moves. */
export function createMemory(ramSizeBytes: number): WebAssembly.Memory {
  if (ramSizeBytes > RAM_MAX_SIZE_BYTES) {
    throw new VmmError(
      "ram-too-large",
      `RAM of ${ramSizeBytes} bytes is more than the 3 GiB that Baton maps below the PCI hole`,
    );
  }
  const pages = Math.ceil((RAM_MIN_BASE + RAM_ALIGNMENT_BYTES + ramSizeBytes) / WASM_PAGE_SIZE_BYTES);
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

/** RAM that is mapped. `fd` is undefined for anonymous memory, which no other process image can take over: see sharing.ts. */
export interface MappedRam {
  backend: MemoryBackendSpec;
  /** Where guest physical 0 is in the linear memory. */
  base: number;
  fd: number | undefined;
  /** True when another process that maps `fd` sees the guest's writes. */
  isShared: boolean;
  /** What of anonymous RAM is in a memfd already, while that is not all of it. */
  moved?: MovedRam | undefined;
}

/** See sharing.ts: that much of RAM, from its start, is in the memfd. */
export interface MovedRam {
  fd: number;
  sizeBytes: number;
}

/**
 * Opens the back end and maps it into `memory`. `existing` is RAM of a guest, taken as it is: an fd, or what the back end
 * has, which must be there then.
 * @throws VmmError "memory-backend" naming the back end; the cause has the system call
 */
export function mapRam(
  memory: WebAssembly.Memory,
  backend: MemoryBackendSpec,
  existing?: number | "in-place",
): MappedRam {
  const bytes = new Uint8Array(memory.buffer);
  const base = alignOffset(bytes, RAM_MIN_BASE, RAM_ALIGNMENT_BYTES);
  new Uint32Array(memory.buffer)[CONTROL_RAM_BASE >> 2] = base;
  try {
    const fd = typeof existing === "number" ? existing : openBackend(backend, existing === "in-place");
    if (fd === undefined) {
      mapAnonymousOver(bytes, base, backend.sizeBytes);
    } else {
      mapOver(bytes, base, { fd, sizeBytes: backend.sizeBytes, private: !backend.share });
    }
    if (backend.prealloc === true && existing === undefined) advise(bytes, base, backend.sizeBytes, "populate");
    return { backend, base, fd, isShared: fd !== undefined && backend.share };
  } catch (error) {
    throw new VmmError("memory-backend", `Memory back end '${backend.id}' (${backend.qomType}) cannot be set up`, {
      cause: error,
    });
  }
}

/** Between two chunks whoever else has something to do is let in. */
const POPULATE_CHUNK_BYTES = 64 * 2 ** 20;

/** The parts of RAM that have been written, or may have been. What lies between them is zero. */
export function* existingRanges({
  fd,
  backend,
  isShared,
}: MappedRam): Generator<{ offset: number; sizeBytes: number }> {
  // What was written to a private mapping is in no file.
  if (fd === undefined || !isShared || status(fd).kind !== "file") {
    yield { offset: 0, sizeBytes: backend.sizeBytes };
    return;
  }
  for (let offset = 0; offset < backend.sizeBytes; ) {
    const data = seekData(fd, offset);
    if (data === undefined || data >= backend.sizeBytes) return;
    offset = Math.min(seekHole(fd, data), backend.sizeBytes);
    yield { offset: data, sizeBytes: offset - data };
  }
}

/**
 * Fills the page tables for all of RAM that there is: a guest that comes does not have to wait for each of its pages.
 * What it has never touched stays a hole in the file.
 */
export async function populateExisting(memory: WebAssembly.Memory, ram: MappedRam): Promise<void> {
  const bytes = new Uint8Array(memory.buffer);
  for (const { offset, sizeBytes } of existingRanges(ram)) {
    for (let done = 0; done < sizeBytes; done += POPULATE_CHUNK_BYTES) {
      advise(bytes, ram.base + offset + done, Math.min(POPULATE_CHUNK_BYTES, sizeBytes - done), "populate");
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }
}

/**
 * Makes all of RAM zero that comes from a file or a device and may have been used before. The guest's RAM comes after.
 * @throws VmmError "memory-backend" when another VM has that file for its RAM
 */
export function clearRam(memory: WebAssembly.Memory, { base, fd, backend }: MappedRam): void {
  if (fd === undefined || backend.qomType !== "memory-backend-file") return;
  if (backend.share && status(fd).kind === "file") {
    if (!lockFile(fd, "exclusive")) {
      throw new VmmError(
        "memory-backend",
        `${backend.memPath} is the RAM of another VM: give the one that comes a file of its own`,
      );
    }
    lockFile(fd, "shared");
    truncate(fd, 0);
    truncate(fd, backend.sizeBytes);
  } else {
    new Uint8Array(memory.buffer, base, backend.sizeBytes).fill(0);
  }
}

/** Gives RAM back that no guest is in: its pages go, or stay in the file that they belong to. */
export function releaseRam(memory: WebAssembly.Memory, { base, fd, backend, moved }: MappedRam): void {
  mapAnonymousOver(new Uint8Array(memory.buffer), base, backend.sizeBytes);
  if (fd !== undefined) close(fd);
  if (moved !== undefined) close(moved.fd);
}

/** Keeps guest RAM out of core dumps. Not part of `mapRam`, which an update does inside the guest's pause. */
export function excludeFromDumps(memory: WebAssembly.Memory, ram: MappedRam): void {
  advise(new Uint8Array(memory.buffer), ram.base, ram.backend.sizeBytes, "no-dump");
}

function openBackend(backend: MemoryBackendSpec, isInPlace: boolean): number | undefined {
  switch (backend.qomType) {
    case "memory-backend-memfd":
      return memfdCreate(backend.id, backend.sizeBytes, {
        ...(backend.seal === false ? {} : { seals: F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL }),
        ...(backend.hugetlb === true ? { hugePageSizeBytes: backend.hugetlbSizeBytes ?? 0 } : {}),
      });
    case "memory-backend-ram":
      return backend.share ? memfdCreate(backend.id, backend.sizeBytes) : undefined;
    case "memory-backend-file":
      return openFile(backend, isInPlace);
  }
}

/**
 * A directory gets an unnamed file of its own (hugetlbfs is used that way); a file is made, and grown, as needed, unless it
 * is to have a guest's RAM.
 */
function openFile(backend: MemoryBackendSpec, isInPlace: boolean): number {
  const path = backend.memPath!;
  const { statSync } = process.getBuiltinModule("node:fs");
  const isDirectory = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const fd = isInPlace ? openExisting(path) : open(path, O_RDWR | (isDirectory ? O_TMPFILE : O_CREAT), 0o600);
  try {
    const { kind, sizeBytes, deviceNumber } = status(fd);
    if (kind === "file" && sizeBytes < backend.sizeBytes) {
      if (isInPlace || (sizeBytes !== 0 && !isDirectory)) {
        throw new VmmError(
          "memory-backend",
          `${path} has ${sizeBytes} bytes, fewer than the ${backend.sizeBytes} of RAM`,
        );
      }
      truncate(fd, backend.sizeBytes);
    }
    // Nobody is refused for it: it keeps others from emptying the file, see clearRam.
    if (kind === "file") lockFile(fd, "shared");
    const dax = kind === "character" ? daxGeometry(deviceNumber) : undefined;
    if (dax !== undefined) checkDax(path, dax, backend.sizeBytes);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

function openExisting(path: string): number {
  try {
    return open(path, O_RDWR);
  } catch (cause) {
    throw new VmmError("ram-absent", `The guest's RAM is to be in '${path}', and that cannot be opened`, { cause });
  }
}

/** A value that JavaScript writes and that must then be seen from elsewhere. */
const WITNESS = 0x4241_544f;

/**
 * Proves that JavaScript, Wasm and the kernel see the same bytes of guest RAM; a runtime that copied or moved shared
 * memory would corrupt guests. Uses the first word of RAM and puts it back.
 *
 * `hashPage` is a Wasm function on `memory`: its result changes with the contents of the page at an address.
 * @throws VmmError "memory-self-test"
 */
export function selfTestMapping(
  memory: WebAssembly.Memory,
  ram: MappedRam,
  hashPage: (address: number) => bigint,
): void {
  const word = new Uint32Array(memory.buffer, ram.base, 1);
  const before = word[0]!;
  const hashBefore = hashPage(ram.base);
  word[0] = before ^ WITNESS;
  let isSeenByWasm: boolean;
  let isInFile: boolean;
  try {
    isSeenByWasm = hashPage(ram.base) !== hashBefore;
    isInFile = !ram.isShared || readFirstWord(ram.fd!) === (before ^ WITNESS) >>> 0;
  } finally {
    word[0] = before;
  }
  if (isSeenByWasm && isInFile) return;
  const blind = isSeenByWasm ? "the RAM's file" : "WebAssembly";
  throw new VmmError("memory-self-test", `Guest RAM is not shared: what JavaScript writes is not seen by ${blind}`);
}

/** What RAM's file holds first: by read(2), or where a device has none, as DAX devices, through another mapping of it. */
function readFirstWord(fd: number): number {
  const word = new Uint32Array(1);
  if (status(fd).kind !== "character") {
    pread(fd, new Uint8Array(word.buffer), 0);
    return word[0]!;
  }
  const pages = (2 * RAM_ALIGNMENT_BYTES) / WASM_PAGE_SIZE_BYTES;
  const window = new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer);
  const base = alignOffset(window, 0, RAM_ALIGNMENT_BYTES);
  mapOver(window, base, { fd, sizeBytes: RAM_ALIGNMENT_BYTES });
  word[0] = new Uint32Array(window.buffer, base, 1)[0]!;
  mapAnonymousOver(window, base, RAM_ALIGNMENT_BYTES);
  return word[0];
}
