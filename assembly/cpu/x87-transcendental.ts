// SPDX-License-Identifier: Apache-2.0
// Transcendental instructions with the stack: which operands they take, and where results go. SDM volume 1, 8.3.7 to 8.3.10. How they
// are calculated: transcendental.ts.
import { head, isForbidden, isNaN80, mantissa } from "./float80.ts";
import {
  arcTangent,
  cosine,
  exponential,
  isOutOfRange,
  logarithm,
  logarithmOfOnePlus,
  sine,
  tangent,
} from "./transcendental.ts";
import { finish, finishResult, hasRoom, stackHead, stackMantissa, underflow } from "./x87-operands.ts";
import { isEmpty, push, setRegister, STATUS_C2 } from "./x87-state.ts";

/** F2XM1 */
export function exponentialOfTop(pc: usize): bool {
  if (isEmpty(0)) underflow();
  else exponential(stackHead(0), stackMantissa(0));
  return finishResult(pc, 0, false);
}

export const BINARY_FYL2X: u32 = 0;
export const BINARY_FPATAN: u32 = 1;
export const BINARY_FYL2XP1: u32 = 2;

/** ST(1) = f(ST(1), ST(0)), and ST(0) is popped. */
export function binary(pc: usize, what: u32): bool {
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

/** FSIN and FCOS */
export function ofAngle(pc: usize, isCosine: bool): bool {
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
export function sineAndCosine(pc: usize): bool {
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
export function partialTangent(pc: usize): bool {
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
