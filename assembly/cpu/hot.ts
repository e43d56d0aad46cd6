// SPDX-License-Identifier: Apache-2.0
// The loop that runs translated code: one dense switch, as small as it can be, because no engine optimises a function that is too
// large (docs/engine.md). What is rare is in other files, behind one of the OP_COLD_….
//
// It leaves when its budget is used up, after an exception, when the code it runs has been forgotten, and after instructions that may
// change the mode. CPU_RIP is right then, and CPU_EXCEPTION says whether there is one.
import { isCanonical, isPlain } from "./access.ts";
import { findCode, follow, followStale, isStale, jumpEntry, ripOf } from "./blocks.ts";
import {
  carry,
  condition,
  FLAGS_ADD,
  FLAGS_DEC,
  FLAGS_INC,
  FLAGS_LOGIC,
  FLAGS_SUB,
  resultFlags,
  setFlags,
  setIncFlags,
} from "./flags.ts";
import { execInteger } from "./integer.ts";
import { addWithCarry, subtractWithBorrow } from "./integer-arithmetic.ts";
import { multiply32, multiply64, multiplyWide } from "./integer-multiply.ts";
import { setRotateFlags, setShiftFlagsSAR, setShiftFlagsSHL, setShiftFlagsSHR } from "./integer-shifts.ts";
import { execJump } from "./jumps.ts";
import {
  CPU_ADDRESS,
  CPU_FLAG_FIRST,
  CPU_FLAG_KIND,
  CPU_FLAG_RESULT,
  CPU_GLOBAL_EPOCH,
  CPU_GPRS,
  CPU_INSTRUCTIONS,
  CPU_LINK_EPOCH,
  CPU_RIP,
  CPU_TLB,
  TLB_ADDEND_U32,
  TLB_ENTRY_COUNT,
  TLB_READ_U64,
  TLB_WRITE_U64,
} from "./layout.ts";
import { finishWrite, forgetRefusal, slowToRead, slowToWrite } from "./slow-access.ts";
import { correctSegment } from "./stack-faults.ts";
import * as ops from "./ops.ts";
import { execSse } from "./sse.ts";
import { execString } from "./strings.ts";
import { execSystem } from "./system.ts";
import {
  address,
  immediate,
  registerA as A,
  registerB as B,
  UOP_COUNT,
  UOP_IMMEDIATE,
  UOP_INDEX,
  UOP_LINK,
  UOP_LINK_EPOCH,
  UOP_NEXT,
  UOP_NEXT_LINK,
  UOP_SECOND_IMMEDIATE,
  UOP_SIZE_BYTES,
  UOP_TARGET,
} from "./uop.ts";
import { cpu, GP, raise, raiseWith } from "./vcpu.ts";
import { execX87 } from "./x87.ts";

const CPU_RAX = CPU_GPRS;
const CPU_RCX = CPU_GPRS + 8;
const CPU_RDX = CPU_GPRS + 2 * 8;
const CPU_RSP = CPU_GPRS + 4 * 8;
const CPU_RBP = CPU_GPRS + 5 * 8;
/** Of an address, where it is in a page. */
const PAGE_MASK: u64 = ~(<u64>0xfff);

@inline
function toReadIn(tlb: usize, where: u64, sizeBytes: u32): usize {
  const entry = tlb + ((<u32>(where >> 12) & (TLB_ENTRY_COUNT - 1)) << 5);
  if (load<u64>(entry, TLB_READ_U64) == ((where + (sizeBytes - 1)) & PAGE_MASK)) {
    return <u32>where + load<u32>(entry, TLB_ADDEND_U32);
  }
  return slowToRead(where, sizeBytes);
}

@inline
function toWriteIn(tlb: usize, where: u64, sizeBytes: u32): usize {
  const entry = tlb + ((<u32>(where >> 12) & (TLB_ENTRY_COUNT - 1)) << 5);
  if (load<u64>(entry, TLB_WRITE_U64) == ((where + (sizeBytes - 1)) & PAGE_MASK)) {
    return <u32>where + load<u32>(entry, TLB_ADDEND_U32);
  }
  return slowToWrite(where, sizeBytes);
}

@inline
function lazy(c: usize, kind: u32, sizeBytes: u32, result: u64, first: u64): void {
  store<u64>(c, result, CPU_FLAG_RESULT);
  store<u64>(c, first, CPU_FLAG_FIRST);
  store<u32>(c, kind | (sizeBytes << 8), CPU_FLAG_KIND);
}

/** Where a branch goes: by its link at `offset` from UOP_LINK, if that is good. 0: an exception was raised. */
@inline
function link(c: usize, pc: usize, offset: u32): usize {
  const epoch = load<u32>(pc + offset, UOP_LINK_EPOCH);
  if (epoch == 0 || epoch == load<u32>(c, CPU_GLOBAL_EPOCH) || epoch == load<u32>(c, CPU_LINK_EPOCH)) {
    return load<u32>(pc + offset, UOP_LINK);
  }
  return follow(pc, offset);
}

/** `mode` is `jumpKey(0)`. */
@inline
function jump(rip: u64, mode: u64): usize {
  const entry = jumpEntry(rip);
  const epoch = load<u32>(entry, 12);
  const isGood = epoch == load<u32>(cpu, CPU_GLOBAL_EPOCH) || epoch == load<u32>(cpu, CPU_LINK_EPOCH);
  if (load<u64>(entry) == (rip ^ mode) && isGood) {
    return load<u32>(entry, 8);
  }
  return findCode(rip);
}

/** What had to be written has arrived. True when the code that runs may be gone. */
function finishAndCheck(): bool {
  finishWrite();
  return isStale;
}

/** The instruction at RIP is next. */
function stop(rip: u64, left: i32): void {
  store<u64>(cpu, rip, CPU_RIP);
  store<u64>(cpu, load<u64>(cpu, CPU_INSTRUCTIONS) - <i64>left, CPU_INSTRUCTIONS);
}

/** The instruction of this uop has raised an exception. */
function leave(pc: usize, left: i32): void {
  correctSegment(pc);
  stop(ripOf(pc), left - (<i32>load<u8>(pc, UOP_COUNT) - 1));
}

/** The branch of this uop would go where no address is. */
function refuse(pc: usize, left: i32): void {
  raiseWith(GP, 0);
  leave(pc, left);
}

/** Runs about `budget` instructions from `start` on. */
export function runHot(start: usize, budget: i32, mode: u64): void {
  const c = cpu;
  const tlb: usize = load<u32>(c, CPU_TLB);
  let pc = start;
  let left = budget;
  forgetRefusal();
  // Less what is left, in the end.
  store<u64>(c, load<u64>(c, CPU_INSTRUCTIONS) + <i64>budget, CPU_INSTRUCTIONS);
  while (true) {
    switch (load<u16>(pc)) {
      case ops.OP_STALE: {
        const now = load<u32>(pc, UOP_IMMEDIATE);
        const next = now != 0 ? now : followStale(pc);
        if (next == 0) return stop(ripOf(pc), left);
        pc = next;
        break;
      }
      case ops.OP_RAISE: {
        raise(A(pc));
        return leave(pc, left);
      }
      case ops.OP_COLD_INTEGER: {
        if (!execInteger(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      }
      case ops.OP_COLD_STRING: {
        if (!execString(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      }
      case ops.OP_COLD_SSE: {
        if (!execSse(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      }
      case ops.OP_COLD_X87: {
        if (!execX87(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      }
      case ops.OP_COLD_JUMP: {
        left -= load<u8>(pc, UOP_COUNT);
        if (!execJump(pc) || left <= 0) return stop(load<u64>(c, CPU_RIP), left);
        const target = load<u64>(c, CPU_RIP);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      }
      case ops.OP_COLD_SYSTEM: {
        left -= load<u8>(pc, UOP_COUNT);
        execSystem(pc);
        return stop(load<u64>(c, CPU_RIP), left);
      }
      case ops.OP_END: {
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(load<u64>(pc, UOP_TARGET), left);
        const next = link(c, pc, 0);
        if (next == 0) return stop(load<u64>(pc, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_JMP: {
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(load<u64>(pc, UOP_TARGET), left);
        const next = link(c, pc, 0);
        if (next == 0) return stop(load<u64>(pc, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_CALL: {
        left -= load<u8>(pc, UOP_COUNT);
        const sp = load<u64>(c, CPU_RSP) - 8;
        const p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left + load<u8>(pc, UOP_COUNT));
        store<u64>(p, load<u64>(pc, UOP_NEXT));
        if (!isPlain(p)) finishWrite();
        store<u64>(c, sp, CPU_RSP);
        if (left <= 0) return stop(load<u64>(pc, UOP_TARGET), left);
        const next = link(c, pc, 0);
        if (next == 0) return stop(load<u64>(pc, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_RET: {
        const sp = load<u64>(c, CPU_RSP);
        const p = toReadIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        const target = load<u64>(p);
        if (!isCanonical(target)) return refuse(pc, left);
        store<u64>(c, sp + 8 + <u64>load<i32>(pc, UOP_IMMEDIATE), CPU_RSP);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      }
      case ops.OP_JMP_R: {
        const target = load<u64>(A(pc));
        if (!isCanonical(target)) return refuse(pc, left);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      }
      case ops.OP_JMP_M: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const target = load<u64>(p);
        if (!isCanonical(target)) return refuse(pc, left);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      }
      case ops.OP_CALL_R: {
        const target = load<u64>(A(pc));
        const sp = load<u64>(c, CPU_RSP) - 8;
        const p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        if (!isCanonical(target)) return refuse(pc, left);
        store<u64>(p, load<u64>(pc, UOP_NEXT));
        if (!isPlain(p)) finishWrite();
        store<u64>(c, sp, CPU_RSP);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      }
      case ops.OP_CALL_M: {
        const q = toReadIn(tlb, address(pc), 8);
        if (q == 0) return leave(pc, left);
        const target = load<u64>(q);
        const sp = load<u64>(c, CPU_RSP) - 8;
        const p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        if (!isCanonical(target)) return refuse(pc, left);
        store<u64>(p, load<u64>(pc, UOP_NEXT));
        if (!isPlain(p)) finishWrite();
        store<u64>(c, sp, CPU_RSP);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      }
      case ops.OP_JCC: {
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = condition(A(pc)) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_JZ: {
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = load<u64>(c, CPU_FLAG_RESULT) == 0 ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_JNZ: {
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = load<u64>(c, CPU_FLAG_RESULT) != 0 ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_CMPJ_RR64: {
        const first = load<u64>(A(pc));
        const second: u64 = load<u64>(B(pc));
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        const relation: u32 = <u32>(first < second) | (<u32>(result == 0) << 1) | (<u32>(<i64>first < <i64>second) << 2) | (<u32>(<i64>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_CMPJ_RR32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(B(pc));
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        const relation: u32 = <u32>(first < second) | (<u32>(result == 0) << 1) | (<u32>(<i32>first < <i32>second) << 2) | (<u32>(<i32>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_CMPJ_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        const relation: u32 = <u32>(first < second) | (<u32>(result == 0) << 1) | (<u32>(<i64>first < <i64>second) << 2) | (<u32>(<i64>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_CMPJ_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        const relation: u32 = <u32>(first < second) | (<u32>(result == 0) << 1) | (<u32>(<i32>first < <i32>second) << 2) | (<u32>(<i32>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_TESTJ_RR64: {
        const result: u64 = load<u64>(A(pc)) & load<u64>(B(pc));
        lazy(c, FLAGS_LOGIC, 8, result, 0);
        const relation: u32 = (<u32>(result == 0) << 1) | (<u32>(<i64>result < 0) << 2) | (<u32>(<i64>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_TESTJ_RR32: {
        const result: u32 = load<u32>(A(pc)) & load<u32>(B(pc));
        lazy(c, FLAGS_LOGIC, 4, result, 0);
        const relation: u32 = (<u32>(result == 0) << 1) | (<u32>(<i32>result < 0) << 2) | (<u32>(<i32>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_TESTJ_RI64: {
        const result: u64 = load<u64>(A(pc)) & <u64>immediate(pc);
        lazy(c, FLAGS_LOGIC, 8, result, 0);
        const relation: u32 = (<u32>(result == 0) << 1) | (<u32>(<i64>result < 0) << 2) | (<u32>(<i64>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_TESTJ_RI32: {
        const result: u32 = load<u32>(A(pc)) & load<u32>(pc, UOP_IMMEDIATE);
        lazy(c, FLAGS_LOGIC, 4, result, 0);
        const relation: u32 = (<u32>(result == 0) << 1) | (<u32>(<i32>result < 0) << 2) | (<u32>(<i32>result < 0) << 3);
        left -= load<u8>(pc, UOP_COUNT);
        const offset: u32 = ((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0) ? 0 : UOP_NEXT_LINK - UOP_LINK;
        if (left <= 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        const next = link(c, pc, offset);
        if (next == 0) return stop(load<u64>(pc + offset, UOP_TARGET), left);
        pc = next;
        break;
      }
      case ops.OP_ADDRESS: {
        store<u64>(c, address(pc) + load<u64>(A(pc)), CPU_ADDRESS);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADDRESS32: {
        store<u64>(c, <u64><u32>address(pc) + load<u64>(A(pc)), CPU_ADDRESS);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADDRESS16: {
        store<u64>(c, <u64><u16>address(pc) + load<u64>(A(pc)), CPU_ADDRESS);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADDRESS_FAR: {
        store<u64>(c, load<u64>(pc, UOP_SECOND_IMMEDIATE), CPU_ADDRESS);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_NOP: {
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_LEA64: {
        store<u64>(A(pc), address(pc));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_LEA32: {
        store<u64>(A(pc), <u64><u32>address(pc));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RR64: {
        store<u64>(A(pc), load<u64>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RR32: {
        store<u64>(A(pc), load<u32>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RR16: {
        store<u16>(A(pc), load<u16>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RR8: {
        store<u8>(A(pc), load<u8>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RI64: {
        store<u64>(A(pc), immediate(pc));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RI32: {
        store<u64>(A(pc), load<u32>(pc, UOP_IMMEDIATE));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RI16: {
        store<u16>(A(pc), load<u16>(pc, UOP_IMMEDIATE));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RI8: {
        store<u8>(A(pc), load<u8>(pc, UOP_IMMEDIATE));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RI_FAR: {
        store<u64>(A(pc), load<u64>(pc, UOP_SECOND_IMMEDIATE));
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u64>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u32>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RM16: {
        const p = toReadIn(tlb, address(pc), 2);
        if (p == 0) return leave(pc, left);
        store<u16>(A(pc), load<u16>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_RM8: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        store<u8>(A(pc), load<u8>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOV_MR64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, load<u64>(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MR32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        store<u32>(p, load<u32>(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MR16: {
        const p = toWriteIn(tlb, address(pc), 2);
        if (p == 0) return leave(pc, left);
        store<u16>(p, load<u16>(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MR8: {
        const p = toWriteIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        store<u8>(p, load<u8>(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MI64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, load<i32>(pc, UOP_SECOND_IMMEDIATE));
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MI32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        store<u32>(p, load<u32>(pc, UOP_SECOND_IMMEDIATE));
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MI16: {
        const p = toWriteIn(tlb, address(pc), 2);
        if (p == 0) return leave(pc, left);
        store<u16>(p, load<u16>(pc, UOP_SECOND_IMMEDIATE));
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOV_MI8: {
        const p = toWriteIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        store<u8>(p, load<u8>(pc, UOP_SECOND_IMMEDIATE));
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOVZX_RR8: {
        store<u64>(A(pc), load<u8>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVZX_RR16: {
        store<u64>(A(pc), load<u16>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVZX_RM8: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u8>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVZX_RM16: {
        const p = toReadIn(tlb, address(pc), 2);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u16>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RR8_64: {
        store<u64>(A(pc), <i64>load<i8>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RR16_64: {
        store<u64>(A(pc), <i64>load<i16>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RM8_64: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), <i64>load<i8>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RM16_64: {
        const p = toReadIn(tlb, address(pc), 2);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), <i64>load<i16>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RR8_32: {
        store<u64>(A(pc), <u64><u32><i32>load<i8>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RR16_32: {
        store<u64>(A(pc), <u64><u32><i32>load<i16>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RM8_32: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), <u64><u32><i32>load<i8>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSX_RM16_32: {
        const p = toReadIn(tlb, address(pc), 2);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), <u64><u32><i32>load<i16>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSXD_RR: {
        store<u64>(A(pc), <i64>load<i32>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSXD_RM: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), <i64>load<i32>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RR64: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        const result = first + second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_ADD, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RR32: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        const result = first + second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_ADD, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first + second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_ADD, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first + second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_ADD, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(A(pc));
        const second = load<u64>(p);
        const result = first + second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_ADD, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(A(pc));
        const second = load<u32>(p);
        const result = first + second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_ADD, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_MR64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second = load<u64>(A(pc));
        const result = first + second;
        store<u64>(p, result);
        lazy(c, FLAGS_ADD, 8, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_ADD_MR32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second = load<u32>(A(pc));
        const result = first + second;
        store<u32>(p, result);
        lazy(c, FLAGS_ADD, 4, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_ADD_MI64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second: u64 = <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first + second;
        store<u64>(p, result);
        lazy(c, FLAGS_ADD, 8, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_ADD_MI32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second: u32 = load<u32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first + second;
        store<u32>(p, result);
        lazy(c, FLAGS_ADD, 4, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_OR_RR64: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        const result = first | second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RR32: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        const result = first | second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first | second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first | second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(A(pc));
        const second = load<u64>(p);
        const result = first | second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(A(pc));
        const second = load<u32>(p);
        const result = first | second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_MR64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second = load<u64>(A(pc));
        const result = first | second;
        store<u64>(p, result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_OR_MR32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second = load<u32>(A(pc));
        const result = first | second;
        store<u32>(p, result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_OR_MI64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second: u64 = <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first | second;
        store<u64>(p, result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_OR_MI32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second: u32 = load<u32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first | second;
        store<u32>(p, result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_AND_RR64: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        const result = first & second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RR32: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        const result = first & second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first & second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first & second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(A(pc));
        const second = load<u64>(p);
        const result = first & second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(A(pc));
        const second = load<u32>(p);
        const result = first & second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_MR64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second = load<u64>(A(pc));
        const result = first & second;
        store<u64>(p, result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_AND_MR32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second = load<u32>(A(pc));
        const result = first & second;
        store<u32>(p, result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_AND_MI64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second: u64 = <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first & second;
        store<u64>(p, result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_AND_MI32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second: u32 = load<u32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first & second;
        store<u32>(p, result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_SUB_RR64: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        const result = first - second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RR32: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        const result = first - second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first - second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first - second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(A(pc));
        const second = load<u64>(p);
        const result = first - second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(A(pc));
        const second = load<u32>(p);
        const result = first - second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_MR64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second = load<u64>(A(pc));
        const result = first - second;
        store<u64>(p, result);
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_SUB_MR32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second = load<u32>(A(pc));
        const result = first - second;
        store<u32>(p, result);
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_SUB_MI64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second: u64 = <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first - second;
        store<u64>(p, result);
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_SUB_MI32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second: u32 = load<u32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first - second;
        store<u32>(p, result);
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_XOR_RR64: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        const result = first ^ second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RR32: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        const result = first ^ second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first ^ second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first ^ second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(A(pc));
        const second = load<u64>(p);
        const result = first ^ second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(A(pc));
        const second = load<u32>(p);
        const result = first ^ second;
        store<u64>(A(pc), result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_MR64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second = load<u64>(A(pc));
        const result = first ^ second;
        store<u64>(p, result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_XOR_MR32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second = load<u32>(A(pc));
        const result = first ^ second;
        store<u32>(p, result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_XOR_MI64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second: u64 = <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first ^ second;
        store<u64>(p, result);
        lazy(c, FLAGS_LOGIC, 8, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_XOR_MI32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second: u32 = load<u32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first ^ second;
        store<u32>(p, result);
        lazy(c, FLAGS_LOGIC, 4, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_CMP_RR64: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RR32: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RI64: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RI32: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(A(pc));
        const second = load<u64>(p);
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(A(pc));
        const second = load<u32>(p);
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_MR64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second = load<u64>(A(pc));
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_MR32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second = load<u32>(A(pc));
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_MI64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const first = load<u64>(p);
        const second: u64 = <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first - second;
        lazy(c, FLAGS_SUB, 8, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_MI32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const first = load<u32>(p);
        const second: u32 = load<u32>(pc, UOP_SECOND_IMMEDIATE);
        const result = first - second;
        lazy(c, FLAGS_SUB, 4, result, first);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RR64_QUIET: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        store<u64>(A(pc), first + second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RR32_QUIET: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        store<u64>(A(pc), first + second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        store<u64>(A(pc), first + second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADD_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        store<u64>(A(pc), first + second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RR64_QUIET: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        store<u64>(A(pc), first | second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RR32_QUIET: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        store<u64>(A(pc), first | second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        store<u64>(A(pc), first | second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_OR_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        store<u64>(A(pc), first | second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RR64_QUIET: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        store<u64>(A(pc), first & second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RR32_QUIET: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        store<u64>(A(pc), first & second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        store<u64>(A(pc), first & second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_AND_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        store<u64>(A(pc), first & second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RR64_QUIET: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        store<u64>(A(pc), first - second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RR32_QUIET: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        store<u64>(A(pc), first - second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        store<u64>(A(pc), first - second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SUB_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        store<u64>(A(pc), first - second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RR64_QUIET: {
        const first = load<u64>(A(pc));
        const second = load<u64>(B(pc));
        store<u64>(A(pc), first ^ second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RR32_QUIET: {
        const first = load<u32>(A(pc));
        const second = load<u32>(B(pc));
        store<u64>(A(pc), first ^ second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const second: u64 = <u64>immediate(pc);
        store<u64>(A(pc), first ^ second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XOR_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const second: u32 = load<u32>(pc, UOP_IMMEDIATE);
        store<u64>(A(pc), first ^ second);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_RR64: {
        const result = load<u64>(A(pc)) & load<u64>(B(pc));
        lazy(c, FLAGS_LOGIC, 8, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_RR32: {
        const result = load<u32>(A(pc)) & load<u32>(B(pc));
        lazy(c, FLAGS_LOGIC, 4, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_RI64: {
        const result: u64 = load<u64>(A(pc)) & <u64>immediate(pc);
        lazy(c, FLAGS_LOGIC, 8, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_RI32: {
        const result: u32 = load<u32>(A(pc)) & load<u32>(pc, UOP_IMMEDIATE);
        lazy(c, FLAGS_LOGIC, 4, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_MR64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const result = load<u64>(p) & load<u64>(A(pc));
        lazy(c, FLAGS_LOGIC, 8, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_MR32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const result = load<u32>(p) & load<u32>(A(pc));
        lazy(c, FLAGS_LOGIC, 4, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_MI64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const result: u64 = load<u64>(p) & <u64><i64>load<i32>(pc, UOP_SECOND_IMMEDIATE);
        lazy(c, FLAGS_LOGIC, 8, result, 0);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_MI32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const result: u32 = load<u32>(p) & load<u32>(pc, UOP_SECOND_IMMEDIATE);
        lazy(c, FLAGS_LOGIC, 4, result, 0);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RR8: {
        const first: u32 = load<u8>(A(pc));
        const second: u32 = load<u8>(B(pc));
        lazy(c, FLAGS_SUB, 1, (first - second) & 0xff, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RI8: {
        const first: u32 = load<u8>(A(pc));
        const second: u32 = <u32>load<u8>(pc, UOP_IMMEDIATE);
        lazy(c, FLAGS_SUB, 1, (first - second) & 0xff, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_RM8: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        const first: u32 = load<u8>(A(pc));
        const second: u32 = load<u8>(p);
        lazy(c, FLAGS_SUB, 1, (first - second) & 0xff, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_MI8: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        const first: u32 = load<u8>(p);
        const second: u32 = <u32>load<u8>(pc, UOP_SECOND_IMMEDIATE);
        lazy(c, FLAGS_SUB, 1, (first - second) & 0xff, first);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_RR8: {
        lazy(c, FLAGS_LOGIC, 1, load<u8>(A(pc)) & load<u8>(B(pc)), 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_RI8: {
        lazy(c, FLAGS_LOGIC, 1, load<u8>(A(pc)) & <u32>load<u8>(pc, UOP_IMMEDIATE), 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_TEST_MI8: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        lazy(c, FLAGS_LOGIC, 1, load<u8>(p) & <u32>load<u8>(pc, UOP_SECOND_IMMEDIATE), 0);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMP_MR8: {
        const p = toReadIn(tlb, address(pc), 1);
        if (p == 0) return leave(pc, left);
        const first: u32 = load<u8>(p);
        const second: u32 = load<u8>(A(pc));
        lazy(c, FLAGS_SUB, 1, (first - second) & 0xff, first);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_INC_R64: {
        const result = load<u64>(A(pc)) + 1;
        store<u64>(A(pc), result);
        setIncFlags(FLAGS_INC, 8, result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_INC_R32: {
        const result = load<u32>(A(pc)) + 1;
        store<u64>(A(pc), result);
        setIncFlags(FLAGS_INC, 4, result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_DEC_R64: {
        const result = load<u64>(A(pc)) - 1;
        store<u64>(A(pc), result);
        setIncFlags(FLAGS_DEC, 8, result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_DEC_R32: {
        const result = load<u32>(A(pc)) - 1;
        store<u64>(A(pc), result);
        setIncFlags(FLAGS_DEC, 4, result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_NEG_R64: {
        const result: u64 = 0 - load<u64>(A(pc));
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 8, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_NEG_R32: {
        const result: u32 = 0 - load<u32>(A(pc));
        store<u64>(A(pc), result);
        lazy(c, FLAGS_SUB, 4, result, 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_NOT_R64: {
        store<u64>(A(pc), ~load<u64>(A(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_NOT_R32: {
        const value: u32 = load<u32>(A(pc));
        store<u64>(A(pc), ~value);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_INC_M64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const result = load<u64>(p) + 1;
        store<u64>(p, result);
        setIncFlags(FLAGS_INC, 8, result);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_INC_M32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const result = load<u32>(p) + 1;
        store<u32>(p, result);
        setIncFlags(FLAGS_INC, 4, result);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_DEC_M64: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        const result = load<u64>(p) - 1;
        store<u64>(p, result);
        setIncFlags(FLAGS_DEC, 8, result);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_DEC_M32: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        const result = load<u32>(p) - 1;
        store<u32>(p, result);
        setIncFlags(FLAGS_DEC, 4, result);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_SHL_RI64: {
        const first = load<u64>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u64 = first << count;
        store<u64>(A(pc), result);
        setShiftFlagsSHL(8, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RI32: {
        const first = load<u32>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u32 = first << count;
        store<u64>(A(pc), result);
        setShiftFlagsSHL(4, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RI64: {
        const first = load<u64>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u64 = first >> count;
        store<u64>(A(pc), result);
        setShiftFlagsSHR(8, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RI32: {
        const first = load<u32>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u32 = first >> count;
        store<u64>(A(pc), result);
        setShiftFlagsSHR(4, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RI64: {
        const first = load<u64>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result = <u64>(<i64>first >> count);
        store<u64>(A(pc), result);
        setShiftFlagsSAR(8, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RI32: {
        const first = load<u32>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result = <u32>(<i32>first >> count);
        store<u64>(A(pc), result);
        setShiftFlagsSAR(4, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u64 = first << count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u32 = first << count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u64 = first >> count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result: u32 = first >> count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RI64_QUIET: {
        const first = load<u64>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result = <u64>(<i64>first >> count);
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RI32_QUIET: {
        const first = load<u32>(A(pc));
        const count = load<u8>(pc, UOP_IMMEDIATE);
        const result = <u32>(<i32>first >> count);
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_IMUL_RR64: {
        multiply64(A(pc), load<u64>(A(pc)), load<u64>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_IMUL_RR32: {
        multiply32(A(pc), load<u32>(A(pc)), load<u32>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_IMUL_RM64: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        multiply64(A(pc), load<u64>(A(pc)), load<u64>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_IMUL_RM32: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        multiply32(A(pc), load<u32>(A(pc)), load<u32>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_IMUL_RRI64: {
        multiply64(A(pc), load<u64>(B(pc)), <u64>immediate(pc));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_IMUL_RRI32: {
        multiply32(A(pc), load<u32>(B(pc)), load<u32>(pc, UOP_IMMEDIATE));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUSH_R: {
        const sp = load<u64>(c, CPU_RSP) - 8;
        const p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, load<u64>(A(pc)));
        store<u64>(c, sp, CPU_RSP);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_PUSH_I: {
        const sp = load<u64>(c, CPU_RSP) - 8;
        const p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, immediate(pc));
        store<u64>(c, sp, CPU_RSP);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_PUSH_M: {
        const q = toReadIn(tlb, address(pc), 8);
        if (q == 0) return leave(pc, left);
        const value = load<u64>(q);
        const sp = load<u64>(c, CPU_RSP) - 8;
        const p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, value);
        store<u64>(c, sp, CPU_RSP);
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_POP_R: {
        const sp = load<u64>(c, CPU_RSP);
        const p = toReadIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(c, sp + 8, CPU_RSP);
        store<u64>(A(pc), load<u64>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_LEAVE: {
        const frame = load<u64>(c, CPU_RBP);
        const p = toReadIn(tlb, frame, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(c, load<u64>(p), CPU_RBP);
        store<u64>(c, frame + 8, CPU_RSP);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMOV_RR64: {
        if (condition(load<u8>(pc, UOP_IMMEDIATE))) store<u64>(A(pc), load<u64>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CMOV_RR32: {
        store<u64>(A(pc), condition(load<u8>(pc, UOP_IMMEDIATE)) ? load<u32>(B(pc)) : load<u32>(A(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SETCC_R: {
        store<u8>(A(pc), <u8>condition(load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XCHG_RR64: {
        const value = load<u64>(A(pc));
        store<u64>(A(pc), load<u64>(B(pc)));
        store<u64>(B(pc), value);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_XCHG_RR32: {
        const value = load<u32>(A(pc));
        store<u64>(A(pc), load<u32>(B(pc)));
        store<u64>(B(pc), value);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_BSWAP64: {
        store<u64>(A(pc), bswap<u64>(load<u64>(A(pc))));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_BSWAP32: {
        store<u64>(A(pc), bswap<u32>(load<u32>(A(pc))));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CDQE: {
        store<u64>(c, <i64>load<i32>(c, CPU_RAX), CPU_RAX);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CWDE: {
        store<u64>(c, <u64><u32><i32>load<i16>(c, CPU_RAX), CPU_RAX);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CQO: {
        store<u64>(c, load<i64>(c, CPU_RAX) >> 63, CPU_RDX);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_CDQ: {
        store<u64>(c, <u64><u32>(load<i32>(c, CPU_RAX) >> 31), CPU_RDX);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADC_RR64: {
        store<u64>(A(pc), addWithCarry(load<u64>(A(pc)), load<u64>(B(pc)), 8));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADC_RI64: {
        store<u64>(A(pc), addWithCarry(load<u64>(A(pc)), <u64>immediate(pc), 8));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SBB_RR64: {
        store<u64>(A(pc), subtractWithBorrow(load<u64>(A(pc)), load<u64>(B(pc)), 8));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SBB_RI64: {
        store<u64>(A(pc), subtractWithBorrow(load<u64>(A(pc)), <u64>immediate(pc), 8));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADC_RR32: {
        store<u64>(A(pc), addWithCarry(load<u32>(A(pc)), load<u32>(B(pc)), 4));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ADC_RI32: {
        store<u64>(A(pc), addWithCarry(load<u32>(A(pc)), load<u32>(pc, UOP_IMMEDIATE), 4));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SBB_RR32: {
        store<u64>(A(pc), subtractWithBorrow(load<u32>(A(pc)), load<u32>(B(pc)), 4));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SBB_RI32: {
        store<u64>(A(pc), subtractWithBorrow(load<u32>(A(pc)), load<u32>(pc, UOP_IMMEDIATE), 4));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MUL64: {
        multiplyWide(load<u64>(c, CPU_RAX), load<u64>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVUPS_XM: {
        const p = toReadIn(tlb, address(pc), 16);
        if (p == 0) return leave(pc, left);
        v128.store(A(pc), v128.load(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVUPS_MX: {
        const p = toWriteIn(tlb, address(pc), 16);
        if (p == 0) return leave(pc, left);
        v128.store(p, v128.load(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOVUPS_XX: {
        v128.store(A(pc), v128.load(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PXOR_XX: {
        v128.store(A(pc), v128.xor(v128.load(A(pc)), v128.load(B(pc))));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ROL_RI64: {
        const result = rotl<u64>(load<u64>(A(pc)), load<u8>(pc, UOP_IMMEDIATE));
        store<u64>(A(pc), result);
        setRotateFlags(8, result, load<u8>(pc, UOP_IMMEDIATE + 1) != 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ROL_RI32: {
        const result = rotl<u32>(load<u32>(A(pc)), load<u8>(pc, UOP_IMMEDIATE));
        store<u64>(A(pc), result);
        setRotateFlags(4, result, load<u8>(pc, UOP_IMMEDIATE + 1) != 0);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ROL_RI64_QUIET: {
        store<u64>(A(pc), rotl<u64>(load<u64>(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_ROL_RI32_QUIET: {
        store<u64>(A(pc), rotl<u32>(load<u32>(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RC64: {
        const first = load<u64>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 63;
        const result: u64 = first << count;
        store<u64>(A(pc), result);
        if (count != 0) setShiftFlagsSHL(8, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RC32: {
        const first = load<u32>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 31;
        const result: u32 = first << count;
        store<u64>(A(pc), result);
        if (count != 0) setShiftFlagsSHL(4, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RC64: {
        const first = load<u64>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 63;
        const result: u64 = first >> count;
        store<u64>(A(pc), result);
        if (count != 0) setShiftFlagsSHR(8, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RC32: {
        const first = load<u32>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 31;
        const result: u32 = first >> count;
        store<u64>(A(pc), result);
        if (count != 0) setShiftFlagsSHR(4, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RC64: {
        const first = load<u64>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 63;
        const result: u64 = <u64>(<i64>first >> count);
        store<u64>(A(pc), result);
        if (count != 0) setShiftFlagsSAR(8, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RC32: {
        const first = load<u32>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 31;
        const result: u32 = <u32>(<i32>first >> count);
        store<u64>(A(pc), result);
        if (count != 0) setShiftFlagsSAR(4, result, first, count);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RC64_QUIET: {
        const first = load<u64>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 63;
        const result: u64 = first << count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHL_RC32_QUIET: {
        const first = load<u32>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 31;
        const result: u32 = first << count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RC64_QUIET: {
        const first = load<u64>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 63;
        const result: u64 = first >> count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHR_RC32_QUIET: {
        const first = load<u32>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 31;
        const result: u32 = first >> count;
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RC64_QUIET: {
        const first = load<u64>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 63;
        const result: u64 = <u64>(<i64>first >> count);
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SAR_RC32_QUIET: {
        const first = load<u32>(A(pc));
        const count = load<u8>(c, CPU_RCX) & 31;
        const result: u32 = <u32>(<i32>first >> count);
        store<u64>(A(pc), result);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVAPS_XM: {
        const where = address(pc);
        if (where & 15) {
          raiseWith(GP, 0);
          return leave(pc, left);
        }
        const p = toReadIn(tlb, where, 16);
        if (p == 0) return leave(pc, left);
        v128.store(A(pc), v128.load(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVAPS_MX: {
        const where = address(pc);
        if (where & 15) {
          raiseWith(GP, 0);
          return leave(pc, left);
        }
        const p = toWriteIn(tlb, where, 16);
        if (p == 0) return leave(pc, left);
        v128.store(p, v128.load(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOVQ_XM: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        v128.store(A(pc), v128.load64_zero(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVD_XM: {
        const p = toReadIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        v128.store(A(pc), v128.load32_zero(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVQ_MX: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, load<u64>(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOVD_MX: {
        const p = toWriteIn(tlb, address(pc), 4);
        if (p == 0) return leave(pc, left);
        store<u32>(p, load<u32>(A(pc)));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOVHPS_XM: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u64>(p), 8);
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVHPS_MX: {
        const p = toWriteIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(p, load<u64>(A(pc), 8));
        pc += UOP_SIZE_BYTES;
        if (!isPlain(p) && finishAndCheck()) return leave(pc, left);
        break;
      }
      case ops.OP_MOVLPS_XM: {
        const p = toReadIn(tlb, address(pc), 8);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u64>(p));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVQ_XR: {
        v128.store(A(pc), v128.load64_zero(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVD_XR: {
        v128.store(A(pc), v128.load32_zero(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSD_XX: {
        store<u64>(A(pc), load<u64>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_MOVSS_XX: {
        store<u32>(A(pc), load<u32>(B(pc)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_POR_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), v128.or(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PAND_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), v128.and(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PANDN_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), v128.andnot(b, a));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PADDB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.add(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PADDW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i16x8.add(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PADDD_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i32x4.add(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PADDQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i64x2.add(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSUBB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.sub(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSUBW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i16x8.sub(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSUBD_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i32x4.sub(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSUBQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i64x2.sub(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PCMPEQB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.eq(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PCMPEQW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i16x8.eq(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PCMPEQD_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i32x4.eq(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PCMPGTB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.gt_s(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PCMPGTW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i16x8.gt_s(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PCMPGTD_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i32x4.gt_s(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PMINUB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.min_u(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PMAXUB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.max_u(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PMULLW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i16x8.mul(a, b));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PMULUDQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i64x2.mul(v128.and(a, i64x2.splat(0xffff_ffff)), v128.and(b, i64x2.splat(0xffff_ffff))));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSHUFB_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.swizzle(a, v128.and(b, i8x16.splat(<i8>0x8f))));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKLBW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKLWD_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKLDQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKLQDQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKHBW_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKHWD_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKHDQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PUNPCKHQDQ_XX: {
        const a = v128.load(A(pc));
        const b = v128.load(B(pc));
        v128.store(A(pc), i8x16.shuffle(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSLLW_XI: {
        v128.store(A(pc), i16x8.shl(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSLLD_XI: {
        v128.store(A(pc), i32x4.shl(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSLLQ_XI: {
        v128.store(A(pc), i64x2.shl(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSRLW_XI: {
        v128.store(A(pc), i16x8.shr_u(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSRLD_XI: {
        v128.store(A(pc), i32x4.shr_u(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSRLQ_XI: {
        v128.store(A(pc), i64x2.shr_u(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSRAW_XI: {
        v128.store(A(pc), i16x8.shr_s(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PSRAD_XI: {
        v128.store(A(pc), i32x4.shr_s(v128.load(A(pc)), load<u8>(pc, UOP_IMMEDIATE)));
        pc += UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_SHUFFLE_XX: {
        v128.store(A(pc), i8x16.swizzle(v128.load(B(pc)), v128.load(pc, UOP_SECOND_IMMEDIATE)));
        pc += 2 * UOP_SIZE_BYTES;
        break;
      }
      case ops.OP_PMOVMSKB_RX: {
        store<u64>(A(pc), <u32>i8x16.bitmask(v128.load(B(pc))));
        pc += UOP_SIZE_BYTES;
        break;
      }
      default:
        unreachable();
    }
  }
}
