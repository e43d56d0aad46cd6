// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../../../harness.ts";
import {
  BZIMAGE_INIT_SIZE_BYTES,
  BZIMAGE_KERNEL_OFFSET,
  BZIMAGE_KERNEL_SIZE_BYTES,
  BZIMAGE_LOAD_GPA,
  bzImage,
  concat,
  contents,
  filler,
  MIB,
  type Patch,
  readU32,
  readU64,
  writeNamed,
} from "./images.ts";
import { assertRefused, plan } from "./machine.ts";

const test = describe("bzImage");

test("is loaded at its preferred address and entered at startup_64", () => {
  const { protocol, vcpu, writes } = plan(bzImage());
  const kernel = writeNamed(writes, "kernel");
  assert.is(protocol, "linux64");
  assert.is(vcpu.mode, "long64");
  assert.is(kernel.gpa, BZIMAGE_LOAD_GPA);
  assert.equal(contents(kernel), filler(BZIMAGE_KERNEL_SIZE_BYTES));
  assert.is(vcpu.regs.rip, BigInt(BZIMAGE_LOAD_GPA + 0x200));
  assert.is(vcpu.regs.rsi, BigInt(writeNamed(writes, "zero page").gpa));
  assert.is(vcpu.regs.rflags, 2n);
});

test("gets a zero page with its own setup header and what the loader must say", () => {
  const kernel = bzImage();
  const { writes } = plan(kernel, { initrd: filler(5000) });
  const page = contents(writeNamed(writes, "zero page"));
  const initrd = writeNamed(writes, "initrd");
  const commandLine = writeNamed(writes, "command line");
  assert.is(page.length, 4096);
  assert.ok(page.subarray(0, 0x70).every((byte) => byte === 0));
  assert.is(readU64(page, 0x70), 0xe0000);
  assert.is(page[0x1ef], 0);
  assert.equal(page.subarray(0x22c, 0x26c), kernel.subarray(0x22c, 0x26c));
  assert.is(readU32(page, 0x202), 0x53726448);
  assert.is(page[0x210], 0xff);
  assert.is(readU32(page, 0x214), BZIMAGE_LOAD_GPA);
  assert.is(readU32(page, 0x218), initrd.gpa);
  assert.is(readU32(page, 0x21c), 5000);
  assert.is(readU32(page, 0x228), commandLine.gpa);
  assert.is(new TextDecoder().decode(contents(commandLine)), "console=ttyS0\0");
  const e820 = Array.from({ length: page[0x1e8]! }, (_, index) => {
    const offset = 0x2d0 + index * 20;
    return [readU64(page, offset), readU64(page, offset + 8), readU32(page, offset + 16)];
  });
  assert.equal(e820, [
    [0, 0x9fc00, 1],
    [0x9fc00, 0x60400, 2],
    [MIB, 15 * MIB, 1],
    [0xfeffc000, 0x4000, 2],
  ]);
});

test("the initrd lies as high as RAM and initrd_addr_max allow, on a page", () => {
  const top = writeNamed(plan(bzImage(), { initrd: filler(4097) }).writes, "initrd");
  assert.is(top.gpa, 16 * MIB - 8192);
  const limited = writeNamed(plan(bzImage([0x22c, 4, 8 * MIB - 1]), { initrd: filler(4097) }).writes, "initrd");
  assert.is(limited.gpa, 8 * MIB - 8192);
});

test("a signature behind the kernel is not loaded", () => {
  const signed = concat([bzImage(), filler(1500)]);
  assert.is(writeNamed(plan(signed).writes, "kernel").sizeBytes, BZIMAGE_KERNEL_SIZE_BYTES);
});

test("syssize may be rounded up past the end of the file by less than a paragraph", () => {
  const short = bzImage().subarray(0, -15);
  assert.is(writeNamed(plan(short).writes, "kernel").sizeBytes, BZIMAGE_KERNEL_SIZE_BYTES - 15);
});

test("setup_sects 0 means 4", () => {
  const image = concat([bzImage([0x1f1, 1, 0]), filler(2048 - 512)]);
  const kernel = writeNamed(plan(image).writes, "kernel");
  assert.is(kernel.kind === "image" ? kernel.offset : -1, 5 * 512);
});

test("the load address is aligned when the kernel can be relocated, and above 1 MiB", () => {
  const gpa = (...patches: Patch[]): number => writeNamed(plan(bzImage(...patches)).writes, "kernel").gpa;
  assert.is(gpa([0x258, 8, 3 * MIB]), 4 * MIB);
  assert.is(gpa([0x258, 8, 0]), 2 * MIB);
  assert.is(gpa([0x234, 1, 0], [0x258, 8, 3 * MIB]), 3 * MIB);
});

test("a truncated file is refused wherever it ends", async () => {
  const image = bzImage();
  for (let sizeBytes = 0; sizeBytes <= image.length - 16; sizeBytes++) {
    const code = sizeBytes === 0 || sizeBytes >= 2 ? "image-truncated" : "image-unsupported";
    await assertRefused(() => plan(image.slice(0, sizeBytes)), code, sizeBytes >= 0x206 ? "Truncated" : "");
  }
});

const refusals: [title: string, patches: Patch[], code: string, message: string][] = [
  ["boot protocol 2.11", [[0x206, 2, 0x020b]], "image-unsupported", "version, 0x206"],
  ["a header that ends too early", [[0x201, 1, 0x60]], "image-invalid", "jump, 0x201"],
  ["a header that ends too late", [[0x201, 1, 0x8f]], "image-invalid", "jump, 0x201"],
  ["a wrong boot_flag", [[0x1fe, 2, 0]], "image-invalid", "boot_flag (0x1fe)"],
  ["a zImage", [[0x211, 1, 0]], "image-unsupported", "loadflags (0x211)"],
  ["a 32-bit kernel", [[0x236, 2, 0x7e]], "image-unsupported", "xloadflags (0x236)"],
  ["a kernel without an entry", [[0x1f4, 4, 0x20]], "image-invalid", "syssize, 0x1f4"],
  ["a syssize larger than the file", [[0x1f4, 4, 0xffffffff]], "image-truncated", "syssize, 0x1f4"],
  ["setup_sects beyond the file", [[0x1f1, 1, 255]], "image-truncated", "syssize, 0x1f4"],
  ["an alignment that is no power of two", [[0x230, 4, 0x3000]], "image-invalid", "kernel_alignment (0x230)"],
  ["an alignment of zero", [[0x230, 4, 0]], "image-invalid", "kernel_alignment (0x230)"],
  ["an alignment of 2 GiB", [[0x230, 4, 0x8000_0000]], "image-invalid", "kernel_alignment (0x230)"],
  ["a preferred address beyond 4 GiB", [[0x258, 8, 1n << 63n]], "image-invalid", "pref_address (0x258)"],
  [
    "a fixed address below 1 MiB",
    [
      [0x234, 1, 0],
      [0x258, 8, 0x1000],
    ],
    "image-invalid",
    "pref_address (0x258)",
  ],
  ["an init_size less than the kernel", [[0x260, 4, 0x100]], "image-invalid", "init_size (0x260)"],
  ["a kernel that needs more RAM", [[0x260, 4, 15 * MIB]], "memory-too-small", "at least 17 MiB"],
  ["a kernel above 3 GiB", [[0x258, 8, 0xe000_0000]], "memory-too-small", "below 3 GiB"],
];
for (const [title, patches, code, message] of refusals) {
  test(`refuses ${title}`, () => assertRefused(() => plan(bzImage(...patches)), code, message));
}

test("refuses an initrd that does not fit between the kernel and its limit", async () => {
  const free = 16 * MIB - BZIMAGE_LOAD_GPA - BZIMAGE_INIT_SIZE_BYTES;
  assert.is(
    writeNamed(plan(bzImage(), { initrd: new Uint8Array(free) }).writes, "initrd").gpa,
    BZIMAGE_LOAD_GPA + BZIMAGE_INIT_SIZE_BYTES,
  );
  const tooLarge = new Uint8Array(free + 1);
  await assertRefused(
    () => plan(bzImage(), { initrd: tooLarge }),
    "memory-too-small",
    "initrd.cpio: The initrd has 14 MiB",
  );
  const lowLimit = bzImage([0x22c, 4, 0]);
  await assertRefused(() => plan(lowLimit, { initrd: filler(1) }), "memory-too-small", "0 bytes are free");
  await assertRefused(() => plan(bzImage(), { initrd: new Uint8Array() }), "initrd-empty", "leave -initrd out");
});

test("refuses a command line longer than cmdline_size, or with a NUL", async () => {
  plan(bzImage(), { append: "x".repeat(2047) });
  await assertRefused(
    () => plan(bzImage(), { append: "x".repeat(2048) }),
    "command-line-invalid",
    "the kernel takes 2047",
  );
  await assertRefused(() => plan(bzImage(), { append: "é".repeat(1024) }), "command-line-invalid", "has 2048 bytes");
  await assertRefused(() => plan(bzImage(), { append: "a\0b" }), "command-line-invalid", "NUL");
  const unlimited = bzImage([0x238, 4, 0xffffffff]);
  await assertRefused(() => plan(unlimited, { append: "x".repeat(0x10000) }), "command-line-invalid", "takes 65535");
});

test("the kernel's place in the file is where setup ends", () => {
  const kernel = writeNamed(plan(bzImage()).writes, "kernel");
  assert.is(kernel.kind === "image" ? kernel.offset : -1, BZIMAGE_KERNEL_OFFSET);
});

test.run();
