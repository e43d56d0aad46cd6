// SPDX-License-Identifier: Apache-2.0
// Has the engine run a case, and says what came out differently.
import {
  CPU_CR2,
  CPU_ERROR_CODE,
  CPU_EXCEPTION,
  CPU_GPRS,
  CPU_HAS_ERROR_CODE,
  CPU_MXCSR,
  CPU_X87_CONTROL,
  CPU_X87_REGISTERS,
  CPU_X87_STATUS,
  CPU_X87_TOP,
  CPU_X87_VALID,
  CPU_XMMS,
  NO_EXCEPTION,
} from "../../../../assembly/cpu/layout.ts";
import type { Rig } from "../rig.ts";
import { type Case, COMPARED_FLAGS, NO_VECTOR, PAGE_FAULT_VECTOR } from "./cases.ts";
import { PAGE_SIZE_BYTES, Stage } from "./stage.ts";
import {
  DATA,
  STATE_FCW,
  STATE_FSW,
  STATE_GPRS,
  STATE_MXCSR,
  STATE_RFLAGS,
  STATE_RIP,
  STATE_VALID,
  STATE_X87,
  STATE_XMMS,
} from "./state.ts";
import {
  DIFFERENCES,
  isApproximate,
  isTranscendental,
  type Parsed,
  parse,
  type Undefined,
  undefinedBy,
} from "./tolerance.ts";

export interface Difference {
  /** What differs: a register's name, `exception`, `memory`. */
  what: string;
  expected: string;
  got: string;
}

/** Linux's TASK_SIZE_MAX. */
const TASK_END = 0x7fff_ffff_f000n;
/** Iterations of string instructions, each of which may be a step. */
const MAX_STEPS = 64;

/** 32-bit code sees only so many, and of each the lower half. */
const LEGACY_GPR_COUNT = 8;

export const GPR_NAMES = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");
// biome-ignore format: a table
const FLAG_NAMES = [[1, "CF"], [4, "PF"], [0x10, "AF"], [0x40, "ZF"], [0x80, "SF"], [0x200, "IF"], [0x400, "DF"], [0x800, "OF"],
  [0x4000, "NT"], [0x4_0000, "AC"], [0x20_0000, "ID"]] as const;

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function hexReversed(bytes: Uint8Array): string {
  return hex(bytes.slice().reverse());
}

export class Replayer {
  readonly #rig: Rig;
  readonly #stage: Stage;

  constructor(rig: Rig, stage = new Stage(rig)) {
    this.#rig = rig;
    this.#stage = stage;
  }

  /** Runs a case and compares; no difference at all is an empty array. */
  replay(found: Case): Difference[] {
    this.#stage.placeCode(found.code, found.before);
    this.#stage.loadState(found.before, found.memoryBefore);
    try {
      this.#run(found);
    } catch (error) {
      this.#rig.engine.stateChanged();
      return [{ what: "engine", expected: "returns", got: `${error}` }];
    }
    const parsed = parse(found.code, this.#rig.bits);
    const { view } = this.#rig;
    const raised = { vector: view.getUint32(CPU_EXCEPTION, true), address: view.getBigUint64(CPU_CR2, true) };
    if (DIFFERENCES.some(({ matches }) => matches(parsed, found.vector, found.after, raised))) return [];
    return this.compare(found, parsed, undefinedBy(found.code, parsed, found.before));
  }

  #run({ before, code }: Case): void {
    const { engine, view } = this.#rig;
    const { opcode, hasF2, hasF3 } = parse(code, this.#rig.bits);
    const isString = (opcode >= 0xa4 && opcode <= 0xa7) || (opcode >= 0xaa && opcode <= 0xaf);
    const steps = isString && (hasF2 || hasF3) ? MAX_STEPS : 1;
    for (let step = 0; step < steps; step++) {
      engine.step();
      if (view.getUint32(CPU_EXCEPTION, true) !== NO_EXCEPTION) return;
      if (this.#stage.rip() !== before.view.getBigUint64(STATE_RIP, true)) return;
    }
  }

  /** What of the rig is not as the CPU left it. `parsed`: the instruction that may have been nearly right only. */
  compare(found: Case, parsed: Parsed, ignored: Undefined): Difference[] {
    const { after } = found;
    const { bits, state, view } = this.#rig;
    const differences: Difference[] = [];
    const differ = (what: string, expected: string, got: string): void =>
      void differences.push({ what, expected, got });
    this.#compareException(found, ignored, differ);
    const compare = (what: string, at: number, place: number, sizeBytes: number): void => {
      const expected = after.bytes.subarray(at, at + sizeBytes);
      for (let index = 0; index < sizeBytes; index++) {
        if (expected[index] === state[place + index]) continue;
        const got = state.slice(place, place + sizeBytes);
        if (what.startsWith("xmm") && isApproximate(parsed) && areNearSingles(expected, got)) return;
        if (what.startsWith("x87.r") && isTranscendental(parsed) && areNearExtended(expected, got)) return;
        differ(what, hexReversed(expected), hexReversed(got));
        return;
      }
    };
    if (!ignored.result) {
      const names = bits === 64 ? GPR_NAMES : GPR_NAMES.slice(0, LEGACY_GPR_COUNT);
      for (const [n, name] of names.entries()) compare(name, STATE_GPRS + 8 * n, CPU_GPRS + 8 * n, bits === 64 ? 8 : 4);
      this.#compareMemory(found, differ);
    }
    const [rip, expectedRip] = [this.#stage.rip(), after.view.getBigUint64(STATE_RIP, true)];
    if (rip !== expectedRip) differ("rip", expectedRip.toString(16), rip.toString(16));
    this.#compareFlags(found, ignored.flags, differ);
    for (let n = 0; n < 16; n++) compare(`xmm${n}`, STATE_XMMS + 16 * n, CPU_XMMS + 16 * n, 16);
    compare("mxcsr", STATE_MXCSR, CPU_MXCSR, 4);
    for (let n = 0; n < 8; n++) compare(`x87.r${n}`, STATE_X87 + 16 * n, CPU_X87_REGISTERS + 16 * n, 10);
    compare("x87.control", STATE_FCW, CPU_X87_CONTROL, 2);
    compare("x87.valid", STATE_VALID, CPU_X87_VALID, 1);
    const status = view.getUint16(CPU_X87_STATUS, true) | (view.getUint8(CPU_X87_TOP) << 11);
    const expectedStatus = after.view.getUint16(STATE_FSW, true);
    if ((status ^ expectedStatus) & ~ignored.status)
      differ("x87.status", expectedStatus.toString(16), status.toString(16));
    return differences;
  }

  #compareException(
    { vector, errorCode, faultAddress }: Case,
    ignored: Undefined,
    differ: (what: string, expected: string, got: string) => void,
  ): void {
    const { view } = this.#rig;
    const raised = view.getUint32(CPU_EXCEPTION, true);
    const got = raised === NO_EXCEPTION ? NO_VECTOR : raised;
    if (got !== vector) {
      differ("exception", vector === NO_VECTOR ? "none" : `${vector}`, got === NO_VECTOR ? "none" : `${got}`);
      return;
    }
    if (vector === NO_VECTOR) return;
    if (ignored.address) return;
    const gotCode = view.getUint32(CPU_HAS_ERROR_CODE, true) ? view.getUint32(CPU_ERROR_CODE, true) : 0;
    // Of the kernel's half Linux says that everything is there.
    const isKernel = vector === PAGE_FAULT_VECTOR && faultAddress >= TASK_END;
    if ((gotCode | (isKernel ? 1 : 0)) !== errorCode)
      differ("error code", errorCode.toString(16), gotCode.toString(16));
    const address = view.getBigUint64(CPU_CR2, true);
    if (vector === PAGE_FAULT_VECTOR && address !== faultAddress)
      differ("cr2", faultAddress.toString(16), address.toString(16));
  }

  #compareFlags({ after }: Case, ignored: number, differ: (what: string, expected: string, got: string) => void): void {
    const expected = after.words[STATE_RFLAGS / 4]!;
    const got = this.#rig.rflags();
    const wrong = (expected ^ got) & COMPARED_FLAGS & ~ignored;
    for (const [bit, name] of FLAG_NAMES) {
      if (wrong & bit) differ(name, expected & bit ? "1" : "0", got & bit ? "1" : "0");
    }
  }

  #compareMemory({ memoryAfter }: Case, differ: (what: string, expected: string, got: string) => void): void {
    for (const [page, ram] of this.#stage.dataPages.entries()) {
      const expected = memoryAfter.subarray(page * PAGE_SIZE_BYTES, (page + 1) * PAGE_SIZE_BYTES);
      if (Buffer.compare(expected, ram) === 0) continue;
      const first = expected.findIndex((byte, index) => byte !== ram[index]);
      const last = expected.findLastIndex((byte, index) => byte !== ram[index]);
      const end = Math.min(last + 1, first + 32);
      const address = (DATA + page * PAGE_SIZE_BYTES + first).toString(16);
      differ("memory", `${address}: ${hex(expected.subarray(first, end))}`, hex(ram.slice(first, end)));
      return;
    }
  }
}

const SMALLEST_NORMAL = 2 ** -126;

/** RCPPS and RSQRTPS: relative error up to 1.5 * 2^-12. */
function areNearSingles(expected: Uint8Array, got: Uint8Array): boolean {
  const one = new Float32Array(expected.slice().buffer);
  const other = new Float32Array(got.slice().buffer);
  return one.every((value, index) => {
    const found = other[index]!;
    return (
      Object.is(value, found) ||
      (Number.isNaN(value) && Number.isNaN(found)) ||
      // The smallest results may be 0.
      (value * found === 0 && Math.abs(value + found) <= SMALLEST_NORMAL) ||
      Math.abs(found / value - 1) <= 3 * 2 ** -12
    );
  });
}

/** Last bits of an extended number that may be others. */
const NEAR = 4n;

function areNearExtended(expected: Uint8Array, got: Uint8Array): boolean {
  // Without the integer bit, so that what follows the last number of an exponent is the first of the next.
  const number = (bytes: Uint8Array): bigint => {
    const value = BigInt(`0x${hexReversed(bytes.subarray(0, 10))}`);
    return ((value >> 64n) << 63n) | (value & ((1n << 63n) - 1n));
  };
  const distance = number(expected) - number(got);
  return distance <= NEAR && distance >= -NEAR;
}
