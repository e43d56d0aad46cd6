// SPDX-License-Identifier: Apache-2.0
// Makes corpus.bin: random bytes of which objdump and llvm-mc agree whether they are an instruction, with its length.
//
//   bun test/assembly/cpu/decoder/make.ts [--strings 40000] [--seed N]
//
// Of each: u8 length | 80 when it is #UD (the length is of what is here then), bytes; all of it compressed with Brotli.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { brotliCompressSync } from "node:zlib";
import { expectationOf, isNotAsked } from "./features.ts";

const LENGTH = 15;
/** So that a disassembler that was led astray by one is back at the next. */
const STRIDE = 48;
const NOP = 0x90;
const ILLEGAL = 0x80;

const { values: options } = parseArgs({
  options: { strings: { type: "string", default: "40000" }, seed: { type: "string", default: "1" } },
});

let state = Number(options.seed) * 0x9e3779b1;

function random(count: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (Math.imul(state, 0x2c1b3c6d) >>> 8) % count;
}

const PREFIXES = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x3e, 0x26, 0x36, 0x64, 0x65];

function randomString(): Uint8Array {
  const bytes = Uint8Array.from({ length: LENGTH }, () => random(256));
  let at = 0;
  while (random(3) === 0 && at < 4) bytes[at++] = PREFIXES[random(PREFIXES.length)]!;
  if (random(3) === 0) bytes[at++] = 0x40 | random(16);
  const map = random(6);
  if (map > 0) bytes[at++] = 0x0f;
  if (map > 3) bytes[at++] = map === 4 ? 0x38 : 0x3a;
  return bytes;
}

interface Found {
  length: number;
  text: string;
}

/** What objdump sees at the start of each string. */
function objdump(strings: readonly Uint8Array[]): (Found | undefined)[] {
  const directory = mkdtempSync(join(tmpdir(), "decoder-"));
  try {
    const image = new Uint8Array(strings.length * STRIDE).fill(NOP);
    for (const [index, bytes] of strings.entries()) image.set(bytes, index * STRIDE);
    const file = join(directory, "image");
    writeFileSync(file, image);
    const args = ["-D", "-b", "binary", "-m", "i386:x86-64", "-w", "--insn-width=16", file];
    const { stdout } = spawnSync("objdump", args, { encoding: "utf8", maxBuffer: 2 ** 30 });
    const found = new Map<number, Found>();
    for (const [, at, bytes, text] of stdout.matchAll(/^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t?(.*)$/gm)) {
      found.set(Number.parseInt(at!, 16), {
        length: bytes!.trim().split(" ").length,
        text: text!.replace(/#.*$/, "").trim(),
      });
    }
    return strings.map((_, index) => found.get(index * STRIDE));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** For each string, the first byte of the first thing in it that is no instruction for llvm-mc; undefined if there is none. */
function llvmMc(strings: readonly Uint8Array[]): (number | undefined)[] {
  const hex = (byte: number): string => `0x${byte.toString(16).padStart(2, "0")}`;
  // Without brackets it reads on in the next line.
  const input = strings.map((bytes) => `[${[...bytes].map(hex).join(" ")}]`).join("\n");
  const args = ["--disassemble", "--triple=x86_64", "--mcpu=znver3"];
  const { stderr } = spawnSync("llvm-mc", args, { input, encoding: "utf8", maxBuffer: 2 ** 30 });
  const refused = strings.map((): number | undefined => undefined);
  for (const [, line, column] of stderr.matchAll(/^<stdin>:(\d+):(\d+): warning: invalid/gm)) {
    refused[Number(line) - 1] ??= (Number(column) - 2) / "0x00 ".length;
  }
  return refused;
}

function isPrefix(byte: number): boolean {
  return PREFIXES.includes(byte) || (byte & 0xf0) === 0x40;
}

/** Only prefixes, or such as objdump does not take for part of the instruction behind. */
const IS_PREFIX = /^((lock|rep[nz]*|bnd|data16|addr32|rex\S*|[c-gs]s)\s*)+$/;

const strings = Array.from({ length: Number(options.strings) }, randomString);
const seen = objdump(strings);
const isBad = (found: Found | undefined): boolean => found === undefined || found.text.includes("(bad)");
// What is an instruction for objdump must be one for llvm-mc, what is none must be none at its start.
const cut = strings.map((bytes, index) => (isBad(seen[index]) ? bytes : bytes.subarray(0, seen[index]!.length)));
const refused = llvmMc(cut);

/** What is bad must be so from the start: what llvm-mc refuses must be behind prefixes only, which it takes one at a time. */
function agrees(index: number): boolean {
  const at = refused[index];
  if (!isBad(seen[index])) return at === undefined;
  return at !== undefined && cut[index]!.subarray(0, at).every(isPrefix);
}

const pieces: Uint8Array[] = [];
const counts = { legal: 0, illegal: 0, disagreed: 0, "not asked": 0 };
for (const [index, bytes] of cut.entries()) {
  const found = seen[index];
  if (found === undefined || IS_PREFIX.test(found.text)) {
    counts["not asked"]++;
    continue;
  }
  if (!agrees(index)) {
    counts.disagreed++;
    continue;
  }
  const expectation = isNotAsked(bytes) ? "not asked" : isBad(found) ? "illegal" : expectationOf(found.text);
  counts[expectation]++;
  // Much of what is random is no instruction: a part of that is enough.
  if (expectation === "not asked" || (expectation === "illegal" && counts.illegal % 3 !== 0)) continue;
  pieces.push(Uint8Array.of(bytes.length | (expectation === "illegal" ? ILLEGAL : 0)), bytes);
}
const corpus = Buffer.concat(pieces);
const compressed = brotliCompressSync(corpus);
writeFileSync(new URL("corpus.bin", import.meta.url), compressed);
console.log(counts, `${corpus.length} bytes, compressed ${compressed.length}`);
