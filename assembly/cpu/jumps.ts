// SPDX-License-Identifier: Apache-2.0
// Instructions after which another may be next, and the mode the same: near calls and returns of 16 and 32 bits, loops, strings
// with REP, strings of ports.
import { isCanonical } from "./access.ts";
import { group, immediate, size, source } from "./cold-operands.ts";
import { arithmeticFlags, ZF } from "./flags.ts";
import { CPU_MODE, CPU_RIP } from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import { execPortString } from "./ports.ts";
import { loadAt, RCX, setRegister } from "./registers.ts";
import { pop, push, setStackPointer, stackPointer } from "./stack.ts";
import { execRepeated } from "./strings.ts";
import { COLD_ADDRESS_SIZE, COLD_CODE, COLD_LENGTH, UOP_NEXT } from "./uop.ts";
import { cpu, GP, hasFaulted, raiseWith } from "./vcpu.ts";

/** False: an exception was raised; CPU_RIP is the instruction's. */
export function execJump(pc: usize): bool {
  const next = load<u64>(pc, UOP_NEXT);
  store<u64>(cpu, next, CPU_RIP);
  if (jump(pc)) return true;
  store<u64>(cpu, next - load<u8>(pc, COLD_LENGTH), CPU_RIP);
  return false;
}

function jump(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  switch (code) {
    case 0x6c:
    case 0x6d:
    case 0x6e:
    case 0x6f:
      return execPortString(pc);
    case 0xc2:
    case 0xc3:
      return nearReturn(pc);
    case 0xe8:
      return nearCall(pc, load<u64>(cpu, CPU_RIP) + immediate(pc));
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
      return loop(pc, code);
    case 0xff: {
      const sizeBytes = size(pc);
      const target = source(pc, sizeBytes);
      if (hasFaulted()) return false;
      return group(pc) == 2 ? nearCall(pc, target) : goTo(target, sizeBytes);
    }
    default:
      return execRepeated(pc);
  }
}

/** Goes to an address of which as much counts as operands are long. */
export function goTo(target: u64, sizeBytes: u32): bool {
  const where = sizeBytes == 8 ? target : sizeBytes == 4 ? target & 0xffff_ffff : target & 0xffff;
  if (!isCanonical(where)) return raiseWith(GP, 0);
  store<u64>(cpu, where, CPU_RIP);
  return true;
}

function nearCall(pc: usize, target: u64): bool {
  const sizeBytes = size(pc);
  return push(load<u64>(cpu, CPU_RIP), sizeBytes) && goTo(target, sizeBytes);
}

function nearReturn(pc: usize): bool {
  const sizeBytes = size(pc);
  const before = stackPointer();
  const target = pop(sizeBytes);
  if (hasFaulted()) return false;
  if (!goTo(target, sizeBytes)) {
    setStackPointer(before);
    return false;
  }
  setStackPointer(stackPointer() + immediate(pc));
  return true;
}

/** LOOPNE, LOOPE, LOOP and JRCXZ; their count is as long as addresses are. */
function loop(pc: usize, code: u32): bool {
  const addressSize = <u32>load<u8>(pc, COLD_ADDRESS_SIZE);
  let count = loadAt(cpu + RCX, addressSize);
  let isTaken: bool;
  if (code == 0xe3) isTaken = count == 0;
  else {
    setRegister(cpu + RCX, addressSize, count - 1);
    count = loadAt(cpu + RCX, addressSize);
    const isZero = (arithmeticFlags() & ZF) != 0;
    isTaken = count != 0 && (code == 0xe2 || isZero == (code == 0xe1));
  }
  if (!isTaken) return true;
  const target = load<u64>(cpu, CPU_RIP) + immediate(pc);
  const is64 = (load<u32>(cpu, CPU_MODE) & MODE_64) != 0;
  return goTo(target, is64 ? 8 : size(pc));
}
