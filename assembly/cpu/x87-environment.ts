// SPDX-License-Identifier: Apache-2.0
// FNSTENV, FLDENV, FNSAVE and FRSTOR: the x87's words, pointers and registers in memory. SDM volume 1, 8.1.10.
//
//   32-bit form  u32[7]: control, status, tag word, IP, opcode << 16 | CS, DP, DS; upper halves that mean nothing are all ones
//   16-bit form  u16[7]: the same without the opcode, in the order of protected mode
//   then, of FNSAVE and FRSTOR, ST(0) to ST(7), 10 bytes each
//
// CS and DS are 0: they are not kept.
import { readValue, toRead, writeValue } from "./access.ts";
import { CPU_X87_DP, CPU_X87_IP, CPU_X87_OPCODE } from "./layout.ts";
import { cpu } from "./vcpu.ts";
import {
  canRead,
  canWrite,
  controlWord,
  loadRegister,
  reset,
  setControlWord,
  setStatusWord,
  setTagWord,
  stackRegister,
  statusWord,
  STATUS_EXCEPTIONS,
  tagWord,
  writeBytes,
} from "./x87-state.ts";

const FIELD_COUNT: u32 = 7;
const OPCODE_MASK: u32 = 0x7ff;
const REGISTER_SIZE_BYTES: u32 = 10;
const REGISTERS_SIZE_BYTES: u32 = 80;

/** `fieldSizeBytes`: 2 or 4. */
export function storeEnvironment(at: u64, fieldSizeBytes: u32): bool {
  if (!canWrite(at, FIELD_COUNT * fieldSizeBytes)) return false;
  writeFields(at, fieldSizeBytes);
  // FLDENV brings the masks back.
  setControlWord(controlWord() | STATUS_EXCEPTIONS);
  return true;
}

function writeFields(at: u64, fieldSizeBytes: u32): void {
  const ones: u32 = 0xffff_0000;
  const opcode = fieldSizeBytes == 4 ? <u32>load<u16>(cpu, CPU_X87_OPCODE) << 16 : 0;
  let place = writeField(at, fieldSizeBytes, controlWord() | ones);
  place = writeField(place, fieldSizeBytes, statusWord() | ones);
  place = writeField(place, fieldSizeBytes, tagWord() | ones);
  place = writeField(place, fieldSizeBytes, <u32>load<u64>(cpu, CPU_X87_IP));
  place = writeField(place, fieldSizeBytes, opcode);
  place = writeField(place, fieldSizeBytes, <u32>load<u64>(cpu, CPU_X87_DP));
  writeField(place, fieldSizeBytes, ones);
}

function writeField(at: u64, sizeBytes: u32, value: u32): u64 {
  writeValue(at, sizeBytes, value);
  return at + sizeBytes;
}

export function loadEnvironment(at: u64, fieldSizeBytes: u32): bool {
  if (!canRead(at, FIELD_COUNT * fieldSizeBytes)) return false;
  const size = <u64>fieldSizeBytes;
  setControlWord(<u32>readValue(at, 2));
  setStatusWord(<u32>readValue(at + size, 2));
  setTagWord(<u32>readValue(at + 2 * size, 2));
  store<u64>(cpu, readValue(at + 3 * size, fieldSizeBytes), CPU_X87_IP);
  store<u64>(cpu, readValue(at + 5 * size, fieldSizeBytes), CPU_X87_DP);
  const opcode = fieldSizeBytes == 4 ? <u32>readValue(at + 4 * size + 2, 2) & OPCODE_MASK : 0;
  store<u16>(cpu, <u16>opcode, CPU_X87_OPCODE);
  return true;
}

export function saveState(at: u64, fieldSizeBytes: u32): bool {
  const environmentSizeBytes = FIELD_COUNT * fieldSizeBytes;
  if (!canWrite(at, environmentSizeBytes + REGISTERS_SIZE_BYTES)) return false;
  writeFields(at, fieldSizeBytes);
  for (let index: u32 = 0; index < 8; index++) {
    writeBytes(at + environmentSizeBytes + index * REGISTER_SIZE_BYTES, stackRegister(index), REGISTER_SIZE_BYTES);
  }
  reset();
  return true;
}

export function restoreState(at: u64, fieldSizeBytes: u32): bool {
  const environmentSizeBytes = FIELD_COUNT * fieldSizeBytes;
  if (!canRead(at, environmentSizeBytes + REGISTERS_SIZE_BYTES)) return false;
  loadEnvironment(at, fieldSizeBytes);
  for (let index: u32 = 0; index < 8; index++) {
    const from = toRead(at + environmentSizeBytes + index * REGISTER_SIZE_BYTES, REGISTER_SIZE_BYTES);
    loadRegister(index, load<u16>(from, 8), load<u64>(from));
  }
  return true;
}
