// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the x87 with the stack: FADD to FDIVR with registers and memory, FSQRT, FRNDINT, FSCALE, FXTRACT, FPREM, FCHS and
// FABS. SDM volume 1, 8.3.5. How values are calculated: float80-arithmetic.ts.
import {
  add,
  divide80,
  extractExponent,
  extractSignificand,
  hasQuotient,
  isPartial,
  multiply80,
  quotient,
  remainder,
  roundToInteger,
  scale,
  squareRoot,
  subtract,
} from "./float80-arithmetic.ts";
import { head, isForbidden, mantissa, setResult, setUp } from "./float80.ts";
import { address } from "./uop.ts";
import { compareWithFetched } from "./x87-compare.ts";
import {
  ALL_CODES,
  fetch,
  finish,
  finishResult,
  hasRoom,
  stackHead,
  stackMantissa,
  underflow,
} from "./x87-operands.ts";
import { isEmpty, push, setRegister, STATUS_C0, STATUS_C2, STATUS_C3 } from "./x87-state.ts";

/** Operations of ModRM.reg. */
const FADD: u32 = 0;
const FMUL: u32 = 1;
export const FCOM: u32 = 2;
export const FCOMP: u32 = 3;
const FSUB: u32 = 4;
const FSUBR: u32 = 5;
const FDIV: u32 = 6;

export function arithmeticWithMemory(pc: usize, kind: u32, operation: u32): bool {
  if (!fetch(address(pc), kind)) return false;
  if (operation == FCOM || operation == FCOMP) return compareWithFetched(pc, operation - FCOM);
  if (isEmpty(0)) underflow();
  else calculate(operation, head, mantissa);
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
export function arithmetic(pc: usize, operation: u32, index: u32, destination: u32, pops: bool): bool {
  if (isEmpty(0) || isEmpty(index)) underflow();
  else calculate(operation, stackHead(index), stackMantissa(index));
  return finishResult(pc, destination, pops);
}

/** FCHS and FABS */
export function changeSign(pc: usize, newHead: u32): bool {
  if (isEmpty(0)) underflow();
  else setResult(newHead, stackMantissa(0));
  return finishResult(pc, 0, false);
}

/** FSQRT */
export function takeSquareRoot(pc: usize): bool {
  if (isEmpty(0)) underflow();
  else squareRoot(stackHead(0), stackMantissa(0));
  return finishResult(pc, 0, false);
}

/** FRNDINT */
export function roundTop(pc: usize): bool {
  if (isEmpty(0)) underflow();
  else roundToInteger(stackHead(0), stackMantissa(0));
  return finishResult(pc, 0, false);
}

/** FSCALE */
export function scaleTop(pc: usize): bool {
  if (isEmpty(0) || isEmpty(1)) underflow();
  else scale(stackHead(0), stackMantissa(0), stackHead(1), stackMantissa(1));
  return finishResult(pc, 0, false);
}

/** FXTRACT: the exponent stays, the significand is pushed. */
export function extract(pc: usize): bool {
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
export function takeRemainder(pc: usize, toNearest: bool): bool {
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
