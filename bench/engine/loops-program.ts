// SPDX-License-Identifier: Apache-2.0
// Measures the engine on the loops of loops.ts, in the runtime that runs this program: loops-program.ts ROUNDS
//
// Prints one line of JSON: samples by the loop's id in MIPS, and of the fixed Wasm loop as `wasm`, in million turns a second. Time
// is the CPU time of the thread that runs the guest: others on this machine, and compilers in other threads, are not in it.
import { threadCpuMs } from "../../ffi/clock.ts";
import { LoopMachine } from "./loop-machine.ts";
import { LoopSampler, type LoopSamples } from "./loop-sampler.ts";
import { buildLoops, FIRST_MARK, instructionsOf, LOOPS_GPA, LOOPS_RAM_SIZE_BYTES, MARK_PORT } from "./loops.ts";
import { loadWasmLoop } from "./wasm-loop.ts";

/** Of each loop in a round: a tenth of a second. */
const MILLION_INSTRUCTIONS = 40;
/** After it runtimes have optimised what they will. */
const WARM_UP_MS = 3000;
const WASM_TURNS = 10_000_000;
/** Between the marks there are some instructions more than the loop's; and see LoopMachine.instructions. */
const INSTRUCTIONS_TOLERANCE = 20_000;

function measure(rounds: number): LoopSamples {
  const wasm: number[] = [];
  const wasmLoop = loadWasmLoop();
  const sampler = new LoopSampler(MILLION_INSTRUCTIONS, WARM_UP_MS);
  let startInstructions = 0;

  const checkInstructions = (ended: ReturnType<LoopSampler["end"]>): void => {
    if (ended === undefined) return;
    const counted = machine.instructions - startInstructions;
    const known = instructionsOf(ended, MILLION_INSTRUCTIONS);
    if (Math.abs(counted - known) <= INSTRUCTIONS_TOLERANCE) return;
    throw new Error(`${ended.id} had ${known} instructions, and the engine counted ${counted}`);
  };
  const measureWasm = (): void => {
    const startMs = threadCpuMs();
    wasmLoop(WASM_TURNS);
    if (sampler.isWarm) wasm.push(WASM_TURNS / (threadCpuMs() - startMs) / 1000);
  };
  const onWrite = (port: number, value: number): void => {
    if (port !== MARK_PORT) throw new Error(`The guest has written to port ${port}`);
    checkInstructions(sampler.end(threadCpuMs()));
    if (value === FIRST_MARK) measureWasm();
    startInstructions = machine.instructions;
    sampler.begin(value, threadCpuMs());
  };
  const machine = new LoopMachine(buildLoops(MILLION_INSTRUCTIONS), {
    gpa: LOOPS_GPA,
    ramSizeBytes: LOOPS_RAM_SIZE_BYTES,
    onWrite,
  });
  machine.runWhile(() => sampler.rounds < rounds);
  return { wasm, ...sampler.samples };
}

console.log(JSON.stringify(measure(Number(process.argv[2]))));
