// SPDX-License-Identifier: Apache-2.0
// Instructions that move to and from control and debug registers, and what a change brings with it: long mode, TLBs. SDM volume 3, 2.5,
// and volume 2, MOV, LMSW, CLTS.
import { writeCr8 } from "./apic.ts";
import { group, size } from "./cold-operands.ts";
import { CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA, EFER_LME } from "./control-bits.ts";
import { CPU_CR0, CPU_CR2, CPU_CR3, CPU_CR4, CPU_CR8, CPU_DRS, CPU_EFER, CPU_MODE } from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import { PHYSICAL_ADDRESS_BITS } from "./page-walk.ts";
import { loadAt, setRegister } from "./registers.ts";
import { isLongMode } from "./segments.ts";
import { flushTlb } from "./tlb.ts";
import { registerB } from "./uop.ts";
import { cpu, GP, raise, raiseWith, UD } from "./vcpu.ts";

// What may be set, and what is kept.
const CR4_KNOWN: u64 = 0x6ff;
const CR0_KNOWN: u64 = 0xe005_003f;
const CR0_CD: u64 = 0x4000_0000;
const CR0_NW: u64 = 0x2000_0000;
const CR0_ET: u64 = 0x10;

export function controlRegister(number: u32): usize {
  switch (number) {
    case 0:
      return CPU_CR0;
    case 2:
      return CPU_CR2;
    case 3:
      return CPU_CR3;
    case 4:
      return CPU_CR4;
    case 8:
      return CPU_CR8;
    default:
      return 0;
  }
}

export function moveControl(pc: usize, isWrite: bool): bool {
  const number = group(pc);
  const register = registerB(pc);
  const sizeBytes = size(pc);
  if (!isWrite) {
    setRegister(register, sizeBytes, load<u64>(cpu + controlRegister(number)));
    return true;
  }
  const value = loadAt(register, sizeBytes);
  switch (number) {
    case 0:
      return setCr0(value);
    case 2:
      store<u64>(cpu, value, CPU_CR2);
      return true;
    case 3:
      if (value >> PHYSICAL_ADDRESS_BITS) return raiseWith(GP, 0);
      store<u64>(cpu, value, CPU_CR3);
      flushTlb(true);
      return true;
    case 4:
      return setCr4(value);
    case 8:
      return writeCr8(value);
    default:
      return raise(UD);
  }
}

/** With the switch to and from long mode. SDM volume 3, 4.1.2 and 9.8.5. */
function setCr0(value: u64): bool {
  const before = load<u64>(cpu, CPU_CR0);
  const isPaging = (value & CR0_PG) != 0;
  if (value >> 32 || (isPaging && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD))) return raiseWith(GP, 0);
  let efer = load<u64>(cpu, CPU_EFER);
  if (isPaging && !(before & CR0_PG)) {
    if (efer & EFER_LME) {
      if (!(load<u64>(cpu, CPU_CR4) & CR4_PAE)) return raiseWith(GP, 0);
      efer |= EFER_LMA;
    }
  } else if (!isPaging && before & CR0_PG) {
    if (load<u32>(cpu, CPU_MODE) & MODE_64) return raiseWith(GP, 0);
    efer &= ~EFER_LMA;
  }
  store<u64>(cpu, efer, CPU_EFER);
  store<u64>(cpu, (value & CR0_KNOWN) | CR0_ET, CPU_CR0);
  if ((value ^ before) & (CR0_PG | CR0_WP | CR0_PE)) flushTlb(false);
  return true;
}

function setCr4(value: u64): bool {
  const before = load<u64>(cpu, CPU_CR4);
  if (value & ~CR4_KNOWN) return raiseWith(GP, 0);
  if (isLongMode() && !(value & CR4_PAE)) return raiseWith(GP, 0);
  store<u64>(cpu, value, CPU_CR4);
  if ((value ^ before) & (CR4_PGE | CR4_PAE | CR4_PSE)) flushTlb(false);
  return true;
}

/** LMSW: the lowest four bits of CR0; PE is not cleared. */
export function loadStatusWord(value: u64): bool {
  const before = load<u64>(cpu, CPU_CR0);
  return setCr0((before & ~(<u64>14)) | (value & 15) | (before & 1));
}

/** CLTS. */
export function clearTaskSwitched(): void {
  store<u64>(cpu, load<u64>(cpu, CPU_CR0) & ~CR0_TS, CPU_CR0);
}

/** Breakpoints are kept and not heeded. */
export function moveDebug(pc: usize, isWrite: bool): bool {
  let number = group(pc);
  const register = registerB(pc);
  if (number == 4 || number == 5) number += 2;
  const place = CPU_DRS + number * 8;
  if (!isWrite) {
    setRegister(register, size(pc), load<u64>(cpu + place));
    return true;
  }
  const value = loadAt(register, size(pc));
  if (number >= 6 && value >> 32) return raiseWith(GP, 0);
  const fixed: u64 = number == 6 ? 0xffff_0ff0 : number == 7 ? 0x400 : 0;
  store<u64>(cpu + place, value | fixed);
  return true;
}
