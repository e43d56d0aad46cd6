// SPDX-License-Identifier: Apache-2.0
// Guests that execute garbage. Whatever they do, `run` comes back after about its budget, and nothing is written but what is theirs.
import { CPU_PENDING, CPU_PENDING_FLUSH, CPU_PENDING_NMI } from "../../../../assembly/cpu/layout.ts";
import { Chance } from "./chance.ts";
import { MODES, type Mode, makeGuest } from "./guest.ts";
import { FuzzMachine } from "./machine.ts";

const BUDGET = 20_000;
/** The engine runs whole blocks, of 64 instructions and less. */
const MAX_EXCESS = 64;
const MAX_RUNS = 3;
/** Cases between two looks at what nobody may write: that is 100 MiB. */
const CASES_PER_LOOK = 256;

const RAN_SHUTDOWN = 2;
const REASONS = 4;

export interface Statistics {
  cases: number;
  instructions: bigint;
  /** Cases by mode, and how runs ended. */
  modes: Record<Mode, number>;
  reasons: number[];
}

export class Fuzzer {
  readonly machine = new FuzzMachine();
  readonly seed: number;
  readonly statistics: Statistics;
  #unchecked = 0;

  constructor(seed: number) {
    this.seed = seed;
    const modes = Object.fromEntries(MODES.map((mode) => [mode, 0])) as Record<Mode, number>;
    this.statistics = { cases: 0, instructions: 0n, modes, reasons: Array<number>(REASONS).fill(0) };
  }

  /** @throws Error with what is wrong, and how to have it again. */
  runCase(number: number): void {
    try {
      this.#run(number);
    } catch (error) {
      throw new Error(`Case ${number} of seed ${this.seed}: ${(error as Error).message}`, { cause: error });
    }
    this.statistics.cases++;
    if (++this.#unchecked === CASES_PER_LOOK) this.check(number);
  }

  /** Looks at what nobody may write. */
  check(number: number): void {
    const damage = this.machine.damage();
    if (damage === undefined) {
      this.#unchecked = 0;
      return;
    }
    throw new Error(`Cases ${number - this.#unchecked + 1} to ${number} of seed ${this.seed}: ${damage}`);
  }

  #run(number: number): void {
    const { machine, statistics } = this;
    const chance = new Chance(this.seed, number);
    machine.reset(chance);
    statistics.modes[makeGuest(machine, chance)]++;
    machine.engine.stateChanged();
    for (let run = 0; run < MAX_RUNS; run++) {
      const before = machine.instructions;
      const reason = machine.engine.run(BUDGET);
      const done = machine.instructions - before;
      statistics.instructions += done;
      statistics.reasons[reason] = (statistics.reasons[reason] ?? 0) + 1;
      if (done > BUDGET + MAX_EXCESS) throw new Error(`${done} instructions of ${BUDGET} were run`);
      if (reason === RAN_SHUTDOWN || reason >= REASONS) return;
      const pending = chance.oneOf([0, CPU_PENDING_NMI, CPU_PENDING_FLUSH]);
      machine.view.setUint32(CPU_PENDING, (machine.view.getUint32(CPU_PENDING, true) & ~12) | pending, true);
    }
    machine.engine.settle();
  }
}
