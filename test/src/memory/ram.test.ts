// SPDX-License-Identifier: Apache-2.0
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CONTROL_RAM_BASE, RAM_ALIGNMENT_BYTES, RAM_MAX_SIZE_BYTES, RAM_MIN_BASE } from "../../../assembly/layout.ts";
import { close, pread } from "../../../ffi/fd.ts";
import { F_SEAL_GROW, F_SEAL_SHRINK, getSeals } from "../../../ffi/memfd.ts";
import { addressOf } from "../../../ffi/native.ts";
import type { MachineSpec, MemoryBackendSpec } from "../../../src/config/types.ts";
import { describeError, VmmError } from "../../../src/errors.ts";
import { createMemory, mapRam, ramBackend, selfTestMapping } from "../../../src/memory/ram.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("memory/ram");
const SIZE_BYTES = 4 << 20;
const dir = mkdtempSync(join(tmpdir(), "baton-ram-"));
test.after(() => rmSync(dir, { recursive: true }));

function backend(changes: Partial<MemoryBackendSpec>): MemoryBackendSpec {
  return { qomType: "memory-backend-memfd", id: "ram0", sizeBytes: SIZE_BYTES, share: true, ...changes };
}

/** A stand-in for the Wasm hash: FNV-1a over the page, read from the same memory. */
function hasher(memory: WebAssembly.Memory): (address: number) => bigint {
  return (address) => {
    let hash = 0xcbf2_9ce4_8422_2325n;
    for (const byte of new Uint8Array(memory.buffer, address, 64)) {
      hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100_0000_01b3n);
    }
    return hash;
  };
}

test("memfd RAM is seen in the linear memory and through the fd, and is sealed against resizing", () => {
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({}));
  new Uint8Array(memory.buffer)[ram.base + 12345] = 77;
  const byte = new Uint8Array(1);
  pread(ram.fd!, byte, 12345);
  assert.is(byte[0], 77);
  assert.is(ram.isShared, true);
  assert.is(getSeals(ram.fd!) & (F_SEAL_GROW | F_SEAL_SHRINK), F_SEAL_GROW | F_SEAL_SHRINK);
  close(ram.fd!);
});

test("seal=off leaves the memfd unsealed", () => {
  const ram = mapRam(createMemory(SIZE_BYTES), backend({ seal: false }));
  assert.is(getSeals(ram.fd!) & (F_SEAL_GROW | F_SEAL_SHRINK), 0);
  close(ram.fd!);
});

test("guest physical 0 is at a host address on a huge page's boundary, and the control page says where", () => {
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({}));
  const address = addressOf(new Uint8Array(memory.buffer)) + BigInt(ram.base);
  assert.is(address % BigInt(RAM_ALIGNMENT_BYTES), 0n);
  assert.ok(ram.base >= RAM_MIN_BASE);
  assert.is(new Uint32Array(memory.buffer)[CONTROL_RAM_BASE >> 2], ram.base);
  close(ram.fd!);
});

test("inherited RAM is mapped as it is", () => {
  const first = createMemory(SIZE_BYTES);
  const ram = mapRam(first, backend({}));
  new Uint8Array(first.buffer)[ram.base + 999] = 5;
  const second = createMemory(SIZE_BYTES);
  const again = mapRam(second, backend({}), ram.fd!);
  assert.is(new Uint8Array(second.buffer)[again.base + 999], 5);
  close(ram.fd!);
});

test("a shared file keeps what the guest writes, and is made with the RAM's size and mode 0600", () => {
  const memPath = join(dir, "shared");
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({ qomType: "memory-backend-file", memPath }));
  new Uint8Array(memory.buffer)[ram.base + 3] = 9;
  assert.is(readFileSync(memPath)[3], 9);
  assert.is(statSync(memPath).size, SIZE_BYTES);
  assert.is(statSync(memPath).mode & 0o777, 0o600);
  assert.is(ram.isShared, true);
  close(ram.fd!);
});

test("a private file is read and never written", () => {
  const memPath = join(dir, "private");
  writeFileSync(memPath, new Uint8Array(SIZE_BYTES).fill(1));
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({ qomType: "memory-backend-file", memPath, share: false }));
  const bytes = new Uint8Array(memory.buffer);
  assert.is(bytes[ram.base], 1);
  bytes[ram.base] = 2;
  assert.is(readFileSync(memPath)[0], 1);
  assert.is(ram.isShared, false);
  close(ram.fd!);
});

test("a file that is too small for the RAM is refused by name and left alone", async () => {
  const memPath = join(dir, "small");
  writeFileSync(memPath, "x");
  const error = await rejection(() =>
    mapRam(createMemory(SIZE_BYTES), backend({ qomType: "memory-backend-file", memPath })),
  );
  assert.match(describeError(error), /'ram0' \(memory-backend-file\) cannot be set up: .*small has 1 bytes/);
  assert.is(readFileSync(memPath, "utf8"), "x");
});

test("a file that is to have a guest's RAM must be there, with all of it", async () => {
  const refused = async (memPath: string): Promise<string> =>
    describeError(
      await rejection(() =>
        mapRam(createMemory(SIZE_BYTES), backend({ qomType: "memory-backend-file", memPath }), "in-place"),
      ),
    );
  const absent = join(dir, "dax0.0");
  assert.match(
    await refused(absent),
    /RAM is to be in '.*dax0\.0', and that cannot be opened: open\(.*\) failed: ENOENT/,
  );
  assert.is(existsSync(absent), false);
  assert.match(await refused(dir), "EISDIR");
  writeFileSync(absent, "");
  assert.match(await refused(absent), "has 0 bytes, fewer than");
  assert.is(statSync(absent).size, 0);

  writeFileSync(absent, new Uint8Array(SIZE_BYTES).fill(6));
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({ qomType: "memory-backend-file", memPath: absent }), "in-place");
  assert.is(new Uint8Array(memory.buffer)[ram.base], 6);
  close(ram.fd!);
});

test("a directory gets an unnamed file", () => {
  const ram = mapRam(createMemory(SIZE_BYTES), backend({ qomType: "memory-backend-file", memPath: dir }));
  assert.is(ram.isShared, true);
  close(ram.fd!);
});

test("memory-backend-ram is anonymous, unless it is shared", () => {
  const anonymous = mapRam(createMemory(SIZE_BYTES), backend({ qomType: "memory-backend-ram", share: false }));
  assert.is(anonymous.fd, undefined);
  assert.is(anonymous.isShared, false);
  const shared = mapRam(createMemory(SIZE_BYTES), backend({ qomType: "memory-backend-ram" }));
  assert.is(shared.isShared, true);
  close(shared.fd!);
});

test("a path that cannot be opened is told with the system call", async () => {
  const error = await rejection(() =>
    mapRam(createMemory(SIZE_BYTES), backend({ qomType: "memory-backend-file", memPath: "/nowhere/ram" })),
  );
  assert.match(describeError(error), /'ram0'.*open\(.*\/nowhere\/ram.*\) failed: ENOENT/);
});

test("more than 3 GiB is refused, 3 GiB is not", async () => {
  const error = await rejection(() => createMemory(RAM_MAX_SIZE_BYTES + 4096));
  assert.is((error as VmmError).code, "ram-too-large");
  assert.ok(createMemory(RAM_MAX_SIZE_BYTES).buffer.byteLength > RAM_MAX_SIZE_BYTES);
});

test("the back end that the machine names must be there", async () => {
  const spec = { machine: { memoryBackend: "ram1" }, memoryBackends: [backend({})] } as MachineSpec;
  const error = await rejection(() => ramBackend(spec));
  assert.instance(error, VmmError);
  assert.match(error.message, "object 'ram1' not found");
});

test("the self-test passes on shared RAM and leaves it as it was", () => {
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({}));
  selfTestMapping(memory, ram, hasher(memory));
  assert.is(new Uint32Array(memory.buffer, ram.base, 1)[0], 0);
  close(ram.fd!);
});

test("the self-test finds a Wasm and a file that do not see what JavaScript writes", async () => {
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({}));
  const blind = await rejection(() => selfTestMapping(memory, ram, () => 1n));
  assert.match(blind.message, "not seen by WebAssembly");
  const other = mapRam(createMemory(SIZE_BYTES), backend({}));
  const wrongFile = await rejection(() => selfTestMapping(memory, { ...ram, fd: other.fd }, hasher(memory)));
  assert.match(wrongFile.message, "not seen by the RAM's file");
  for (const { fd } of [ram, other]) close(fd!);
});

test("a device that cannot be read is mapped once more by the self-test, which leaves RAM as it was in any case", async () => {
  // Two mappings of /dev/zero are two memories, unlike those of a DAX device, which the lab has.
  const memory = createMemory(SIZE_BYTES);
  const ram = mapRam(memory, backend({ qomType: "memory-backend-file", memPath: "/dev/zero" }));
  const word = new Uint32Array(memory.buffer, ram.base, 1);
  word[0] = 77;
  const error = await rejection(() => selfTestMapping(memory, ram, hasher(memory)));
  assert.match(error.message, "not seen by the RAM's file");
  assert.is(word[0], 77);
  close(ram.fd!);
});

test.run();
