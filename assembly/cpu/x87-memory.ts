// SPDX-License-Identifier: Apache-2.0
// Loads and stores of the x87: floats, integers and decimals in memory. SDM volume 1, 8.3.1 and 4.7. What they make of a value:
// float80-formats.ts.
import { toRead, writeValue } from "./access.ts";
import { fromInteger, settleLoad, toFloat32, toFloat64, toInteger } from "./float80-formats.ts";
import {
  flags,
  head,
  IE,
  isForbidden,
  isLoadForbidden,
  isStoreForbidden,
  mantissa,
  setResult,
  signOf,
} from "./float80.ts";
import { CPU_TEMPORARY } from "./layout.ts";
import { cpu } from "./vcpu.ts";
import { fetch, finish, finishPush, overflow, stackHead, stackMantissa, underflow } from "./x87-operands.ts";
import { canWrite, isEmpty, pop, push, writeBytes } from "./x87-state.ts";

export function loadValue(pc: usize, at: u64, kind: u32): bool {
  if (!fetch(at, kind)) return false;
  if (!isEmpty(7)) overflow();
  else settleLoad();
  if (!isLoadForbidden()) push(head, mantissa);
  return finish(pc, 0, 0);
}

export function loadFloat80(pc: usize, at: u64): bool {
  const from = toRead(at, 10);
  if (from == 0) return false;
  if (!isEmpty(7)) overflow();
  else setResult(load<u16>(from, 8), load<u64>(from));
  return finishPush(pc);
}

/** The last step of a store of up to 8 bytes. */
function finishStore(pc: usize, at: u64, sizeBytes: u32, value: u64, pops: bool): bool {
  // Also for what is not stored there has to be room.
  if (!canWrite(at, sizeBytes)) return false;
  if (!isStoreForbidden()) {
    writeValue(at, sizeBytes, value);
    if (pops) pop();
  }
  return finish(pc, 0, 0);
}

export function storeFloat32(pc: usize, at: u64, pops: bool): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  return finishStore(pc, at, 4, toFloat32(head, mantissa), pops);
}

export function storeFloat64(pc: usize, at: u64, pops: bool): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  return finishStore(pc, at, 8, toFloat64(head, mantissa), pops);
}

export function storeFloat80(pc: usize, at: u64): bool {
  if (isEmpty(0)) underflow();
  else setResult(stackHead(0), stackMantissa(0));
  if (!canWrite(at, 10)) return false;
  if (!isForbidden()) {
    store<u64>(cpu, mantissa, CPU_TEMPORARY);
    store<u16>(cpu, <u16>head, CPU_TEMPORARY + 8);
    writeBytes(at, cpu + CPU_TEMPORARY, 10);
    pop();
  }
  return finish(pc, 0, 0);
}

export function storeInteger(pc: usize, at: u64, sizeBytes: u32, pops: bool, truncates: bool): bool {
  const lowest: u64 = 1 << (8 * sizeBytes - 1);
  let value: u64 = 0;
  if (isEmpty(0)) underflow();
  else value = toInteger(stackHead(0), stackMantissa(0), lowest - 1, true, truncates);
  // The integer that stands for none.
  if (flags & IE) value = lowest;
  return finishStore(pc, at, sizeBytes, value, pops);
}

// ── Decimal: 18 digits in 9 bytes, and a byte with the sign ──

const GREATEST_DECIMAL: u64 = 999_999_999_999_999_999;

export function loadDecimal(pc: usize, at: u64): bool {
  const from = toRead(at, 10);
  if (from == 0) return false;
  let value: u64 = 0;
  for (let index: i32 = 8; index >= 0; index--) {
    const digits = load<u8>(from + index);
    value = value * 100 + (digits >> 4) * 10 + (digits & 15);
  }
  const isNegative = (load<u8>(from, 9) & 0x80) != 0;
  if (!isEmpty(7)) {
    overflow();
  } else {
    fromInteger(value);
    if (isNegative) setResult(head | 0x8000, mantissa);
  }
  return finishPush(pc);
}

export function storeDecimal(pc: usize, at: u64): bool {
  const topHead = stackHead(0);
  let value: i64 = 0;
  if (isEmpty(0)) underflow();
  else value = toInteger(topHead, stackMantissa(0), GREATEST_DECIMAL, false, false);
  if (!canWrite(at, 10)) return false;
  if (!isForbidden()) {
    const digits = cpu + CPU_TEMPORARY;
    if (flags & IE) {
      // The indefinite value.
      store<u64>(digits, 0xc000_0000_0000_0000);
      store<u16>(digits, 0xffff, 8);
    } else {
      let left = abs<i64>(value);
      for (let index: usize = 0; index < 9; index++) {
        const pair = left % 100;
        left /= 100;
        store<u8>(digits + index, ((pair / 10) << 4) | pair % 10);
      }
      store<u8>(digits, signOf(topHead) << 7, 9);
    }
    writeBytes(at, digits, 10);
    pop();
  }
  return finish(pc, 0, 0);
}
