// SPDX-License-Identifier: Apache-2.0
// Comparisons of the x87: FCOM, FUCOM and their kin, FTST and FXAM. SDM volume 1, 8.3.6. What comes of two values: `compare` in
// float80-arithmetic.ts.
import { CF, PF, setFlags, ZF } from "./flags.ts";
import { compare, ORDER_NONE } from "./float80-arithmetic.ts";
import {
  flags,
  head,
  isDenormal,
  isForbidden,
  isInfinite,
  isNaN80,
  isUnsupported,
  mantissa,
  setUp,
  SF,
  signOf,
} from "./float80.ts";
import { CPU_X87_STATUS } from "./layout.ts";
import { cpu } from "./vcpu.ts";
import { ALL_CODES, finish, stackHead, stackMantissa, underflow } from "./x87-operands.ts";
import { isEmpty, pop, STATUS_C0, STATUS_C1, STATUS_C2, STATUS_C3 } from "./x87-state.ts";

/** ST(0) and ST(index), into C3, C2 and C0. */
export function compareRegisters(pc: usize, index: u32, isQuiet: bool, popCount: u32): bool {
  return finishComparison(pc, order(index, isQuiet), popCount);
}

/** ST(0) and what was fetched from memory. */
export function compareWithFetched(pc: usize, popCount: u32): bool {
  if (isEmpty(0)) {
    underflow();
    return finishComparison(pc, ORDER_NONE, popCount);
  }
  return finishComparison(pc, compare(stackHead(0), stackMantissa(0), head, mantissa, false), popCount);
}

/** Into ZF, PF and CF. */
export function compareToFlags(pc: usize, index: u32, isQuiet: bool, pops: bool): bool {
  const result = order(index, isQuiet);
  setFlags((result & 1 ? CF : 0) | (result & 2 ? PF : 0) | (result & 4 ? ZF : 0));
  if (pops && !isForbidden()) pop();
  // C1 stays as it is.
  if (!(flags & SF)) setUp((load<u16>(cpu, CPU_X87_STATUS) & STATUS_C1) != 0);
  return finish(pc, 0, 0);
}

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

/** FTST */
export function test(pc: usize): bool {
  if (isEmpty(0)) {
    underflow();
    return finishComparison(pc, ORDER_NONE, 0);
  }
  return finishComparison(pc, compare(stackHead(0), stackMantissa(0), 0, 0, false), 0);
}

/** FXAM, which looks at an empty register, too. */
export function examine(pc: usize): bool {
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
