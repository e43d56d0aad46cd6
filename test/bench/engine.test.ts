// SPDX-License-Identifier: Apache-2.0
// What the engine's benchmark measures with: loops as long as they say, samples, and a Wasm loop that does what it says.
import { LoopMachine } from "../../bench/engine/loop-machine.ts";
import { LoopSampler } from "../../bench/engine/loop-sampler.ts";
import {
  buildLoops,
  FIRST_MARK,
  instructionsOf,
  LOOPS,
  LOOPS_GPA,
  LOOPS_RAM_SIZE_BYTES,
  MARK_PORT,
} from "../../bench/engine/loops.ts";
import { loadWasmLoop } from "../../bench/engine/wasm-loop.ts";
import { assert, describe } from "../harness.ts";

const test = describe("engine benchmark");

test("the engine counts as many instructions in a round as the loops say that they have", () => {
  const millionInstructions = 1;
  const counts: number[] = [];
  const machine = new LoopMachine(buildLoops(millionInstructions), {
    gpa: LOOPS_GPA,
    ramSizeBytes: LOOPS_RAM_SIZE_BYTES,
    onWrite(port, value) {
      assert.is(port, MARK_PORT);
      if (value === FIRST_MARK) counts.push(machine.instructions);
    },
  });
  machine.runWhile(() => counts.length < 2);
  const known = LOOPS.reduce((sum, loop) => sum + instructionsOf(loop, millionInstructions), 0);
  // Loops have a dozen instructions before them, and within a write to a port the count is ahead by up to 8192.
  assert.ok(Math.abs(counts[1]! - counts[0]! - known) <= 8192 + 16 * LOOPS.length);
});

test("samples begin with the first round that begins warm, and are instructions by time", () => {
  const sampler = new LoopSampler(2, 100);
  for (let round = 0; round < 3; round++) {
    for (let index = 0; index < LOOPS.length; index++) sampler.mark(FIRST_MARK + index, round * 60 + index * 10);
  }
  // The rounds began at 0, 60 and 120 ms, and the end of the last one has not come.
  assert.is(sampler.rounds, 0);
  sampler.mark(FIRST_MARK, 180);
  assert.is(sampler.rounds, 1);
  assert.equal(sampler.samples[LOOPS[0]!.id], [instructionsOf(LOOPS[0]!, 2) / 10 / 1000]);
  assert.throws(() => sampler.mark(FIRST_MARK + LOOPS.length, 190), "no loop's mark");
});

test("the fixed Wasm loop is a 64-bit xorshift", () => {
  let x = 1n;
  for (let turn = 0; turn < 1000; turn++) {
    x ^= BigInt.asUintN(64, x << 13n);
    x ^= x >> 7n;
    x ^= BigInt.asUintN(64, x << 17n);
  }
  assert.is(BigInt.asUintN(64, loadWasmLoop()(1000)), x);
});

test.run();
