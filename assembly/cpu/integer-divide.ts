// SPDX-License-Identifier: Apache-2.0
// DIV and IDIV: #DE when the quotient is too large.
import { setWideAccumulator, size, source, wideAccumulator } from "./cold-operands.ts";
import { maskOf, RAX, RDX, signExtend } from "./registers.ts";
import { divide, rest } from "./u128.ts";
import { cpu, DE, hasFaulted, raise } from "./vcpu.ts";

/** DIV. */
export function execDivide(pc: usize): bool {
  const sizeBytes = size(pc);
  const divisor = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  if (divisor == 0) return raise(DE);
  if (sizeBytes == 8) return divideWide(divisor);
  // Of the smaller sizes a dividend has 64 bits at most.
  const dividend = wideAccumulator(sizeBytes);
  const quotient = dividend / divisor;
  if (quotient > maskOf(sizeBytes)) return raise(DE);
  setWideAccumulator(quotient, dividend % divisor, sizeBytes);
  return true;
}

/** IDIV. */
export function execDivideSigned(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  if (value == 0) return raise(DE);
  if (sizeBytes == 8) return divideWideSigned(<i64>value);
  const divisor = signExtend(value, sizeBytes);
  const dividend = signExtend(wideAccumulator(sizeBytes), 2 * sizeBytes);
  // Of 32 bits: -2^63 / -1 does not fit into 64 bits either.
  if (divisor == -1 && dividend == i64.MIN_VALUE) return raise(DE);
  const quotient = dividend / divisor;
  if (quotient != signExtend(quotient, sizeBytes)) return raise(DE);
  setWideAccumulator(quotient, dividend % divisor, sizeBytes);
  return true;
}

/** What `divide128` leaves. */
let remainder: u64 = 0;

/** Quotient of 128 bits and a divisor that is greater than their upper half. */
function divide128(high: u64, low: u64, divisor: u64): u64 {
  if (high == 0) {
    remainder = low % divisor;
    return low / divisor;
  }
  const shift = clz(divisor);
  const upper = shift == 0 ? high : (high << shift) | (low >> (64 - shift));
  const quotient = divide(upper, low << shift, divisor << shift);
  remainder = rest >> shift;
  return quotient;
}

function divideWide(divisor: u64): bool {
  const high = load<u64>(cpu, RDX);
  if (high >= divisor) return raise(DE);
  const quotient = divide128(high, load<u64>(cpu, RAX), divisor);
  setWideAccumulator(quotient, remainder, 8);
  return true;
}

function divideWideSigned(divisor: i64): bool {
  let high = load<u64>(cpu, RDX);
  let low = load<u64>(cpu, RAX);
  const isNegative = <i64>high < 0;
  if (isNegative) {
    low = 0 - low;
    high = ~high + (low == 0 ? 1 : 0);
  }
  const magnitude = divisor < 0 ? 0 - <u64>divisor : <u64>divisor;
  if (high >= magnitude) return raise(DE);
  const quotient = divide128(high, low, magnitude);
  const isQuotientNegative = isNegative != divisor < 0;
  if (quotient > (isQuotientNegative ? 0x8000_0000_0000_0000 : 0x7fff_ffff_ffff_ffff)) return raise(DE);
  setWideAccumulator(isQuotientNegative ? 0 - quotient : quotient, isNegative ? 0 - remainder : remainder, 8);
  return true;
}
