// SPDX-License-Identifier: Apache-2.0
// Makes cases on this machine's CPU and compares the engine with them. Needs gcc and x86-64 Linux.
//
//   bun test/assembly/cpu/oracle/main.ts --cases 1000000 [--seed N] [--row N] [--show N]   fresh cases, straight to the engine
//   bun test/assembly/cpu/oracle/main.ts --corpus 400000 [--per-form N] [--tries N]                  makes corpus.bin anew
//   bun test/assembly/cpu/oracle/main.ts --check                                           the engine against corpus.bin
//
// With --sequences all of that is about sequences of instructions, and sequences.bin; with --bits 32 or 16 about code in
// compatibility mode, and corpus32.bin or sequences32.bin.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { brotliCompressSync, constants } from "node:zlib";
import { loadEngine } from "../engine.ts";
import { type Bits, Rig } from "../rig.ts";
import { type Case, CaseReader, codeOf, readCorpus } from "./cases.ts";
import { type Difference, Replayer } from "./replay.ts";
import { Report } from "./report.ts";
import { Sequencer } from "./sequence.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const { values: options } = parseArgs({
  options: {
    cases: { type: "string" },
    corpus: { type: "string" },
    check: { type: "boolean" },
    seed: { type: "string", default: "1" },
    row: { type: "string", default: "-1" },
    "per-form": { type: "string", default: "8" },
    tries: { type: "string", default: "3000000" },
    show: { type: "string", default: "40" },
    sequences: { type: "boolean" },
    bits: { type: "string", default: "64" },
    /** A module that is not of this build. */
    wasm: { type: "string" },
  },
});

const bits = parseBits(options.bits);
const corpusFile = join(here, `${options.sequences ? "sequences" : "corpus"}${bits === 64 ? "" : bits}.bin`);

function parseBits(text: string): Bits {
  const bits = ([64, 32, 16] as const).find((number) => `${number}` === text);
  if (bits === undefined) throw new Error("--bits is 64, 32 or 16");
  return bits;
}

function loadRig(): Rig {
  return new Rig(options.wasm === undefined ? loadEngine() : new Uint8Array(readFileSync(options.wasm)), bits);
}

function build(directory: string): string {
  const program = join(directory, "oracle");
  // What is linked when it is first called writes to thread-local variables then.
  const flags = ["-O2", "-Wall", "-Wextra", "-fno-stack-protector", "-Wl,-z,now"];
  const { status, stderr } = spawnSync("gcc", [...flags, "-o", program, join(here, "oracle.c")], { encoding: "utf8" });
  if (status !== 0) throw new Error(`gcc failed: ${stderr}`);
  return program;
}

/** What the program writes. */
async function* casesOf(args: string[]): AsyncGenerator<Uint8Array> {
  const directory = mkdtempSync(join(tmpdir(), "oracle-"));
  try {
    const child = spawn(build(directory), ["--bits", options.bits, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    yield* child.stdout as AsyncIterable<Uint8Array>;
    const code = await ended;
    if (code !== 0) throw new Error(`oracle exited with ${code}`);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

type Compare = (found: Case) => Difference[];

function comparerOfCases(): Compare {
  const replayer = new Replayer(loadRig());
  return (found) => replayer.replay(found);
}

/** With the CPU only when one by one is the same as in blocks. */
function comparerOfSequences(): Compare {
  const sequencer = new Sequencer(loadRig());
  process.on("exit", () =>
    console.log(`${sequencer.notCompared} not compared with the CPU: what they do is undefined`),
  );
  return (found) => {
    const differences = sequencer.compareRuns(found);
    return differences.length > 0 ? differences : sequencer.compareWithCpu(found);
  };
}

async function stream(): Promise<boolean> {
  const seed = Number(options.seed);
  const compare = options.sequences ? comparerOfSequences() : comparerOfCases();
  const report = new Report(bits);
  const reader = new CaseReader(seed * 2 ** 20);
  const drain = (isLast: boolean): void => {
    for (let found = reader.next(isLast); found !== undefined; found = reader.next(isLast))
      report.add(found, compare(found));
  };
  const kind = options.sequences ? ["--sequences", "1"] : ["--row", options.row];
  for await (const bytes of casesOf(["--cases", options.cases!, "--seed", options.seed, ...kind])) {
    reader.push(bytes);
    drain(false);
  }
  drain(true);
  report.print(Number(options.show));
  return report.failed === 0;
}

async function makeCorpus(): Promise<void> {
  const args = [
    "--cases",
    options.corpus!,
    "--seed",
    options.seed,
    "--per-form",
    options["per-form"],
    "--tries",
    options.tries,
  ];
  const pieces: Uint8Array[] = [];
  for await (const bytes of casesOf(args)) pieces.push(bytes);
  const cases = Buffer.concat(pieces);
  let count = 0;
  for (const _ of casesIn(cases)) count++;
  writeCorpus(cases, count);
}

function* casesIn(bytes: Uint8Array): Generator<Case> {
  const reader = new CaseReader(Number(options.seed) * 2 ** 20);
  reader.push(bytes);
  for (let found = reader.next(true); found !== undefined; found = reader.next(true)) yield found;
}

function writeCorpus(cases: Uint8Array, count: number): void {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(Number(options.seed) * 2 ** 20, 0);
  header.writeUInt32LE(count, 4);
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24 };
  const compressed = brotliCompressSync(Buffer.concat([header, cases]), { params });
  writeFileSync(corpusFile, compressed);
  console.log(`${count} cases, ${cases.length} bytes, compressed ${compressed.length}`);
}

/** Without what the CPU did: the engine is asked twice. */
async function makeSequences(): Promise<void> {
  const args = ["--cases", options.corpus!, "--seed", options.seed, "--sequences", "1"];
  const pieces: Uint8Array[] = [];
  for await (const bytes of casesOf(args)) pieces.push(bytes);
  const cases: Uint8Array[] = [];
  let seed = Number(options.seed) * 2 ** 20;
  for (const found of casesIn(Buffer.concat(pieces))) {
    cases.push(codeOf(found, found.seed - seed));
    seed = found.seed;
  }
  writeCorpus(Buffer.concat(cases), cases.length);
}

function check(): boolean {
  const report = new Report(bits);
  const corpus = new Uint8Array(readFileSync(corpusFile));
  if (options.sequences) {
    const sequencer = new Sequencer(loadRig());
    for (const found of readCorpus(corpus)) report.add(found, sequencer.compareRuns(found));
  } else {
    const replayer = new Replayer(loadRig());
    for (const found of readCorpus(corpus)) report.add(found, replayer.replay(found));
  }
  report.print(Number(options.show));
  return report.failed === 0;
}

if (options.corpus !== undefined) await (options.sequences ? makeSequences() : makeCorpus());
else if (!(options.check ? check() : await stream())) process.exitCode = 1;
