// SPDX-License-Identifier: Apache-2.0
// RAM from one process to another over UNIX sockets, in GB/s of guest RAM, and memcpy of the same bytes in the same run.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PAGE_SIZE_BYTES, SCRATCH_BITMAPS } from "../../assembly/layout.ts";
import { close } from "../../ffi/fd.ts";
import { advise } from "../../ffi/mmap.ts";
import { addressOf, libcFunction } from "../../ffi/native.ts";
import { unixAddress } from "../../ffi/sockaddr.ts";
import { accept, listen } from "../../ffi/socket.ts";
import { createMemory, type MappedRam, mapRam, releaseRam } from "../../src/memory/ram.ts";
import { sleep } from "../../src/meter/vmm-process.ts";
import { loadDirtyModule } from "../../src/migration/ram/dirty-module.ts";
import { RamSender } from "../../src/migration/ram/ram-sender.ts";
import type { Reception } from "./ram-receiver.ts";

const receiverProgram = fileURLToPath(new URL("ram-receiver.ts", import.meta.url));
const BITMAP = SCRATCH_BITMAPS;

export interface RamCase extends Pick<Reception, "streams" | "isPopulated"> {
  /** Touched RAM that is all zero. */
  isZero?: boolean;
  isByReference: boolean;
}

class Ram implements Disposable {
  readonly memory: WebAssembly.Memory;
  readonly mapped: MappedRam;
  readonly bytes: Uint8Array;

  constructor(sizeBytes: number) {
    this.memory = createMemory(sizeBytes);
    this.mapped = mapRam(this.memory, { qomType: "memory-backend-memfd", id: "ram0", sizeBytes, share: true });
    this.bytes = new Uint8Array(this.memory.buffer, this.mapped.base, sizeBytes);
  }

  [Symbol.dispose](): void {
    releaseRam(this.memory, this.mapped);
  }
}

const gbps = (sizeBytes: number, ms: number): number => sizeBytes / 1e6 / ms;

/** Into memory that is there, or into fresh memory that the kernel has to find first. */
export function measureMemcpy(sizeBytes: number, isPopulated: boolean): number {
  using from = new Ram(sizeBytes);
  using to = new Ram(sizeBytes);
  from.bytes.fill(0x5a);
  if (isPopulated) to.bytes.fill(1);
  const memcpy = libcFunction("uintptr_t memcpy(uintptr_t to, uintptr_t from, size_t size)");
  const startMs = performance.now();
  memcpy(addressOf(to.bytes), addressOf(from.bytes), sizeBytes);
  return gbps(sizeBytes, performance.now() - startMs);
}

/** Looking at zero pages, once the scanner is compiled, on one thread. */
export function measureScan(sizeBytes: number): number {
  using ram = new Ram(sizeBytes);
  advise(new Uint8Array(ram.memory.buffer), ram.mapped.base, sizeBytes, "populate");
  const { countLeadingZeroPages } = loadDirtyModule(ram.memory);
  const pageCount = sizeBytes / PAGE_SIZE_BYTES;
  for (let round = 0; round < 100; round++) countLeadingZeroPages(ram.mapped.base, 100);
  const startMs = performance.now();
  if (countLeadingZeroPages(ram.mapped.base, pageCount) !== pageCount) throw new Error("Fresh memory is not zero");
  return gbps(sizeBytes, performance.now() - startMs);
}

/** From the order to send until the receiver has it all. */
export async function measureRam(
  sizeBytes: number,
  { streams, isPopulated, isZero, isByReference }: RamCase,
): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), "baton-ram-"));
  const path = join(dir, "socket");
  const listener = listen(unixAddress(path));
  using ram = new Ram(sizeBytes);
  if (isZero === true) advise(new Uint8Array(ram.memory.buffer), ram.mapped.base, sizeBytes, "populate");
  else ram.bytes.fill(0x5a);
  const ramPath = isByReference ? `/proc/${process.pid}/fd/${ram.mapped.fd}` : "";
  const reception: Reception = { path, sizeBytes, streams, isPopulated, ramPath };
  const peer = spawn(process.execPath, ["run", receiverProgram, JSON.stringify(reception)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(peer, "exit");
  const fds: number[] = [];
  try {
    while (fds.length < streams) {
      const fd = accept(listener);
      if (fd !== undefined) fds.push(fd);
      else if (peer.exitCode !== null) throw new Error(`The receiver ended with exit code ${peer.exitCode}`);
      else await sleep(5);
    }
    const { base } = ram.mapped;
    await using sender = new RamSender({
      memory: ram.memory,
      ramBase: base,
      ramSizeBytes: sizeBytes,
      fds,
      isByReference,
    });
    const ready = once(peer.stdout, "data");
    await sender.sendRound(BITMAP);
    await ready;
    new Uint8Array(ram.memory.buffer, BITMAP, sizeBytes / PAGE_SIZE_BYTES / 8).fill(0xff);
    const done = once(peer.stdout, "data");
    const startMs = performance.now();
    await sender.sendRound(BITMAP);
    await done;
    return gbps(sizeBytes, performance.now() - startMs);
  } finally {
    for (const fd of [...fds, listener]) close(fd);
    await ended;
    rmSync(dir, { recursive: true, force: true });
  }
}
