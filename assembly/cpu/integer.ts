// SPDX-License-Identifier: Apache-2.0
// Integer instructions that have no uop of their own: other sizes, memory forms, LOCK, other modes. Which opcode is done by whom; SDM
// volume 2, appendix A. How it is done is in integer-*.ts.
import { group, immediate, moveTo, size } from "./cold-operands.ts";
import { condition, rflags } from "./flags.ts";
import { execAlu, execAluImmediate, execBound, execIncrement, execNegate, execTest } from "./integer-arithmetic.ts";
import { execBit, execBitImmediate, execBitScan, execPopulationCount } from "./integer-bits.ts";
import { execAdjustDecimal, execAdjustProduct } from "./integer-decimal.ts";
import { execDivide, execDivideSigned } from "./integer-divide.ts";
import {
  execCompareExchange,
  execCompareExchangeWide,
  execExchange,
  execExchangeAdd,
  execFence,
} from "./integer-exchange.ts";
import {
  execClearInterruptFlag,
  execComplementCarry,
  execLoadFlags,
  execSetByCarry,
  execSetCarry,
  execSetDirection,
  execStoreFlags,
} from "./integer-flags.ts";
import {
  execConditionalMove,
  execExtendAccumulator,
  execExtendIntoD,
  execMoveExtended,
  execMoveFrom,
  execSwapBytes,
  execTranslate,
} from "./integer-moves.ts";
import { execMultiply, execMultiplySigned, execMultiplyTo } from "./integer-multiply.ts";
import { execDoubleShift, execShift } from "./integer-shifts.ts";
import { execEnter, execLeave, execPop, execPopAll, execPush, execPushAll } from "./integer-stack.ts";
import { CPU_MODE, SEGMENT_SELECTOR_U16 } from "./layout.ts";
import { MODE_64, segment } from "./modes.ts";
import { loadAt } from "./registers.ts";
import { adjustPrivilege, loadDescriptorRights } from "./segments.ts";
import { push } from "./stack.ts";
import { COLD_CODE, MAP_0F, registerA } from "./uop.ts";
import { cpu, unsupported } from "./vcpu.ts";

/** False: an exception was raised. */
export function execInteger(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  return code >= MAP_0F ? execInteger0f(pc, code & 0xff) : execInteger1(pc, code);
}

function execInteger1(pc: usize, code: u32): bool {
  if (code < 0x40) {
    if ((code & 7) < 6) return execAlu(pc, code);
    return code < 0x20 ? push(selector(pc), size(pc)) : execAdjustDecimal(code);
  }
  switch (code >> 3) {
    case 0x40 >> 3:
    case 0x48 >> 3:
      return execIncrement(pc);
    case 0x50 >> 3:
      return execPush(pc);
    case 0x58 >> 3:
      return execPop(pc);
    case 0x90 >> 3:
      return execExchange(pc);
    case 0xb0 >> 3:
    case 0xb8 >> 3:
      return moveTo(pc, size(pc), immediate(pc));
    default:
      break;
  }
  switch (code) {
    case 0x60:
      return execPushAll(pc);
    case 0x61:
      return execPopAll(pc);
    case 0x62:
      return execBound(pc);
    case 0x63:
      return load<u32>(cpu, CPU_MODE) & MODE_64 ? execMoveExtended(pc, 4, true) : adjustPrivilege(pc);
    case 0x68:
    case 0x6a:
      return push(immediate(pc), size(pc));
    case 0x69:
    case 0x6b:
      return execMultiplyTo(pc, immediate(pc));
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return execAluImmediate(pc, group(pc));
    case 0x84:
    case 0x85:
      return execTest(pc, load<u64>(registerA(pc)));
    case 0x86:
    case 0x87:
      return execExchange(pc);
    case 0x88:
    case 0x89:
    case 0xa2:
    case 0xa3:
      return moveTo(pc, size(pc), load<u64>(registerA(pc)));
    case 0x8a:
    case 0x8b:
    case 0xa0:
    case 0xa1:
      return execMoveFrom(pc);
    case 0x8c:
      return moveTo(pc, size(pc), selector(pc));
    case 0x8f:
      return execPop(pc);
    case 0x98:
      return execExtendAccumulator(pc);
    case 0x99:
      return execExtendIntoD(pc);
    case 0x9c:
      return push(rflags(), size(pc));
    case 0x9e:
      return execStoreFlags();
    case 0x9f:
      return execLoadFlags();
    case 0xa8:
    case 0xa9:
      return execTest(pc, immediate(pc));
    case 0xc0:
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
      return execShift(pc, code);
    case 0xc6:
    case 0xc7:
      return moveTo(pc, size(pc), immediate(pc));
    case 0xc8:
      return execEnter(pc);
    case 0xc9:
      return execLeave(pc);
    case 0xd4:
    case 0xd5:
      return execAdjustProduct(pc, code == 0xd5);
    case 0xd6:
      return execSetByCarry();
    case 0xd7:
      return execTranslate(pc);
    case 0xf5:
      return execComplementCarry();
    case 0xf6:
    case 0xf7:
      return execGroup3(pc);
    case 0xf8:
    case 0xf9:
      return execSetCarry(code == 0xf9);
    case 0xfa:
      return execClearInterruptFlag();
    case 0xfc:
    case 0xfd:
      return execSetDirection(code == 0xfd);
    case 0xfe:
    case 0xff:
      return group(pc) < 2 ? execIncrement(pc) : execPush(pc);
    default:
      return unsupported();
  }
}

function execGroup3(pc: usize): bool {
  switch (group(pc)) {
    case 0:
    case 1:
      return execTest(pc, immediate(pc));
    case 2:
    case 3:
      return execNegate(pc, group(pc) == 2);
    case 4:
      return execMultiply(pc);
    case 5:
      return execMultiplySigned(pc);
    case 6:
      return execDivide(pc);
    default:
      return execDivideSigned(pc);
  }
}

function execInteger0f(pc: usize, code: u32): bool {
  switch (code >> 3) {
    case 0x40 >> 3:
    case 0x48 >> 3:
      return execConditionalMove(pc, code);
    case 0x90 >> 3:
    case 0x98 >> 3:
      return moveTo(pc, size(pc), condition(code & 15) ? 1 : 0);
    case 0xc8 >> 3:
      return execSwapBytes(pc);
    default:
      break;
  }
  switch (code) {
    case 0x02:
    case 0x03:
      return loadDescriptorRights(pc, code == 0x03);
    case 0xa0:
    case 0xa8:
      return push(selector(pc), size(pc));
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb:
      return execBit(pc, code);
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad:
      return execDoubleShift(pc, code);
    case 0xae:
      return execFence(pc);
    case 0xaf:
      return execMultiplyTo(pc, loadAt(registerA(pc), size(pc)));
    case 0xb0:
    case 0xb1:
      return execCompareExchange(pc);
    case 0xb6:
    case 0xb7:
    case 0xbe:
    case 0xbf:
      return execMoveExtended(pc, code & 1 ? 2 : 1, code >= 0xbe);
    case 0xb8:
      return execPopulationCount(pc);
    case 0xba:
      return execBitImmediate(pc);
    case 0xbc:
    case 0xbd:
      return execBitScan(pc, code == 0xbd);
    case 0xc0:
    case 0xc1:
      return execExchangeAdd(pc);
    case 0xc3:
      return moveTo(pc, size(pc), load<u64>(registerA(pc)));
    case 0xc7:
      return execCompareExchangeWide(pc);
    default:
      return unsupported();
  }
}

/** Of the segment that the instruction names. */
function selector(pc: usize): u64 {
  return load<u16>(segment(group(pc)), SEGMENT_SELECTOR_U16);
}
