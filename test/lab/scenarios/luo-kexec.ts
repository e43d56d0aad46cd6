// SPDX-License-Identifier: Apache-2.0
// RAM in a memfd outlives a kexec by the kernel's Live Update Orchestrator.
//
// Runs once under each kernel. Before the kexec: every refusal that only a kernel with LUO can give; then RAM is set up as
// a VM's is, retained, and written to again. After it: the RAM is taken over, mapped as an update maps it, and compared.
import { close, isCloseOnExec, O_CREAT, O_RDWR, open, truncate } from "../../../ffi/fd.ts";
import { createSession, openLiveUpdate, preserveFd } from "../../../ffi/liveupdate/liveupdate.ts";
import { F_SEAL_GROW, F_SEAL_SHRINK, getSeals, memfdCreate } from "../../../ffi/memfd.ts";
import type { MemoryBackendSpec } from "../../../src/config/types.ts";
import { describeError } from "../../../src/errors.ts";
import { createMemory, type MappedRam, mapRam } from "../../../src/memory/ram.ts";
import { findRetention, retainRam, retrieveRam } from "../../../src/memory/retention.ts";
import { findAssets, missingLuoKernel } from "../assets.ts";
import { kexec } from "../kexec.ts";
import { check, Skip, scenario } from "../scenario.ts";

const NAME = "4b1d7c52-6f0e-4a8b-9a53-0d3a5e1c9f77";
/** Retained beside it, and given up again before the kexec. */
const GIVEN_UP = "given-up";
const PAGE_SIZE_BYTES = 4096;
const HUGE_PAGE_SIZE_BYTES = 2 ** 21;
const RAM: MemoryBackendSpec = { qomType: "memory-backend-memfd", id: "ram0", sizeBytes: 64 << 20, share: true };
const PAGES = RAM.sizeBytes / PAGE_SIZE_BYTES;

/** Pages are used in turn: written before the RAM is retained, first written after that, and never. */
const PAGE_USES = ["before", "after", "never"] as const;
const useOf = (page: number) => PAGE_USES[page % PAGE_USES.length]!;

/** The whole chain of messages of `action`'s error, whose code must be this one. */
function refused(code: string, action: () => unknown): void {
  let error: unknown;
  try {
    action();
  } catch (thrown) {
    error = thrown;
  }
  const { code: found } = (error ?? {}) as { code?: string };
  check(found === code, `Wanted ${code}, got ${error === undefined ? "no error" : describeError(error)}`);
  console.log(`${code}: ${describeError(error)}`);
}

/** No two words of the RAM are the same. */
const wordOf = (page: number, index: number) => Math.imul(page * 1024 + index + 1, 0x9e3779b1) >>> 0;

function pageWords(memory: WebAssembly.Memory, ram: MappedRam, page: number): Uint32Array {
  return new Uint32Array(memory.buffer, ram.base + page * PAGE_SIZE_BYTES, PAGE_SIZE_BYTES / 4);
}

function writePages(memory: WebAssembly.Memory, ram: MappedRam, use: "before" | "after"): void {
  for (let page = 0; page < PAGES; page++) {
    if (useOf(page) !== use) continue;
    const words = pageWords(memory, ram, page);
    for (let index = 0; index < words.length; index++) words[index] = wordOf(page, index);
  }
}

function checkPages(memory: WebAssembly.Memory, ram: MappedRam): void {
  for (let page = 0; page < PAGES; page++) {
    const words = pageWords(memory, ram, page);
    const isUsed = useOf(page) !== "never";
    const wrong = words.findIndex((word, index) => word !== (isUsed ? wordOf(page, index) : 0));
    check(wrong < 0, `Word ${wrong} of page ${page}, written ${useOf(page)}, is 0x${words[wrong]?.toString(16)}`);
  }
}

function checkBusy(): void {
  const deviceFd = openLiveUpdate();
  refused("luo-busy", () => {
    const retention = findRetention();
    if (!retention.ok) throw retention.problem;
  });
  refused("luo-busy", () => retrieveRam({ name: NAME }));
  close(deviceFd);
  check(findRetention().ok, "LUO is not found");
}

/** What `retainRam` says of huge pages by itself is what the kernel would. */
function checkHugePages(): void {
  const deviceFd = openLiveUpdate();
  const sessionFd = createSession(deviceFd, "huge");
  close(deviceFd);
  const ramFd = memfdCreate("huge", HUGE_PAGE_SIZE_BYTES, { hugePageSizeBytes: HUGE_PAGE_SIZE_BYTES });
  refused("ENOENT", () => preserveFd(sessionFd, ramFd, 1n));
  refused("ram-hugetlb", () => retainRam({ name: NAME, ramFd }));
  close(ramFd);
  close(sessionFd);
}

function checkRefusals(): void {
  checkBusy();
  checkHugePages();
  refused("session-absent", () => retrieveRam({ name: NAME }));
  const namedFd = open("/dev/shm/ram", O_RDWR | O_CREAT, 0o600);
  truncate(namedFd, PAGE_SIZE_BYTES);
  refused("ram-not-memfd", () => retainRam({ name: NAME, ramFd: namedFd }));
  close(namedFd);

  const ramFd = memfdCreate("unsealed", PAGE_SIZE_BYTES);
  const retained = retainRam({ name: NAME, ramFd });
  refused("session-exists", () => retainRam({ name: NAME, ramFd }));
  refused("ram-retained", () => retainRam({ name: "other", ramFd }));
  refused("EPERM", () => truncate(ramFd, 2 * PAGE_SIZE_BYTES));
  retained.close();
  retained.close();
  truncate(ramFd, 2 * PAGE_SIZE_BYTES);
  close(ramFd);
}

/** The first half. Ends in the other kernel. */
function leave(kernelPath: string): never {
  checkRefusals();
  retainRam({ name: GIVEN_UP, ramFd: memfdCreate("given-up", PAGE_SIZE_BYTES) }).close();

  const memory = createMemory(RAM.sizeBytes);
  const ram = mapRam(memory, RAM);
  writePages(memory, ram, "before");
  const startMs = performance.now();
  retainRam({ name: NAME, ramFd: ram.fd! });
  console.log(`Retained ${RAM.sizeBytes >> 20} MiB in ${(performance.now() - startMs).toFixed(1)} ms`);
  writePages(memory, ram, "after");
  checkPages(memory, ram);
  return kexec(kernelPath, "arrive");
}

/** The second half. */
function arrive(): void {
  for (const name of [GIVEN_UP, "other"]) refused("session-absent", () => retrieveRam({ name }));
  const startMs = performance.now();
  const { ramFd, sizeBytes, finish } = retrieveRam({ name: NAME });
  console.log(`Retrieved ${sizeBytes >> 20} MiB in ${(performance.now() - startMs).toFixed(1)} ms`);
  check(sizeBytes === RAM.sizeBytes, `The RAM has ${sizeBytes} bytes`);
  check(isCloseOnExec(ramFd), "The memfd is not close-on-exec");
  console.log(`Sealed against resizing: ${(getSeals(ramFd) & (F_SEAL_GROW | F_SEAL_SHRINK)) !== 0}`);
  const memory = createMemory(RAM.sizeBytes);
  const ram = mapRam(memory, RAM, ramFd);
  checkPages(memory, ram);
  refused("session-taken", () => retrieveRam({ name: NAME }));
  refused("ram-retained", () => retainRam({ name: NAME, ramFd }));
  finish();
  finish();
  refused("session-absent", () => retrieveRam({ name: NAME }));
  // The next kexec can have it too.
  retainRam({ name: NAME, ramFd }).close();
  checkPages(memory, ram);
}

await scenario(() => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  const missing = missingLuoKernel(found.assets);
  if (missing !== undefined) throw new Skip(missing);
  if (process.env.LAB_STAGE === undefined) leave(found.assets.luoKernel!.imagePath);
  else arrive();
});
