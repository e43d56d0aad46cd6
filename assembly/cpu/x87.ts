// SPDX-License-Identifier: Apache-2.0
// x87 instructions, opcodes D8 to DF and 9B: which is which. SDM volume 1, chapter 8, and volume 2.
//
// An instruction reads memory first, computes in the globals of float80.ts, writes memory, and only then changes registers and
// the status word: what faults has changed nothing. An exception that is not masked is raised by the next instruction that waits.
import { writeValue } from "./access.ts";
import { begin } from "./float80.ts";
import { execFxsave } from "./fxsave.ts";
import { address, COLD_CODE, COLD_MODRM, COLD_SIZE, isMemory, MAP_0F } from "./uop.ts";
import { unsupported } from "./vcpu.ts";
import {
  arithmetic,
  arithmeticWithMemory,
  changeSign,
  extract,
  FCOM,
  FCOMP,
  roundTop,
  scaleTop,
  takeRemainder,
  takeSquareRoot,
} from "./x87-arithmetic.ts";
import { compareRegisters, compareToFlags, examine, test } from "./x87-compare.ts";
import { controlForm, free, loadControl, noOperation, storeStatusInAx, turn, wait } from "./x87-control.ts";
import { loadEnvironment, restoreState, saveState, storeEnvironment } from "./x87-environment.ts";
import {
  loadDecimal,
  loadFloat80,
  loadValue,
  storeDecimal,
  storeFloat32,
  storeFloat64,
  storeFloat80,
  storeInteger,
} from "./x87-memory.ts";
import { exchange, loadConstant, loadFromRegister, moveIf, storeSilently, storeToRegister } from "./x87-moves.ts";
import { KIND_FLOAT32, KIND_FLOAT64, KIND_INT16, KIND_INT32, KIND_INT64, stackHead } from "./x87-operands.ts";
import { controlWord, hasNothingPending, isAvailable, statusWord } from "./x87-state.ts";
import {
  binary,
  BINARY_FPATAN,
  BINARY_FYL2X,
  BINARY_FYL2XP1,
  exponentialOfTop,
  ofAngle,
  partialTangent,
  sineAndCosine,
} from "./x87-transcendental.ts";

const CODE_FWAIT: u32 = 0x9b;

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

// ── Register forms ──

function registerForm(pc: usize, group: u32, operation: u32, index: u32): bool {
  switch (group) {
    case 0:
      if (operation == FCOM || operation == FCOMP) return compareRegisters(pc, index, false, operation - FCOM);
      return arithmetic(pc, operation, index, 0, false);
    case 1:
      return formD9(pc, operation, index);
    case 2:
      // DA E9, FUCOMPP.
      return operation < 4 ? moveIf(pc, operation, false, index) : compareRegisters(pc, 1, true, 2);
    case 3:
      return operation < 4 ? moveIf(pc, operation, true, index) : compareToFlags(pc, index, operation == 5, false);
    case 4:
      // DC D0 and DC D8 are the same as D8 D0 and D8 D8.
      if (operation == FCOM || operation == FCOMP) return compareRegisters(pc, index, false, operation - FCOM);
      return arithmetic(pc, operation, index, index, false);
    case 5:
      return formDD(pc, operation, index);
    case 6:
      if (operation == FCOM) return compareRegisters(pc, index, false, 1);
      // DE D9, FCOMPP.
      if (operation == FCOMP) return compareRegisters(pc, 1, false, 2);
      return arithmetic(pc, operation, index, index, true);
    default:
      return formDF(pc, operation, index);
  }
}

function formD9(pc: usize, operation: u32, index: u32): bool {
  switch (operation) {
    case 0:
      return loadFromRegister(pc, index);
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

function formD9F0(pc: usize, index: u32): bool {
  switch (index) {
    case 0:
      return exponentialOfTop(pc);
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
      return takeSquareRoot(pc);
    case 3:
      return sineAndCosine(pc);
    case 4:
      return roundTop(pc);
    case 5:
      return scaleTop(pc);
    case 6:
      return ofAngle(pc, false);
    default:
      return ofAngle(pc, true);
  }
}

function formDD(pc: usize, operation: u32, index: u32): bool {
  switch (operation) {
    case 0:
      return free(pc, index, false);
    case 1:
      return exchange(pc, index);
    case 2:
      return storeToRegister(pc, index, false);
    case 3:
      return storeToRegister(pc, index, true);
    case 4:
      return compareRegisters(pc, index, true, 0);
    default:
      return compareRegisters(pc, index, true, 1);
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
      return storeToRegister(pc, index, true);
    default:
      return compareToFlags(pc, index, operation == 5, true);
  }
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
