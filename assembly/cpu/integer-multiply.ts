// SPDX-License-Identifier: Apache-2.0
// MUL, and IMUL with one, two or three operands.
import { setWideAccumulator, size, source } from "./cold-operands.ts";
import { CF, OF, resultFlags, setFlags } from "./flags.ts";
import { loadAt, maskOf, RAX, RDX, setRegister, signExtend } from "./registers.ts";
import { multiplyHigh } from "./u128.ts";
import { registerA } from "./uop.ts";
import { cpu, hasFaulted } from "./vcpu.ts";

/** Flags of products: CF and OF when the upper half matters; the others are undefined, and as after a logical operation here. */
function setProductFlags(low: u64, sizeBytes: u32, isWide: bool): void {
  setFlags(resultFlags(low & maskOf(sizeBytes), sizeBytes) | (isWide ? CF | OF : 0));
}

/** MUL of 64 bits. */
export function multiplyWide(a: u64, b: u64): void {
  const high = multiplyHigh(a, b);
  const low = a * b;
  store<u64>(cpu, low, RAX);
  store<u64>(cpu, high, RDX);
  setProductFlags(low, 8, high != 0);
}

/** IMUL of 64 bits. Returns the upper half. */
export function multiply64(place: usize, first: u64, second: u64): u64 {
  const low = first * second;
  let high = multiplyHigh(first, second);
  if (<i64>first < 0) high -= second;
  if (<i64>second < 0) high -= first;
  store<u64>(place, low);
  setProductFlags(low, 8, high != <u64>(<i64>low >> 63));
  return high;
}

export function multiply32(place: usize, first: u32, second: u32): void {
  const product = <i64>(<i32>first) * <i64>(<i32>second);
  store<u64>(place, <u32>product);
  setProductFlags(product, 4, product != <i64>(<i32>product));
}

/** IMUL of 8 to 32 bits: all of the product. */
function multiplySmall(first: u64, second: u64, sizeBytes: u32): i64 {
  const product = signExtend(first, sizeBytes) * signExtend(second, sizeBytes);
  setProductFlags(product, sizeBytes, product != signExtend(product, sizeBytes));
  return product;
}

/** MUL. */
export function execMultiply(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  const first = loadAt(cpu + RAX, sizeBytes);
  if (sizeBytes == 8) {
    multiplyWide(first, value);
    return true;
  }
  const product = first * value;
  const high = product >> (8 * sizeBytes);
  setWideAccumulator(product, high, sizeBytes);
  setProductFlags(product, sizeBytes, high != 0);
  return true;
}

/** IMUL with one operand. */
export function execMultiplySigned(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  const first = loadAt(cpu + RAX, sizeBytes);
  if (sizeBytes == 8) {
    store<u64>(cpu, multiply64(cpu + RAX, first, value), RDX);
    return true;
  }
  const product = <u64>multiplySmall(first, value, sizeBytes);
  setWideAccumulator(product, product >> (8 * sizeBytes), sizeBytes);
  return true;
}

/** IMUL with two or three operands. */
export function execMultiplyTo(pc: usize, second: u64): bool {
  const sizeBytes = size(pc);
  const first = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  if (sizeBytes == 8) multiply64(registerA(pc), first, second);
  else setRegister(registerA(pc), sizeBytes, multiplySmall(first, second, sizeBytes));
  return true;
}
