// SPDX-License-Identifier: Apache-2.0
// Guest RAM between two processes over UNIX sockets, against memcpy of the same bytes in the same run.
//
//   bun run bench/ram-stream.ts [MIB]
//
// GB/s of guest RAM. "populated": the receiver's RAM is in its page tables already, as it is after the first round.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DIRTY_BITMAP_SIZE_BYTES, PAGE_SIZE_BYTES, SCRATCH_BITMAPS } from "../assembly/layout.ts";
import { O_RDONLY, open } from "../ffi/fd.ts";
import { advise } from "../ffi/mmap.ts";
import { addressOf, libcFunction } from "../ffi/native.ts";
import { unixAddress } from "../ffi/sockaddr.ts";
import { accept, connect, listen } from "../ffi/socket.ts";
import { createMemory, mapRam } from "../src/memory/ram.ts";
import { RamReceiver } from "../src/migration/ram/ram-receiver.ts";
import { RamSender } from "../src/migration/ram/ram-sender.ts";
import { RamSource } from "../src/migration/ram/ram-source.ts";

const BITMAP = SCRATCH_BITMAPS;
const FRESH = SCRATCH_BITMAPS + DIRTY_BITMAP_SIZE_BYTES;
const LAST_ROUNDS = 200;
const LAST_PAGES = 20;

interface ReceiveOptions {
  path: string;
  sizeBytes: number;
  streams: number;
  isPopulated: boolean;
  /** The sender's RAM, for pages by reference; else empty. */
  ramPath: string;
}

interface Measurement extends Pick<ReceiveOptions, "sizeBytes" | "streams" | "isPopulated"> {
  isZero: boolean;
  isByReference: boolean;
}

function makeRam(sizeBytes: number) {
  const memory = createMemory(sizeBytes);
  const ram = mapRam(memory, { qomType: "memory-backend-memfd", id: "ram0", sizeBytes, share: true });
  const bytes = new Uint8Array(memory.buffer, ram.base, sizeBytes);
  return { memory, ramBase: ram.base, ramSizeBytes: sizeBytes, bytes, ram };
}

async function receive(options: ReceiveOptions): Promise<void> {
  const { path, sizeBytes, streams, isPopulated, ramPath } = options;
  const ram = makeRam(sizeBytes);
  if (isPopulated) advise(new Uint8Array(ram.memory.buffer), ram.ramBase, sizeBytes, "populate");
  const fds = Array.from({ length: streams }, () => {
    const address = unixAddress(path);
    const fd = Number(libcFunction("int socket(int, int, int)")(1, 1, 0));
    connect(fd, address);
    return fd;
  });
  const source = ramPath === "" ? undefined : RamSource.adopt(open(ramPath, O_RDONLY), ram.ram);
  await using receiver = new RamReceiver({
    ...ram,
    fds,
    ...(isPopulated ? {} : { freshBitmap: FRESH }),
    ...(source === undefined ? {} : { source: source.pages }),
  });
  for (let round = 0; round < 2 + 2 * LAST_ROUNDS; round++) {
    await receiver.receiveRound();
    if (round === 1) process.stdout.write("received\n");
  }
}

const gbps = (bytes: number, ms: number): string => (bytes / 1e6 / ms).toFixed(2);
const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

async function measure(measurement: Measurement): Promise<void> {
  const { sizeBytes, streams, isPopulated, isZero, isByReference } = measurement;
  const dir = mkdtempSync(join(tmpdir(), "ram-stream-"));
  const path = join(dir, "socket");
  const listener = listen(unixAddress(path));
  const ram = makeRam(sizeBytes);
  const ramPath = isByReference ? `/proc/${process.pid}/fd/${ram.ram.fd}` : "";
  const receiving: ReceiveOptions = { path, sizeBytes, streams, isPopulated, ramPath };
  const args = ["run", import.meta.filename, "receive", JSON.stringify(receiving)];
  const peer = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const received = new Promise((resolve) => peer.stdout.once("data", resolve));
  if (isZero) advise(new Uint8Array(ram.memory.buffer), ram.ramBase, sizeBytes, "populate");
  else ram.bytes.fill(0x5a);
  const copy = makeRam(sizeBytes);
  if (isPopulated) copy.bytes.fill(1);
  const memcpy = libcFunction("uintptr_t memcpy(uintptr_t to, uintptr_t from, size_t size)");
  const startMs = performance.now();
  memcpy(addressOf(copy.bytes), addressOf(ram.bytes), sizeBytes);
  const copyMs = performance.now() - startMs;
  const fds: number[] = [];
  while (fds.length < streams) {
    const fd = accept(listener);
    if (fd === undefined) await new Promise((resolve) => setTimeout(resolve, 10));
    else fds.push(fd);
  }
  await new Promise((resolve) => setTimeout(resolve, 300));
  await using sender = new RamSender({ ...ram, fds, isByReference });
  const bits = new Uint8Array(ram.memory.buffer, BITMAP, sizeBytes / PAGE_SIZE_BYTES / 8);
  // Workers start with the first round, which is empty.
  await sender.sendRound(BITMAP);
  bits.fill(0xff);
  const roundMs = performance.now();
  await sender.sendRound(BITMAP);
  await received;
  const durationMs = performance.now() - roundMs;
  const last: Record<"worker" | "here", number[]> = { worker: [], here: [] };
  sender.prepareNow();
  for (const way of ["worker", "here"] as const) {
    for (let round = 0; round < LAST_ROUNDS; round++) {
      for (let page = 0; page < LAST_PAGES; page++) bits[page * 7] = 1;
      const start = performance.now();
      if (way === "worker") await sender.sendRound(BITMAP);
      else sender.sendRoundNow(BITMAP, 10_000);
      last[way].push(performance.now() - start);
    }
  }
  await new Promise((resolve) => peer.once("exit", resolve));
  rmSync(dir, { recursive: true });
  const what = `${isByReference ? "by reference" : "sent"}, ${isZero ? "zero pages" : "pages"}, ${streams} stream${streams > 1 ? "s" : ""}, ${isPopulated ? "populated" : "fresh"}`;
  console.log(
    `${what.padEnd(48)} ${gbps(sizeBytes, durationMs).padStart(7)} GB/s   memcpy ${gbps(sizeBytes, copyMs).padStart(6)}   ratio ` +
      `${(copyMs / durationMs).toFixed(2).padStart(5)}   ${LAST_PAGES} pages: worker ${(median(last.worker) * 1000).toFixed(0)} us, ` +
      `here ${(median(last.here) * 1000).toFixed(0)} us`,
  );
}

if (process.argv[2] === "receive") {
  await receive(JSON.parse(process.argv[3]!) as ReceiveOptions);
  process.exit(0);
}
const sizeBytes = Number(process.argv[2] ?? 512) * 2 ** 20;
for (const isZero of [false, true]) {
  for (const isByReference of isZero ? [false] : [false, true]) {
    for (const streams of [1, 2]) {
      for (const isPopulated of [true, false]) {
        await measure({ sizeBytes, streams, isPopulated, isZero, isByReference });
      }
    }
  }
}
process.exit(0);
