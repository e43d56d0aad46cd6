// SPDX-License-Identifier: Apache-2.0
// x87 instructions, opcodes D8 to DF and 9B. SDM volume 1, chapter 8, and volume 2.
//
// An instruction reads memory first, computes in the globals of float80.ts, writes memory, and only then changes registers and
// the status word: what faults has changed nothing. An exception that is not masked is raised by the next instruction that waits.
import { readValue, toRead, writeValue } from "./access.ts";
import { CR0_MP, CR0_TS } from "./control-bits.ts";
import { CF, condition, PF, setFlags, ZF } from "./flags.ts";
import {
  add,
  begin,
  compare,
  divide80,
  extractExponent,
  extractSignificand,
  flags,
  fromFloat32,
  fromFloat64,
  fromInteger,
  head,
  IE,
  isDenormal,
  isForbidden,
  isInfinite,
  isLoadForbidden,
  isNaN80,
  hasQuotient,
  isPartial,
  isStoreForbidden,
  isUnsupported,
  isUp,
  mantissa,
  multiply80,
  ORDER_NONE,
  quotient,
  remainder,
  report,
  roundConstant,
  roundToInteger,
  scale,
  setIndefinite,
  setResult,
  settleLoad,
  setUp,
  SF,
  signOf,
  squareRoot,
  subtract,
  toFloat32,
  toFloat64,
  toInteger,
} from "./float80.ts";
import { execFxsave } from "./fxsave.ts";
import { CPU_CR0, CPU_GPRS, CPU_TEMPORARY, CPU_X87_STATUS } from "./layout.ts";
import { arcTangent, cosine, exponential, isOutOfRange, logarithm, logarithmOfOnePlus, sine, tangent } from "./transcendental.ts";
import { address, COLD_CODE, COLD_MODRM, COLD_SIZE, isMemory, MAP_0F } from "./uop.ts";
import { cpu, hasFaulted, NM, raise, unsupported } from "./vcpu.ts";
import { loadEnvironment, restoreState, saveState, storeEnvironment } from "./x87-environment.ts";
import {
  canWrite,
  controlWord,
  hasNothingPending,
  headOf,
  isAvailable,
  isEmpty,
  mantissaOf,
  moveTop,
  notePointers,
  pop,
  push,
  reset,
  setControlWord,
  setEmpty,
  setRegister,
  setStatus,
  stackRegister,
  STATUS_C0,
  STATUS_C1,
  STATUS_C2,
  STATUS_C3,
  STATUS_EXCEPTIONS,
  STATUS_SF,
  statusWord,
  writeBytes,
} from "./x87-state.ts";

const CODE_FWAIT: u32 = 0x9b;
const ALL_CODES: u32 = STATUS_C0 | STATUS_C2 | STATUS_C3;

/** Of 0F AE and 0F 77 also. */
export function execX87(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  if (code == CODE_FWAIT) return wait();
  if (code >= MAP_0F) return execFxsave(pc);
  if (!isAvailable()) return false;
  const modrm = <u32>load<u8>(pc, COLD_MODRM);
  const group = code & 7;
  const operation = (modrm >> 3) & 7;
  const index = modrm & 7;
  begin(controlWord());
  if (isMemory(pc)) {
    if (group & 1) return memoryForm(pc, (group >> 1) * 8 + operation);
    return hasNothingPending() && arithmeticWithMemory(pc, group >> 1, operation);
  }
  if (!isDefined(group, operation, index)) return unsupported();
  if (group == 3 && operation == 4) return controlForm(index);
  if (group == 7 && operation == 4) return storeStatusInAx();
  return hasNothingPending() && registerForm(pc, group, operation, index);
}

/** Whether a register form is an instruction. #UD comes before #MF. */
function isDefined(group: u32, operation: u32, index: u32): bool {
  switch (group) {
    case 1:
      if (operation == 2) return index == 0;
      if (operation == 4) return index < 2 || index == 4 || index == 5;
      return operation != 5 || index < 7;
    case 2:
      return operation < 4 || (operation == 5 && index == 1);
    case 3:
      return operation == 4 ? index < 5 : operation < 7;
    case 5:
      return operation < 6;
    case 6:
      return operation != 3 || index == 1;
    case 7:
      return operation == 4 ? index == 0 : operation < 7;
    default:
      return true;
  }
}

/** 9B */
function wait(): bool {
  if ((load<u64>(cpu, CPU_CR0) & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)) return raise(NM);
  return hasNothingPending();
}

// ── How an instruction ends ──

/** Brings what it has met into the status word; of the condition codes, those in `mask` become `codes`. C1 is `isUp`. */
function finish(pc: usize, mask: u32, codes: u32): bool {
  const status = load<u16>(cpu, CPU_X87_STATUS) & ~(mask | STATUS_C1);
  setStatus(status | flags | codes | (isUp ? STATUS_C1 : 0));
  notePointers(pc);
  return true;
}

/** A register was empty. The result is what it is when that is masked. */
function underflow(): void {
  report(IE | SF);
  setUp(false);
  setIndefinite();
}

/** There is no register left. */
function overflow(): void {
  report(IE | SF);
  setUp(true);
  setIndefinite();
}

/** The result goes to ST(destination). */
function finishResult(pc: usize, destination: u32, pops: bool): bool {
  if (!isForbidden()) {
    setRegister(destination, head, mantissa);
    if (pops) pop();
  }
  return finish(pc, 0, 0);
}

/** The result is pushed. */
function finishPush(pc: usize): bool {
  if (!isForbidden()) push(head, mantissa);
  return finish(pc, 0, 0);
}

// ── Operands ──

@inline
function stackHead(index: u32): u32 {
  return headOf(stackRegister(index));
}

@inline
function stackMantissa(index: u32): u64 {
  return mantissaOf(stackRegister(index));
}

/** Operands in memory; the first four in the order of the opcodes D8, DA, DC and DE. */
const KIND_FLOAT32: u32 = 0;
const KIND_INT32: u32 = 1;
const KIND_FLOAT64: u32 = 2;
const KIND_INT16: u32 = 3;
const KIND_INT64: u32 = 4;

/** Makes an operand in memory the result. False: an exception was raised. */
function fetch(at: u64, kind: u32): bool {
  switch (kind) {
    case KIND_FLOAT32:
      fromFloat32(<u32>readValue(at, 4));
      break;
    case KIND_INT32:
      fromInteger(<i32>readValue(at, 4));
      break;
    case KIND_FLOAT64:
      fromFloat64(readValue(at, 8));
      break;
    case KIND_INT16:
      fromInteger(<i16>readValue(at, 2));
      break;
    default:
      fromInteger(readValue(at, 8));
      break;
  }
  return !hasFaulted();
}

// ── Arithmetic: D8, DA, DC and DE, and the register forms of the same ──

/** Operations of ModRM.reg. */
const FADD: u32 = 0;
const FMUL: u32 = 1;
const FCOM: u32 = 2;
const FCOMP: u32 = 3;
const FSUB: u32 = 4;
const FSUBR: u32 = 5;
const FDIV: u32 = 6;

function arithmeticWithMemory(pc: usize, kind: u32, operation: u32): bool {
  if (!fetch(address(pc), kind)) return false;
  const isComparison = operation == FCOM || operation == FCOMP;
  if (isEmpty(0)) {
    underflow();
    if (isComparison) return finishComparison(pc, ORDER_NONE, operation - FCOM);
  } else {
    if (isComparison) {
      const order = compare(stackHead(0), stackMantissa(0), head, mantissa, false);
      return finishComparison(pc, order, operation - FCOM);
    }
    calculate(operation, head, mantissa);
  }
  return finishResult(pc, 0, false);
}

/** ST(0) and another operand. */
function calculate(operation: u32, otherHead: u32, other: u64): void {
  const topHead = stackHead(0);
  const top = stackMantissa(0);
  switch (operation) {
    case FADD:
      add(topHead, top, otherHead, other);
      break;
    case FMUL:
      multiply80(topHead, top, otherHead, other);
      break;
    case FSUB:
      subtract(topHead, top, otherHead, other);
      break;
    case FSUBR:
      subtract(otherHead, other, topHead, top);
      break;
    case FDIV:
      divide80(topHead, top, otherHead, other);
      break;
    default:
      divide80(otherHead, other, topHead, top);
      break;
  }
}

/** ST(0) and ST(index), one of which is the destination. */
function arithmetic(pc: usize, operation: u32, index: u32, destination: u32, pops: bool): bool {
  if (isEmpty(0) || isEmpty(index)) underflow();
  else calculate(operation, stackHead(index), stackMantissa(index));
  return finishResult(pc, destination, pops);
}

// ── Comparisons ──

function order(index: u32, isQuiet: bool): u32 {
  if (isEmpty(0) || isEmpty(index)) {
    underflow();
    return ORDER_NONE;
  }
  return compare(stackHead(0), stackMantissa(0), stackHead(index), stackMantissa(index), isQuiet);
}

/** Into C3, C2 and C0. */
function finishComparison(pc: usize, order: u32, popCount: u32): bool {
  if (!isForbidden()) {
    if (popCount > 0) pop();
    if (popCount > 1) pop();
  }
  const codes = (order & 1 ? STATUS_C0 : 0) | (order & 2 ? STATUS_C2 : 0) | (order & 4 ? STATUS_C3 : 0);
  return finish(pc, ALL_CODES, codes);
}

/** Into ZF, PF and CF. */
function compareToFlags(pc: usize, index: u32, isQuiet: bool, pops: bool): bool {
  const result = order(index, isQuiet);
  setFlags((result & 1 ? CF : 0) | (result & 2 ? PF : 0) | (result & 4 ? ZF : 0));
  if (pops && !isForbidden()) pop();
  // C1 stays as it is.
  if (!(flags & SF)) setUp((load<u16>(cpu, CPU_X87_STATUS) & STATUS_C1) != 0);
  return finish(pc, 0, 0);
}

/** FTST */
function test(pc: usize): bool {
  if (isEmpty(0)) {
    underflow();
    return finishComparison(pc, ORDER_NONE, 0);
  }
  return finishComparison(pc, compare(stackHead(0), stackMantissa(0), 0, 0, false), 0);
}

/** FXAM, which looks at an empty register, too. */
function examine(pc: usize): bool {
  const topHead = stackHead(0);
  const top = stackMantissa(0);
  let codes: u32;
  if (isEmpty(0)) codes = STATUS_C3 | STATUS_C0;
  else if (isUnsupported(topHead, top)) codes = 0;
  else if (isNaN80(topHead, top)) codes = STATUS_C0;
  else if (isInfinite(topHead, top)) codes = STATUS_C2 | STATUS_C0;
  else if (top == 0) codes = STATUS_C3;
  else if (isDenormal(topHead, top)) codes = STATUS_C3 | STATUS_C2;
  else codes = STATUS_C2;
  setUp(signOf(topHead) != 0);
  return finish(pc, ALL_CODES, codes);
}

// ── Register forms ──

function registerForm(pc: usize, group: u32, operation: u32, index: u32): bool {
  switch (group) {
    case 0:
      if (operation == FCOM || operation == FCOMP) return finishComparison(pc, order(index, false), operation - FCOM);
      return arithmetic(pc, operation, index, 0, false);
    case 1:
      return formD9(pc, operation, index);
    case 2:
      // DA E9, FUCOMPP.
      return operation < 4 ? moveIf(pc, operation, false, index) : finishComparison(pc, order(1, true), 2);
    case 3:
      return operation < 4 ? moveIf(pc, operation, true, index) : compareToFlags(pc, index, operation == 5, false);
    case 4:
      // DC D0 and DC D8 are the same as D8 D0 and D8 D8.
      if (operation == FCOM || operation == FCOMP) return finishComparison(pc, order(index, false), operation - FCOM);
      return arithmetic(pc, operation, index, index, false);
    case 5:
      return formDD(pc, operation, index);
    case 6:
      if (operation == FCOM) return finishComparison(pc, order(index, false), 1);
      // DE D9, FCOMPP.
      if (operation == FCOMP) return finishComparison(pc, order(1, false), 2);
      return arithmetic(pc, operation, index, index, true);
    default:
      return formDF(pc, operation, index);
  }
}

function formD9(pc: usize, operation: u32, index: u32): bool {
  switch (operation) {
    case 0:
      return loadRegister(pc, index);
    case 1:
      return exchange(pc, index);
    case 2:
      return noOperation(pc);
    case 3:
      return storeSilently(pc, index);
    case 4:
      switch (index) {
        case 0:
          return changeSign(pc, stackHead(0) ^ 0x8000);
        case 1:
          return changeSign(pc, stackHead(0) & 0x7fff);
        case 4:
          return test(pc);
        default:
          return examine(pc);
      }
    case 5:
      return loadConstant(pc, index);
    case 6:
      return formD9F0(pc, index);
    default:
      return formD9F8(pc, index);
  }
}

function formDD(pc: usize, operation: u32, index: u32): bool {
  switch (operation) {
    case 0:
      return free(pc, index, false);
    case 1:
      return exchange(pc, index);
    case 2:
      return storeRegister(pc, index, false);
    case 3:
      return storeRegister(pc, index, true);
    case 4:
      return finishComparison(pc, order(index, true), 0);
    default:
      return finishComparison(pc, order(index, true), 1);
  }
}

/** The first four are encodings that only old manuals have. */
function formDF(pc: usize, operation: u32, index: u32): bool {
  switch (operation) {
    case 0:
      return free(pc, index, true);
    case 1:
      return exchange(pc, index);
    case 2:
    case 3:
      return storeRegister(pc, index, true);
    default:
      return compareToFlags(pc, index, operation == 5, true);
  }
}

function formD9F0(pc: usize, index: u32): bool {
  switch (index) {
    case 0:
      return unary(pc, UNARY_F2XM1);
    case 1:
      return binary(pc, BINARY_FYL2X);
    case 2:
      return partialTangent(pc);
    case 3:
      return binary(pc, BINARY_FPATAN);
    case 4:
      return extract(pc);
    case 5:
      return takeRemainder(pc, true);
    case 6:
      return turn(pc, 7);
    default:
      return turn(pc, 1);
  }
}

function formD9F8(pc: usize, index: u32): bool {
  switch (index) {
    case 0:
      return takeRemainder(pc, false);
    case 1:
      return binary(pc, BINARY_FYL2XP1);
    case 2:
      return unary(pc, UNARY_FSQRT);
    case 3:
      return sineAndCosine(pc);
    case 4:
      return unary(pc, UNARY_FRNDINT);
    case 5:
      return scaleTop(pc);
    case 6:
      return ofAngle(pc, false);
    default:
      return ofAngle(pc, true);
  }
}

// ── Moves between registers ──

function loadRegister(pc: usize, index: u32): bool {
  if (isEmpty(index)) underflow();
  else if (!isEmpty(7)) overflow();
  else setResult(stackHead(index), stackMantissa(index));
  return finishPush(pc);
}

function storeRegister(pc: usize, index: u32, pops: bool): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  return finishResult(pc, index, pops);
}

/** FSTPNCE, which only old manuals have: an empty register is no exception. */
function storeSilently(pc: usize, index: u32): bool {
  if (!isEmpty(0)) setRegister(index, stackHead(0), stackMantissa(0));
  pop();
  return finish(pc, 0, 0);
}

function exchange(pc: usize, index: u32): bool {
  let topHead = stackHead(0);
  let top = stackMantissa(0);
  let otherHead = stackHead(index);
  let other = stackMantissa(index);
  if (isEmpty(0)) {
    underflow();
    topHead = head;
    top = mantissa;
  }
  if (isEmpty(index)) {
    underflow();
    otherHead = head;
    other = mantissa;
  }
  if (!isForbidden()) {
    setRegister(index, topHead, top);
    setRegister(0, otherHead, other);
  }
  return finish(pc, 0, 0);
}

/** FCMOVcc: below, equal, below or equal, unordered, or none of it. */
function moveIf(pc: usize, operation: u32, isInverted: bool, index: u32): bool {
  if (isEmpty(0) || isEmpty(index)) {
    underflow();
    return finishResult(pc, 0, false);
  }
  const code = operation == 3 ? 10 : 2 + operation * 2;
  if (condition(code) != isInverted) setRegister(0, stackHead(index), stackMantissa(index));
  notePointers(pc);
  return true;
}

function changeSign(pc: usize, newHead: u32): bool {
  if (isEmpty(0)) underflow();
  else setResult(newHead, stackMantissa(0));
  return finishResult(pc, 0, false);
}

function free(pc: usize, index: u32, pops: bool): bool {
  setEmpty(index);
  if (pops) pop();
  return finish(pc, 0, 0);
}

/** FINCSTP and FDECSTP */
function turn(pc: usize, by: u32): bool {
  moveTop(by);
  return finish(pc, 0, 0);
}

function noOperation(pc: usize): bool {
  notePointers(pc);
  return true;
}

/** FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ */
function loadConstant(pc: usize, index: u32): bool {
  if (!isEmpty(7)) {
    overflow();
    return finishPush(pc);
  }
  switch (index) {
    case 0:
      setResult(0x3fff, 0x8000_0000_0000_0000);
      break;
    case 1:
      roundConstant(0x4000, 0xd49a_784b_cd1b_8afe, 0x492b_f6ff_4daf_db4c);
      break;
    case 2:
      roundConstant(0x3fff, 0xb8aa_3b29_5c17_f0bb, 0xbe87_fed0_691d_3e88);
      break;
    case 3:
      roundConstant(0x4000, 0xc90f_daa2_2168_c234, 0xc4c6_628b_80dc_1cd1);
      break;
    case 4:
      roundConstant(0x3ffd, 0x9a20_9a84_fbcf_f798, 0x8f89_59ac_0b7c_9178);
      break;
    case 5:
      roundConstant(0x3ffe, 0xb172_17f7_d1cf_79ab, 0xc9e3_b398_03f2_f6af);
      break;
    default:
      setResult(0, 0);
      break;
  }
  return finishPush(pc);
}

// ── Functions ──

const UNARY_F2XM1: u32 = 0;
const UNARY_FSQRT: u32 = 1;
const UNARY_FRNDINT: u32 = 2;

/** ST(0) = f(ST(0)) */
function unary(pc: usize, what: u32): bool {
  if (isEmpty(0)) {
    underflow();
  } else {
    switch (what) {
      case UNARY_F2XM1:
        exponential(stackHead(0), stackMantissa(0));
        break;
      case UNARY_FSQRT:
        squareRoot(stackHead(0), stackMantissa(0));
        break;
      default:
        roundToInteger(stackHead(0), stackMantissa(0));
        break;
    }
  }
  return finishResult(pc, 0, false);
}

const BINARY_FYL2X: u32 = 0;
const BINARY_FPATAN: u32 = 1;
const BINARY_FYL2XP1: u32 = 2;

/** ST(1) = f(ST(1), ST(0)), and ST(0) is popped. */
function binary(pc: usize, what: u32): bool {
  if (isEmpty(0) || isEmpty(1)) {
    underflow();
  } else {
    switch (what) {
      case BINARY_FYL2X:
        logarithm(stackHead(1), stackMantissa(1), stackHead(0), stackMantissa(0));
        break;
      case BINARY_FPATAN:
        arcTangent(stackHead(1), stackMantissa(1), stackHead(0), stackMantissa(0));
        break;
      default:
        logarithmOfOnePlus(stackHead(1), stackMantissa(1), stackHead(0), stackMantissa(0));
        break;
    }
  }
  return finishResult(pc, 1, true);
}

function scaleTop(pc: usize): bool {
  if (isEmpty(0) || isEmpty(1)) underflow();
  else scale(stackHead(0), stackMantissa(0), stackHead(1), stackMantissa(1));
  return finishResult(pc, 0, false);
}

/** There is an operand, and room for a second result; else both are that of an invalid operation. */
function hasRoom(): bool {
  if (isEmpty(0)) underflow();
  else if (!isEmpty(7)) overflow();
  else return true;
  if (!isForbidden()) {
    setRegister(0, head, mantissa);
    push(head, mantissa);
  }
  return false;
}

/** FXTRACT: the exponent stays, the significand is pushed. */
function extract(pc: usize): bool {
  if (!hasRoom()) return finish(pc, 0, 0);
  const topHead = stackHead(0);
  const top = stackMantissa(0);
  extractExponent(topHead, top);
  if (!isForbidden()) {
    setRegister(0, head, mantissa);
    extractSignificand(topHead, top);
    push(head, mantissa);
  }
  return finish(pc, 0, 0);
}

/** FPREM and FPREM1 */
function takeRemainder(pc: usize, toNearest: bool): bool {
  if (isEmpty(0) || isEmpty(1)) {
    underflow();
    if (!isForbidden()) setRegister(0, head, mantissa);
    return finish(pc, STATUS_C2, 0);
  }
  remainder(stackHead(0), stackMantissa(0), stackHead(1), stackMantissa(1), toNearest);
  if (!isForbidden()) setRegister(0, head, mantissa);
  if (!hasQuotient) return finish(pc, STATUS_C2, 0);
  const codes = (quotient & 4 ? STATUS_C0 : 0) | (quotient & 2 ? STATUS_C3 : 0) | (isPartial ? STATUS_C2 : 0);
  setUp((quotient & 1) != 0);
  return finish(pc, ALL_CODES, codes);
}

/** FSIN and FCOS */
function ofAngle(pc: usize, isCosine: bool): bool {
  const topHead = stackHead(0);
  const top = stackMantissa(0);
  if (isEmpty(0)) underflow();
  else if (isOutOfRange(topHead, top)) return finish(pc, STATUS_C2, STATUS_C2);
  else if (isCosine) cosine(topHead, top);
  else sine(topHead, top);
  if (!isForbidden()) setRegister(0, head, mantissa);
  return finish(pc, STATUS_C2, 0);
}

/** FSINCOS: the sine, and the cosine above it. */
function sineAndCosine(pc: usize): bool {
  if (!hasRoom()) return finish(pc, STATUS_C2, 0);
  const topHead = stackHead(0);
  const top = stackMantissa(0);
  if (isOutOfRange(topHead, top)) return finish(pc, STATUS_C2, STATUS_C2);
  sine(topHead, top);
  if (!isForbidden()) {
    setRegister(0, head, mantissa);
    cosine(topHead, top);
    push(head, mantissa);
  }
  return finish(pc, STATUS_C2, 0);
}

/** FPTAN: the tangent, and 1 above it. */
function partialTangent(pc: usize): bool {
  if (!hasRoom()) return finish(pc, STATUS_C2, 0);
  const topHead = stackHead(0);
  const top = stackMantissa(0);
  if (isOutOfRange(topHead, top)) return finish(pc, STATUS_C2, STATUS_C2);
  tangent(topHead, top);
  if (!isForbidden()) {
    setRegister(0, head, mantissa);
    if (isNaN80(head, mantissa)) push(head, mantissa);
    else push(0x3fff, 0x8000_0000_0000_0000);
  }
  return finish(pc, STATUS_C2, 0);
}

// ── Control ──

/** DB E0 to DB E4, none of which waits. */
function controlForm(index: u32): bool {
  switch (index) {
    case 2:
      setStatus(load<u16>(cpu, CPU_X87_STATUS) & ~(STATUS_EXCEPTIONS | STATUS_SF));
      return true;
    case 3:
      reset();
      return true;
    default:
      // FNENI, FNDISI and FNSETPM, which did something in the 8087 and 80287.
      return true;
  }
}

function storeStatusInAx(): bool {
  store<u16>(cpu, <u16>statusWord(), CPU_GPRS);
  return true;
}

// ── Loads, stores and control with memory: D9, DB, DD and DF ──

/** `what`: eight for each opcode, and ModRM.reg. */
function memoryForm(pc: usize, what: u32): bool {
  const at = address(pc);
  const fieldSizeBytes: u32 = load<u8>(pc, COLD_SIZE) == 2 ? 2 : 4;
  // What does not wait.
  switch (what) {
    case 6:
      return storeEnvironment(at, fieldSizeBytes);
    case 7:
      return writeValue(at, 2, controlWord());
    case 22:
      return saveState(at, fieldSizeBytes);
    case 23:
      return writeValue(at, 2, statusWord());
    default:
      break;
  }
  // D9 /1, DB /4, DB /6 and DD /5.
  if (what == 1 || what == 12 || what == 14 || what == 21) return unsupported();
  if (!hasNothingPending()) return false;
  switch (what) {
    case 0:
      return loadValue(pc, at, KIND_FLOAT32);
    case 2:
      return storeFloat32(pc, at, false);
    case 3:
      return storeFloat32(pc, at, true);
    case 4:
      return loadEnvironment(at, fieldSizeBytes);
    case 5:
      return loadControl(at);
    case 8:
      return loadValue(pc, at, KIND_INT32);
    case 9:
      return storeInteger(pc, at, 4, true, true);
    case 10:
      return storeInteger(pc, at, 4, false, false);
    case 11:
      return storeInteger(pc, at, 4, true, false);
    case 13:
      return loadFloat80(pc, at);
    case 15:
      return storeFloat80(pc, at);
    case 16:
      return loadValue(pc, at, KIND_FLOAT64);
    case 17:
      return storeInteger(pc, at, 8, true, true);
    case 18:
      return storeFloat64(pc, at, false);
    case 19:
      return storeFloat64(pc, at, true);
    case 20:
      return restoreState(at, fieldSizeBytes);
    case 24:
      return loadValue(pc, at, KIND_INT16);
    case 25:
      return storeInteger(pc, at, 2, true, true);
    case 26:
      return storeInteger(pc, at, 2, false, false);
    case 27:
      return storeInteger(pc, at, 2, true, false);
    case 28:
      return loadDecimal(pc, at);
    case 29:
      return loadValue(pc, at, KIND_INT64);
    case 30:
      return storeDecimal(pc, at);
    default:
      return storeInteger(pc, at, 8, true, false);
  }
}

function loadControl(at: u64): bool {
  const value = <u32>readValue(at, 2);
  if (hasFaulted()) return false;
  setControlWord(value);
  return true;
}

function loadValue(pc: usize, at: u64, kind: u32): bool {
  if (!fetch(at, kind)) return false;
  if (!isEmpty(7)) overflow();
  else settleLoad();
  if (!isLoadForbidden()) push(head, mantissa);
  return finish(pc, 0, 0);
}

function loadFloat80(pc: usize, at: u64): bool {
  const from = toRead(at, 10);
  if (from == 0) return false;
  if (!isEmpty(7)) overflow();
  else setResult(load<u16>(from, 8), load<u64>(from));
  return finishPush(pc);
}

/** The last step of a store of up to 8 bytes. */
function finishStore(pc: usize, at: u64, sizeBytes: u32, value: u64, pops: bool): bool {
  // Also for what is not stored there has to be room.
  if (!canWrite(at, sizeBytes)) return false;
  if (!isStoreForbidden()) {
    writeValue(at, sizeBytes, value);
    if (pops) pop();
  }
  return finish(pc, 0, 0);
}

function storeFloat32(pc: usize, at: u64, pops: bool): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  return finishStore(pc, at, 4, toFloat32(head, mantissa), pops);
}

function storeFloat64(pc: usize, at: u64, pops: bool): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  return finishStore(pc, at, 8, toFloat64(head, mantissa), pops);
}

function storeFloat80(pc: usize, at: u64): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  if (!canWrite(at, 10)) return false;
  if (!isForbidden()) {
    store<u64>(cpu, mantissa, CPU_TEMPORARY);
    store<u16>(cpu, <u16>head, CPU_TEMPORARY + 8);
    writeBytes(at, cpu + CPU_TEMPORARY, 10);
    pop();
  }
  return finish(pc, 0, 0);
}

function storeInteger(pc: usize, at: u64, sizeBytes: u32, pops: bool, truncates: bool): bool {
  const lowest: u64 = 1 << (8 * sizeBytes - 1);
  let value: u64 = 0;
  if (isEmpty(0)) underflow();
  else value = toInteger(stackHead(0), stackMantissa(0), lowest - 1, true, truncates);
  // The integer that stands for none.
  if (flags & IE) value = lowest;
  return finishStore(pc, at, sizeBytes, value, pops);
}

// ── Decimal: 18 digits in 9 bytes, and a byte with the sign ──

const GREATEST_DECIMAL: u64 = 999_999_999_999_999_999;

function loadDecimal(pc: usize, at: u64): bool {
  const from = toRead(at, 10);
  if (from == 0) return false;
  let value: u64 = 0;
  for (let index: i32 = 8; index >= 0; index--) {
    const digits = load<u8>(from + index);
    value = value * 100 + (digits >> 4) * 10 + (digits & 15);
  }
  const isNegative = (load<u8>(from, 9) & 0x80) != 0;
  if (!isEmpty(7)) {
    overflow();
  } else {
    fromInteger(value);
    if (isNegative) setResult(head | 0x8000, mantissa);
  }
  return finishPush(pc);
}

function storeDecimal(pc: usize, at: u64): bool {
  const topHead = stackHead(0);
  let value: i64 = 0;
  if (isEmpty(0)) underflow();
  else value = toInteger(topHead, stackMantissa(0), GREATEST_DECIMAL, false, false);
  if (!canWrite(at, 10)) return false;
  if (!isForbidden()) {
    const digits = cpu + CPU_TEMPORARY;
    if (flags & IE) {
      // The indefinite value.
      store<u64>(digits, 0xc000_0000_0000_0000);
      store<u16>(digits, 0xffff, 8);
    } else {
      let left = abs<i64>(value);
      for (let index: usize = 0; index < 9; index++) {
        const pair = left % 100;
        left /= 100;
        store<u8>(digits + index, ((pair / 10) << 4) | pair % 10);
      }
      store<u8>(digits, signOf(topHead) << 7, 9);
    }
    writeBytes(at, digits, 10);
    pop();
  }
  return finish(pc, 0, 0);
}
