// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../../../harness.ts";
import {
  concat,
  contents,
  elf,
  FLAT_HEADER,
  FLAT_SIZE_BYTES,
  filler,
  flatMultiboot,
  MIB,
  type MultibootAddresses,
  multibootHeader,
  readU32,
  readU64,
  writeNamed,
} from "./images.ts";
import { assertRefused, plan } from "./machine.ts";

const test = describe("multiboot");

const textAt = (bytes: Uint8Array, offset: number): string =>
  new TextDecoder().decode(bytes.subarray(offset, bytes.indexOf(0, offset)));

test("a 32-bit ELF with a header is entered with the magic and the info", () => {
  const { protocol, vcpu, writes } = plan(elf({ bits: 32, entry: MIB + 4, extra: multibootHeader(3) }));
  assert.is(protocol, "multiboot");
  assert.is(vcpu.mode, "protected32");
  assert.is(vcpu.regs.rip, BigInt(MIB + 4));
  assert.is(vcpu.regs.rax, 0x2badb002n);
  assert.is(vcpu.regs.rbx, BigInt(writeNamed(writes, "multiboot info").gpa));
});

test("a flat kernel goes where its address fields say", () => {
  const { vcpu, writes } = plan(flatMultiboot());
  const kernel = writeNamed(writes, "kernel");
  const zeros = writeNamed(writes, "kernel, zeros");
  assert.equal([kernel.gpa, kernel.sizeBytes], [MIB, FLAT_SIZE_BYTES]);
  assert.equal([zeros.kind, zeros.gpa, zeros.sizeBytes], ["zeros", MIB + FLAT_SIZE_BYTES, 32]);
  assert.is(vcpu.regs.rip, BigInt(MIB + 0x40));
});

test("the address fields may leave the file's start out, and zero means to the file's end", () => {
  const { writes } = plan(flatMultiboot({ header: MIB + FLAT_HEADER - 8, loadEnd: 0, bssEnd: 0 }));
  const kernel = writeNamed(writes, "kernel");
  assert.equal([kernel.kind === "image" && kernel.offset, kernel.sizeBytes], [8, FLAT_SIZE_BYTES - 8]);
  assert.not.ok(writes.some((write) => write.kind === "zeros"));
});

test("the address fields go before the ELF's headers, as in 64-bit kernels", () => {
  const header = 0x40 + 0x38;
  const image = elf({ bits: 64, extra: multibootHeader(0, [MIB + header, MIB, 0, 0, MIB + header + 32]) });
  const { protocol, writes } = plan(image);
  assert.is(protocol, "multiboot");
  assert.equal(contents(writeNamed(writes, "kernel")), image);
});

test("the info has memory sizes, the memory map, command line, module and loader name", () => {
  const { writes } = plan(flatMultiboot(), { initrd: filler(77), append: "a b" });
  const write = writeNamed(writes, "multiboot info");
  const info = contents(write);
  const commandLine = writeNamed(writes, "command line");
  const strings = contents(commandLine);
  const initrd = writeNamed(writes, "initrd");
  assert.is(readU32(info, 0), 0b10_0100_1101);
  assert.is(readU32(info, 4), 639);
  assert.is(readU32(info, 8), 15 * 1024);
  assert.is(textAt(strings, readU32(info, 16) - commandLine.gpa), "kernel a b");
  assert.is(readU32(info, 20), 1);
  const module = readU32(info, 24) - write.gpa;
  assert.equal([readU32(info, module), readU32(info, module + 4)], [initrd.gpa, initrd.gpa + 77]);
  assert.is(textAt(strings, readU32(info, module + 8) - commandLine.gpa), "initrd.cpio");
  const map = readU32(info, 48) - write.gpa;
  assert.is(readU32(info, 44), 4 * 24);
  assert.equal(
    [readU32(info, map + 48), readU64(info, map + 52), readU64(info, map + 60), readU32(info, map + 68)],
    [20, MIB, 15 * MIB, 1],
  );
  assert.is(textAt(info, readU32(info, 64) - write.gpa), "baton");
});

test("without an initrd and a command line there is no module, and the name alone", () => {
  const { writes } = plan(flatMultiboot(), { append: "" });
  assert.is(readU32(contents(writeNamed(writes, "multiboot info")), 20), 0);
  assert.is(textAt(contents(writeNamed(writes, "command line")), 0), "kernel");
});

test("the header counts only with its checksum, on a multiple of four, in the first 8 KiB", async () => {
  const header = (offset: number): Uint8Array =>
    concat([new Uint8Array(offset), multibootHeader(0, [MIB + offset, MIB, 0, 0, MIB]), new Uint8Array(8192)]);
  assert.is(plan(header(0)).protocol, "multiboot");
  assert.is(plan(header(8192 - 32)).protocol, "multiboot");
  await assertRefused(() => plan(header(2)), "image-unsupported", "no multiboot header");
  await assertRefused(() => plan(header(8192 - 28)), "image-unsupported", "no multiboot header");
  const damaged = header(0);
  damaged[8]! ^= 1;
  await assertRefused(() => plan(damaged), "image-unsupported", "no multiboot header");
});

const invalid = "image-invalid";
const refusals: [title: string, addresses: Partial<MultibootAddresses>, code: string, message: string][] = [
  ["load_addr above header_addr", { load: MIB + FLAT_HEADER + 4 }, invalid, "load_addr (0x20)"],
  ["a load address before the file's start", { header: MIB + FLAT_HEADER + 4 }, invalid, "load_addr (0x20)"],
  ["nothing to load", { loadEnd: MIB }, invalid, "load_end_addr (0x24)"],
  ["more to load than there is", { loadEnd: MIB + FLAT_SIZE_BYTES + 1 }, "image-truncated", "load_end_addr (0x24)"],
  ["a BSS that ends before the data", { bssEnd: MIB + 1 }, invalid, "bss_end_addr (0x28)"],
  ["an entry in the BSS", { entry: MIB + FLAT_SIZE_BYTES }, invalid, "entry_addr (0x2c)"],
  ["an entry before the kernel", { entry: MIB - 1 }, invalid, "entry_addr (0x2c)"],
  ["a BSS beyond 3 GiB", { bssEnd: 0xffff_ffff }, "memory-too-small", "below 3 GiB"],
  ["a BSS that needs more RAM", { bssEnd: 16 * MIB + 1 }, "memory-too-small", "at least 17 MiB"],
];
for (const [title, addresses, code, message] of refusals) {
  test(`refuses ${title}`, () => assertRefused(() => plan(flatMultiboot(addresses)), code, message));
}

test("refuses a flat kernel without addresses, and demands that multiboot 1 does not know", async () => {
  const flat = concat([multibootHeader(), filler(100)]);
  await assertRefused(() => plan(flat), "image-invalid", "set the address fields");
  await assertRefused(() => plan(flatMultiboot({}, 1 << 5)), "image-unsupported", "flags (0x14) ask for 0x20");
});

test("truncated files are refused wherever they end", async () => {
  const flat = flatMultiboot();
  for (let sizeBytes = FLAT_HEADER + 32; sizeBytes < flat.length; sizeBytes++) {
    await assertRefused(() => plan(flat.slice(0, sizeBytes)), "image-truncated", "Truncated: ");
  }
  for (let sizeBytes = 1; sizeBytes < FLAT_HEADER + 32; sizeBytes++) {
    await assertRefused(() => plan(flat.slice(0, sizeBytes)), "image-unsupported", "Is not bootable");
  }
});

test.run();
