// SPDX-License-Identifier: Apache-2.0
// Moves of the x87 between registers, and constants: FLD, FST, FXCH, FCMOVcc, FLD1 and its like. SDM volume 1, 8.3.1 to 8.3.4. With
// memory: x87-memory.ts.
import { condition } from "./flags.ts";
import { roundConstant } from "./float80-formats.ts";
import { head, isForbidden, mantissa, setResult } from "./float80.ts";
import { finish, finishPush, finishResult, overflow, stackHead, stackMantissa, underflow } from "./x87-operands.ts";
import { isEmpty, notePointers, pop, setRegister } from "./x87-state.ts";

/** FLD */
export function loadFromRegister(pc: usize, index: u32): bool {
  if (isEmpty(index)) underflow();
  else if (!isEmpty(7)) overflow();
  else setResult(stackHead(index), stackMantissa(index));
  return finishPush(pc);
}

/** FST and FSTP */
export function storeToRegister(pc: usize, index: u32, pops: bool): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  return finishResult(pc, index, pops);
}

/** FSTPNCE, which only old manuals have: an empty register is no exception. */
export function storeSilently(pc: usize, index: u32): bool {
  if (!isEmpty(0)) setRegister(index, stackHead(0), stackMantissa(0));
  pop();
  return finish(pc, 0, 0);
}

/** FXCH */
export function exchange(pc: usize, index: u32): bool {
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
export function moveIf(pc: usize, operation: u32, isInverted: bool, index: u32): bool {
  if (isEmpty(0) || isEmpty(index)) {
    underflow();
    return finishResult(pc, 0, false);
  }
  const code = operation == 3 ? 10 : 2 + operation * 2;
  if (condition(code) != isInverted) setRegister(0, stackHead(index), stackMantissa(index));
  notePointers(pc);
  return true;
}

/** FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ */
export function loadConstant(pc: usize, index: u32): bool {
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
