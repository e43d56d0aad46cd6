// SPDX-License-Identifier: Apache-2.0
// Runs garbage for as long as one likes.
//
//   bun test/assembly/cpu/fuzz/main.ts [--seed N] [--from CASE] [--cases COUNT] [--seconds COUNT]
import { parseArgs } from "node:util";
import { Fuzzer } from "./fuzz.ts";

const { values: options } = parseArgs({
  options: {
    seed: { type: "string", default: "1" },
    from: { type: "string", default: "0" },
    cases: { type: "string", default: "1000000000" },
    seconds: { type: "string", default: "60" },
    /** Says which case is about to run: for one that does not come back. */
    verbose: { type: "boolean", default: false },
  },
});

const fuzzer = new Fuzzer(Number(options.seed));
const first = Number(options.from);
const end = performance.now() + Number(options.seconds) * 1000;
let number = first;
for (; number < first + Number(options.cases) && performance.now() < end; number++) {
  if (options.verbose) console.log(`case ${number}`);
  fuzzer.runCase(number);
}
fuzzer.check(number);
const { cases, instructions, modes, reasons } = fuzzer.statistics;
console.log(`${cases} cases from ${first} of seed ${options.seed}, ${instructions} instructions`);
console.log(`by mode: ${JSON.stringify(modes)}; ran on, idle, shut down, requested: ${reasons.join(", ")}`);
