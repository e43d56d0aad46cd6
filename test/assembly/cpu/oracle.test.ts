// SPDX-License-Identifier: Apache-2.0
// The engine against what a real CPU did with the instructions of the corpus, and against itself: README.md, "The oracle".
import { readFileSync } from "node:fs";
import { assert, describe } from "../../harness.ts";
import { loadEngine } from "./engine.ts";
import { type Case, readCorpus } from "./oracle/cases.ts";
import { type Difference, Replayer } from "./oracle/replay.ts";
import { Report } from "./oracle/report.ts";
import { Sequencer } from "./oracle/sequence.ts";
import { type Bits, Rig } from "./rig.ts";

const test = describe("cpu oracle");

const SHOWN = 20;

function check(file: string, bits: Bits, minCases: number, compare: (found: Case) => Difference[]): void {
  const report = new Report(bits);
  const corpus = new Uint8Array(readFileSync(new URL(file, import.meta.url)));
  for (const found of readCorpus(corpus)) report.add(found, compare(found));
  assert.ok(report.total >= minCases, `only ${report.total} cases`);
  assert.is(report.failed, 0, report.failed === 0 ? "" : report.text(SHOWN));
}

// biome-ignore format: a table
const CORPORA = [
  { bits: 64, suffix: "", instructions: 50_000, sequences: 5_000 },
  { bits: 32, suffix: "32", instructions: 5_000, sequences: 500 },
  { bits: 16, suffix: "16", instructions: 2_000, sequences: 200 },
] as const;

for (const { bits, suffix, instructions, sequences } of CORPORA) {
  test(`every instruction of ${bits}-bit code does what the real CPU did`, () => {
    const replayer = new Replayer(new Rig(loadEngine(), bits));
    check(`oracle/corpus${suffix}.bin`, bits, instructions, (found) => replayer.replay(found));
  });

  test(`sequences of instructions of ${bits}-bit code do in blocks what they do one by one`, () => {
    const sequencer = new Sequencer(new Rig(loadEngine(), bits));
    check(`oracle/sequences${suffix}.bin`, bits, sequences, (found) => sequencer.compareRuns(found));
  });
}

test.run();
