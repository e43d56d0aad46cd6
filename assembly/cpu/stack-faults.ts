// SPDX-License-Identifier: Apache-2.0
// An address that is not canonical is #GP, but #SS when it is in the stack segment: SDM volume 3, 6.15, interrupt 12. Whoever
// makes an access does not know its segment; once it has failed, the uop still tells.
import { isCanonical } from "./access.ts";
import { CPU_EXCEPTION, CPU_SEGMENTS, SEGMENT_GS, SEGMENT_SIZE_BYTES, SEGMENT_SS } from "./layout.ts";
import * as ops from "./ops.ts";
import { RBP, RSP } from "./registers.ts";
import { forgetRefusal, isRefused } from "./slow-access.ts";
import { address, COLD_SEGMENT, isMemory, registerB, UOP_INDEX, UOP_OP } from "./uop.ts";
import { cpu, GP, raiseWith, SS } from "./vcpu.ts";

/** Whether what is there, up to 8 bytes, has addresses. */
function isPlace(where: u64): bool {
  return isCanonical(where) && isCanonical(where + 7);
}

/** By its base, unless the index is the base of FS or GS. */
function isOnStack(pc: usize): bool {
  const base = registerB(pc);
  const index = <usize>load<u16>(pc, UOP_INDEX);
  const segments = cpu + CPU_SEGMENTS;
  const isOverridden = index >= segments && index <= segments + SEGMENT_GS * SEGMENT_SIZE_BYTES;
  return (base == cpu + RSP || base == cpu + RBP) && !isOverridden;
}

/** Whether the #GP of this uop, which has changed nothing yet, is of an access to the stack segment. */
function isOfStack(pc: usize): bool {
  switch (load<u16>(pc, UOP_OP)) {
    case ops.OP_CALL:
    case ops.OP_CALL_R:
    case ops.OP_PUSH_R:
    case ops.OP_PUSH_I:
    case ops.OP_RET:
    case ops.OP_POP_R:
    case ops.OP_LEAVE:
      return true;
    case ops.OP_CALL_M:
    case ops.OP_PUSH_M:
      return isPlace(address(pc)) ? !isPlace(load<u64>(cpu, RSP) - 8) : isOnStack(pc);
    case ops.OP_COLD_STRING:
      return false;
    case ops.OP_COLD_INTEGER:
    case ops.OP_COLD_SSE:
    case ops.OP_COLD_X87:
      return isMemory(pc) && load<u8>(pc, COLD_SEGMENT) == SEGMENT_SS;
    default:
      return isOnStack(pc);
  }
}

/** After an instruction that has raised something. */
export function correctSegment(pc: usize): void {
  if (!isRefused) return;
  forgetRefusal();
  if (load<u32>(cpu, CPU_EXCEPTION) == GP && isOfStack(pc)) raiseWith(SS, 0);
}
