// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../../../harness.ts";
import { contents, elf, filler, MIB, multibootHeader, type Patch, readU32, readU64, writeNamed } from "./images.ts";
import { assertRefused, plan } from "./machine.ts";

const test = describe("ELF kernels");

test("a 64-bit ELF without a note boots by Linux's 64-bit protocol", () => {
  const { protocol, vcpu, writes } = plan(elf({ bits: 64, entry: MIB + 0x10 }), { initrd: filler(10) });
  const page = contents(writeNamed(writes, "zero page"));
  assert.is(protocol, "linux64");
  assert.is(vcpu.mode, "long64");
  assert.is(vcpu.regs.rip, BigInt(MIB + 0x10));
  assert.is(vcpu.regs.rsi, BigInt(writeNamed(writes, "zero page").gpa));
  assert.is(readU32(page, 0x202), 0x53726448);
  assert.is(readU32(page, 0x218), writeNamed(writes, "initrd").gpa);
  assert.is(readU64(page, 0x70), 0xe0000);
});

test("segments are loaded at their physical addresses, with zeros up to p_memsz", () => {
  const segments = [
    { gpa: MIB, fileSizeBytes: 64, memorySizeBytes: 96 },
    { gpa: 2 * MIB, fileSizeBytes: 0, memorySizeBytes: 4096 },
    { gpa: 3 * MIB, fileSizeBytes: 10, memorySizeBytes: 10 },
    { gpa: 0x5000_0000, fileSizeBytes: 0, memorySizeBytes: 0 },
  ];
  const { writes } = plan(elf({ bits: 64, segments }));
  const placed = writes.filter((write) => write.what.startsWith("kernel"));
  assert.equal(
    placed.map(({ kind, gpa, sizeBytes }) => [kind, gpa, sizeBytes]),
    [
      ["image", MIB, 64],
      ["zeros", MIB + 64, 32],
      ["zeros", 2 * MIB, 4096],
      ["image", 3 * MIB, 10],
    ],
  );
  assert.equal(contents(placed[0]!), filler(64, 1));
  assert.equal(contents(placed[3]!), filler(10, 3));
});

for (const bits of [32, 64] as const) {
  for (const noteAlignment of [4, 8] as const) {
    test(`a ${bits}-bit ELF with a PVH note aligned to ${noteAlignment} boots by PVH`, () => {
      const kernel = elf({ bits, pvhEntry: MIB + 8, noteAlignment });
      const { protocol, vcpu } = plan(kernel);
      assert.is(protocol, "pvh");
      assert.is(vcpu.mode, "protected32");
      assert.is(vcpu.regs.rip, BigInt(MIB + 8));
    });
  }
}

test("PVH start info has modules, command line, RSDP and the memory map", () => {
  const { vcpu, writes } = plan(elf({ bits: 64, pvhEntry: MIB }), { initrd: filler(123) });
  const write = writeNamed(writes, "PVH start info");
  const info = contents(write);
  const initrd = writeNamed(writes, "initrd");
  assert.is(vcpu.regs.rbx, BigInt(write.gpa));
  assert.is(readU32(info, 0), 0x336ec578);
  assert.is(readU32(info, 4), 1);
  assert.is(readU32(info, 12), 1);
  const modules = readU64(info, 16) - write.gpa;
  assert.equal([readU64(info, modules), readU64(info, modules + 8), readU64(info, modules + 16)], [initrd.gpa, 123, 0]);
  assert.is(readU64(info, 24), writeNamed(writes, "command line").gpa);
  assert.is(readU64(info, 32), 0xe0000);
  const map = readU64(info, 40) - write.gpa;
  assert.is(readU32(info, 48), 4);
  assert.equal([readU64(info, map), readU64(info, map + 8), readU32(info, map + 16)], [0, 0x9fc00, 1]);
  assert.is(info.length, map + 4 * 24);
});

test("without an initrd PVH start info has no module", () => {
  const info = contents(writeNamed(plan(elf({ bits: 64, pvhEntry: MIB })).writes, "PVH start info"));
  assert.is(readU32(info, 12), 0);
  assert.is(readU64(info, 16), 0);
});

test("truncated files are refused wherever they end", async () => {
  for (const image of [elf({ bits: 64 }), elf({ bits: 64, pvhEntry: MIB }), elf({ bits: 32, pvhEntry: MIB })]) {
    for (let sizeBytes = 4; sizeBytes < image.length; sizeBytes++) {
      await assertRefused(() => plan(image.slice(0, sizeBytes)), "image-truncated", "Truncated: ");
    }
  }
});

const refusals64: [title: string, patches: Patch[], code: string, message: string][] = [
  ["an unknown class", [[4, 1, 3]], "image-invalid", "EI_CLASS (0x4)"],
  ["big-endian files", [[5, 1, 2]], "image-unsupported", "EI_DATA (0x5)"],
  ["arm64 files", [[0x12, 2, 183]], "image-unsupported", "e_machine (0x12) is 183"],
  ["object files", [[0x10, 2, 1]], "image-unsupported", "e_type (0x10)"],
  ["other program header sizes", [[0x36, 2, 0x20]], "image-invalid", "e_phentsize (0x36)"],
  ["no program headers", [[0x38, 2, 0]], "image-invalid", "e_phnum (0x38)"],
  ["65535 program headers", [[0x38, 2, 0xffff]], "image-invalid", "e_phnum (0x38)"],
  ["program headers outside of the file", [[0x20, 8, 1n << 40n]], "image-truncated", "e_phoff"],
  ["program headers at the end of the number range", [[0x20, 8, (1n << 64n) - 1n]], "image-truncated", "e_phoff"],
  ["segments outside of the file", [[0x48, 8, 1n << 62n]], "image-truncated", "program header 0 (0x40)"],
  ["p_filesz larger than p_memsz", [[0x60, 8, 97]], "image-invalid", "p_filesz 0x61"],
  ["no segments", [[0x40, 4, 0]], "image-invalid", "nothing to load"],
  ["dynamically linked programs", [[0x40, 4, 3]], "image-unsupported", "PT_INTERP"],
  ["entry points outside of the segments", [[0x18, 8, MIB + 96]], "image-invalid", "e_entry, 0x18"],
  ["virtual entry points", [[0x18, 8, 0xffffffff81000000n]], "image-invalid", "physical address"],
  ["segments beyond RAM", [[0x68, 8, 1n << 40n]], "memory-too-small", "below 3 GiB"],
  ["segments that need more RAM", [[0x68, 8, 16 * MIB]], "memory-too-small", "at least 17 MiB"],
  ["segments at the end of the number range", [[0x58, 8, (1n << 64n) - 1n]], "image-invalid", "entry point"],
];
for (const [title, patches, code, message] of refusals64) {
  test(`refuses ${title}`, () => assertRefused(() => plan(elf({ bits: 64, patches })), code, message));
}

test("refuses segments in the BIOS area, over the boot structures and over each other", async () => {
  const at = (...gpas: number[]): Uint8Array =>
    elf({
      bits: 64,
      entry: gpas[0]!,
      segments: gpas.map((gpa) => ({ gpa, fileSizeBytes: 64, memorySizeBytes: 64 })),
    });
  await assertRefused(() => plan(at(0xe0000)), "image-misplaced", "link it at 0x100000");
  await assertRefused(() => plan(at(0x9fbff)), "image-misplaced", "0x9fc00-0x100000 is no RAM");
  await assertRefused(() => plan(at(0x9000)), "image-misplaced", "page tables (0x9000-0xf000)");
  await assertRefused(() => plan(at(MIB, MIB + 63)), "image-misplaced", "overlap");
  plan(at(MIB, MIB + 64));
  plan(at(0x9fbc0));
});

test("refuses a PVH entry that is in no segment", () =>
  assertRefused(() => plan(elf({ bits: 64, pvhEntry: 5 * MIB })), "image-invalid", "XEN_ELFNOTE_PHYS32_ENTRY"));

test("refuses notes of absurd size before reading them", () =>
  assertRefused(
    () => plan(elf({ bits: 64, pvhEntry: MIB, patches: [[0x40 + 0x38 + 0x20, 8, 1 << 30]] })),
    "image-invalid",
    "PT_NOTE",
  ));

test("a note that claims more than there is ends the search", () => {
  const kernel = elf({ bits: 64, pvhEntry: MIB });
  const notes = 0x40 + 2 * 0x38;
  for (const field of [0, 4]) {
    const damaged = kernel.slice();
    damaged.fill(0xff, notes + field, notes + field + 4);
    assert.is(plan(damaged).protocol, "linux64");
  }
});

test("refuses a 32-bit ELF that says nothing of how it boots", () =>
  assertRefused(() => plan(elf({ bits: 32 })), "image-unsupported", "32-bit ELF without multiboot header"));

test("a 64-bit ELF with a plain multiboot header boots by PVH, or is refused", async () => {
  const extra = multibootHeader();
  assert.is(plan(elf({ bits: 64, extra, pvhEntry: MIB })).protocol, "pvh");
  await assertRefused(() => plan(elf({ bits: 64, extra })), "image-unsupported", "link it as 32-bit ELF");
});

test.run();
