// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { VmmError } from "../../../../src/errors.ts";
import { BIOS_AREA_GPA, HIGH_RAM_GPA, LOW_RAM_END_GPA, lowRamEndGpa } from "../../../../src/machine/board.ts";
import { buildMachineImage } from "../../../../src/machine/boot/machine-image.ts";
import { placeWrites } from "../../../../src/machine/boot/placement.ts";
import type { BootPlan, Image } from "../../../../src/machine/boot/types.ts";
import { assert, describe } from "../../../harness.ts";
import {
  bootSector,
  bzImage,
  concat,
  elf,
  filler,
  flatMultiboot,
  image,
  MIB,
  multibootHeader,
  writeNamed,
} from "./images.ts";
import { assertRefused, plan, SPEC } from "./machine.ts";

const test = describe("machine images");

test("a boot sector starts in real mode at 0x7c00, as kernel and as BIOS", () => {
  for (const images of [{ kernel: image(bootSector()) }, { bios: image(bootSector()) }]) {
    const { protocol, vcpu, writes } = buildMachineImage({ ...SPEC, append: "" }, images);
    assert.is(protocol, "boot-sector");
    assert.is(vcpu.mode, "real");
    assert.equal([vcpu.sregs.cs.base, vcpu.regs.rip, vcpu.regs.rdx], [0n, 0x7c00n, 0x80n]);
    assert.is(writeNamed(writes, "boot sector").gpa, 0x7c00);
  }
});

test("refuses what a boot sector could not use", async () => {
  await assertRefused(() => plan(bootSector()), "command-line-invalid", "leave -append out");
  await assertRefused(
    () => plan(bootSector(), { append: "", initrd: filler(5) }),
    "image-unsupported",
    "leave -initrd out",
  );
});

test("refuses firmware, firmware together with a kernel, and nothing at all", async () => {
  const firmware = image(filler(65536), "bios.bin");
  await assertRefused(
    () => buildMachineImage(SPEC, { bios: firmware }),
    "image-unsupported",
    "-bios takes no firmware",
  );
  await assertRefused(() => buildMachineImage(SPEC, { bios: image(new Uint8Array()) }), "image-unsupported", "0 bytes");
  const both = { bios: image(bootSector()), kernel: image(bzImage()) };
  await assertRefused(() => buildMachineImage(SPEC, both), "image-unsupported", "not both");
  await assertRefused(() => buildMachineImage(SPEC, {}), "image-missing", "-kernel");
});

test("refuses less than 1 MiB of RAM", async () => {
  await assertRefused(() => plan(bzImage(), { memorySizeBytes: MIB - 4096 }), "memory-too-small", "it needs 1048576");
  assert.is(plan(bootSector(), { append: "", memorySizeBytes: MIB }).protocol, "boot-sector");
});

test("every protocol gets the ACPI tables in the BIOS area", () => {
  for (const kernel of [bzImage(), elf({ bits: 64 }), elf({ bits: 64, pvhEntry: MIB }), flatMultiboot()]) {
    const tables = writeNamed(plan(kernel).writes, "ACPI tables");
    assert.is(tables.gpa, BIOS_AREA_GPA);
    assert.is(tables.kind === "bytes" && new TextDecoder().decode(tables.bytes.subarray(0, 8)), "RSD PTR ");
  }
});

test("placeWrites() puts bytes, pieces of images and zeros in their places and touches nothing else", () => {
  const ram = new Uint8Array(16 * MIB).fill(0xee);
  const { writes } = plan(flatMultiboot());
  placeWrites(ram, writes);
  assert.equal(ram.slice(MIB, MIB + 0x100), flatMultiboot());
  assert.ok(ram.subarray(MIB + 0x100, MIB + 0x120).every((byte) => byte === 0));
  assert.is(ram[MIB + 0x120], 0xee);
  assert.is(ram[MIB - 1], 0xee);
});

const samples: [name: string, bytes: Uint8Array, append: string][] = [
  ["bzImage", bzImage(), "console=ttyS0"],
  ["vmlinux", elf({ bits: 64 }), ""],
  ["PVH", elf({ bits: 64, pvhEntry: MIB }), "x"],
  ["PVH, 32 bits", elf({ bits: 32, pvhEntry: MIB, noteAlignment: 8 }), "x"],
  ["multiboot ELF", elf({ bits: 32, extra: multibootHeader() }), ""],
  ["flat multiboot", flatMultiboot(), ""],
  ["boot sector", bootSector(), ""],
];

/** Most damage goes where it can do harm: into headers, as values at the edge of ranges. */
const damage = fc.array(
  fc.record({
    offset: fc.oneof(fc.nat(0x2ff), fc.nat(0xa00), fc.constantFrom(0x1f1, 0x1f4, 0x201, 0x230, 0x234, 0x258, 0x260)),
    bytes: fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 8 }),
      fc.constantFrom(...[1, 2, 4, 8].flatMap((size) => [new Uint8Array(size), new Uint8Array(size).fill(0xff)])),
    ),
  }),
  { maxLength: 4 },
);

function checkPlan({ vcpu, writes }: BootPlan, memorySizeBytes: number): void {
  const ramEndGpa = lowRamEndGpa(memorySizeBytes);
  const sorted = [...writes].sort((a, b) => a.gpa - b.gpa);
  let endGpa = 0;
  for (const write of sorted) {
    assert.ok(Number.isSafeInteger(write.gpa) && Number.isSafeInteger(write.sizeBytes) && write.sizeBytes > 0);
    assert.ok(write.gpa >= endGpa, `${write.what} overlaps`);
    endGpa = write.gpa + write.sizeBytes;
    assert.ok(endGpa <= ramEndGpa, `${write.what} beyond RAM`);
    if (write.what !== "ACPI tables") assert.ok(endGpa <= LOW_RAM_END_GPA || write.gpa >= HIGH_RAM_GPA);
    if (write.kind === "image") assert.ok(write.offset >= 0 && write.offset + write.sizeBytes <= write.image.sizeBytes);
    if (write.kind === "bytes") assert.is(write.bytes.length, write.sizeBytes);
  }
  const entry = Number(vcpu.sregs.cs.base + vcpu.regs.rip);
  assert.ok(sorted.some(({ gpa, sizeBytes }) => entry >= gpa && entry < gpa + sizeBytes) && entry < ramEndGpa);
}

for (const [name, original, append] of samples) {
  test(`${name}: damaged and truncated, it is a plan within RAM or a VmmError, and little is read for it`, () => {
    fc.assert(
      fc.property(
        damage,
        fc.oneof(fc.constant(Infinity), fc.nat(original.length)),
        fc.constantFrom(MIB, 2 * MIB, 3 * MIB + 4096, 64 * MIB, 0xc000_0000, 0x2_0000_0000),
        fc.option(fc.nat(3 * MIB), { nil: undefined }),
        (changes, sizeBytes, memorySizeBytes, initrdSizeBytes) => {
          const bytes = concat([original, new Uint8Array(16)]);
          for (const change of changes) {
            const offset = Math.min(change.offset, bytes.length - change.bytes.length);
            bytes.set(change.bytes, offset);
          }
          let readBytes = 0;
          const source = image(bytes.subarray(0, Math.min(sizeBytes, original.length)));
          const kernel: Image = {
            ...source,
            read(target, offset) {
              readBytes += target.length;
              source.read(target, offset);
            },
          };
          const initrd =
            initrdSizeBytes === undefined ? undefined : { name: "initrd", sizeBytes: initrdSizeBytes, read: () => {} };
          const spec = { memorySizeBytes, cpuCount: 2, serials: [], append };
          try {
            checkPlan(buildMachineImage(spec, { kernel, initrd }), memorySizeBytes);
          } catch (error) {
            if (!(error instanceof VmmError)) throw error;
            assert.ok(error.message.length < 400 && !/undefined|NaN|\[object/.test(error.message), error.message);
          }
          assert.ok(readBytes < 0x40000, `${readBytes} bytes read while planning`);
        },
      ),
      { numRuns: 1500 },
    );
  });
}

test.run();
