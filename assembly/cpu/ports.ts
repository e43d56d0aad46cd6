// SPDX-License-Identifier: Apache-2.0
// IN, OUT, INS and OUTS. SDM volume 1, chapter 19.
import { readAsSupervisor, readValue, toWrite, writeValue } from "./access.ts";
import { immediate, size } from "./cold-operands.ts";
import { DF, IOPL } from "./flags.ts";
import { CPU_RFLAGS, CPU_RIP, SEGMENT_BASE_U64, SEGMENT_ES, SEGMENT_LIMIT_U32, SEGMENT_TR } from "./layout.ts";
import { privilegeLevel, segment } from "./modes.ts";
import { linear, tableAddress } from "./operands.ts";
import { loadAt, RAX, RCX, RDI, RDX, RSI, setRegister } from "./registers.ts";
import { isProtected } from "./segments.ts";
import { COLD_ADDRESS_SIZE, COLD_CODE, COLD_FORM, COLD_LENGTH, FORM_F2, FORM_F3 } from "./uop.ts";
import { cpu, GP, hasFaulted, raiseWith, readPort, writePort } from "./vcpu.ts";

/** Where the TSS says where its map of ports is. */
const TASK_IO_MAP: u32 = 102;

/** By IOPL or the map in the TSS. False: #GP was raised. */
function mayAccess(port: u32, sizeBytes: u32): bool {
  if (!isProtected() || privilegeLevel() <= (<u32>(load<u64>(cpu, CPU_RFLAGS) & IOPL) >> 12)) return true;
  const task = segment(SEGMENT_TR);
  const base = load<u64>(task, SEGMENT_BASE_U64);
  const limit = load<u32>(task, SEGMENT_LIMIT_U32);
  if (TASK_IO_MAP + 1 > limit) return raiseWith(GP, 0);
  const offset = <u32>readAsSupervisor(base + TASK_IO_MAP, 2) + (port >> 3);
  if (hasFaulted()) return false;
  if (offset + 1 > limit) return raiseWith(GP, 0);
  const bits = <u32>readAsSupervisor(base + offset, 2) >> (port & 7);
  if (hasFaulted()) return false;
  return bits & ((1 << sizeBytes) - 1) ? raiseWith(GP, 0) : true;
}

/** IN and OUT. False: an exception was raised. */
export function execPort(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  const sizeBytes = size(pc);
  const port = code & 8 ? <u32>load<u16>(cpu, RDX) : <u32>immediate(pc) & 0xff;
  if (!mayAccess(port, sizeBytes)) return false;
  if (code & 2) writePort(port, sizeBytes, <u32>loadAt(cpu + RAX, sizeBytes));
  else setRegister(cpu + RAX, sizeBytes, readPort(port, sizeBytes));
  return true;
}

/** INS and OUTS, one at a time, and back to the same instruction when REP wants more. CPU_RIP is that of the next one. */
export function execPortString(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  const sizeBytes = size(pc);
  const addressSize = <u32>load<u8>(pc, COLD_ADDRESS_SIZE);
  const port = <u32>load<u16>(cpu, RDX);
  const isRepeated = (load<u8>(pc, COLD_FORM) & (FORM_F2 | FORM_F3)) != 0;
  const count = isRepeated ? loadAt(cpu + RCX, addressSize) : 1;
  // Rights are looked at even when there is nothing to do.
  if (!mayAccess(port, sizeBytes)) return false;
  if (count == 0) return true;
  const isOutput = code >= 0x6e;
  const register = isOutput ? RSI : RDI;
  if (isOutput) {
    const value = readValue(tableAddress(pc, load<u64>(cpu, RSI)), sizeBytes);
    if (hasFaulted()) return false;
    writePort(port, sizeBytes, <u32>value);
  } else {
    const place = linear(SEGMENT_ES, load<u64>(cpu, RDI), addressSize);
    // A port must not be read for nothing.
    if (toWrite(place, sizeBytes) == 0) return false;
    writeValue(place, sizeBytes, readPort(port, sizeBytes));
  }
  const distance: i64 = load<u64>(cpu, CPU_RFLAGS) & DF ? -(<i64>sizeBytes) : sizeBytes;
  setRegister(cpu + register, addressSize, loadAt(cpu + register, addressSize) + distance);
  if (!isRepeated) return true;
  setRegister(cpu + RCX, addressSize, count - 1);
  if (count > 1) store<u64>(cpu, load<u64>(cpu, CPU_RIP) - load<u8>(pc, COLD_LENGTH), CPU_RIP);
  return true;
}
