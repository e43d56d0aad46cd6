// SPDX-License-Identifier: Apache-2.0
// One run of the guest of linux-guest.ts: from the start of the VMM until the last job is done.
import os from "node:os";
import { cpuMsOfProcess } from "../../ffi/clock.ts";
import { listen } from "./child.ts";
import { InstructionCounter } from "./instructions.ts";
import { beginMark, endMark, INIT_MARK, JOBS, MARK_PREFIX } from "./linux-guest.ts";

export interface LinuxRun {
  /** From the start of the VMM to init, by the clock on the wall. */
  bootWallMs: number;
  /** CPU time of all threads of the VMM until then: here and below. */
  bootMs: number;
  /** Instructions until then, for Baton. */
  bootInstructions: number | undefined;
  /** By the job's id. */
  jobMs: Record<string, number>;
}

export interface LinuxOptions {
  /** The program and what comes before the machine's options, the accelerator among it. */
  command: readonly string[];
  kernel: string;
  initrd: string;
  isBaton: boolean;
}

const RAM_NAME = "ram0";
const RAM_SIZE_MIB = 256;
/** Without the crypto self-tests, which are two thirds of a boot's instructions. */
const APPEND = "console=ttyS0 quiet loglevel=0 panic=-1 cryptomgr.notests";
/**
 * For QEMU, whose machine has no clock but the PIT to measure the TSC by. On a busy machine that fails, and the guest stops. About
 * right is good enough: it runs by the host's TSC, and times are taken outside.
 */
const appendForQemu = (): string => `${APPEND} tsc_early_khz=${os.cpus()[0]!.speed * 1000}`;
const TIMEOUT_S = 300;
/** A boot that takes so long will not come to an end. */
const BOOT_TIMEOUT_S = 30;
/** The guest has not come to init. */
export class BootTimeout extends Error {}

/** @throws BootTimeout, and Error for a wrong answer and all else */
export async function runLinux({ command, kernel, initrd, isBaton }: LinuxOptions): Promise<LinuxRun> {
  const startMs = performance.now();
  const marks = new Marks();
  let bootWallMs = 0;
  let bootInstructions: number | undefined;
  await listen({
    command: [
      ...command,
      ...["-machine", `microvm,memory-backend=${RAM_NAME}`, "-m", `${RAM_SIZE_MIB}M`, "-smp", "1"],
      ...["-object", `memory-backend-memfd,id=${RAM_NAME},size=${RAM_SIZE_MIB}M,share=on`],
      ...["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"],
      ...["-kernel", kernel, "-initrd", initrd, "-append", isBaton ? APPEND : appendForQemu()],
    ],
    onOutput(bytes, pid) {
      const ms = cpuMsOfProcess(pid);
      if (ms === undefined) throw new Error("It has ended");
      marks.hear(bytes.toString(), ms);
      if (bootWallMs === 0 && marks.has(INIT_MARK)) {
        bootWallMs = performance.now() - startMs;
        if (isBaton) bootInstructions = readInstructions(pid);
      }
      return marks.has(endMark(JOBS.at(-1)!));
    },
    onSecond(passedSeconds) {
      if (!marks.has(INIT_MARK) && passedSeconds >= BOOT_TIMEOUT_S) {
        throw new BootTimeout(`The guest has not come to init in ${BOOT_TIMEOUT_S} s`);
      }
      if (passedSeconds >= TIMEOUT_S) throw new Error(`The guest was not done in ${TIMEOUT_S} s`);
    },
  });
  return { bootWallMs, bootMs: marks.at(INIT_MARK).ms, bootInstructions, jobMs: jobTimes(marks) };
}

function readInstructions(pid: number): number {
  using counter = new InstructionCounter(pid, RAM_NAME);
  return counter.read();
}

interface Mark {
  /** CPU time of the VMM. */
  ms: number;
  /** What follows the mark in its line. */
  rest: string;
}

/** What is on the guest's console of marks. */
class Marks {
  readonly #names = [INIT_MARK, ...JOBS.flatMap((job) => [beginMark(job), endMark(job)])];
  readonly #marks = new Map<string, Mark>();
  /** The line that has not ended yet. */
  #line = "";

  hear(text: string, ms: number): void {
    const lines = (this.#line + text).split(/\r?\n/);
    this.#line = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith(MARK_PREFIX)) continue;
      const mark = line.slice(MARK_PREFIX.length);
      const name = this.#names.find((known) => mark.startsWith(known));
      if (name === undefined) throw new Error(`The guest has said "${mark}"`);
      this.#marks.set(name, { ms, rest: mark.slice(name.length).trim() });
    }
  }

  has(name: string): boolean {
    return this.#marks.has(name);
  }

  at(name: string): Mark {
    const mark = this.#marks.get(name);
    if (mark === undefined) throw new Error(`The guest has not said "${name}"`);
    return mark;
  }
}

function jobTimes(marks: Marks): Record<string, number> {
  return Object.fromEntries(
    JOBS.map((job) => {
      const { ms, rest } = marks.at(endMark(job));
      const answer = job.answer();
      if (rest !== answer) throw new Error(`${job.label} has given "${rest}" instead of "${answer}"`);
      return [job.id, ms - marks.at(beginMark(job)).ms];
    }),
  );
}
