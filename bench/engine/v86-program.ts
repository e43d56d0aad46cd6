// SPDX-License-Identifier: Apache-2.0
// Measures v86 on the 32-bit loops of loops.ts, in the runtime that runs this program: v86-program.ts MODULE ROUNDS jit|interpreter
//
// MODULE is the path of v86's libv86.mjs, beside which its v86.wasm lies. Prints one line of JSON: samples by the loop's id in MIPS.
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { threadCpuMs } from "../../ffi/clock.ts";
import { LoopSampler } from "./loop-sampler.ts";
import { buildMultibootLoops, LOOPS_RAM_SIZE_BYTES, MARK_PORT } from "./loops.ts";

/** What is used of v86. */
interface Emulator {
  add_listener(event: string, listener: () => void): void;
  run(): void;
  v86: {
    cpu: {
      reset_cpu(): void;
      load_multiboot(image: ArrayBufferLike): void;
      io: { register_write(port: number, device: object, write8: (value: number) => void): void };
    };
  };
}

const [path, rounds, mode] = process.argv.slice(2) as [string, string, string];
const isJit = mode === "jit";
/** Of each loop in a round; the interpreter makes a tenth of the speed. */
const MILLION_INSTRUCTIONS = isJit ? 80 : 10;
const WARM_UP_MS = 3000;

const { V86 } = (await import(pathToFileURL(path).href)) as { V86: new (options: object) => Emulator };
const emulator = new V86({
  wasm_path: join(dirname(path), "v86.wasm"),
  memory_size: LOOPS_RAM_SIZE_BYTES,
  autostart: false,
  disable_jit: !isJit,
});
const sampler = new LoopSampler(MILLION_INSTRUCTIONS, WARM_UP_MS);
emulator.add_listener("emulator-loaded", () => {
  const { cpu } = emulator.v86;
  cpu.reset_cpu();
  cpu.load_multiboot(buildMultibootLoops(MILLION_INSTRUCTIONS).buffer);
  cpu.io.register_write(MARK_PORT, {}, (mark) => {
    sampler.mark(mark, threadCpuMs());
    if (sampler.rounds < Number(rounds)) return;
    console.log(JSON.stringify(sampler.samples));
    process.exit(0);
  });
  emulator.run();
});
