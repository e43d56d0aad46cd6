// SPDX-License-Identifier: Apache-2.0
// General registers, and values of 1, 2, 4 or 8 bytes: in a register, or at a place in memory.
import { CPU_GPRS } from "./layout.ts";

// Where they are in the state page.
export const RAX = CPU_GPRS;
export const RCX = CPU_GPRS + 8;
export const RDX = CPU_GPRS + 16;
export const RBX = CPU_GPRS + 24;
export const RSP = CPU_GPRS + 32;
export const RBP = CPU_GPRS + 40;
export const RSI = CPU_GPRS + 48;
export const RDI = CPU_GPRS + 56;
export const R11 = CPU_GPRS + 88;

/** In ModRM, SIB, and where PUSHA and POPA come to it. */
export const NUMBER_OF_RSP: u32 = 4;

@inline
export function maskOf(sizeBytes: u32): u64 {
  return u64.MAX_VALUE >> (64 - 8 * sizeBytes);
}

export function signExtend(value: u64, sizeBytes: u32): i64 {
  const shift = 64 - 8 * sizeBytes;
  return <i64>(value << shift) >> shift;
}

export function loadAt(place: usize, sizeBytes: u32): u64 {
  switch (sizeBytes) {
    case 1:
      return load<u8>(place);
    case 2:
      return load<u16>(place);
    case 4:
      return load<u32>(place);
    default:
      return load<u64>(place);
  }
}

export function storeAt(place: usize, sizeBytes: u32, value: u64): void {
  switch (sizeBytes) {
    case 1:
      store<u8>(place, <u8>value);
      break;
    case 2:
      store<u16>(place, <u16>value);
      break;
    case 4:
      store<u32>(place, <u32>value);
      break;
    default:
      store<u64>(place, value);
      break;
  }
}

/** A write of 32 bits clears the upper half. */
export function setRegister(place: usize, sizeBytes: u32, value: u64): void {
  if (sizeBytes == 4) store<u64>(place, <u32>value);
  else storeAt(place, sizeBytes, value);
}
