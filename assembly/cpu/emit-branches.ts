// SPDX-License-Identifier: Apache-2.0
// Branches within the segment: Jcc and JMP in every mode, CALL and RET in 64-bit mode. A comparison before a Jcc becomes one uop with it.
import * as d from "./decode.ts";
import {
  closeBlock,
  gpr,
  group,
  noteFlagsSeen,
  prepareAddress,
  putBranch,
  putImmediate,
  setAddress,
  wrap,
} from "./emit.ts";
import { CPU_NEXT_UOP } from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import * as ops from "./ops.ts";
import { MAP_0F, UOP_A, UOP_IMMEDIATE, UOP_INDEX, UOP_RIP } from "./uop.ts";
import { cpu } from "./vcpu.ts";

/** False: this one is not one of them. */
export function emitBranch(): bool {
  const code = d.code;
  const is64 = d.codeSize == MODE_64;
  // Operands of 16 bits cut RIP to 16 bits; in 64-bit mode the prefix is ignored.
  const isShort = !is64 && d.operandSize == 2;
  const next = d.rip + d.length;
  const target = isShort ? <u64><u16>(next + d.immediate) : wrap(next + d.immediate);
  const isJcc = (code & ~15) == 0x70 || (code & ~15) == (MAP_0F | 0x80);
  if (isJcc) {
    emitJcc(code & 15, target);
    return true;
  }
  if (code == 0xe9 || code == 0xeb) {
    putBranch(ops.OP_JMP, target);
    return true;
  }
  if (!is64) return false;
  switch (code) {
    case 0xe8:
      putBranch(ops.OP_CALL, target);
      return true;
    case 0xc2:
    case 0xc3:
      noteFlagsSeen();
      putImmediate(ops.OP_RET, 0, d.immediate);
      closeBlock();
      return true;
    case 0xff:
      if (group() == 2) emitIndirect(ops.OP_CALL_R, ops.OP_CALL_M);
      else if (group() == 4) emitIndirect(ops.OP_JMP_R, ops.OP_JMP_M);
      else return false;
      return true;
    default:
      return false;
  }
}

function emitIndirect(register: u16, memory: u16): void {
  if (d.hasMemory) {
    prepareAddress(true);
    setAddress(putBranch(memory, 0));
  } else store<u16>(putBranch(register, 0), <u16>gpr(d.rm, 8), UOP_A);
}

function emitJcc(condition: u32, target: u64): void {
  const relation = comparison != 0 && afterComparison == d.rip ? relationOf(condition) : 0;
  if (relation != 0) {
    joinComparison(relation, target);
  } else if (condition >> 1 == 2) {
    putBranch(condition & 1 ? ops.OP_JNZ : ops.OP_JZ, target);
  } else {
    store<u16>(putBranch(ops.OP_JCC, target), <u16>condition, UOP_A);
  }
}

// ── A comparison and a Jcc as one ──

/** A comparison of registers, with which a Jcc right behind it can be made one uop: none of it can raise an exception. */
let comparison: usize = 0;
let afterComparison: u64 = 0;

/** A block begins: the comparison before it is another block's. */
export function forgetComparison(): void {
  comparison = 0;
}

export function noteComparison(uop: usize): void {
  comparison = uop;
  afterComparison = d.rip + d.length;
}

/** Of SDM volume 1, appendix B: relation bits (below, equal, less, negative) and whether they must not hold; 0 if not one of these. */
function relationOf(condition: u32): u32 {
  const isNegated = (condition & 1) << 8;
  switch (condition >> 1) {
    case 1:
      return 1 | isNegated;
    case 2:
      return 2 | isNegated;
    case 3:
      return 3 | isNegated;
    case 4:
      return 8 | isNegated;
    case 6:
      return 4 | isNegated;
    case 7:
      return 6 | isNegated;
    default:
      return 0;
  }
}

/** The branch takes the comparison's place. */
function joinComparison(relation: u32, target: u64): void {
  const was = comparison;
  const op = load<u16>(was);
  const registers = load<u32>(was, UOP_A);
  const value = load<i32>(was, UOP_IMMEDIATE);
  const rip = load<u16>(was, UOP_RIP);
  store<u32>(cpu, <u32>was, CPU_NEXT_UOP);
  const isTest = op >= ops.OP_TEST_RR64;
  const form = op - (isTest ? ops.OP_TEST_RR64 : ops.OP_CMP_RR64);
  const uop = putBranch((isTest ? ops.OP_TESTJ_RR64 : ops.OP_CMPJ_RR64) + form, target);
  store<u32>(uop, registers, UOP_A);
  store<i32>(uop, value, UOP_IMMEDIATE);
  store<u8>(uop, <u8>relation, UOP_INDEX);
  store<u8>(uop, <u8>(relation >> 8), UOP_INDEX + 1);
  store<u16>(uop, rip, UOP_RIP);
  comparison = 0;
}
