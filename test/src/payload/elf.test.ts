// SPDX-License-Identifier: Apache-2.0
import { wrapElf } from "../../../src/payload/elf.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("elf");

const code = Uint8Array.from([0xf4, 0xeb, 0xfd]);
const file = wrapElf(code, { loadGpa: 0x10_0000, entryGpa: 0x10_0001, memorySizeBytes: 0x2000 });
const view = new DataView(file.buffer);
const u64 = (offset: number): number => Number(view.getBigUint64(offset, true));

/** The program header of `type`, found as a loader finds it. */
function programHeader(type: number): number {
  const table = u64(32);
  for (let index = 0; index < view.getUint16(56, true); index++) {
    const at = table + index * view.getUint16(54, true);
    if (view.getUint32(at, true) === type) return at;
  }
  throw new Error(`no program header of type ${type}`);
}

test("the header says ELF64, little-endian, x86-64, executable", () => {
  assert.equal([...file.subarray(0, 7)], [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  assert.is(view.getUint16(16, true), 2);
  assert.is(view.getUint16(18, true), 62);
  assert.is(u64(24), 0x10_0001);
});

test("PT_LOAD places the code and claims its memory", () => {
  const at = programHeader(1);
  assert.is(u64(at + 24), 0x10_0000);
  assert.is(u64(at + 32), code.length);
  assert.is(u64(at + 40), 0x2000);
  assert.is((u64(at + 16) - u64(at + 8)) % u64(at + 48), 0, "address and file offset agree modulo the alignment");
  assert.equal([...file.subarray(u64(at + 8), u64(at + 8) + code.length)], [...code]);
});

test("PT_NOTE holds Xen's 32-bit entry", () => {
  const note = u64(programHeader(4) + 8);
  assert.is(view.getUint32(note, true), 4);
  assert.is(view.getUint32(note + 4, true), 8);
  assert.is(view.getUint32(note + 8, true), 18);
  assert.is(new TextDecoder().decode(file.subarray(note + 12, note + 16)), "Xen\0");
  assert.is(u64(note + 16), 0x10_0001);
});

test("a program that claims less memory than its code needs is refused", () => {
  assert.throws(() => wrapElf(code, { loadGpa: 0, memorySizeBytes: 2 }), "claims less memory");
});

test.run();
