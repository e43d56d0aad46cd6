// SPDX-License-Identifier: Apache-2.0
import { gzipSync, zstdCompressSync } from "node:zlib";
import { buildMachineImage } from "../../../../src/machine/boot/machine-image.ts";
import type { BootPlan } from "../../../../src/machine/boot/types.ts";
import { unpackLz4 } from "../../../../src/machine/boot/unpack/lz4.ts";
import { unpackXz } from "../../../../src/machine/boot/unpack/xz.ts";
import { crc32 } from "../../../../src/runtime/checksum.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import {
  BZIMAGE_INIT_SIZE_BYTES,
  BZIMAGE_KERNEL_OFFSET,
  BZIMAGE_LOAD_GPA,
  bzImage,
  concat,
  contents,
  elf,
  filler,
  image,
  MIB,
  type Patch,
  patch,
  readU32,
  writeNamed,
} from "./images.ts";
import { assertRefused, plan, SPEC } from "./machine.ts";

const test = describe("unpacked kernels");

const PAYLOAD_OFFSET = 0x100;
const ENTRY_GPA = BZIMAGE_LOAD_GPA + 0x40;

/** What the kernel's build makes of its ELF: relocations behind it. */
const VMLINUX = concat([
  elf({
    bits: 64,
    entry: ENTRY_GPA,
    pvhEntry: BZIMAGE_LOAD_GPA,
    segments: [
      { gpa: BZIMAGE_LOAD_GPA, fileSizeBytes: 3000, memorySizeBytes: 4096 },
      { gpa: BZIMAGE_LOAD_GPA + 0x10000, fileSizeBytes: 100, memorySizeBytes: 9000 },
    ],
  }),
  new Uint8Array(64),
]);

const u32 = (value: number): Uint8Array => patch(new Uint8Array(4), [0, 4, value]);
const withSize = (packed: Uint8Array, sizeBytes = VMLINUX.length): Uint8Array => concat([packed, u32(sizeBytes)]);

/** A bzImage with this payload. */
function bzImageOf(payload: Uint8Array, ...patches: Patch[]): Uint8Array {
  const kernelSizeBytes = Math.ceil((PAYLOAD_OFFSET + payload.length + 0x400) / 16) * 16;
  const bytes = concat([bzImage().subarray(0, BZIMAGE_KERNEL_OFFSET), filler(kernelSizeBytes)]);
  bytes.set(payload, BZIMAGE_KERNEL_OFFSET + PAYLOAD_OFFSET);
  return patch(
    bytes,
    [0x1f4, 4, kernelSizeBytes / 16],
    [0x248, 4, PAYLOAD_OFFSET],
    [0x24c, 4, payload.length],
    ...patches,
  );
}

function unpackedPlan(kernel: Uint8Array, initrd?: Uint8Array): BootPlan {
  const images = { kernel: image(kernel), ...(initrd === undefined ? {} : { initrd: image(initrd, "initrd") }) };
  return buildMachineImage(SPEC, images, { unpacksKernel: true });
}

/** LZ4 without any compression: one block of literals. */
function lz4OfLiterals(bytes: Uint8Array): Uint8Array {
  const extra = bytes.length - 15;
  const block = concat([
    Uint8Array.of(0xf0),
    new Uint8Array(Math.floor(extra / 255)).fill(255),
    Uint8Array.of(extra % 255),
    bytes,
  ]);
  return concat([u32(0x184c2102), u32(block.length), block]);
}

/** xz without any compression: one plain chunk of LZMA2. */
function xzOfPlain(bytes: Uint8Array): Uint8Array {
  const withCrc = (part: Uint8Array): Uint8Array => concat([part, u32(crc32(part))]);
  const stream = concat([Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0), withCrc(Uint8Array.of(0, 1)).subarray(0, 6)]);
  const size = bytes.length - 1;
  const body = concat([Uint8Array.of(1, size >> 8, size & 0xff), bytes, Uint8Array.of(0)]);
  const padding = new Uint8Array((4 - (body.length % 4)) % 4);
  const blockHeader = withCrc(Uint8Array.of(2, 0, 0x21, 1, 0, 0, 0, 0));
  return concat([stream, blockHeader, body, padding, u32(crc32(bytes)), new Uint8Array(8)]);
}

/** Like code: calls near and far, words that look like calls, and what was there before. */
function program(): Uint8Array {
  const bytes: number[] = [];
  let seed = 1;
  const next = (limit: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 16) % limit;
  };
  while (bytes.length < 2500) {
    const kind = next(8);
    if (kind < 3) bytes.push(0xe8 + next(2), next(256), next(8), 0, next(2) * 255);
    else if (kind === 3) bytes.push(0xe8, 0xe9, next(256), 0xff);
    else if (kind < 6) for (let count = next(6); count > 0; count--) bytes.push(0x48 + next(5));
    else bytes.push(...bytes.slice(-1 - next(300)).slice(0, 2 + next(60)));
  }
  return Uint8Array.from(bytes.slice(0, 2500));
}

/** `program()`, packed by `lz4 -l`. */
const LZ4_OF_PROGRAM =
  "AiFMGEQEAADI6OlL/+jp4v/o6VT/DADKSEnpMQYAAOlHBwAADgDwEOhZAgAA6Ol7/+mhAAAAS0pJSOmYBAD/6I4HAP/pHwccAA9TACVfSUxISUk/" +
  "AAgQTl4AwCADAP/oBQAA/+hTBW0AaUj/6NMCAL0ACEMAAMkA8ApMTElJ6R4EAADpnAIAAEtMSklLSEhISOgXuACP6W3/6A8AAP/GAB8PfAAfr+gd" +
  "BQD/SEtJTEnrACcg6cMBAWDHAwAA6OEKAIlnAgD/6YcFABIBk+mUBwAASOlGACIBBxAA4EtMSUro6aD/6Om3/+hyRwDwBsUGAP9LTEhIS+jpRP/o" +
  "4wQA/0joc08AIOlxHAK3SenKBgD/6awAAP90AQdSAGPo6UhLSElFAgBwAQM5Ag8gAQei6B0BAP/puwIA/5QBDxgBDg95ACOw6bsEAP9KTEpMSkgK" +
  "AQv6ADHpOACAAPAXRwcASUtL6OnV/0pISkno6Rf/SkpKS0jo4QYAAEhMS0no6RL/6Zs5AoHoawUAAOmFAhwBCDQDD58AExAc9QACrwIJmgAh6V9z" +
  "AbDpIP9LSktLSunhB88CNgEA/8IBD2ABCglNAATnAPUIiwMA/0xJSEtM6OkN/+lMAQAA6NoHAAA0Aw/AAQgLqADwEQAASOhiBwD/SUxL6OkM/+lH" +
  "AAAA6e0DAADpiAYAAEpJLAFP6RH/TAkCDwOpACDpsG8DYBMBAADprVEBEMpMABDGPwRPwAAAAEwCCwJDADDoQgABAA+GACUg6GliASGRA4wD9wJK" +
  "6f4DAP9LSkhISUpJTEpIStYAIOi1NQQQyCgCD6EAJv8B6Onv/0hLS0tJSErpJQcAAOQAHLFJSUhK6HcFAP/p+e8EMHL/SHEBEV+FBW8L/0tJSki/" +
  "AAdn6ei/BAAAiwMGPwEg6WBNBfAD6T3/6Oku/+jpnP/pJwUA/+gVhwEQhR8BEClVBSDbBtYB8QLE/+jpXf/o6TX/6NMBAP/oWVcEj9X/6WoDAABL" +
  "1QAWIOnlOQMQD4sCIIkFewMP3QAcX0tISktJfwADD38ECQ96AAwP7QAWEN+xAiBWA1IEACgCADIFD84ABfAKhQdIS0no/gMAAEpLSUlM6OkT/0pI" +
  "TEnp5HQBEBdDASBfBeoC/gBJSExLSEzpbwUA/0lISUphAQ10AJVKTEhJ6eoFAAAXAg9sAAevTEtLSUroWgcA/40AHQT3ASDpuqwAkOn8/+jpHv/o" +
  "QnQCEHL8AeCdAgD/TEpKTElKSEjp2yQAId4CkQMGHwHwFOjpyv/o6Vr/6On2/0lMTExMS0jp5AQAAOj7BQAAS0lKS+gvMwAPIAEnDz8BCyDoka4B" +
  "EHI4AxCczgIgYwerBDBM6foXBWBIS0joyARlBa/5/+j9AQAASEpLhQEDDmUA/wBK6FEAAABMTElITOnQBwBWACsP/gAcYEhLTEnoKEUB0OnP/0xJ" +
  "6eQHAADoFwE=";

/** `program()`, packed by `xz --x86 --lzma2=preset=9,dict=64KiB --check=crc32`, as Linux does. */
const XZ_OF_PROGRAM =
  "/Td6WFoAAAFpIt42AgEEACEBCADSuXTL4AnDBDBdAHQ6RSR4gTpPha8HK/EDzuI1EWMNFfeRnMH/YxOVlL8lDGQ8qvxhpSOlct7uylhi23IOMbYA" +
  "7RVVopDMIuAwHTLkvKRWrdk1xKICxSJcu8PAsvPqdHuAjtl8S4UApH4FwnjcoEJIXUFoyfezoy1XKOp7ehAPIVQtEZalGLtGZPbjHENZFivMKs/u" +
  "/hjzlbZdoG4Rpy+WAEPTguuTf6hAKDb8NuRX52dpcnnfj5CuKd7ZM7aCsRjcqqPzooyHR48zieksbvBp3beXS4I76DwmBkgrU7OAB/9Vc8lZHt+c" +
  "FnAVhS9+WVXzAbrJxjh5PXSgQrfkhwHSAJ8EFu5Cepf2zujtYYe6KSM0JXSbWL5MNPCWbtht3N/VM2xHV4u0Nc7uOTivmwPhqpv8MngfVo8ZiSti" +
  "C276MVGem6+rwNLb+rMrlAW31ZpMMbDZ6z07Ftp8G4o6C6qnfANWx7xnj3lA40oKceomXvPh2Iy32oPHfdCfxR/yOypTDeueXEBx2C1tO+3ivzcH" +
  "51T+t2gw8y3v5sb3xMhzQk1akNApcTsP9CTkzROs/6GCEhAUzGvwQfji5uqDBy1xTHH0MPTQ5ft8CAuC3eN52WWQjRWYAiUfiZfZn+0A/zqg4iHc" +
  "sq3u4jtCt8R+GCH/RyYZTAPCXurwcIXkYagxKU/gqOjMKNOs/88j2XiEPpNBZ4x66cH75bAenaOrYWJwBXj4AeQ/cBLGVu+i4uQzeZD+QfnTQneL" +
  "lUse4iDofw1fiZ2pFIgZbXqyrAlc9PU/qKQziglvX7pA73VN54U1H5HLabUD02j9O9dpNVhbbINKqAe+zIaC22hz1nmJFfgp9kEI4ke5TAaMS/zB" +
  "jZ1j60fdSfXMKl+0aIVWE7352cHZSYe8qu9YZ2azkhaPlTkoZy564JUG6zQ7jp6FMDjLW1+9pqaUP5w0TticOYlfrGfJnRcHmtQcyoObLTx3NhUT" +
  "3NnVoNRe5Uidn38ZfmWXNxbMOGjlu+R22E4YscAKnWlqfkQm3tIZ4HgZrSiapwRuxwxhdduzkGcFBlGCdgRnu1dCXmbCby1x4LO/9joyKeecLmzP" +
  "zZsi4nO2gtUWUhS6+cq1/aj9+ZctX/0T/n0bQyCAI3Xo9xPEVqa/Hi4z3aKmEpVGvvaQy+EfSW/CEimxZqFUA5WwDBDjuCFdN12LelkGdEoIscSE" +
  "x0nZRy3tPcnco19aiuGFnBv71m9F37PMubhSXSDZWHYCg4BbM84ayccZQaqP3L2ZRBpa0Upr6POoaEppjMuRkO/beB87vDCWjXupKfIZ5lV8Fgtx" +
  "yVBR0OguClKhau2J6WZRWGFQEn8b60igTj3H1akuiDArePKwO+TVx54v+sw8foH2uJZ7QE4Ez3GVN6foGAQJ9FxvtPiS9XFXgjgf+nUK0XaHPMhA" +
  "2l7yQ7tbfLPoldgAolMrWgAByAjEEwAAvWfR6T4wDYsCAAAAAAFZWg==";

const bytesOf = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, "base64"));

const PAYLOADS: Record<string, Uint8Array> = {
  // Slices of a Buffer would be views of it.
  gzip: Uint8Array.from(gzipSync(VMLINUX)),
  Zstandard: withSize(zstdCompressSync(VMLINUX)),
  LZ4: withSize(lz4OfLiterals(VMLINUX)),
  xz: withSize(xzOfPlain(VMLINUX)),
};

for (const [format, payload] of Object.entries(PAYLOADS)) {
  test(`${format}: the segments of the ELF are placed, and its entry is entered`, () => {
    const { protocol, vcpu, writes } = unpackedPlan(bzImageOf(payload));
    assert.is(protocol, "linux64");
    assert.is(vcpu.mode, "long64");
    assert.is(vcpu.regs.rip, BigInt(ENTRY_GPA));
    assert.is(vcpu.regs.rsi, BigInt(writeNamed(writes, "zero page").gpa));
    assert.equal(contents(writeNamed(writes, "kernel segment at 0x200000")), filler(3000, 1));
    assert.equal(contents(writeNamed(writes, "kernel segment at 0x210000")), filler(100, 2));
    assert.is(writeNamed(writes, "kernel segment at 0x210000, zeros").sizeBytes, 8900);
    assert.is(writes.filter(({ what }) => what === "kernel").length, 0);
  });

  test(`${format}: damaged, cut off or of another size than it says, it is refused by name`, async () => {
    const sizeAt = payload.length - 4;
    const damaged = payload.slice();
    damaged.fill(0xff, 6, 14);
    const cut = concat([payload.subarray(0, payload.length >> 1), u32(VMLINUX.length)]);
    const larger = patch(payload.slice(), [sizeAt, 4, VMLINUX.length + 1]);
    const smaller = patch(payload.slice(), [sizeAt, 4, VMLINUX.length - 1]);
    const empty = patch(payload.slice(), [sizeAt, 4, 0]);
    for (const bad of [damaged, cut, larger, smaller, empty]) {
      await assertRefused(
        () => unpackedPlan(bzImageOf(bad)),
        "image-invalid",
        `kernel: The kernel in it, packed with ${format} at 0x500, `,
      );
    }
    const huge = patch(payload.slice(), [sizeAt, 4, 0xffff_fff0]);
    await assertRefused(
      () => unpackedPlan(bzImageOf(huge)),
      "image-invalid",
      "says that it unpacks to 0xfffffff0 bytes",
    );
  });
}

test("as it is, without unpacking, unless that is asked for", () => {
  const { vcpu, writes } = plan(bzImageOf(PAYLOADS.gzip!));
  assert.is(vcpu.regs.rip, BigInt(BZIMAGE_LOAD_GPA + 0x200));
  assert.is(writeNamed(writes, "kernel").gpa, BZIMAGE_LOAD_GPA);
});

test("as it is, too, when only the kernel knows how it is packed", () => {
  const bzip2 = concat([new TextEncoder().encode("BZh9"), filler(100)]);
  for (const kernel of [bzImageOf(bzip2), bzImageOf(new Uint8Array()), bzImage()]) {
    assert.is(unpackedPlan(kernel).vcpu.regs.rip, BigInt(BZIMAGE_LOAD_GPA + 0x200));
  }
});

test("gets the bzImage's setup header, and an initrd above all that the kernel uses", () => {
  const kernel = bzImageOf(PAYLOADS.gzip!);
  const { writes } = unpackedPlan(kernel, filler(5000));
  const page = contents(writeNamed(writes, "zero page"));
  assert.equal(page.subarray(0x22c, 0x26c), kernel.subarray(0x22c, 0x26c));
  assert.is(readU32(page, 0x218), writeNamed(writes, "initrd").gpa);
  assert.ok(writeNamed(writes, "initrd").gpa >= BZIMAGE_LOAD_GPA + BZIMAGE_INIT_SIZE_BYTES);
});

test("needs the RAM that the setup header says, before anything is unpacked", async () => {
  const kernel = bzImageOf(gzipSync(VMLINUX).fill(0xff, 20), [0x260, 4, 64 * MIB]);
  await assertRefused(() => unpackedPlan(kernel), "memory-too-small", "init_size");
});

test("a payload that is not in the kernel is refused", async () => {
  const payload = PAYLOADS.gzip!;
  for (const bad of [[0x248, 4, 0xffff_ff00] satisfies Patch, [0x24c, 4, 0xffff_ffff] satisfies Patch]) {
    await assertRefused(
      () => unpackedPlan(bzImageOf(payload, bad)),
      "image-invalid",
      "payload_offset and payload_length",
    );
  }
  await assertRefused(
    () => unpackedPlan(bzImageOf(payload, [0x24c, 4, 3])),
    "image-invalid",
    "has 3 bytes (payload_length",
  );
});

test("what is unpacked must be a kernel that lies where the setup header says", async () => {
  const refused = async (kernel: Uint8Array, code: string, message: string) => {
    await assertRefused(() => unpackedPlan(bzImageOf(gzipSync(kernel))), code, message);
  };
  await refused(filler(5000), "image-invalid", "kernel (unpacked): EI_CLASS");
  await refused(elf({ bits: 64, entry: MIB }), "image-misplaced", "p_paddr 0x100000 is not in 0x200000-0x300000");
  await refused(elf({ bits: 64, entry: 0x1234 }), "image-invalid", "is in no loaded segment");
});

test("unpackLz4() undoes lz4, byte for byte, or says why not", async () => {
  const packed = bytesOf(LZ4_OF_PROGRAM);
  assert.equal(unpackLz4(packed, 2500 + 7), program());
  assert.match((await rejection(() => unpackLz4(packed, 2499))).message, "more than 2499 bytes");
  assert.match((await rejection(() => unpackLz4(packed.subarray(0, 6), 2500))).message, "size of a block");
  const farBack = concat([u32(0x184c2102), u32(5), Uint8Array.of(0x10, 65, 2, 0, 0)]);
  assert.match((await rejection(() => unpackLz4(farBack, 100))).message, "2 bytes back");
});

test("unpackXz() undoes xz with its x86 filter, byte for byte, or says why not", async () => {
  const packed = bytesOf(XZ_OF_PROGRAM);
  assert.equal(unpackXz(packed, 2500 + 7), program());
  assert.match((await rejection(() => unpackXz(packed, 2499))).message, "more than 2499 bytes");
  assert.match((await rejection(() => unpackXz(packed.subarray(0, 600), 2500))).message, "LZMA2: ");
  const otherFilter = packed.slice();
  otherFilter[14] = 7;
  otherFilter.set(u32(crc32(otherFilter.subarray(12, 20))), 20);
  assert.match((await rejection(() => unpackXz(otherFilter, 2500))).message, "The filters are 7, 33");
});

test("no damage of a single byte goes unnoticed or crashes", async () => {
  const packed = bytesOf(XZ_OF_PROGRAM);
  // Behind the blocks is the index, which nobody needs.
  for (let at = 6; at < packed.length - 32; at += 3) {
    const damaged = packed.slice();
    damaged[at]! ^= 0x55;
    const error = await rejection(() => unpackXz(damaged, 2500));
    assert.match(error.message, /^(xz|LZMA2): /, `byte ${at}`);
  }
});

test.run();
