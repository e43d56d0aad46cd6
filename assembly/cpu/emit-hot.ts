// SPDX-License-Identifier: Apache-2.0
// Which instructions get uops of their own, in 64-bit mode and without LOCK.
import * as d from "./decode.ts";
import { group, opcodeNumber } from "./emit.ts";
import {
  emitAlu,
  emitAluImmediate,
  emitGroup3,
  emitIncrement,
  emitMultiply,
  emitMultiplyImmediate,
  emitTest,
  emitTestImmediate,
} from "./emit-arithmetic.ts";
import {
  emitConditionalMove,
  emitExchange,
  emitExtendAccumulator,
  emitExtendIntoD,
  emitExtension,
  emitLeave,
  emitLoad,
  emitMoveImmediate,
  emitMoveRegisterImmediate,
  emitNop,
  emitPop,
  emitPush,
  emitPushImmediate,
  emitPushOperand,
  emitSetCondition,
  emitStore,
  emitSwapBytes,
} from "./emit-moves.ts";
import { emitShift } from "./emit-shifts.ts";
import * as ops from "./ops.ts";
import { emitHotSse } from "./sse-hot.ts";
import { MAP_0F, MAP_0F38 } from "./uop.ts";

/** False: there is none for it. */
export function emitHot(): bool {
  const code = d.code;
  if (code < 0x40) return emitAlu();
  if (code >= MAP_0F && emitHotSse()) return true;
  if (code == 0x90 && !(d.rex & 1)) return emitNop();
  // Of 16 bits only moves are common.
  if (d.operandSize == 2 && (code & ~3) != 0x88 && code != 0xc7) return false;
  return code < MAP_0F ? emitHot1() : code < MAP_0F38 && emitHot0f();
}

function emitHot1(): bool {
  const code = d.code;
  const size = d.operandSize;
  switch (code >> 3) {
    case 0x50 >> 3:
      return emitPush(opcodeNumber());
    case 0x58 >> 3:
      return emitPop(opcodeNumber());
    case 0x90 >> 3:
      return emitExchange(0, opcodeNumber());
    case 0xb0 >> 3:
      return emitMoveRegisterImmediate(1);
    case 0xb8 >> 3:
      return emitMoveRegisterImmediate(size);
    default:
      break;
  }
  switch (code) {
    case 0x63:
      return size == 8 && emitExtension(ops.OP_MOVSXD_RR, ops.OP_MOVSXD_RM, 4);
    case 0x68:
    case 0x6a:
      return emitPushImmediate();
    case 0x69:
    case 0x6b:
      return emitMultiplyImmediate();
    case 0x80:
    case 0x81:
    case 0x83:
      return emitAluImmediate();
    case 0x84:
    case 0x85:
      return emitTest();
    case 0x87:
      return !d.hasMemory && emitExchange(d.reg, d.rm);
    case 0x88:
    case 0x89:
      return emitStore();
    case 0x8a:
    case 0x8b:
      return emitLoad();
    case 0x98:
      return emitExtendAccumulator();
    case 0x99:
      return emitExtendIntoD();
    case 0xa8:
    case 0xa9:
      return emitTestImmediate(0);
    case 0xc1:
    case 0xd1:
    case 0xd3:
      return emitShift();
    case 0xc6:
    case 0xc7:
      return emitMoveImmediate();
    case 0xc9:
      return emitLeave();
    case 0xf6:
    case 0xf7:
      return emitGroup3();
    case 0xff:
      if (group() < 2) return emitIncrement();
      return group() == 6 && emitPushOperand();
    default:
      return false;
  }
}

function emitHot0f(): bool {
  const byte = d.code & 0xff;
  const is64 = d.operandSize == 8;
  switch (byte >> 3) {
    case 0x40 >> 3:
    case 0x48 >> 3:
      return emitConditionalMove();
    case 0x90 >> 3:
    case 0x98 >> 3:
      return emitSetCondition();
    case 0xc8 >> 3:
      return emitSwapBytes();
    default:
      break;
  }
  switch (byte) {
    case 0xaf:
      return emitMultiply();
    case 0xb6:
      return emitExtension(ops.OP_MOVZX_RR8, ops.OP_MOVZX_RM8, 1);
    case 0xb7:
      return emitExtension(ops.OP_MOVZX_RR16, ops.OP_MOVZX_RM16, 2);
    case 0xbe:
      return is64
        ? emitExtension(ops.OP_MOVSX_RR8_64, ops.OP_MOVSX_RM8_64, 1)
        : emitExtension(ops.OP_MOVSX_RR8_32, ops.OP_MOVSX_RM8_32, 1);
    case 0xbf:
      return is64
        ? emitExtension(ops.OP_MOVSX_RR16_64, ops.OP_MOVSX_RM16_64, 2)
        : emitExtension(ops.OP_MOVSX_RR16_32, ops.OP_MOVSX_RM16_32, 2);
    default:
      return false;
  }
}
