// SPDX-License-Identifier: Apache-2.0
// What uops an instruction becomes. One that is common in 64-bit code, with operands of 32 or 64 bits, gets a uop of its own; any
// other an OP_COLD with what was decoded, which one of the exec… functions looks at when it is run. What no rule is for is #UD.
import * as d from "./decode.ts";
import {
  closeBlock,
  gpr,
  noteFlags,
  noteFlagsSeen,
  noteRotateFlags,
  noteShiftFlags,
  prepareAddress,
  put,
  putBranch,
  putCold,
  putColdEnd,
  putImmediate,
  putMemory,
  putMemoryImmediate,
  putRaise,
  putRegisters,
  setAddress,
  wrap,
  xmm,
} from "./emit.ts";
import { CPU_ADDRESS, CPU_NEXT_UOP } from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import * as ops from "./ops.ts";
import { emitHotSse } from "./sse-hot.ts";
import { isShift, SSE_A_MMX, SSE_A_OPCODE, SSE_A_XMM, SSE_B_BYTE, SSE_B_MMX, SSE_B_XMM, sseOperandKinds } from "./sse.ts";
import {
  FORM_66,
  FORM_F2,
  FORM_F3,
  FORM_LOCK,
  FORM_MEMORY,
  FORM_REX_W,
  MAP_0F,
  MAP_0F38,
  UOP_A,
  UOP_IMMEDIATE,
  UOP_INDEX,
  UOP_RIP,
  UOP_SECOND_IMMEDIATE,
  UOP_SIZE_BYTES,
} from "./uop.ts";
import { cpu, UD } from "./vcpu.ts";

/** The instruction at hand. */
export function emit(): void {
  if (d.form & FORM_LOCK && !mayLock()) {
    putRaise(UD);
    return;
  }
  if (emitBranch()) return;
  if (d.codeSize == MODE_64 && !(d.form & FORM_LOCK) && emitHot()) return;
  if (d.code >= MAP_0F) emitCold0f();
  else emitCold();
}

/** SDM volume 2, LOCK. */
function mayLock(): bool {
  if (!d.hasMemory) return false;
  const code = d.code;
  const group = (d.modrm >> 3) & 7;
  if (code < 0x40) return (code & 7) < 2 && code >> 3 != 7;
  switch (code) {
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return group != 7;
    case 0x86:
    case 0x87:
    case MAP_0F | 0xab:
    case MAP_0F | 0xb0:
    case MAP_0F | 0xb1:
    case MAP_0F | 0xb3:
    case MAP_0F | 0xbb:
    case MAP_0F | 0xc0:
    case MAP_0F | 0xc1:
      return true;
    case 0xf6:
    case 0xf7:
      return group == 2 || group == 3;
    case 0xfe:
    case 0xff:
      return group < 2;
    case MAP_0F | 0xba:
      return group > 4;
    case MAP_0F | 0xc7:
      return group == 1;
    default:
      return false;
  }
}

// ── Branches within the segment, in every mode ──

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

function emitBranch(): bool {
  const code = d.code;
  const is64 = d.codeSize == MODE_64;
  // Operands of 16 bits cut RIP to 16 bits; in 64-bit mode the prefix is ignored.
  const isShort = !is64 && d.operandSize == 2;
  const next = d.rip + d.length;
  const target = isShort ? <u64><u16>(next + d.immediate) : wrap(next + d.immediate);
  const isJcc = (code & 0xf0) == 0x70 ? code < MAP_0F : (code & ~15) == (MAP_0F | 0x80);
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
    case 0xc3: {
      noteFlagsSeen();
      putImmediate(ops.OP_RET, 0, d.immediate);
      closeBlock();
      return true;
    }
    case 0xff: {
      const group = (d.modrm >> 3) & 7;
      if (group != 2 && group != 4) return false;
      if (d.hasMemory) prepareAddress(true);
      const op = d.hasMemory
        ? group == 2
          ? ops.OP_CALL_M
          : ops.OP_JMP_M
        : group == 2
          ? ops.OP_CALL_R
          : ops.OP_JMP_R;
      const uop = putBranch(op, 0);
      if (d.hasMemory) setAddress(uop);
      else store<u16>(uop, <u16>gpr(d.rm, 8), UOP_A);
      return true;
    }
    default:
      return false;
  }
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

/** A comparison of registers, with which a Jcc right behind it can be made one uop: none of it can raise an exception. */
let comparison: usize = 0;
let afterComparison: u64 = 0;

/** A block begins: the comparison before it is another block's. */
export function forgetComparison(): void {
  comparison = 0;
}

function noteComparison(uop: usize): void {
  comparison = uop;
  afterComparison = d.rip + d.length;
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

// ── Uops of their own: 64-bit mode, no LOCK ──

const RSP: u32 = 4;

/** What may raise an exception shows the flags to its handler. */
function memory(isSegmented: bool = true): void {
  noteFlagsSeen();
  prepareAddress(isSegmented);
}

/** False when there is none. */
function emitHot(): bool {
  const code = d.code;
  const size = d.operandSize;
  // 0 for 64 bits, 1 for 32: uops of the two are next to each other.
  const half: u16 = size == 8 ? 0 : 1;
  if (code < 0x40) return emitAlu(code >> 3, code & 7);
  if (code >= MAP_0F && emitHotSse()) return true;
  if (size == 2 && code != 0x88 && code != 0x8a && code != 0x89 && code != 0x8b && code != 0xc7) {
    // Prefixes that choose between SSE instructions, and NOPs.
    return code == 0x90 && !(d.rex & 1) ? emitNop() : (code == (MAP_0F | 0x1f) || code == (MAP_0F | 0x1e)) && emitNop();
  }
  switch (code) {
    case 0x63:
      if (size != 8) return false;
      if (d.hasMemory) {
        memory();
        putMemory(ops.OP_MOVSXD_RM, gpr(d.reg, 8));
      } else putRegisters(ops.OP_MOVSXD_RR, gpr(d.reg, 8), gpr(d.rm, 8));
      return true;
    case 0x68:
    case 0x6a:
      noteFlagsSeen();
      putImmediate(ops.OP_PUSH_I, 0, d.immediate);
      return true;
    case 0x69:
    case 0x6b:
      if (d.hasMemory) return false;
      flags(multiply(ops.OP_IMUL_RRI64 + half, d.immediate), 0);
      return true;
    case 0x80:
    case 0x81:
    case 0x83:
      return emitAluImmediate();
    case 0x84:
    case 0x85:
      return emitTest();
    case 0x87:
      if (d.hasMemory) return false;
      putRegisters(ops.OP_XCHG_RR64 + half, gpr(d.reg, size), gpr(d.rm, size));
      return true;
    case 0x88:
      return emitStore(1);
    case 0x89:
      return emitStore(size);
    case 0x8a:
      return emitLoad(1);
    case 0x8b:
      return emitLoad(size);
    case 0x8d:
      if (!d.hasMemory) return false;
      prepareAddress(false);
      putMemory(ops.OP_LEA64 + half, gpr(d.reg, size));
      return true;
    case 0x90:
      if (d.rex & 1) break;
      return emitNop();
    case 0x98:
      put(size == 8 ? ops.OP_CDQE : ops.OP_CWDE, UOP_SIZE_BYTES);
      return true;
    case 0x99:
      put(size == 8 ? ops.OP_CQO : ops.OP_CDQ, UOP_SIZE_BYTES);
      return true;
    case 0xa8:
      flags(putImmediate(ops.OP_TEST_RI8, gpr(0, 1), d.immediate), 0);
      return true;
    case 0xa9: {
      const uop = putImmediate(ops.OP_TEST_RI64 + half, gpr(0, size), d.immediate);
      flags(uop, 0);
      noteComparison(uop);
      return true;
    }
    case 0xc0:
      return false;
    case 0xc1:
      return emitShift(<u32>d.immediate);
    case 0xd1:
      return emitShift(1);
    case 0xd3:
      return emitShiftByCl();
    case 0xc6:
    case 0xc7:
      return emitMoveImmediate(code == 0xc6 ? 1 : size);
    case 0xc9:
      noteFlagsSeen();
      put(ops.OP_LEAVE, UOP_SIZE_BYTES);
      return true;
    case 0xf6:
      if (((d.modrm >> 3) & 7) != 0) return false;
      if (d.hasMemory) {
        memory();
        flags(putMemoryImmediate(ops.OP_TEST_MI8, d.immediate), 0);
      } else flags(putImmediate(ops.OP_TEST_RI8, gpr(d.rm, 1), d.immediate), 0);
      return true;
    case 0xf7:
      return emitGroup3(half);
    case 0xff:
      return emitGroup5(half);
    default:
      break;
  }
  if ((code & ~7) == 0x50) {
    noteFlagsSeen();
    putRegisters(ops.OP_PUSH_R, gpr((code & 7) | ((d.rex & 1) << 3), 8), 0);
    return true;
  }
  if ((code & ~7) == 0x58) {
    noteFlagsSeen();
    putRegisters(ops.OP_POP_R, gpr((code & 7) | ((d.rex & 1) << 3), 8), 0);
    return true;
  }
  if ((code & ~7) == 0x90) {
    const number = (code & 7) | ((d.rex & 1) << 3);
    putRegisters(ops.OP_XCHG_RR64 + half, gpr(0, size), gpr(number, size));
    return true;
  }
  if ((code & ~7) == 0xb0) {
    putImmediate(ops.OP_MOV_RI8, gpr((code & 7) | ((d.rex & 1) << 3), 1), d.immediate);
    return true;
  }
  if ((code & ~7) == 0xb8) {
    const a = gpr((code & 7) | ((d.rex & 1) << 3), size);
    if (size == 4) putImmediate(ops.OP_MOV_RI32, a, d.immediate);
    else if (d.immediate == <i64>(<i32>d.immediate)) putImmediate(ops.OP_MOV_RI64, a, d.immediate);
    else {
      const uop = put(ops.OP_MOV_RI_FAR, 2 * UOP_SIZE_BYTES);
      store<u16>(uop, <u16>a, UOP_A);
      store<i64>(uop, d.immediate, UOP_SECOND_IMMEDIATE);
    }
    return true;
  }
  return code >= MAP_0F && emitHot0f(half);
}

function emitHot0f(half: u16): bool {
  const code = d.code;
  const size = d.operandSize;
  const prefix = d.form & (FORM_66 | FORM_F2 | FORM_F3);
  if ((code & ~15) == (MAP_0F | 0x40) && !d.hasMemory) {
    noteFlagsSeen();
    const uop = putRegisters(ops.OP_CMOV_RR64 + half, gpr(d.reg, size), gpr(d.rm, size));
    store<i32>(uop, code & 15, UOP_IMMEDIATE);
    return true;
  }
  if ((code & ~15) == (MAP_0F | 0x90) && !d.hasMemory) {
    noteFlagsSeen();
    putImmediate(ops.OP_SETCC_R, gpr(d.rm, 1), code & 15);
    return true;
  }
  if ((code & ~7) == (MAP_0F | 0xc8)) {
    putRegisters(ops.OP_BSWAP64 + half, gpr((code & 7) | ((d.rex & 1) << 3), size), 0);
    return true;
  }
  switch (code) {
    case MAP_0F | 0x1e:
    case MAP_0F | 0x1f:
    case MAP_0F | 0x18:
    case MAP_0F | 0x19:
    case MAP_0F | 0x1a:
    case MAP_0F | 0x1b:
    case MAP_0F | 0x1c:
    case MAP_0F | 0x1d:
      return emitNop();
    case MAP_0F | 0x0d:
      return d.hasMemory && emitNop();
    case MAP_0F | 0xaf:
      if (d.hasMemory) {
        memory();
        flags(putMemory(ops.OP_IMUL_RM64 + half, gpr(d.reg, size)), 0);
      } else flags(putRegisters(ops.OP_IMUL_RR64 + half, gpr(d.reg, size), gpr(d.rm, size)), 0);
      return true;
    case MAP_0F | 0xb6:
      return emitExtension(ops.OP_MOVZX_RR8, ops.OP_MOVZX_RM8, 1);
    case MAP_0F | 0xb7:
      return emitExtension(ops.OP_MOVZX_RR16, ops.OP_MOVZX_RM16, 2);
    case MAP_0F | 0xbe:
      return half
        ? emitExtension(ops.OP_MOVSX_RR8_32, ops.OP_MOVSX_RM8_32, 1)
        : emitExtension(ops.OP_MOVSX_RR8_64, ops.OP_MOVSX_RM8_64, 1);
    case MAP_0F | 0xbf:
      return half
        ? emitExtension(ops.OP_MOVSX_RR16_32, ops.OP_MOVSX_RM16_32, 2)
        : emitExtension(ops.OP_MOVSX_RR16_64, ops.OP_MOVSX_RM16_64, 2);
    default:
      break;
  }
  return false;
}

function flags(uop: usize, quiet: u16): void {
  noteFlags(uop, quiet);
}

/** A uop for IMUL with an immediate. */
function multiply(op: u16, value: i64): usize {
  const uop = putRegisters(op, gpr(d.reg, d.operandSize), gpr(d.rm, d.operandSize));
  store<i32>(uop, <i32>value, UOP_IMMEDIATE);
  return uop;
}

function emitNop(): bool {
  put(ops.OP_NOP, UOP_SIZE_BYTES);
  return true;
}

// Forms of the uops of an operation, two each.
const RR: u16 = 0;
const RI: u16 = 2;
const RM: u16 = 4;
const MR: u16 = 6;
const MI: u16 = 8;
const FORMS_OF_ALU: u16 = 10;
const QUIET_FORMS_OF_ALU: u16 = 4;

/** Number among those that have uops, of the operation's number in an opcode; ADC and SBB have none in memory. */
function aluOp(operation: u32): i32 {
  if (operation < 2) return operation;
  return operation < 4 ? -1 : operation - 2;
}

const ALU_CMP: u32 = 7;

function emitAlu(operation: u32, form: u32): bool {
  if (form > 5) return false;
  if (!(form & 1)) return form != 4 ? emitCompare8(operation, form) : emitAlu8(operation, 0);
  if (d.operandSize == 2) return false;
  const half: u16 = d.operandSize == 8 ? 0 : 1;
  const size = d.operandSize;
  if (form == 5) return putAluImmediate(operation, gpr(0, size), half);
  const register = gpr(d.reg, size);
  if (!d.hasMemory) {
    const other = gpr(d.rm, size);
    const a = form == 1 ? other : register;
    const b = form == 1 ? register : other;
    return putAluRegisters(operation, a, b, half);
  }
  const number = aluOp(operation);
  if (number < 0) return false;
  memory();
  flags(putMemory(ops.OP_ADD_RR64 + <u16>number * FORMS_OF_ALU + (form == 1 ? MR : RM) + half, register), 0);
  return true;
}

function putAluRegisters(operation: u32, a: u32, b: u32, half: u16): bool {
  const number = aluOp(operation);
  if (number < 0) {
    noteFlagsSeen();
    const op = operation == 2 ? (half ? ops.OP_ADC_RR32 : ops.OP_ADC_RR64) : half ? ops.OP_SBB_RR32 : ops.OP_SBB_RR64;
    flags(putRegisters(op, a, b), 0);
    return true;
  }
  const uop = putRegisters(ops.OP_ADD_RR64 + <u16>number * FORMS_OF_ALU + RR + half, a, b);
  noteAlu(uop, operation, number, RR, half);
  return true;
}

function putAluImmediate(operation: u32, a: u32, half: u16): bool {
  const number = aluOp(operation);
  if (number < 0) {
    noteFlagsSeen();
    const op = operation == 2 ? (half ? ops.OP_ADC_RI32 : ops.OP_ADC_RI64) : half ? ops.OP_SBB_RI32 : ops.OP_SBB_RI64;
    flags(putImmediate(op, a, d.immediate), 0);
    return true;
  }
  const uop = putImmediate(ops.OP_ADD_RR64 + <u16>number * FORMS_OF_ALU + RI + half, a, d.immediate);
  noteAlu(uop, operation, number, RI, half);
  return true;
}

function noteAlu(uop: usize, operation: u32, number: i32, form: u16, half: u16): void {
  if (operation == ALU_CMP) {
    flags(uop, 0);
    noteComparison(uop);
  } else flags(uop, ops.OP_ADD_RR64_QUIET + <u16>number * QUIET_FORMS_OF_ALU + form + half);
}

/** Of 8 bits, only comparisons. */
function emitCompare8(operation: u32, form: u32): bool {
  if (operation != ALU_CMP) return false;
  const register = gpr(d.reg, 1);
  if (d.hasMemory) {
    memory();
    flags(putMemory(form == 0 ? ops.OP_CMP_MR8 : ops.OP_CMP_RM8, register), 0);
  } else if (form == 0) flags(putRegisters(ops.OP_CMP_RR8, gpr(d.rm, 1), register), 0);
  else flags(putRegisters(ops.OP_CMP_RR8, register, gpr(d.rm, 1)), 0);
  return true;
}

function emitAlu8(operation: u32, register: u32): bool {
  if (operation != ALU_CMP) return false;
  flags(putImmediate(ops.OP_CMP_RI8, gpr(register, 1), d.immediate), 0);
  return true;
}

/** 80, 81, 83. */
function emitAluImmediate(): bool {
  const operation = (d.modrm >> 3) & 7;
  if (d.code == 0x80) {
    if (operation != ALU_CMP) return false;
    if (!d.hasMemory) return emitAlu8(operation, d.rm);
    memory();
    flags(putMemoryImmediate(ops.OP_CMP_MI8, d.immediate), 0);
    return true;
  }
  const half: u16 = d.operandSize == 8 ? 0 : 1;
  if (!d.hasMemory) return putAluImmediate(operation, gpr(d.rm, d.operandSize), half);
  const number = aluOp(operation);
  if (number < 0) return false;
  memory();
  flags(putMemoryImmediate(ops.OP_ADD_RR64 + <u16>number * FORMS_OF_ALU + MI + half, d.immediate), 0);
  return true;
}

function emitTest(): bool {
  const size = d.code == 0x84 ? 1 : d.operandSize;
  const half: u16 = size == 8 ? 0 : 1;
  if (d.hasMemory) {
    if (size == 1) return false;
    memory();
    flags(putMemory(ops.OP_TEST_MR64 + half, gpr(d.reg, size)), 0);
    return true;
  }
  const op = size == 1 ? ops.OP_TEST_RR8 : ops.OP_TEST_RR64 + half;
  const uop = putRegisters(op, gpr(d.rm, size), gpr(d.reg, size));
  flags(uop, 0);
  if (size != 1) noteComparison(uop);
  return true;
}

/** 0 to 3, in the order of uops of moves: 64, 32, 16 and 8 bits. */
function widthIndex(size: u32): u16 {
  return <u16>(3 - ctz(size));
}

function emitLoad(size: u32): bool {
  const a = gpr(d.reg, size);
  if (d.hasMemory) {
    memory();
    putMemory(ops.OP_MOV_RM64 + widthIndex(size), a);
  } else putRegisters(ops.OP_MOV_RR64 + widthIndex(size), a, gpr(d.rm, size));
  return true;
}

function emitStore(size: u32): bool {
  const a = gpr(d.reg, size);
  if (d.hasMemory) {
    memory();
    putMemory(ops.OP_MOV_MR64 + widthIndex(size), a);
  } else putRegisters(ops.OP_MOV_RR64 + widthIndex(size), gpr(d.rm, size), a);
  return true;
}

function emitMoveImmediate(size: u32): bool {
  if (((d.modrm >> 3) & 7) != 0) return false;
  if (d.hasMemory) {
    memory();
    putMemoryImmediate(ops.OP_MOV_MI64 + widthIndex(size), d.immediate);
  } else putImmediate(ops.OP_MOV_RI64 + widthIndex(size), gpr(d.rm, size), d.immediate);
  return true;
}

function emitExtension(registerOp: u16, memoryOp: u16, size: u32): bool {
  const a = gpr(d.reg, 8);
  if (d.hasMemory) {
    memory();
    putMemory(memoryOp, a);
  } else putRegisters(registerOp, a, gpr(d.rm, size));
  return true;
}

function emitShift(amount: u32): bool {
  const operation = (d.modrm >> 3) & 7;
  if (d.hasMemory || operation == 2 || operation == 3 || operation == 6) return false;
  const bits = d.operandSize * 8;
  const count = amount & (bits - 1);
  // It changes nothing, no flags either; but the upper half of a 32-bit register.
  if (count == 0) return false;
  const half: u16 = d.operandSize == 8 ? 0 : 1;
  if (operation < 2) {
    const left = operation == 0 ? count : (bits - count) | 0x100;
    noteRotateFlags(putImmediate(ops.OP_ROL_RI64 + half, gpr(d.rm, d.operandSize), left), ops.OP_ROL_RI64_QUIET + half);
    return true;
  }
  const number: u16 = operation == 4 ? 0 : operation == 5 ? 2 : 4;
  const uop = putImmediate(ops.OP_SHL_RI64 + number + half, gpr(d.rm, d.operandSize), count);
  flags(uop, ops.OP_SHL_RI64_QUIET + number + half);
  return true;
}

/** By CL. */
function emitShiftByCl(): bool {
  const operation = (d.modrm >> 3) & 7;
  if (d.hasMemory || operation < 4 || operation == 6) return false;
  const number: u16 = (operation == 4 ? 0 : operation == 5 ? 2 : 4) + (d.operandSize == 8 ? 0 : 1);
  noteShiftFlags(putRegisters(ops.OP_SHL_RC64 + number, gpr(d.rm, d.operandSize), 0), ops.OP_SHL_RC64_QUIET + number);
  return true;
}

/** F7. */
function emitGroup3(half: u16): bool {
  const operation = (d.modrm >> 3) & 7;
  const size = d.operandSize;
  if (operation == 0 && d.hasMemory) {
    memory();
    flags(putMemoryImmediate(ops.OP_TEST_MI64 + half, d.immediate), 0);
    return true;
  }
  if (d.hasMemory) return false;
  const a = gpr(d.rm, size);
  switch (operation) {
    case 0: {
      const uop = putImmediate(ops.OP_TEST_RI64 + half, a, d.immediate);
      flags(uop, 0);
      noteComparison(uop);
      return true;
    }
    case 2:
      putRegisters(ops.OP_NOT_R64 + half, a, 0);
      return true;
    case 3:
      flags(putRegisters(ops.OP_NEG_R64 + half, a, 0), 0);
      return true;
    case 4:
      if (half) return false;
      flags(putRegisters(ops.OP_MUL64, 0, a), 0);
      return true;
    default:
      return false;
  }
}

/** FF. */
function emitGroup5(half: u16): bool {
  const operation = (d.modrm >> 3) & 7;
  // INC and DEC keep CF, which the flags before them are needed for.
  if (operation < 2) {
    noteFlagsSeen();
    if (d.hasMemory) {
      memory();
      putMemory((operation ? ops.OP_DEC_M64 : ops.OP_INC_M64) + half, 0);
    } else putRegisters((operation ? ops.OP_DEC_R64 : ops.OP_INC_R64) + half, gpr(d.rm, d.operandSize), 0);
    return true;
  }
  if (operation != 6) return false;
  noteFlagsSeen();
  if (d.hasMemory) {
    prepareAddress(true);
    putMemory(ops.OP_PUSH_M, 0);
  } else putRegisters(ops.OP_PUSH_R, gpr(d.rm, 8), 0);
  return true;
}

// ── Cold ones ──

const INTEGER = ops.OP_COLD_INTEGER;

/** Operands as the opcode's lowest bit says: bytes, or d.operandSize. Registers of that size. */
function coldSized(): void {
  const size = d.code & 1 ? d.operandSize : 1;
  putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(d.reg, size), gpr(d.rm, size), size);
}

function coldAccumulator(): void {
  const size = d.code & 1 ? d.operandSize : 1;
  putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, gpr(0, size), size);
}

/** The same for a group: A is its number. */
function coldGroup(size: u32): void {
  putCold(INTEGER, 2 * UOP_SIZE_BYTES, (d.modrm >> 3) & 7, gpr(d.rm, size), size);
}

function cold(size: u32): void {
  putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(d.reg, size), gpr(d.rm, size), size);
}

/** Operands on the stack: 64 bits, unless a prefix says 16. */
function stackSize(): u32 {
  if (d.codeSize != MODE_64) return d.operandSize;
  return d.operandSize == 2 ? 2 : 8;
}

function coldJump(a: u32, b: u32, size: u32): void {
  putColdEnd(ops.OP_COLD_JUMP, a, b, size);
}

function coldSystem(a: u32, b: u32, size: u32): void {
  putColdEnd(ops.OP_COLD_SYSTEM, a, b, size);
}

function unless64(isThere: bool): bool {
  if (d.codeSize != MODE_64 || !isThere) return true;
  putRaise(UD);
  return false;
}

function emitCold(): void {
  const code = d.code;
  const is64 = d.codeSize == MODE_64;
  const group = (d.modrm >> 3) & 7;
  if (code < 0x40) {
    if ((code & 7) < 4) {
      coldSized();
      return;
    }
    if ((code & 7) < 6) {
      coldAccumulator();
      return;
    }
    // Segments on the stack, and BCD.
    if (!unless64(true)) return;
    if (code < 0x20 && code != 0x0f) {
      if (code & 1) coldSystem(code >> 3, 0, d.operandSize);
      else putCold(INTEGER, 2 * UOP_SIZE_BYTES, code >> 3, 0, d.operandSize);
    } else putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, 1);
    return;
  }
  if (code < 0x50) {
    putCold(INTEGER, 2 * UOP_SIZE_BYTES, (code >> 3) & 1, gpr(code & 7, d.operandSize), d.operandSize);
    return;
  }
  if (code < 0x60) {
    const size = stackSize();
    putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, gpr((code & 7) | ((d.rex & 1) << 3), size), size);
    return;
  }
  switch (code) {
    case 0x60:
    case 0x61:
      if (unless64(true)) putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, d.operandSize);
      return;
    case 0x63:
      // In 64-bit mode MOVSXD; else ARPL, which is not here.
      if (is64) putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(d.reg, d.operandSize), gpr(d.rm, 4), d.operandSize);
      else putRaise(UD);
      return;
    case 0x68:
    case 0x6a:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, stackSize());
      return;
    case 0x69:
    case 0x6b:
      cold(d.operandSize);
      return;
    case 0x6c:
    case 0x6d:
    case 0x6e:
    case 0x6f:
      coldJump(0, 0, code & 1 ? min<u32>(d.operandSize, 4) : 1);
      return;
    case 0x82:
      if (!unless64(true)) return;
      coldGroup(1);
      return;
    case 0x80:
      coldGroup(1);
      return;
    case 0x81:
    case 0x83:
      coldGroup(d.operandSize);
      return;
    case 0x84:
    case 0x85:
    case 0x86:
    case 0x87:
    case 0x88:
    case 0x89:
    case 0x8a:
    case 0x8b:
      coldSized();
      return;
    case 0x8c:
      if (group > 5) putRaise(UD);
      else putCold(INTEGER, 2 * UOP_SIZE_BYTES, group, gpr(d.rm, d.operandSize), d.hasMemory ? 2 : d.operandSize);
      return;
    case 0x8d:
      if (!d.hasMemory) {
        putRaise(UD);
        return;
      }
      prepareAddress(false);
      putLea();
      return;
    case 0x8e:
      if (group > 5 || group == 1) putRaise(UD);
      else coldSystem(group, gpr(d.rm, 2), 2);
      return;
    case 0x8f:
      if (group != 0) putRaise(UD);
      else emitPopMemory();
      return;
    case 0x9a:
    case 0xea:
      if (unless64(true)) coldSystem(0, 0, d.operandSize);
      return;
    case 0x98:
    case 0x99:
    case 0x9e:
    case 0x9f:
    case 0xd7:
    case 0xf5:
    case 0xf8:
    case 0xf9:
    case 0xfa:
    case 0xfc:
    case 0xfd:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, d.operandSize);
      return;
    case 0xa8:
    case 0xa9:
      coldAccumulator();
      return;
    case 0x9b:
      putCold(ops.OP_COLD_X87, 2 * UOP_SIZE_BYTES, 0, 0, 0);
      return;
    case 0x9c:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, stackSize());
      return;
    case 0x9d:
      coldSystem(0, 0, stackSize());
      return;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3: {
      const size = code & 1 ? d.operandSize : 1;
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(0, size), 0, size);
      return;
    }
    case 0xa4:
    case 0xa5:
    case 0xa6:
    case 0xa7:
    case 0xaa:
    case 0xab:
    case 0xac:
    case 0xad:
    case 0xae:
    case 0xaf: {
      const size = code & 1 ? d.operandSize : 1;
      if (d.form & (FORM_F2 | FORM_F3)) coldJump(0, 0, size);
      else putCold(ops.OP_COLD_STRING, 2 * UOP_SIZE_BYTES, 0, 0, size);
      return;
    }
    case 0xc0:
    case 0xd0:
    case 0xd2:
      coldGroup(1);
      return;
    case 0xc1:
    case 0xd1:
    case 0xd3:
      coldGroup(d.operandSize);
      return;
    case 0xc2:
    case 0xc3:
    case 0xe8:
      coldJump(0, 0, stackSize());
      return;
    case 0xc4:
    case 0xc5:
      if (!unless64(true)) return;
      if (d.hasMemory) coldSystem(gpr(d.reg, d.operandSize), 0, d.operandSize);
      else putRaise(UD);
      return;
    case 0xc6:
    case 0xc7:
      if (group != 0) putRaise(UD);
      else coldSized();
      return;
    case 0xc8:
    case 0xc9:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, stackSize());
      return;
    case 0xca:
    case 0xcb:
    case 0xcc:
    case 0xcd:
    case 0xcf:
    case 0xf1:
    case 0xf4:
    case 0xfb:
      coldSystem(0, 0, d.operandSize);
      return;
    case 0xce:
      if (unless64(true)) coldSystem(0, 0, d.operandSize);
      return;
    case 0xd4:
    case 0xd5:
      if (unless64(true)) putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, 0, 1);
      return;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
      coldJump(0, 0, d.operandSize);
      return;
    case 0xe4:
    case 0xe5:
    case 0xe6:
    case 0xe7:
    case 0xec:
    case 0xed:
    case 0xee:
    case 0xef:
      coldSystem(0, 0, code & 1 ? min<u32>(d.operandSize, 4) : 1);
      return;
    case 0xf6:
      coldGroup(1);
      return;
    case 0xf7:
      coldGroup(d.operandSize);
      return;
    case 0xfe:
      if (group > 1) putRaise(UD);
      else coldGroup(1);
      return;
    case 0xff:
      emitColdGroup5(group);
      return;
    default:
      break;
  }
  if ((code & ~7) == 0x90) {
    const size = d.operandSize;
    putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(0, size), gpr((code & 7) | ((d.rex & 1) << 3), size), size);
  } else if ((code & ~15) == 0xb0) {
    const size = code & 8 ? d.operandSize : 1;
    putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, gpr((code & 7) | ((d.rex & 1) << 3), size), size);
  } else if ((code & ~7) == 0xd8) {
    putCold(ops.OP_COLD_X87, 2 * UOP_SIZE_BYTES, 0, 0, d.operandSize);
  } else putRaise(UD);
}

/** LEA of 16 bits, or outside of 64-bit mode: what its address is, is known. */
function putLea(): void {
  const size = d.operandSize;
  putMemory(size == 8 ? ops.OP_LEA64 : ops.OP_LEA32, size == 2 ? addressRegister() : gpr(d.reg, size));
  if (size == 2) putRegisters(ops.OP_MOV_RR16, gpr(d.reg, 2), addressRegister());
}

function addressRegister(): u32 {
  return <u32>cpu + CPU_ADDRESS;
}

/** POP to memory: an address with RSP is that after the pop. */
function emitPopMemory(): void {
  const size = stackSize();
  if (d.hasMemory && d.base == RSP && d.addressSize != 2) d.addDisplacement(size);
  putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, gpr(d.rm, size), size);
}

function emitColdGroup5(group: u32): void {
  switch (group) {
    case 0:
    case 1:
      coldGroup(d.operandSize);
      return;
    case 2:
    case 4: {
      const size = stackSize();
      coldJump(group, gpr(d.rm, size), size);
      return;
    }
    case 3:
    case 5:
      if (d.hasMemory) coldSystem(group, 0, d.operandSize);
      else putRaise(UD);
      return;
    case 6:
      coldGroup(stackSize());
      return;
    default:
      putRaise(UD);
  }
}

function emitCold0f(): void {
  const code = d.code;
  const byte = code & 0xff;
  const group = (d.modrm >> 3) & 7;
  const size = d.operandSize;
  if (code >= MAP_0F38) {
    emitSse();
    return;
  }
  if ((byte & 0xf0) == 0x40) {
    cold(size);
    return;
  }
  if ((byte & 0xf0) == 0x90) {
    cold(1);
    return;
  }
  switch (byte) {
    case 0x00:
    case 0x01:
      coldSystem(group, gpr(d.rm, d.hasMemory ? 2 : size), d.hasMemory ? 2 : size);
      return;
    case 0x02:
    case 0x03:
      cold(size);
      return;
    case 0x05:
    case 0x06:
    case 0x07:
    case 0x08:
    case 0x09:
    case 0x30:
    case 0x31:
    case 0x32:
    case 0x33:
    case 0x34:
    case 0x35:
    case 0xa1:
    case 0xa2:
    case 0xa9:
      coldSystem(0, 0, byte == 0xa1 || byte == 0xa9 ? stackSize() : size);
      return;
    case 0x20:
    case 0x21:
    case 0x22:
    case 0x23:
      coldSystem(d.reg, gpr(d.rm, 8), d.codeSize == MODE_64 ? 8 : 4);
      return;
    case 0x0b:
    case 0xb9:
    case 0xff:
      putRaise(UD);
      return;
    case 0xa0:
    case 0xa8:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, (byte >> 3) & 7, 0, stackSize());
      return;
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb:
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad:
    case 0xaf:
    case 0xbc:
    case 0xbd:
      cold(size);
      return;
    case 0xb8:
      if (d.form & FORM_F3) cold(size);
      else putRaise(UD);
      return;
    case 0xba:
      if (group < 4) putRaise(UD);
      else coldGroup(size);
      return;
    case 0xae:
      emitGroup15(group);
      return;
    case 0xb0:
    case 0xb1:
    case 0xc0:
    case 0xc1: {
      const width = byte & 1 ? size : 1;
      cold(width);
      return;
    }
    case 0xb2:
    case 0xb4:
    case 0xb5:
      if (d.hasMemory) coldSystem(gpr(d.reg, size), 0, size);
      else putRaise(UD);
      return;
    case 0xb6:
    case 0xbe:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(d.reg, size), gpr(d.rm, 1), size);
      return;
    case 0xb7:
    case 0xbf:
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, gpr(d.reg, size), gpr(d.rm, 2), size);
      return;
    case 0xc3:
      if (!d.hasMemory || d.form & (FORM_66 | FORM_F2 | FORM_F3)) putRaise(UD);
      else cold(size);
      return;
    case 0xc7:
      if (group == 1 && d.hasMemory) coldGroup(d.form & FORM_REX_W ? 8 : 4);
      else putRaise(UD);
      return;
    case 0x0d:
      // AMD: there is nothing in a register to prefetch.
      if (d.hasMemory) emitNop();
      else putRaise(UD);
      return;
    case 0x18:
    case 0x19:
    case 0x1a:
    case 0x1b:
    case 0x1c:
    case 0x1d:
    case 0x1e:
    case 0x1f:
      emitNop();
      return;
    case 0x77:
      if (d.form & (FORM_66 | FORM_F2 | FORM_F3)) putRaise(UD);
      else putCold(ops.OP_COLD_X87, 2 * UOP_SIZE_BYTES, 0, 0, 0);
      return;
    default:
      break;
  }
  if ((byte & ~7) == 0xc8) {
    putCold(INTEGER, 2 * UOP_SIZE_BYTES, 0, gpr((byte & 7) | ((d.rex & 1) << 3), size), size);
    return;
  }
  emitSse();
}

/** 0F AE. */
function emitGroup15(group: u32): void {
  if (d.hasMemory && !(d.form & (FORM_66 | FORM_F2 | FORM_F3))) {
    if (group < 2) {
      putCold(ops.OP_COLD_X87, 2 * UOP_SIZE_BYTES, group, 0, d.operandSize);
      return;
    }
    if (group < 4) {
      putCold(ops.OP_COLD_SSE, 2 * UOP_SIZE_BYTES, group, 0, 4);
      return;
    }
    // CLFLUSH looks at its operand as a load does.
    if (group == 7) {
      putCold(INTEGER, 2 * UOP_SIZE_BYTES, group, 0, 1);
      return;
    }
  }
  // LFENCE, MFENCE, SFENCE.
  if (!d.hasMemory && group >= 5 && !(d.form & (FORM_66 | FORM_F2 | FORM_F3))) {
    putCold(INTEGER, 2 * UOP_SIZE_BYTES, group, 0, 1);
    return;
  }
  putRaise(UD);
}

function emitSse(): void {
  const form = d.form | (d.hasMemory ? FORM_MEMORY : 0);
  const kinds = sseOperandKinds(d.code, form);
  const isGroup = d.code >= (MAP_0F | 0x71) && d.code <= (MAP_0F | 0x73);
  if (kinds == 0 || (isGroup && !isShift(d.code, (d.modrm >> 3) & 7, form))) {
    putRaise(UD);
    return;
  }
  const size: u32 = d.operandSize;
  let a = gpr(d.reg, 8);
  if (kinds & SSE_A_XMM) a = xmm(d.reg);
  else if (kinds & SSE_A_MMX) a = d.reg & 7;
  else if (kinds & SSE_A_OPCODE) a = (d.modrm >> 3) & 7;
  let b = gpr(d.rm, kinds & SSE_B_BYTE ? 1 : 8);
  if (kinds & SSE_B_XMM) b = xmm(d.rm);
  else if (kinds & SSE_B_MMX) b = d.rm & 7;
  putCold(ops.OP_COLD_SSE, 2 * UOP_SIZE_BYTES, a, b, size);
}
