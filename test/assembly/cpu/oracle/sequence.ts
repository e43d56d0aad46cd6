// SPDX-License-Identifier: Apache-2.0
// Sequences of instructions: run one by one they must do what they do as blocks, and what the CPU did.
//
// One by one, flags are written down after each instruction, so that none of what the engine keeps of flags, and nothing of what
// its translator makes of several instructions, is used: there the oracle's single instructions say what is right.
import {
  CPU_CR2,
  CPU_ERROR_CODE,
  CPU_EXCEPTION,
  CPU_GPRS,
  CPU_HAS_ERROR_CODE,
  CPU_MXCSR,
  CPU_RIP,
  CPU_X87_CONTROL,
  CPU_X87_DP,
  CPU_X87_REGISTERS,
  CPU_XMMS,
  NO_EXCEPTION,
} from "../../../../assembly/cpu/layout.ts";
import type { Rig } from "../rig.ts";
import { type Case, COMPARED_FLAGS, PAGE_FAULT_VECTOR } from "./cases.ts";
import { type Difference, GPR_NAMES, Replayer } from "./replay.ts";
import { Stage } from "./stage.ts";
import { CODE, CODE_SIZE_BYTES, newState, STATE_GPRS, STATE_RIP } from "./state.ts";
import {
  DIFFERENCES,
  isApproximate,
  isTranscendental,
  NOTHING,
  type Parsed,
  parse,
  type Undefined,
  undefinedBy,
} from "./tolerance.ts";

const GENERAL_PROTECTION_VECTOR = 13;
/** More than any sequence needs, with as many repetitions of a string instruction as there is mapped memory. */
const BUDGET = 1 << 14;
/** What depends on undefined flags is seen when they are made something else: in so many ways. */
const VARIANT_COUNT = 32;
/** And in so many before a difference is reported: it may take several flags at once to see it. */
const MANY_VARIANTS = 2048;
const ARITHMETIC_FLAGS = 0x8d5;

/** Any, and from step to step others, so that nothing cancels out. */
function undefinedFlagsOf(variant: number, step: number): number {
  let n = Math.imul((variant << 10) + step + 1, 0x9e3779b1);
  n = Math.imul(n ^ (n >>> 15), 0x85ebca6b);
  return (n >>> 16) & ARITHMETIC_FLAGS;
}

const JUMP_TO_ITSELF = [0xeb, 0xfe];
const NOP = parse(Uint8Array.of(0x90));

/** State that is compared: names, places and sizes. */
const FIELDS: readonly (readonly [string, number, number])[] = [
  ...GPR_NAMES.map((name, n) => [name, CPU_GPRS + 8 * n, 8] as const),
  ["rip", CPU_RIP, 8],
  ...Array.from({ length: 16 }, (_, n) => [`xmm${n}`, CPU_XMMS + 16 * n, 16] as const),
  ["mxcsr", CPU_MXCSR, 4],
  ...Array.from({ length: 8 }, (_, n) => [`x87.r${n}`, CPU_X87_REGISTERS + 16 * n, 10] as const),
  ["x87", CPU_X87_CONTROL, CPU_X87_DP + 8 - CPU_X87_CONTROL],
];

/** What came of a run. */
interface Outcome {
  exception: string;
  flags: number;
  fields: string[];
  memory: string[];
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

export class Sequencer {
  /** Sequences that could not be compared with the CPU: what they do depends on what is undefined. */
  notCompared = 0;
  readonly #rig: Rig;
  readonly #stage: Stage;
  readonly #replayer: Replayer;
  readonly #now = newState();

  constructor(rig: Rig) {
    this.#rig = rig;
    this.#stage = new Stage(rig);
    this.#replayer = new Replayer(rig, this.#stage);
    rig.enableExceptions();
  }

  /** One by one, and as blocks. */
  compareRuns(found: Case): Difference[] {
    this.#prepare(found, false);
    this.#runOneByOne(found);
    const expected = this.#outcome();
    this.#prepare(found, false);
    this.#rig.engine.run(BUDGET);
    this.#rig.engine.settle();
    this.#rig.undoDelivery();
    this.#forgetEnd(found);
    return differencesOf(expected, this.#outcome());
  }

  /** One by one, and on the CPU. */
  compareWithCpu(found: Case): Difference[] {
    const differences = this.#compareWithCpu(found, VARIANT_COUNT);
    return differences.length === 0 ? differences : this.#compareWithCpu(found, MANY_VARIANTS);
  }

  #compareWithCpu(found: Case, variantCount: number): Difference[] {
    const outcomes: Outcome[] = [];
    for (let variant = 0; variant < variantCount; variant++) {
      this.#prepare(found, true);
      const isKnown = this.#runOneByOne(found, variant);
      outcomes.push(this.#outcome());
      const [first, last] = [outcomes[0]!, outcomes.at(-1)!];
      if (isKnown && differencesOf({ ...first, flags: last.flags }, last).length === 0) continue;
      this.notCompared++;
      return [];
    }
    const ignored: Undefined = { ...NOTHING };
    for (const { flags } of outcomes) ignored.flags |= flags ^ outcomes[0]!.flags;
    return this.#replayer.compare(found, NOP, ignored);
  }

  /** `isCpus`: with the HLT behind it that the CPU had. */
  #prepare({ code, before, memoryBefore }: Case, isCpus: boolean): void {
    const end = before.words[STATE_RIP / 4]! + code.length;
    const hasEnd = !isCpus && end + JUMP_TO_ITSELF.length <= CODE + CODE_SIZE_BYTES;
    this.#stage.placeCode(hasEnd ? Uint8Array.of(...code, ...JUMP_TO_ITSELF) : code, before);
    this.#stage.loadState(before, memoryBefore);
  }

  /** `variant`: of undefined flags, if they are not to be what the engine makes them. False: a result is not defined, or not exactly. */
  #runOneByOne({ code, lengths, before, after, vector }: Case, variant?: number): boolean {
    const { engine, view, state } = this.#rig;
    const start = before.words[STATE_RIP / 4]!;
    let isKnown = true;
    for (let steps = 0; steps < BUDGET; steps++) {
      const offset = Number(this.#stage.rip()) - start;
      if (offset === code.length && start + offset < CODE + CODE_SIZE_BYTES) return isKnown;
      const one = instructionAt(code, lengths, offset);
      const parsed = parse(one, this.#rig.bits);
      this.#now.bytes.set(state.subarray(CPU_GPRS, CPU_GPRS + 128), STATE_GPRS);
      engine.step();
      const hasRaised = view.getUint32(CPU_EXCEPTION, true) !== NO_EXCEPTION;
      const loose = undefinedBy(one, parsed, this.#now);
      isKnown &&= !loose.result && !isLoose(parsed);
      if (hasRaised) {
        const raised = { vector: view.getUint32(CPU_EXCEPTION, true), address: view.getBigUint64(CPU_CR2, true) };
        return isKnown && !loose.address && !DIFFERENCES.some(({ matches }) => matches(parsed, vector, after, raised));
      }
      const flags = this.#rig.rflags();
      this.#rig.setRflags(
        variant === undefined ? flags : (flags & ~loose.flags) | (undefinedFlagsOf(variant, steps) & loose.flags),
      );
    }
    throw new Error("A sequence has no end");
  }

  /** The #GP of the HLT behind, where there was no room for a jump. */
  #forgetEnd({ code, before }: Case): void {
    const { view } = this.#rig;
    const isAtEnd = Number(this.#stage.rip()) === before.words[STATE_RIP / 4]! + code.length;
    if (isAtEnd && view.getUint32(CPU_EXCEPTION, true) === GENERAL_PROTECTION_VECTOR) {
      view.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
    }
  }

  #outcome(): Outcome {
    const { view, state } = this.#rig;
    const raised = view.getUint32(CPU_EXCEPTION, true);
    const errorCode = view.getUint32(CPU_HAS_ERROR_CODE, true) ? view.getUint32(CPU_ERROR_CODE, true) : 0;
    const address = raised === PAGE_FAULT_VECTOR ? ` at ${view.getBigUint64(CPU_CR2, true).toString(16)}` : "";
    return {
      exception: raised === NO_EXCEPTION ? "none" : `${raised}(${errorCode})${address}`,
      flags: this.#rig.rflags() & COMPARED_FLAGS,
      fields: FIELDS.map(([, at, sizeBytes]) => hex(state.slice(at, at + sizeBytes))),
      memory: this.#stage.dataPages.map(hex),
    };
  }
}

function instructionAt(code: Uint8Array, lengths: Uint8Array, offset: number): Uint8Array {
  let at = 0;
  for (const length of lengths) {
    if (at === offset) return code.subarray(at, at + length);
    at += length;
  }
  // Behind the last one, at the end of all code.
  return code.subarray(code.length);
}

/** Its results may be a little different. FNSTENV and FNSAVE tell selectors of code and data, which the engine does not keep. */
function isLoose(parsed: Parsed): boolean {
  const { opcode, modrm } = parsed;
  const storesEnvironment = (opcode === 0xd9 || opcode === 0xdd) && modrm < 0xc0 && ((modrm >> 3) & 7) === 6;
  return storesEnvironment || isApproximate(parsed) || isTranscendental(parsed);
}

function differencesOf(expected: Outcome, got: Outcome): Difference[] {
  const differences: Difference[] = [];
  const compare = (what: string, one: string, other: string): void => {
    if (one !== other) differences.push({ what, expected: one, got: other });
  };
  compare("exception", expected.exception, got.exception);
  compare("flags", expected.flags.toString(16), got.flags.toString(16));
  for (const [index, [name]] of FIELDS.entries()) compare(name, expected.fields[index]!, got.fields[index]!);
  for (const page of expected.memory.keys()) {
    if (expected.memory[page] !== got.memory[page])
      differences.push({ what: "memory", expected: `page ${page}`, got: "another" });
  }
  return differences;
}
