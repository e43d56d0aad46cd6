// SPDX-License-Identifier: Apache-2.0
// The loop that runs translated code: one dense switch, as small as it can be, because no engine optimises a function that is too
// large (docs/engine.md). What is rare is in other files, behind one of the OP_COLD_….
//
// It leaves when its budget is used up, after an exception, when the code it runs has been forgotten, and after instructions that may
// change the mode. CPU_RIP is right then, and CPU_EXCEPTION says whether there is one.
//
// What uops are made of is in hot-*.ts, inlined: a call costs more than most of them do. That cannot end the loop, so it gives back what the
// case has to decide: `pc = …` the next uop, `p = …` an address in this memory or 0.
import { isCanonical } from "./access.ts";
import { followStale, isStale, ripOf } from "./blocks.ts";
import { condition } from "./flags.ts";
import {
  adcA,
  addA,
  addM,
  andA,
  andM,
  cmp,
  countInCL,
  decA,
  decM,
  imulA,
  incA,
  incM,
  negA,
  orA,
  orM,
  rolA,
  sarA,
  sarByCL,
  sbbA,
  shiftRightSigned,
  shlA,
  shlByCL,
  shrA,
  shrByCL,
  subA,
  subM,
  test,
  xorA,
  xorM,
} from "./hot-arithmetic.ts";
import { cmpj, jump, link, linkIf, pushNext, targetOf, testj } from "./hot-branches.ts";
import { leave, refuse, stop } from "./hot-exits.ts";
import { finishAndCheck, toReadIn, toReadM, toWriteIn, toWriteM } from "./hot-memory.ts";
import { exchange, getA, getB, getImmediate, getSecondImmediate, setA, setM } from "./hot-operands.ts";
import { multiplyWide } from "./integer-multiply.ts";
import { execInteger } from "./integer.ts";
import { execJump } from "./jumps.ts";
import { CPU_ADDRESS, CPU_FLAG_RESULT, CPU_INSTRUCTIONS, CPU_RIP, CPU_TLB } from "./layout.ts";
import * as ops from "./ops.ts";
import { RAX, RBP, RDX, RSP } from "./registers.ts";
import { forgetRefusal } from "./slow-access.ts";
import { execSse } from "./sse.ts";
import { execString } from "./strings.ts";
import { execSystem } from "./system.ts";
import {
  address,
  registerA as A,
  registerB as B,
  UOP_COUNT,
  UOP_IMMEDIATE,
  UOP_SECOND_IMMEDIATE,
  UOP_SIZE_BYTES,
} from "./uop.ts";
import { cpu, raise } from "./vcpu.ts";
import { execX87 } from "./x87.ts";

/** Runs about `budget` instructions from `start` on. */
export function runHot(start: usize, budget: i32, mode: u64): void {
  const c = cpu;
  const tlb: usize = load<u32>(c, CPU_TLB);
  let pc = start;
  let left = budget;
  // Of the uop at hand: where its operand in memory is, 0 if an exception was raised, and what RSP is to be.
  let p: usize = 0;
  let sp: u64 = 0;
  // Of a branch: which of its links it takes and the uop there, or the address to which it goes.
  let offset: u32 = 0;
  let next: usize = 0;
  let target: u64 = 0;
  forgetRefusal();
  // Less what is left, in the end.
  store<u64>(c, load<u64>(c, CPU_INSTRUCTIONS) + <i64>budget, CPU_INSTRUCTIONS);
  while (true) {
    switch (load<u16>(pc)) {
      // ── Code that is gone, and what is rare ──
      case ops.OP_STALE:
        next = load<u32>(pc, UOP_IMMEDIATE);
        if (next == 0) next = followStale(pc);
        if (next == 0) return stop(ripOf(pc), left);
        pc = next;
        break;
      case ops.OP_RAISE:
        raise(A(pc));
        return leave(pc, left);
      case ops.OP_COLD_INTEGER:
        if (!execInteger(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      case ops.OP_COLD_STRING:
        if (!execString(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      case ops.OP_COLD_SSE:
        if (!execSse(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      case ops.OP_COLD_X87:
        if (!execX87(pc)) return leave(pc, left);
        pc += 2 * UOP_SIZE_BYTES;
        if (isStale) return leave(pc, left);
        break;
      case ops.OP_COLD_JUMP:
        left -= load<u8>(pc, UOP_COUNT);
        if (!execJump(pc) || left <= 0) return stop(load<u64>(c, CPU_RIP), left);
        target = load<u64>(c, CPU_RIP);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      case ops.OP_COLD_SYSTEM:
        left -= load<u8>(pc, UOP_COUNT);
        execSystem(pc);
        return stop(load<u64>(c, CPU_RIP), left);
      // ── Branches ──
      case ops.OP_END:
      case ops.OP_JMP:
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, 0), left);
        next = link(c, pc, 0);
        if (next == 0) return stop(targetOf(pc, 0), left);
        pc = next;
        break;
      case ops.OP_CALL:
        sp = load<u64>(c, RSP) - 8;
        p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        pushNext(c, pc, p, sp);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, 0), left);
        next = link(c, pc, 0);
        if (next == 0) return stop(targetOf(pc, 0), left);
        pc = next;
        break;
      case ops.OP_RET:
        sp = load<u64>(c, RSP);
        p = toReadIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        target = load<u64>(p);
        if (!isCanonical(target)) return refuse(pc, left);
        store<u64>(c, sp + 8 + <u64>load<i32>(pc, UOP_IMMEDIATE), RSP);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      case ops.OP_JMP_R:
        target = getA<u64>(pc);
        if (!isCanonical(target)) return refuse(pc, left);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      case ops.OP_JMP_M:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        target = load<u64>(p);
        if (!isCanonical(target)) return refuse(pc, left);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      case ops.OP_CALL_R:
        target = getA<u64>(pc);
        sp = load<u64>(c, RSP) - 8;
        p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        if (!isCanonical(target)) return refuse(pc, left);
        pushNext(c, pc, p, sp);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      case ops.OP_CALL_M:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        target = load<u64>(p);
        sp = load<u64>(c, RSP) - 8;
        p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        if (!isCanonical(target)) return refuse(pc, left);
        pushNext(c, pc, p, sp);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(target, left);
        pc = jump(target, mode);
        if (pc == 0) return stop(target, left);
        break;
      case ops.OP_JCC:
        offset = linkIf(condition(A(pc)));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_JZ:
        offset = linkIf(load<u64>(c, CPU_FLAG_RESULT) == 0);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_JNZ:
        offset = linkIf(load<u64>(c, CPU_FLAG_RESULT) != 0);
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_CMPJ_RR64:
        offset = cmpj<u64>(c, pc, getA<u64>(pc), getB<u64>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_CMPJ_RR32:
        offset = cmpj<u32>(c, pc, getA<u32>(pc), getB<u32>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_CMPJ_RI64:
        offset = cmpj<u64>(c, pc, getA<u64>(pc), getImmediate<u64>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_CMPJ_RI32:
        offset = cmpj<u32>(c, pc, getA<u32>(pc), getImmediate<u32>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_TESTJ_RR64:
        offset = testj<u64>(c, pc, getA<u64>(pc), getB<u64>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_TESTJ_RR32:
        offset = testj<u32>(c, pc, getA<u32>(pc), getB<u32>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_TESTJ_RI64:
        offset = testj<u64>(c, pc, getA<u64>(pc), getImmediate<u64>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      case ops.OP_TESTJ_RI32:
        offset = testj<u32>(c, pc, getA<u32>(pc), getImmediate<u32>(pc));
        left -= load<u8>(pc, UOP_COUNT);
        if (left <= 0) return stop(targetOf(pc, offset), left);
        next = link(c, pc, offset);
        if (next == 0) return stop(targetOf(pc, offset), left);
        pc = next;
        break;
      // ── Addresses that are more than base, index and displacement ──
      case ops.OP_ADDRESS:
        store<u64>(c, address(pc) + getA<u64>(pc), CPU_ADDRESS);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_ADDRESS32:
        store<u64>(c, <u64><u32>(address(pc) + getA<u64>(pc)), CPU_ADDRESS);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_ADDRESS16:
        store<u64>(c, <u64><u32>(<u64><u16>address(pc) + getA<u64>(pc)), CPU_ADDRESS);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_ADDRESS_FAR:
        store<u64>(c, load<u64>(pc, UOP_SECOND_IMMEDIATE), CPU_ADDRESS);
        pc += 2 * UOP_SIZE_BYTES;
        break;
      // ── Moves ──
      case ops.OP_NOP:
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_LEA64:
        pc = setA<u64>(pc, address(pc));
        break;
      case ops.OP_LEA32:
        pc = setA<u32>(pc, <u32>address(pc));
        break;
      case ops.OP_MOV_RR64:
        pc = setA<u64>(pc, getB<u64>(pc));
        break;
      case ops.OP_MOV_RR32:
        pc = setA<u32>(pc, getB<u32>(pc));
        break;
      case ops.OP_MOV_RR16:
        pc = setA<u16>(pc, getB<u16>(pc));
        break;
      case ops.OP_MOV_RR8:
        pc = setA<u8>(pc, getB<u8>(pc));
        break;
      case ops.OP_MOV_RI64:
        pc = setA<u64>(pc, getImmediate<u64>(pc));
        break;
      case ops.OP_MOV_RI32:
        pc = setA<u32>(pc, getImmediate<u32>(pc));
        break;
      case ops.OP_MOV_RI16:
        pc = setA<u16>(pc, getImmediate<u16>(pc));
        break;
      case ops.OP_MOV_RI8:
        pc = setA<u8>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_MOV_RI_FAR:
        pc = setA<u64>(pc, load<u64>(pc, UOP_SECOND_IMMEDIATE)) + UOP_SIZE_BYTES;
        break;
      case ops.OP_MOV_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, load<u64>(p));
        break;
      case ops.OP_MOV_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u32>(pc, load<u32>(p));
        break;
      case ops.OP_MOV_RM16:
        p = toReadM<u16>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u16>(pc, load<u16>(p));
        break;
      case ops.OP_MOV_RM8:
        p = toReadM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u8>(pc, load<u8>(p));
        break;
      case ops.OP_MOV_MR64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MR32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u32>(pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MR16:
        p = toWriteM<u16>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u16>(pc, p, getA<u16>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MR8:
        p = toWriteM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u8>(pc, p, getA<u8>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MI64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MI32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u32>(pc, p, getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MI16:
        p = toWriteM<u16>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u16>(pc, p, getSecondImmediate<u16>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOV_MI8:
        p = toWriteM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u8>(pc, p, getSecondImmediate<u8>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOVZX_RR8:
        pc = setA<u64>(pc, getB<u8>(pc));
        break;
      case ops.OP_MOVZX_RR16:
        pc = setA<u64>(pc, getB<u16>(pc));
        break;
      case ops.OP_MOVZX_RM8:
        p = toReadM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, load<u8>(p));
        break;
      case ops.OP_MOVZX_RM16:
        p = toReadM<u16>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, load<u16>(p));
        break;
      case ops.OP_MOVSX_RR8_64:
        pc = setA<u64>(pc, <i64>load<i8>(B(pc)));
        break;
      case ops.OP_MOVSX_RR16_64:
        pc = setA<u64>(pc, <i64>load<i16>(B(pc)));
        break;
      case ops.OP_MOVSX_RM8_64:
        p = toReadM<i8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, <i64>load<i8>(p));
        break;
      case ops.OP_MOVSX_RM16_64:
        p = toReadM<i16>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, <i64>load<i16>(p));
        break;
      case ops.OP_MOVSX_RR8_32:
        pc = setA<u32>(pc, <i32>load<i8>(B(pc)));
        break;
      case ops.OP_MOVSX_RR16_32:
        pc = setA<u32>(pc, <i32>load<i16>(B(pc)));
        break;
      case ops.OP_MOVSX_RM8_32:
        p = toReadM<i8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u32>(pc, <i32>load<i8>(p));
        break;
      case ops.OP_MOVSX_RM16_32:
        p = toReadM<i16>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u32>(pc, <i32>load<i16>(p));
        break;
      case ops.OP_MOVSXD_RR:
        pc = setA<u64>(pc, <i64>getB<i32>(pc));
        break;
      case ops.OP_MOVSXD_RM:
        p = toReadM<i32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, <i64>load<i32>(p));
        break;
      // ── Two operands ──
      case ops.OP_ADD_RR64:
        pc = addA<u64>(c, pc, getB<u64>(pc));
        break;
      case ops.OP_ADD_RR32:
        pc = addA<u32>(c, pc, getB<u32>(pc));
        break;
      case ops.OP_ADD_RI64:
        pc = addA<u64>(c, pc, getImmediate<u64>(pc));
        break;
      case ops.OP_ADD_RI32:
        pc = addA<u32>(c, pc, getImmediate<u32>(pc));
        break;
      case ops.OP_ADD_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = addA<u64>(c, pc, load<u64>(p));
        break;
      case ops.OP_ADD_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = addA<u32>(c, pc, load<u32>(p));
        break;
      case ops.OP_ADD_MR64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = addM<u64>(c, pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_ADD_MR32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = addM<u32>(c, pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_ADD_MI64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = addM<u64>(c, pc, p, getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_ADD_MI32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = addM<u32>(c, pc, p, getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_OR_RR64:
        pc = orA<u64>(c, pc, getB<u64>(pc));
        break;
      case ops.OP_OR_RR32:
        pc = orA<u32>(c, pc, getB<u32>(pc));
        break;
      case ops.OP_OR_RI64:
        pc = orA<u64>(c, pc, getImmediate<u64>(pc));
        break;
      case ops.OP_OR_RI32:
        pc = orA<u32>(c, pc, getImmediate<u32>(pc));
        break;
      case ops.OP_OR_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = orA<u64>(c, pc, load<u64>(p));
        break;
      case ops.OP_OR_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = orA<u32>(c, pc, load<u32>(p));
        break;
      case ops.OP_OR_MR64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = orM<u64>(c, pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_OR_MR32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = orM<u32>(c, pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_OR_MI64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = orM<u64>(c, pc, p, getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_OR_MI32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = orM<u32>(c, pc, p, getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_AND_RR64:
        pc = andA<u64>(c, pc, getB<u64>(pc));
        break;
      case ops.OP_AND_RR32:
        pc = andA<u32>(c, pc, getB<u32>(pc));
        break;
      case ops.OP_AND_RI64:
        pc = andA<u64>(c, pc, getImmediate<u64>(pc));
        break;
      case ops.OP_AND_RI32:
        pc = andA<u32>(c, pc, getImmediate<u32>(pc));
        break;
      case ops.OP_AND_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = andA<u64>(c, pc, load<u64>(p));
        break;
      case ops.OP_AND_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = andA<u32>(c, pc, load<u32>(p));
        break;
      case ops.OP_AND_MR64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = andM<u64>(c, pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_AND_MR32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = andM<u32>(c, pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_AND_MI64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = andM<u64>(c, pc, p, getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_AND_MI32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = andM<u32>(c, pc, p, getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_SUB_RR64:
        pc = subA<u64>(c, pc, getB<u64>(pc));
        break;
      case ops.OP_SUB_RR32:
        pc = subA<u32>(c, pc, getB<u32>(pc));
        break;
      case ops.OP_SUB_RI64:
        pc = subA<u64>(c, pc, getImmediate<u64>(pc));
        break;
      case ops.OP_SUB_RI32:
        pc = subA<u32>(c, pc, getImmediate<u32>(pc));
        break;
      case ops.OP_SUB_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = subA<u64>(c, pc, load<u64>(p));
        break;
      case ops.OP_SUB_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = subA<u32>(c, pc, load<u32>(p));
        break;
      case ops.OP_SUB_MR64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = subM<u64>(c, pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_SUB_MR32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = subM<u32>(c, pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_SUB_MI64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = subM<u64>(c, pc, p, getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_SUB_MI32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = subM<u32>(c, pc, p, getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_XOR_RR64:
        pc = xorA<u64>(c, pc, getB<u64>(pc));
        break;
      case ops.OP_XOR_RR32:
        pc = xorA<u32>(c, pc, getB<u32>(pc));
        break;
      case ops.OP_XOR_RI64:
        pc = xorA<u64>(c, pc, getImmediate<u64>(pc));
        break;
      case ops.OP_XOR_RI32:
        pc = xorA<u32>(c, pc, getImmediate<u32>(pc));
        break;
      case ops.OP_XOR_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = xorA<u64>(c, pc, load<u64>(p));
        break;
      case ops.OP_XOR_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = xorA<u32>(c, pc, load<u32>(p));
        break;
      case ops.OP_XOR_MR64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = xorM<u64>(c, pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_XOR_MR32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = xorM<u32>(c, pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_XOR_MI64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = xorM<u64>(c, pc, p, getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_XOR_MI32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = xorM<u32>(c, pc, p, getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      // ── Comparisons ──
      case ops.OP_CMP_RR64:
        pc = cmp<u64>(c, pc, getA<u64>(pc), getB<u64>(pc));
        break;
      case ops.OP_CMP_RR32:
        pc = cmp<u32>(c, pc, getA<u32>(pc), getB<u32>(pc));
        break;
      case ops.OP_CMP_RI64:
        pc = cmp<u64>(c, pc, getA<u64>(pc), getImmediate<u64>(pc));
        break;
      case ops.OP_CMP_RI32:
        pc = cmp<u32>(c, pc, getA<u32>(pc), getImmediate<u32>(pc));
        break;
      case ops.OP_CMP_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u64>(c, pc, getA<u64>(pc), load<u64>(p));
        break;
      case ops.OP_CMP_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u32>(c, pc, getA<u32>(pc), load<u32>(p));
        break;
      case ops.OP_CMP_MR64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u64>(c, pc, load<u64>(p), getA<u64>(pc));
        break;
      case ops.OP_CMP_MR32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u32>(c, pc, load<u32>(p), getA<u32>(pc));
        break;
      case ops.OP_CMP_MI64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u64>(c, pc, load<u64>(p), getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        break;
      case ops.OP_CMP_MI32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u32>(c, pc, load<u32>(p), getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        break;
      // ── Two operands, without flags ──
      case ops.OP_ADD_RR64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) + getB<u64>(pc));
        break;
      case ops.OP_ADD_RR32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) + getB<u32>(pc));
        break;
      case ops.OP_ADD_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) + getImmediate<u64>(pc));
        break;
      case ops.OP_ADD_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) + getImmediate<u32>(pc));
        break;
      case ops.OP_OR_RR64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) | getB<u64>(pc));
        break;
      case ops.OP_OR_RR32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) | getB<u32>(pc));
        break;
      case ops.OP_OR_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) | getImmediate<u64>(pc));
        break;
      case ops.OP_OR_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) | getImmediate<u32>(pc));
        break;
      case ops.OP_AND_RR64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) & getB<u64>(pc));
        break;
      case ops.OP_AND_RR32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) & getB<u32>(pc));
        break;
      case ops.OP_AND_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) & getImmediate<u64>(pc));
        break;
      case ops.OP_AND_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) & getImmediate<u32>(pc));
        break;
      case ops.OP_SUB_RR64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) - getB<u64>(pc));
        break;
      case ops.OP_SUB_RR32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) - getB<u32>(pc));
        break;
      case ops.OP_SUB_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) - getImmediate<u64>(pc));
        break;
      case ops.OP_SUB_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) - getImmediate<u32>(pc));
        break;
      case ops.OP_XOR_RR64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) ^ getB<u64>(pc));
        break;
      case ops.OP_XOR_RR32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) ^ getB<u32>(pc));
        break;
      case ops.OP_XOR_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) ^ getImmediate<u64>(pc));
        break;
      case ops.OP_XOR_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) ^ getImmediate<u32>(pc));
        break;
      // ── TEST, and comparisons of bytes ──
      case ops.OP_TEST_RR64:
        pc = test<u64>(c, pc, getA<u64>(pc), getB<u64>(pc));
        break;
      case ops.OP_TEST_RR32:
        pc = test<u32>(c, pc, getA<u32>(pc), getB<u32>(pc));
        break;
      case ops.OP_TEST_RI64:
        pc = test<u64>(c, pc, getA<u64>(pc), getImmediate<u64>(pc));
        break;
      case ops.OP_TEST_RI32:
        pc = test<u32>(c, pc, getA<u32>(pc), getImmediate<u32>(pc));
        break;
      case ops.OP_TEST_MR64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = test<u64>(c, pc, load<u64>(p), getA<u64>(pc));
        break;
      case ops.OP_TEST_MR32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = test<u32>(c, pc, load<u32>(p), getA<u32>(pc));
        break;
      case ops.OP_TEST_MI64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = test<u64>(c, pc, load<u64>(p), getSecondImmediate<u64>(pc)) + UOP_SIZE_BYTES;
        break;
      case ops.OP_TEST_MI32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = test<u32>(c, pc, load<u32>(p), getSecondImmediate<u32>(pc)) + UOP_SIZE_BYTES;
        break;
      case ops.OP_CMP_RR8:
        pc = cmp<u8>(c, pc, getA<u8>(pc), getB<u8>(pc));
        break;
      case ops.OP_CMP_RI8:
        pc = cmp<u8>(c, pc, getA<u8>(pc), getImmediate<u8>(pc));
        break;
      case ops.OP_CMP_RM8:
        p = toReadM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u8>(c, pc, getA<u8>(pc), load<u8>(p));
        break;
      case ops.OP_CMP_MI8:
        p = toReadM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u8>(c, pc, load<u8>(p), getSecondImmediate<u8>(pc)) + UOP_SIZE_BYTES;
        break;
      case ops.OP_TEST_RR8:
        pc = test<u8>(c, pc, getA<u8>(pc), getB<u8>(pc));
        break;
      case ops.OP_TEST_RI8:
        pc = test<u8>(c, pc, getA<u8>(pc), getImmediate<u8>(pc));
        break;
      case ops.OP_TEST_MI8:
        p = toReadM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = test<u8>(c, pc, load<u8>(p), getSecondImmediate<u8>(pc)) + UOP_SIZE_BYTES;
        break;
      case ops.OP_CMP_MR8:
        p = toReadM<u8>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = cmp<u8>(c, pc, load<u8>(p), getA<u8>(pc));
        break;
      // ── One operand ──
      case ops.OP_INC_R64:
        pc = incA<u64>(pc);
        break;
      case ops.OP_INC_R32:
        pc = incA<u32>(pc);
        break;
      case ops.OP_DEC_R64:
        pc = decA<u64>(pc);
        break;
      case ops.OP_DEC_R32:
        pc = decA<u32>(pc);
        break;
      case ops.OP_NEG_R64:
        pc = negA<u64>(c, pc);
        break;
      case ops.OP_NEG_R32:
        pc = negA<u32>(c, pc);
        break;
      case ops.OP_NOT_R64:
        pc = setA<u64>(pc, ~getA<u64>(pc));
        break;
      case ops.OP_NOT_R32:
        pc = setA<u32>(pc, ~getA<u32>(pc));
        break;
      case ops.OP_INC_M64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = incM<u64>(pc, p);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_INC_M32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = incM<u32>(pc, p);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_DEC_M64:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = decM<u64>(pc, p);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_DEC_M32:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = decM<u32>(pc, p);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      // ── Shifts by an immediate ──
      case ops.OP_SHL_RI64:
        pc = shlA<u64>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_SHL_RI32:
        pc = shlA<u32>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_SHR_RI64:
        pc = shrA<u64>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_SHR_RI32:
        pc = shrA<u32>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_SAR_RI64:
        pc = sarA<u64>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_SAR_RI32:
        pc = sarA<u32>(pc, getImmediate<u8>(pc));
        break;
      case ops.OP_SHL_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) << getImmediate<u8>(pc));
        break;
      case ops.OP_SHL_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) << getImmediate<u8>(pc));
        break;
      case ops.OP_SHR_RI64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) >> getImmediate<u8>(pc));
        break;
      case ops.OP_SHR_RI32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) >> getImmediate<u8>(pc));
        break;
      case ops.OP_SAR_RI64_QUIET:
        pc = setA<u64>(pc, shiftRightSigned<u64>(getA<u64>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_SAR_RI32_QUIET:
        pc = setA<u32>(pc, shiftRightSigned<u32>(getA<u32>(pc), getImmediate<u8>(pc)));
        break;
      // ── Products ──
      case ops.OP_IMUL_RR64:
        pc = imulA<u64>(pc, getA<u64>(pc), getB<u64>(pc));
        break;
      case ops.OP_IMUL_RR32:
        pc = imulA<u32>(pc, getA<u32>(pc), getB<u32>(pc));
        break;
      case ops.OP_IMUL_RM64:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = imulA<u64>(pc, getA<u64>(pc), load<u64>(p));
        break;
      case ops.OP_IMUL_RM32:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = imulA<u32>(pc, getA<u32>(pc), load<u32>(p));
        break;
      case ops.OP_IMUL_RRI64:
        pc = imulA<u64>(pc, getB<u64>(pc), getImmediate<u64>(pc));
        break;
      case ops.OP_IMUL_RRI32:
        pc = imulA<u32>(pc, getB<u32>(pc), getImmediate<u32>(pc));
        break;
      // ── The stack ──
      case ops.OP_PUSH_R:
        sp = load<u64>(c, RSP) - 8;
        p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, getA<u64>(pc));
        store<u64>(c, sp, RSP);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_PUSH_I:
        sp = load<u64>(c, RSP) - 8;
        p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, getImmediate<u64>(pc));
        store<u64>(c, sp, RSP);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_PUSH_M: {
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        const value = load<u64>(p);
        sp = load<u64>(c, RSP) - 8;
        p = toWriteIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, value);
        store<u64>(c, sp, RSP);
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      }
      case ops.OP_POP_R:
        sp = load<u64>(c, RSP);
        p = toReadIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(c, sp + 8, RSP);
        pc = setA<u64>(pc, load<u64>(p));
        break;
      case ops.OP_LEAVE:
        sp = load<u64>(c, RBP);
        p = toReadIn(tlb, sp, 8);
        if (p == 0) return leave(pc, left);
        store<u64>(c, load<u64>(p), RBP);
        store<u64>(c, sp + 8, RSP);
        pc += UOP_SIZE_BYTES;
        break;
      // ── Conditions, exchanges, sign extension ──
      case ops.OP_CMOV_RR64:
        if (condition(getImmediate<u8>(pc))) store<u64>(A(pc), getB<u64>(pc));
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_CMOV_RR32:
        pc = setA<u32>(pc, condition(getImmediate<u8>(pc)) ? getB<u32>(pc) : getA<u32>(pc));
        break;
      case ops.OP_SETCC_R:
        pc = setA<u8>(pc, <u8>condition(getImmediate<u8>(pc)));
        break;
      case ops.OP_XCHG_RR64:
        pc = exchange<u64>(pc);
        break;
      case ops.OP_XCHG_RR32:
        pc = exchange<u32>(pc);
        break;
      case ops.OP_BSWAP64:
        pc = setA<u64>(pc, bswap<u64>(getA<u64>(pc)));
        break;
      case ops.OP_BSWAP32:
        pc = setA<u32>(pc, bswap<u32>(getA<u32>(pc)));
        break;
      case ops.OP_CDQE:
        store<u64>(c, <i64>load<i32>(c, RAX), RAX);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_CWDE:
        store<u64>(c, <u64><u32><i32>load<i16>(c, RAX), RAX);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_CQO:
        store<u64>(c, load<i64>(c, RAX) >> 63, RDX);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_CDQ:
        store<u64>(c, <u64><u32>(load<i32>(c, RAX) >> 31), RDX);
        pc += UOP_SIZE_BYTES;
        break;
      // ── With carry, and MUL ──
      case ops.OP_ADC_RR64:
        pc = adcA<u64>(pc, getB<u64>(pc));
        break;
      case ops.OP_ADC_RI64:
        pc = adcA<u64>(pc, getImmediate<u64>(pc));
        break;
      case ops.OP_SBB_RR64:
        pc = sbbA<u64>(pc, getB<u64>(pc));
        break;
      case ops.OP_SBB_RI64:
        pc = sbbA<u64>(pc, getImmediate<u64>(pc));
        break;
      case ops.OP_ADC_RR32:
        pc = adcA<u32>(pc, getB<u32>(pc));
        break;
      case ops.OP_ADC_RI32:
        pc = adcA<u32>(pc, getImmediate<u32>(pc));
        break;
      case ops.OP_SBB_RR32:
        pc = sbbA<u32>(pc, getB<u32>(pc));
        break;
      case ops.OP_SBB_RI32:
        pc = sbbA<u32>(pc, getImmediate<u32>(pc));
        break;
      case ops.OP_MUL64:
        multiplyWide(load<u64>(c, RAX), getB<u64>(pc));
        pc += UOP_SIZE_BYTES;
        break;
      // ── SSE: MOVUPS and PXOR ──
      case ops.OP_MOVUPS_XM:
        p = toReadM<v128>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<v128>(pc, load<v128>(p));
        break;
      case ops.OP_MOVUPS_MX:
        p = toWriteM<v128>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<v128>(pc, p, getA<v128>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOVUPS_XX:
        pc = setA<v128>(pc, getB<v128>(pc));
        break;
      case ops.OP_PXOR_XX:
        pc = setA<v128>(pc, v128.xor(getA<v128>(pc), getB<v128>(pc)));
        break;
      // ── Rotates, and shifts by CL ──
      case ops.OP_ROL_RI64:
        pc = rolA<u64>(pc);
        break;
      case ops.OP_ROL_RI32:
        pc = rolA<u32>(pc);
        break;
      case ops.OP_ROL_RI64_QUIET:
        pc = setA<u64>(pc, rotl<u64>(getA<u64>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_ROL_RI32_QUIET:
        pc = setA<u32>(pc, rotl<u32>(getA<u32>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_SHL_RC64:
        pc = shlByCL<u64>(c, pc);
        break;
      case ops.OP_SHL_RC32:
        pc = shlByCL<u32>(c, pc);
        break;
      case ops.OP_SHR_RC64:
        pc = shrByCL<u64>(c, pc);
        break;
      case ops.OP_SHR_RC32:
        pc = shrByCL<u32>(c, pc);
        break;
      case ops.OP_SAR_RC64:
        pc = sarByCL<u64>(c, pc);
        break;
      case ops.OP_SAR_RC32:
        pc = sarByCL<u32>(c, pc);
        break;
      case ops.OP_SHL_RC64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) << countInCL<u64>(c));
        break;
      case ops.OP_SHL_RC32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) << countInCL<u32>(c));
        break;
      case ops.OP_SHR_RC64_QUIET:
        pc = setA<u64>(pc, getA<u64>(pc) >> countInCL<u64>(c));
        break;
      case ops.OP_SHR_RC32_QUIET:
        pc = setA<u32>(pc, getA<u32>(pc) >> countInCL<u32>(c));
        break;
      case ops.OP_SAR_RC64_QUIET:
        pc = setA<u64>(pc, shiftRightSigned<u64>(getA<u64>(pc), countInCL<u64>(c)));
        break;
      case ops.OP_SAR_RC32_QUIET:
        pc = setA<u32>(pc, shiftRightSigned<u32>(getA<u32>(pc), countInCL<u32>(c)));
        break;
      // ── SSE: moves ──
      case ops.OP_MOVAPS_XM:
        if (address(pc) & 15) return refuse(pc, left);
        p = toReadM<v128>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<v128>(pc, load<v128>(p));
        break;
      case ops.OP_MOVAPS_MX:
        if (address(pc) & 15) return refuse(pc, left);
        p = toWriteM<v128>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<v128>(pc, p, getA<v128>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOVQ_XM:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<v128>(pc, v128.load64_zero(p));
        break;
      case ops.OP_MOVD_XM:
        p = toReadM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<v128>(pc, v128.load32_zero(p));
        break;
      case ops.OP_MOVQ_MX:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, getA<u64>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOVD_MX:
        p = toWriteM<u32>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u32>(pc, p, getA<u32>(pc));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOVHPS_XM:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        store<u64>(A(pc), load<u64>(p), 8);
        pc += UOP_SIZE_BYTES;
        break;
      case ops.OP_MOVHPS_MX:
        p = toWriteM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setM<u64>(pc, p, load<u64>(A(pc), 8));
        if (finishAndCheck(p)) return leave(pc, left);
        break;
      case ops.OP_MOVLPS_XM:
        p = toReadM<u64>(tlb, pc);
        if (p == 0) return leave(pc, left);
        pc = setA<u64>(pc, load<u64>(p));
        break;
      case ops.OP_MOVQ_XR:
        pc = setA<v128>(pc, v128.load64_zero(B(pc)));
        break;
      case ops.OP_MOVD_XR:
        pc = setA<v128>(pc, v128.load32_zero(B(pc)));
        break;
      case ops.OP_MOVSD_XX:
        pc = setA<u64>(pc, getB<u64>(pc));
        break;
      case ops.OP_MOVSS_XX:
        store<u32>(A(pc), getB<u32>(pc));
        pc += UOP_SIZE_BYTES;
        break;
      // ── SSE: integers ──
      case ops.OP_POR_XX:
        pc = setA<v128>(pc, v128.or(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PAND_XX:
        pc = setA<v128>(pc, v128.and(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PANDN_XX:
        pc = setA<v128>(pc, v128.andnot(getB<v128>(pc), getA<v128>(pc)));
        break;
      case ops.OP_PADDB_XX:
        pc = setA<v128>(pc, i8x16.add(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PADDW_XX:
        pc = setA<v128>(pc, i16x8.add(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PADDD_XX:
        pc = setA<v128>(pc, i32x4.add(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PADDQ_XX:
        pc = setA<v128>(pc, i64x2.add(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PSUBB_XX:
        pc = setA<v128>(pc, i8x16.sub(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PSUBW_XX:
        pc = setA<v128>(pc, i16x8.sub(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PSUBD_XX:
        pc = setA<v128>(pc, i32x4.sub(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PSUBQ_XX:
        pc = setA<v128>(pc, i64x2.sub(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PCMPEQB_XX:
        pc = setA<v128>(pc, i8x16.eq(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PCMPEQW_XX:
        pc = setA<v128>(pc, i16x8.eq(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PCMPEQD_XX:
        pc = setA<v128>(pc, i32x4.eq(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PCMPGTB_XX:
        pc = setA<v128>(pc, i8x16.gt_s(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PCMPGTW_XX:
        pc = setA<v128>(pc, i16x8.gt_s(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PCMPGTD_XX:
        pc = setA<v128>(pc, i32x4.gt_s(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PMINUB_XX:
        pc = setA<v128>(pc, i8x16.min_u(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PMAXUB_XX:
        pc = setA<v128>(pc, i8x16.max_u(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PMULLW_XX:
        pc = setA<v128>(pc, i16x8.mul(getA<v128>(pc), getB<v128>(pc)));
        break;
      case ops.OP_PMULUDQ_XX:
        pc = setA<v128>(pc, i64x2.mul(v128.and(getA<v128>(pc), i64x2.splat(0xffff_ffff)), v128.and(getB<v128>(pc), i64x2.splat(0xffff_ffff))));
        break;
      case ops.OP_PSHUFB_XX:
        pc = setA<v128>(pc, i8x16.swizzle(getA<v128>(pc), v128.and(getB<v128>(pc), i8x16.splat(<i8>0x8f))));
        break;
      // ── SSE: shuffles and shifts ──
      case ops.OP_PUNPCKLBW_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
        break;
      case ops.OP_PUNPCKLWD_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23));
        break;
      case ops.OP_PUNPCKLDQ_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23));
        break;
      case ops.OP_PUNPCKLQDQ_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23));
        break;
      case ops.OP_PUNPCKHBW_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
        break;
      case ops.OP_PUNPCKHWD_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31));
        break;
      case ops.OP_PUNPCKHDQ_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31));
        break;
      case ops.OP_PUNPCKHQDQ_XX:
        pc = setA<v128>(pc, i8x16.shuffle(getA<v128>(pc), getB<v128>(pc), 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
        break;
      case ops.OP_PSLLW_XI:
        pc = setA<v128>(pc, i16x8.shl(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSLLD_XI:
        pc = setA<v128>(pc, i32x4.shl(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSLLQ_XI:
        pc = setA<v128>(pc, i64x2.shl(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSRLW_XI:
        pc = setA<v128>(pc, i16x8.shr_u(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSRLD_XI:
        pc = setA<v128>(pc, i32x4.shr_u(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSRLQ_XI:
        pc = setA<v128>(pc, i64x2.shr_u(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSRAW_XI:
        pc = setA<v128>(pc, i16x8.shr_s(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_PSRAD_XI:
        pc = setA<v128>(pc, i32x4.shr_s(getA<v128>(pc), getImmediate<u8>(pc)));
        break;
      case ops.OP_SHUFFLE_XX:
        pc = setA<v128>(pc, i8x16.swizzle(getB<v128>(pc), load<v128>(pc, UOP_SECOND_IMMEDIATE))) + UOP_SIZE_BYTES;
        break;
      case ops.OP_PMOVMSKB_RX:
        pc = setA<u32>(pc, <u32>i8x16.bitmask(getB<v128>(pc)));
        break;
      default:
        unreachable();
    }
  }
}
