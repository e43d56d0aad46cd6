// SPDX-License-Identifier: Apache-2.0
// Integer instructions that have no uop of their own: other sizes, memory forms, LOCK, other modes. SDM volume 2.
//
// Where the destination is: `destination` gives its place, register or memory; `finish` ends what was written there.
import { isPlain, readValue, toRead, toWrite, writeValue } from "./access.ts";
import {
  AF,
  ARITHMETIC_FLAGS,
  arithmeticFlags,
  CF,
  carry,
  condition,
  DF,
  FLAGS_ADD,
  FLAGS_DEC,
  FLAGS_INC,
  FLAGS_LOGIC,
  FLAGS_SUB,
  IF,
  IOPL,
  OF,
  PF,
  resultFlags,
  rflags,
  SF,
  setFlags,
  setIncFlags,
  setLazyFlags,
  ZF,
} from "./flags.ts";
import { CPU_GPRS, CPU_RFLAGS, CPU_TEMPORARY, SEGMENT_SELECTOR_U16 } from "./layout.ts";
import { exchangeLocked, exchangePair, foundHigh, foundLow } from "./locked.ts";
import { MODE_64, privilegeLevel, segment } from "./modes.ts";
import { finishWrite } from "./slow-access.ts";
import { isWritableStack, pop, push, readStack, setStackPointer, stackPointer } from "./stack.ts";
import { operandAt, tableAddress } from "./operands.ts";
import { loadDescriptorRights } from "./segments.ts";
import {
  address,
  COLD_CODE,
  COLD_FORM,
  COLD_IMMEDIATE,
  COLD_SIZE,
  FORM_F3,
  FORM_LOCK,
  isMemory,
  MAP_0F,
  registerA,
  registerB,
} from "./uop.ts";
import { cpu, DE, GP, hasFaulted, raise, raiseWith, UD, unsupported } from "./vcpu.ts";

const RAX = CPU_GPRS;
const RCX = CPU_GPRS + 8;
const RDX = CPU_GPRS + 16;
const RBX = CPU_GPRS + 24;
const RSP = CPU_GPRS + 32;
const RBP = CPU_GPRS + 40;

// ── Operands ──

@inline
export function maskOf(sizeBytes: u32): u64 {
  return u64.MAX_VALUE >> (64 - 8 * sizeBytes);
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

function signExtend(value: u64, sizeBytes: u32): i64 {
  const shift = 64 - 8 * sizeBytes;
  return <i64>(value << shift) >> shift;
}

@inline
function size(pc: usize): u32 {
  return load<u8>(pc, COLD_SIZE);
}

@inline
function immediate(pc: usize): i64 {
  return load<i64>(pc, COLD_IMMEDIATE);
}

@inline
function group(pc: usize): u32 {
  return load<u16>(pc, 2);
}

/** ModRM.rm as a source. */
function source(pc: usize, sizeBytes: u32): u64 {
  return isMemory(pc) ? readValue(address(pc), sizeBytes) : loadAt(registerB(pc), sizeBytes);
}

/** ModRM.rm as a place to change. 0: an exception was raised. */
function destination(pc: usize, sizeBytes: u32): usize {
  return isMemory(pc) ? toWrite(address(pc), sizeBytes) : registerB(pc);
}

/** Puts a new value where `old` was. False: with LOCK, somebody else has changed it meanwhile, and all is to be done again. */
function change(pc: usize, place: usize, sizeBytes: u32, old: u64, value: u64): bool {
  if (!isMemory(pc)) {
    setRegister(place, sizeBytes, value);
    return true;
  }
  if (load<u8>(pc, COLD_FORM) & FORM_LOCK) return exchangeLocked(place, sizeBytes, old, value);
  storeAt(place, sizeBytes, value);
  return isPlain(place) || finishWrite();
}

// ── Arithmetic ──

const ADD: u32 = 0;
const ADC: u32 = 2;
const SBB: u32 = 3;
const CMP: u32 = 7;

/** One of the eight operations of opcodes 00 to 3F, with its flags. */
function alu(operation: u32, first: u64, second: u64, sizeBytes: u32): u64 {
  const mask = maskOf(sizeBytes);
  switch (operation) {
    case 0: {
      const result = (first + second) & mask;
      setLazyFlags(FLAGS_ADD, sizeBytes, result, first);
      return result;
    }
    case 1:
      return logic(first | second, sizeBytes);
    case 2:
      return addWithCarry(first, second & mask, sizeBytes);
    case 3:
      return subtractWithBorrow(first, second & mask, sizeBytes);
    case 4:
      return logic(first & second & mask, sizeBytes);
    case 6:
      return logic((first ^ second) & mask, sizeBytes);
    default: {
      const result = (first - second) & mask;
      setLazyFlags(FLAGS_SUB, sizeBytes, result, first);
      return result;
    }
  }
}

function logic(result: u64, sizeBytes: u32): u64 {
  const masked = result & maskOf(sizeBytes);
  setLazyFlags(FLAGS_LOGIC, sizeBytes, masked, 0);
  return masked;
}

export function addWithCarry(first: u64, second: u64, sizeBytes: u32): u64 {
  const carryIn: u64 = carry() ? 1 : 0;
  const result = (first + second + carryIn) & maskOf(sizeBytes);
  const isCarry = carryIn ? result <= first : result < first;
  const overflow = ((first ^ result) & (second ^ result)) >> (8 * sizeBytes - 1);
  setFlags(
    resultFlags(result, sizeBytes) | (isCarry ? CF : 0) | (<u32>(first ^ second ^ result) & AF) | (overflow & 1 ? OF : 0),
  );
  return result;
}

export function subtractWithBorrow(first: u64, second: u64, sizeBytes: u32): u64 {
  const borrow: u64 = carry() ? 1 : 0;
  const result = (first - second - borrow) & maskOf(sizeBytes);
  const isCarry = borrow ? first <= second : first < second;
  const overflow = ((first ^ second) & (first ^ result)) >> (8 * sizeBytes - 1);
  setFlags(
    resultFlags(result, sizeBytes) | (isCarry ? CF : 0) | (<u32>(first ^ second ^ result) & AF) | (overflow & 1 ? OF : 0),
  );
  return result;
}

/** ModRM.rm op= second. */
function aluTo(pc: usize, operation: u32, second: u64, sizeBytes: u32): bool {
  if (operation == CMP) {
    const first = source(pc, sizeBytes);
    if (hasFaulted()) return false;
    alu(CMP, first, second, sizeBytes);
    return true;
  }
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const isAdc = operation == ADC || operation == SBB;
  // Each attempt begins with the flags of before.
  const before = isAdc ? arithmeticFlags() : 0;
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = alu(operation, old, second, sizeBytes);
    if (change(pc, place, sizeBytes, old, result)) return true;
    if (isAdc) setFlags(before);
  }
}

/** Opcodes 00 to 3F but for those of segments and BCD. */
function aluOpcode(pc: usize, code: u32): bool {
  const operation = code >> 3;
  const sizeBytes = size(pc);
  const form = code & 7;
  if (form < 2) return aluTo(pc, operation, loadAt(registerA(pc), sizeBytes), sizeBytes);
  const isImmediate = form >= 4;
  const place = isImmediate ? cpu + RAX : registerA(pc);
  const second = isImmediate ? <u64>immediate(pc) & maskOf(sizeBytes) : source(pc, sizeBytes);
  if (hasFaulted()) return false;
  const result = alu(operation, loadAt(place, sizeBytes), second, sizeBytes);
  if (operation != CMP) setRegister(place, sizeBytes, result);
  return true;
}

function incOrDec(pc: usize, isDec: bool, sizeBytes: u32): bool {
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = (isDec ? old - 1 : old + 1) & maskOf(sizeBytes);
    if (!change(pc, place, sizeBytes, old, result)) continue;
    setIncFlags(isDec ? FLAGS_DEC : FLAGS_INC, sizeBytes, result);
    return true;
  }
}

/** F6 and F7. */
function group3(pc: usize): bool {
  const sizeBytes = size(pc);
  const operation = group(pc);
  switch (operation) {
    case 0:
    case 1: {
      const value = source(pc, sizeBytes);
      if (hasFaulted()) return false;
      logic(value & <u64>immediate(pc), sizeBytes);
      return true;
    }
    case 2:
    case 3: {
      const place = destination(pc, sizeBytes);
      if (place == 0) return false;
      while (true) {
        const old = loadAt(place, sizeBytes);
        const result = (operation == 2 ? ~old : 0 - old) & maskOf(sizeBytes);
        if (!change(pc, place, sizeBytes, old, result)) continue;
        if (operation == 3) setLazyFlags(FLAGS_SUB, sizeBytes, result, 0);
        return true;
      }
    }
    default:
      break;
  }
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  switch (operation) {
    case 4:
      multiplyUnsigned(value, sizeBytes);
      return true;
    case 5:
      multiplySigned(value, sizeBytes);
      return true;
    case 6:
      return divideUnsigned(value, sizeBytes);
    default:
      return divideSigned(value, sizeBytes);
  }
}

/** Upper half of a product. */
export function multiplyHigh(a: u64, b: u64): u64 {
  const aLow = <u64><u32>a;
  const aHigh = a >> 32;
  const bLow = <u64><u32>b;
  const bHigh = b >> 32;
  const middle = aHigh * bLow + ((aLow * bLow) >> 32);
  const other = aLow * bHigh + <u64><u32>middle;
  return aHigh * bHigh + (middle >> 32) + (other >> 32);
}

/** Flags of products: CF and OF when the upper half matters; the others are undefined, and as after a logical operation here. */
function setProductFlags(low: u64, sizeBytes: u32, isWide: bool): void {
  setFlags(resultFlags(low & maskOf(sizeBytes), sizeBytes) | (isWide ? CF | OF : 0));
}

export function multiplyWide(a: u64, b: u64): void {
  const high = multiplyHigh(a, b);
  const low = a * b;
  store<u64>(cpu, low, RAX);
  store<u64>(cpu, high, RDX);
  setProductFlags(low, 8, high != 0);
}

function multiplyUnsigned(value: u64, sizeBytes: u32): void {
  if (sizeBytes == 8) {
    multiplyWide(load<u64>(cpu, RAX), value);
    return;
  }
  const product = loadAt(cpu + RAX, sizeBytes) * value;
  setWide(product, product >> (8 * sizeBytes), sizeBytes);
  setProductFlags(product, sizeBytes, product >> (8 * sizeBytes) != 0);
}

function multiplySigned(value: u64, sizeBytes: u32): void {
  if (sizeBytes == 8) {
    const first = load<u64>(cpu, RAX);
    const low = first * value;
    let high = multiplyHigh(first, value);
    if (<i64>first < 0) high -= value;
    if (<i64>value < 0) high -= first;
    store<u64>(cpu, low, RAX);
    store<u64>(cpu, high, RDX);
    setProductFlags(low, 8, high != <u64>(<i64>low >> 63));
    return;
  }
  const product = signExtend(loadAt(cpu + RAX, sizeBytes), sizeBytes) * signExtend(value, sizeBytes);
  setWide(product, <u64>product >> (8 * sizeBytes), sizeBytes);
  setProductFlags(product, sizeBytes, product != signExtend(product, sizeBytes));
}

/** DX:AX and the like; of bytes AX. */
function setWide(low: u64, high: u64, sizeBytes: u32): void {
  if (sizeBytes == 1) {
    store<u16>(cpu, <u16>((low & 0xff) | (high << 8)), RAX);
    return;
  }
  setRegister(cpu + RAX, sizeBytes, low);
  setRegister(cpu + RDX, sizeBytes, high);
}

/** IMUL with two or three operands. */
export function multiply64(place: usize, first: u64, second: u64): void {
  const low = first * second;
  let high = multiplyHigh(first, second);
  if (<i64>first < 0) high -= second;
  if (<i64>second < 0) high -= first;
  store<u64>(place, low);
  setProductFlags(low, 8, high != <u64>(<i64>low >> 63));
}

export function multiply32(place: usize, first: u32, second: u32): void {
  const product = <i64>(<i32>first) * <i64>(<i32>second);
  store<u64>(place, <u32>product);
  setProductFlags(product, 4, product != <i64>(<i32>product));
}

function multiplyTo(pc: usize, second: u64): bool {
  const sizeBytes = size(pc);
  const first = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  if (sizeBytes == 8) multiply64(registerA(pc), first, second);
  else if (sizeBytes == 4) multiply32(registerA(pc), <u32>first, <u32>second);
  else {
    const product = signExtend(first, 2) * signExtend(second, 2);
    store<u16>(registerA(pc), <u16>product);
    setProductFlags(product, 2, product != signExtend(product, 2));
  }
  return true;
}

/** Dividends of the smaller sizes in 64 bits; #DE when the quotient is too large. */
function divideUnsigned(divisor: u64, sizeBytes: u32): bool {
  if (divisor == 0) return raise(DE);
  if (sizeBytes == 8) return divideWide(load<u64>(cpu, RDX), load<u64>(cpu, RAX), divisor);
  const dividend = wideDividend(sizeBytes);
  const quotient = dividend / divisor;
  if (quotient > maskOf(sizeBytes)) return raise(DE);
  setWide(quotient, dividend % divisor, sizeBytes);
  return true;
}

function wideDividend(sizeBytes: u32): u64 {
  if (sizeBytes == 1) return load<u16>(cpu, RAX);
  return loadAt(cpu + RAX, sizeBytes) | (loadAt(cpu + RDX, sizeBytes) << (8 * sizeBytes));
}

function divideWide(high: u64, low: u64, divisor: u64): bool {
  if (high >= divisor) return raise(DE);
  let remainder = high;
  let quotient: u64 = 0;
  if (high == 0) {
    quotient = low / divisor;
    remainder = low % divisor;
  } else {
    for (let bit = 63; bit >= 0; bit--) {
      const top = remainder >> 63;
      remainder = (remainder << 1) | ((low >> bit) & 1);
      if (top || remainder >= divisor) {
        remainder -= divisor;
        quotient |= <u64>1 << bit;
      }
    }
  }
  store<u64>(cpu, quotient, RAX);
  store<u64>(cpu, remainder, RDX);
  return true;
}

function divideSigned(value: u64, sizeBytes: u32): bool {
  if (value == 0) return raise(DE);
  if (sizeBytes == 8) return divideWideSigned(<i64>value);
  const divisor = signExtend(value, sizeBytes);
  const dividend = signExtend(wideDividend(sizeBytes), 2 * sizeBytes);
  // Of 32 bits: -2^63 / -1 does not fit into 64 bits either.
  if (divisor == -1 && dividend == i64.MIN_VALUE) return raise(DE);
  const quotient = dividend / divisor;
  if (quotient != signExtend(quotient, sizeBytes)) return raise(DE);
  setWide(quotient, dividend % divisor, sizeBytes);
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
  const oldLow = load<u64>(cpu, RAX);
  const oldHigh = load<u64>(cpu, RDX);
  divideWide(high, low, magnitude);
  const quotient = load<u64>(cpu, RAX);
  const remainder = load<u64>(cpu, RDX);
  const isQuotientNegative = isNegative != divisor < 0;
  if (quotient > (isQuotientNegative ? 0x8000_0000_0000_0000 : 0x7fff_ffff_ffff_ffff)) {
    store<u64>(cpu, oldLow, RAX);
    store<u64>(cpu, oldHigh, RDX);
    return raise(DE);
  }
  store<u64>(cpu, isQuotientNegative ? 0 - quotient : quotient, RAX);
  store<u64>(cpu, isNegative ? 0 - remainder : remainder, RDX);
  return true;
}

// ── Shifts ──

export function setShiftFlagsSHL(sizeBytes: u32, result: u64, first: u64, count: u32): void {
  const bits: u32 = 8 * sizeBytes;
  const carryOut = count <= bits ? <u32>(first >> (bits - count)) & 1 : 0;
  const overflow = (<u32>(result >> (bits - 1)) & 1) ^ carryOut;
  setFlags(resultFlags(result, sizeBytes) | carryOut | (overflow ? OF : 0));
}

export function setShiftFlagsSHR(sizeBytes: u32, result: u64, first: u64, count: u32): void {
  const carryOut = count <= 64 ? <u32>(first >> (count - 1)) & 1 : 0;
  const overflow = <u32>(first >> (8 * sizeBytes - 1)) & 1;
  setFlags(resultFlags(result, sizeBytes) | carryOut | (overflow && count == 1 ? OF : 0));
}

export function setShiftFlagsSAR(sizeBytes: u32, result: u64, first: u64, count: u32): void {
  const carryOut = <u32>(signExtend(first, sizeBytes) >> min<u32>(count - 1, 63)) & 1;
  setFlags(resultFlags(result, sizeBytes) | carryOut);
}

/** One of the eight operations of group 2, with its flags. `count` is masked already, and not 0. */
function shift(operation: u32, value: u64, count: u32, sizeBytes: u32): u64 {
  const bits: u32 = 8 * sizeBytes;
  const mask = maskOf(sizeBytes);
  switch (operation) {
    case 0:
    case 1:
      return rotate(operation == 1, value, count, sizeBytes);
    case 2:
    case 3:
      return rotateThroughCarry(operation == 3, value, count, sizeBytes);
    case 5: {
      const result = count < bits ? value >> count : 0;
      setShiftFlagsSHR(sizeBytes, result, value, count);
      return result;
    }
    case 7: {
      const result = <u64>(signExtend(value, sizeBytes) >> min<u32>(count, 63)) & mask;
      setShiftFlagsSAR(sizeBytes, result, value, count);
      return result;
    }
    default: {
      const result = count < bits ? (value << count) & mask : 0;
      setShiftFlagsSHL(sizeBytes, result, value, count);
      return result;
    }
  }
}

/** CF and OF after a rotate by an amount that is not 0. */
export function setRotateFlags(sizeBytes: u32, result: u64, isRight: bool): void {
  const bits: u32 = 8 * sizeBytes;
  const top = <u32>(result >> (bits - 1)) & 1;
  const carryOut = isRight ? top : <u32>result & 1;
  const overflow = isRight ? top ^ (<u32>(result >> (bits - 2)) & 1) : top ^ carryOut;
  setFlags((arithmeticFlags() & ~(CF | OF)) | carryOut | (overflow ? OF : 0));
}

function rotate(isRight: bool, value: u64, count: u32, sizeBytes: u32): u64 {
  const bits: u32 = 8 * sizeBytes;
  const amount = count & (bits - 1);
  const left = isRight ? (bits - amount) & (bits - 1) : amount;
  const result = left == 0 ? value : ((value << left) | (value >> (bits - left))) & maskOf(sizeBytes);
  setRotateFlags(sizeBytes, result, isRight);
  return result;
}

function rotateThroughCarry(isRight: bool, value: u64, count: u32, sizeBytes: u32): u64 {
  const bits: u32 = 8 * sizeBytes;
  let result = value;
  let carryBit: u64 = carry() ? 1 : 0;
  for (let turn = count % (bits + 1); turn > 0; turn--) {
    if (isRight) {
      const out = result & 1;
      result = (result >> 1) | (carryBit << (bits - 1));
      carryBit = out;
    } else {
      const out = (result >> (bits - 1)) & 1;
      result = ((result << 1) | carryBit) & maskOf(sizeBytes);
      carryBit = out;
    }
  }
  const top = <u32>(result >> (bits - 1)) & 1;
  const overflow = isRight ? top ^ (<u32>(result >> (bits - 2)) & 1) : top ^ <u32>carryBit;
  setFlags((arithmeticFlags() & ~(CF | OF)) | <u32>carryBit | (overflow ? OF : 0));
  return result;
}

function shiftTo(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  const amount = code < 0xd0 ? <u32>immediate(pc) : code < 0xd2 ? 1 : load<u8>(cpu, RCX);
  const count = amount & (sizeBytes == 8 ? 63 : 31);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const old = loadAt(place, sizeBytes);
  return change(pc, place, sizeBytes, old, count == 0 ? old : shift(group(pc), old, count, sizeBytes));
}

/** SHLD and SHRD. */
function doubleShift(pc: usize, isRight: bool, amount: u32): bool {
  const sizeBytes = size(pc);
  const bits: u32 = 8 * sizeBytes;
  const count = amount & (sizeBytes == 8 ? 63 : 31);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const old = loadAt(place, sizeBytes);
  if (count == 0) return change(pc, place, sizeBytes, old, old);
  const other = loadAt(registerA(pc), sizeBytes);
  let result: u64;
  let carryOut: u32;
  if (count > bits) {
    // Undefined, of 16 bits: the operands follow each other around.
    const around = (old << 32) | (other << 16) | old;
    result = isRight ? around >> count : (around << count) >> 32;
    carryOut = <u32>(isRight ? around >> (count - 1) : around >> (48 - count)) & 1;
  } else if (isRight) {
    result = count == bits ? other : (old >> count) | (other << (bits - count));
    carryOut = <u32>(old >> (count - 1)) & 1;
  } else {
    result = count == bits ? other : (old << count) | (other >> (bits - count));
    carryOut = <u32>(old >> (bits - count)) & 1;
  }
  result &= maskOf(sizeBytes);
  const overflow = <u32>((old ^ result) >> (bits - 1)) & 1;
  setFlags(resultFlags(result, sizeBytes) | carryOut | (overflow ? OF : 0));
  return change(pc, place, sizeBytes, old, result);
}

// ── Bits ──

/** BT, BTS, BTR and BTC by a register, whose bits reach beyond an operand in memory; `operation` 0 to 3. */
function bitByRegister(pc: usize, operation: u32): bool {
  const sizeBytes = size(pc);
  const number = signExtend(loadAt(registerA(pc), sizeBytes), sizeBytes);
  if (!isMemory(pc)) return changeBit(pc, registerB(pc), operation, <u32>number, sizeBytes);
  const place = operandAt(pc, (number >> (sizeBytes == 8 ? 6 : sizeBytes == 4 ? 5 : 4)) * sizeBytes);
  const pointer = operation == 0 ? toRead(place, sizeBytes) : toWrite(place, sizeBytes);
  return pointer != 0 && changeBit(pc, pointer, operation, <u32>number, sizeBytes);
}

function bitByImmediate(pc: usize): bool {
  const sizeBytes = size(pc);
  const operation = group(pc) - 4;
  const place = !isMemory(pc)
    ? registerB(pc)
    : operation == 0
      ? toRead(address(pc), sizeBytes)
      : toWrite(address(pc), sizeBytes);
  return place != 0 && changeBit(pc, place, operation, <u32>immediate(pc), sizeBytes);
}

function changeBit(pc: usize, place: usize, operation: u32, number: u32, sizeBytes: u32): bool {
  const bit: u64 = <u64>1 << (number & (8 * sizeBytes - 1));
  while (true) {
    const old = loadAt(place, sizeBytes);
    const value = operation == 1 ? old | bit : operation == 2 ? old & ~bit : old ^ bit;
    if (operation != 0 && !change(pc, place, sizeBytes, old, value)) continue;
    setFlags((arithmeticFlags() & ~CF) | (old & bit ? CF : 0));
    return true;
  }
}

/** BSF and BSR; of a CPU without BMI also with F3. */
function bitScan(pc: usize, isReverse: bool): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  // AMD: of 0 the destination stays as it is.
  if (value != 0) setRegister(registerA(pc), sizeBytes, isReverse ? 63 - clz(value) : ctz(value));
  setFlags((arithmeticFlags() & ~ZF) | (value == 0 ? ZF : 0));
  return true;
}

function populationCount(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  setRegister(registerA(pc), sizeBytes, popcnt(value));
  setFlags(value == 0 ? ZF : 0);
  return true;
}

// ── Exchanges ──

function exchange(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const register = registerA(pc);
  while (true) {
    const old = loadAt(place, sizeBytes);
    const value = loadAt(register, sizeBytes);
    // Of memory it is always locked.
    if (!isMemory(pc)) setRegister(place, sizeBytes, value);
    else if (!exchangeLocked(place, sizeBytes, old, value)) continue;
    setRegister(register, sizeBytes, old);
    return true;
  }
}

function exchangeAdd(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const register = registerA(pc);
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = (old + loadAt(register, sizeBytes)) & maskOf(sizeBytes);
    if (isMemory(pc)) {
      if (!change(pc, place, sizeBytes, old, result)) continue;
      setRegister(register, sizeBytes, old);
    } else {
      // The sum wins when both are the same.
      setRegister(register, sizeBytes, old);
      setRegister(place, sizeBytes, result);
    }
    setLazyFlags(FLAGS_ADD, sizeBytes, result, old);
    return true;
  }
}

function compareExchange(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const expected = loadAt(cpu + RAX, sizeBytes);
  while (true) {
    const old = loadAt(place, sizeBytes);
    const isEqual = old == expected;
    // AMD: a register that is not equal keeps its upper half.
    if ((isEqual || isMemory(pc)) && !change(pc, place, sizeBytes, old, isEqual ? loadAt(registerA(pc), sizeBytes) : old)) {
      continue;
    }
    if (!isEqual) setRegister(cpu + RAX, sizeBytes, old);
    setLazyFlags(FLAGS_SUB, sizeBytes, (expected - old) & maskOf(sizeBytes), expected);
    return true;
  }
}

/** CMPXCHG8B. */
function compareExchange8(pc: usize): bool {
  const place = toWrite(address(pc), 8);
  if (place == 0) return false;
  const expected = <u64>load<u32>(cpu, RAX) | (<u64>load<u32>(cpu, RDX) << 32);
  const wanted = <u64>load<u32>(cpu, RBX) | (<u64>load<u32>(cpu, RCX) << 32);
  while (true) {
    const old = load<u64>(place);
    const isEqual = old == expected;
    if (!change(pc, place, 8, old, isEqual ? wanted : old)) continue;
    if (!isEqual) {
      store<u64>(cpu, <u32>old, RAX);
      store<u64>(cpu, old >> 32, RDX);
    }
    setFlags((arithmeticFlags() & ~ZF) | (isEqual ? ZF : 0));
    return true;
  }
}

function compareExchange16(pc: usize): bool {
  const where = address(pc);
  if (where & 15) return raiseWith(GP, 0);
  const place = toWrite(where, 16);
  if (place == 0) return false;
  const low = load<u64>(cpu, RAX);
  const high = load<u64>(cpu, RDX);
  let isEqual: bool;
  let oldLow: u64;
  let oldHigh: u64;
  if (load<u8>(pc, COLD_FORM) & FORM_LOCK && isPlain(place)) {
    isEqual = exchangePair(place, low, high, load<u64>(cpu, RBX), load<u64>(cpu, RCX));
    oldLow = foundLow;
    oldHigh = foundHigh;
  } else {
    oldLow = load<u64>(place);
    oldHigh = load<u64>(place, 8);
    isEqual = oldLow == low && oldHigh == high;
    if (isEqual) {
      store<u64>(place, load<u64>(cpu, RBX));
      store<u64>(place, load<u64>(cpu, RCX), 8);
    }
    if (!isPlain(place)) finishWrite();
  }
  if (!isEqual) {
    store<u64>(cpu, oldLow, RAX);
    store<u64>(cpu, oldHigh, RDX);
  }
  setFlags((arithmeticFlags() & ~ZF) | (isEqual ? ZF : 0));
  return true;
}

// ── Moves ──

function moveTo(pc: usize, value: u64, sizeBytes: u32): bool {
  if (isMemory(pc)) return writeValue(address(pc), sizeBytes, value);
  setRegister(registerB(pc), sizeBytes, value);
  return true;
}

function moveFrom(pc: usize, sizeBytes: u32): bool {
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  setRegister(registerA(pc), sizeBytes, value);
  return true;
}

function moveExtended(pc: usize, fromBytes: u32, isSigned: bool): bool {
  const value = source(pc, fromBytes);
  if (hasFaulted()) return false;
  setRegister(registerA(pc), size(pc), isSigned ? <u64>signExtend(value, fromBytes) : value);
  return true;
}

function conditionalMove(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  const register = registerA(pc);
  setRegister(register, sizeBytes, condition(code & 15) ? value : loadAt(register, sizeBytes));
  return true;
}

/** CBW, CWDE, CDQE. */
function extendAccumulator(sizeBytes: u32): bool {
  setRegister(cpu + RAX, sizeBytes, <u64>signExtend(load<u64>(cpu, RAX), sizeBytes >> 1));
  return true;
}

/** CWD, CDQ, CQO. */
function extendIntoD(sizeBytes: u32): bool {
  setRegister(cpu + RDX, sizeBytes, <u64>(signExtend(load<u64>(cpu, RAX), sizeBytes) >> 63));
  return true;
}

/** XLAT. */
function translateByte(pc: usize): bool {
  const value = readValue(tableAddress(pc, load<u64>(cpu, RBX) + load<u8>(cpu, RAX)), 1);
  if (hasFaulted()) return false;
  store<u8>(cpu, <u8>value, RAX);
  return true;
}

// ── The stack ──

function enter(pc: usize): bool {
  const sizeBytes = size(pc);
  const frameBytes = <u64>immediate(pc) & 0xffff;
  const level = <u32>(immediate(pc) >> 16) & 31;
  const oldStack = stackPointer();
  const oldFrame = load<u64>(cpu, RBP);
  if (!push(oldFrame, sizeBytes)) return false;
  const frame = stackPointer();
  for (let above: u32 = 1; above <= level; above++) {
    let link = frame;
    if (above < level) {
      link = readStack(oldFrame - above * sizeBytes, sizeBytes);
      if (hasFaulted()) {
        setStackPointer(oldStack);
        return false;
      }
    }
    if (!push(link, sizeBytes)) {
      setStackPointer(oldStack);
      return false;
    }
  }
  // What is pushed next must not fault.
  const end = stackPointer() - frameBytes;
  if (!isWritableStack(end, sizeBytes)) {
    setStackPointer(oldStack);
    return false;
  }
  setStackPointer(end);
  setRegister(cpu + RBP, sizeBytes, frame);
  return true;
}

function leaveFrame(pc: usize): bool {
  const sizeBytes = size(pc);
  const frame = load<u64>(cpu, RBP);
  const value = readStack(frame, sizeBytes);
  if (hasFaulted()) return false;
  setStackPointer(frame + sizeBytes);
  setRegister(cpu + RBP, sizeBytes, value);
  return true;
}

function popTo(pc: usize, sizeBytes: u32): bool {
  const old = stackPointer();
  // The decoder has added to an address with RSP what is popped.
  const where = isMemory(pc) ? address(pc) : 0;
  const value = pop(sizeBytes);
  if (hasFaulted()) return false;
  if (!isMemory(pc)) {
    setRegister(registerB(pc), sizeBytes, value);
    return true;
  }
  if (writeValue(where, sizeBytes, value)) return true;
  setStackPointer(old);
  return false;
}

function popRegister(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = pop(sizeBytes);
  if (hasFaulted()) return false;
  setRegister(registerA(pc), sizeBytes, value);
  return true;
}

function pushAll(sizeBytes: u32): bool {
  const old = stackPointer();
  const stack = load<u64>(cpu, RSP);
  for (let number: u32 = 0; number < 8; number++) {
    if (!push(number == 4 ? stack : load<u64>(cpu + CPU_GPRS + number * 8), sizeBytes)) {
      setStackPointer(old);
      return false;
    }
  }
  return true;
}

function popAll(sizeBytes: u32): bool {
  const old = stackPointer();
  // All of it can be read, or none is.
  readStack(old + 7 * sizeBytes, sizeBytes);
  readStack(old, sizeBytes);
  if (hasFaulted()) return false;
  for (let number = 7; number >= 0; number--) {
    const value = pop(sizeBytes);
    if (number != 4) setRegister(cpu + CPU_GPRS + number * 8, sizeBytes, value);
  }
  return true;
}

// ── Flags, and the rest ──

function setDirection(isDown: bool): bool {
  const others = load<u64>(cpu, CPU_RFLAGS) & ~(<u64>DF);
  store<u64>(cpu, isDown ? others | DF : others, CPU_RFLAGS);
  return true;
}

function clearInterruptFlag(): bool {
  const flags = load<u64>(cpu, CPU_RFLAGS);
  if (privilegeLevel() > (<u32>(flags & IOPL) >> 12)) return raiseWith(GP, 0);
  store<u64>(cpu, flags & ~(<u64>IF), CPU_RFLAGS);
  return true;
}

/** AAM and AAD. */
function adjustForProduct(isDivision: bool, radix: u32): bool {
  const al = <u32>load<u8>(cpu, RAX);
  if (!isDivision) {
    if (radix == 0) return raise(DE);
    store<u8>(cpu, <u8>(al / radix), RAX + 1);
    store<u8>(cpu, <u8>(al % radix), RAX);
  } else {
    store<u16>(cpu, <u16>((al + <u32>load<u8>(cpu, RAX + 1) * radix) & 0xff), RAX);
  }
  setFlags(resultFlags(load<u8>(cpu, RAX), 1));
  return true;
}

/** DAA, DAS, AAA and AAS. */
function adjustDecimal(code: u32): bool {
  const al = <u32>load<u8>(cpu, RAX);
  const before = arithmeticFlags();
  const isLow = (al & 15) > 9 || (before & AF) != 0;
  if (code >= 0x37) {
    const change: u32 = isLow ? 0x106 : 0;
    const ax = <u32>load<u16>(cpu, RAX);
    store<u16>(cpu, <u16>(code == 0x37 ? ax + change : ax - change), RAX);
    store<u8>(cpu, load<u8>(cpu, RAX) & 15, RAX);
    setFlags(isLow ? AF | CF : 0);
    return true;
  }
  const isHigh = al > 0x99 || (before & CF) != 0;
  const change: u32 = (isLow ? 6 : 0) + (isHigh ? 0x60 : 0);
  const result = code == 0x27 ? al + change : al - change;
  store<u8>(cpu, <u8>result, RAX);
  const borrows = code == 0x2f && isLow && al < 6;
  setFlags(resultFlags(result & 0xff, 1) | (isLow ? AF : 0) | (isHigh || borrows ? CF : 0));
  return true;
}

/** False: an exception was raised. */
export function execInteger(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  return code >= MAP_0F ? execInteger0f(pc, code & 0xff) : execInteger1(pc, code);
}

function execInteger1(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  if (code < 0x40) {
    if ((code & 7) < 6) return aluOpcode(pc, code);
    if (code < 0x20) return push(load<u16>(segment(group(pc)), SEGMENT_SELECTOR_U16), sizeBytes);
    return adjustDecimal(code);
  }
  switch (code >> 3) {
    case 0x40 >> 3:
    case 0x48 >> 3: {
      const register = registerA(pc);
      const old = loadAt(register, sizeBytes);
      const result = (code & 8 ? old - 1 : old + 1) & maskOf(sizeBytes);
      setRegister(register, sizeBytes, result);
      setIncFlags(code & 8 ? FLAGS_DEC : FLAGS_INC, sizeBytes, result);
      return true;
    }
    case 0x50 >> 3:
      return push(load<u64>(registerA(pc)), sizeBytes);
    case 0x58 >> 3:
      return popRegister(pc);
    case 0x90 >> 3: {
      const a = registerA(pc);
      const b = registerB(pc);
      const first = loadAt(a, sizeBytes);
      const second = loadAt(b, sizeBytes);
      setRegister(a, sizeBytes, second);
      setRegister(b, sizeBytes, first);
      return true;
    }
    case 0xb0 >> 3:
    case 0xb8 >> 3:
      setRegister(registerA(pc), sizeBytes, immediate(pc));
      return true;
    default:
      break;
  }
  switch (code) {
    case 0x60:
      return pushAll(sizeBytes);
    case 0x61:
      return popAll(sizeBytes);
    case 0x63:
      return moveExtended(pc, 4, true);
    case 0x68:
    case 0x6a:
      return push(immediate(pc), sizeBytes);
    case 0x69:
    case 0x6b:
      return multiplyTo(pc, immediate(pc));
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return aluTo(pc, group(pc), <u64>immediate(pc) & maskOf(sizeBytes), sizeBytes);
    case 0x84:
    case 0x85: {
      const value = source(pc, sizeBytes);
      if (hasFaulted()) return false;
      logic(value & loadAt(registerA(pc), sizeBytes), sizeBytes);
      return true;
    }
    case 0x86:
    case 0x87:
      return exchange(pc);
    case 0x88:
    case 0x89:
      return moveTo(pc, load<u64>(registerA(pc)), sizeBytes);
    case 0x8a:
    case 0x8b:
      return moveFrom(pc, sizeBytes);
    case 0x8c:
      return moveTo(pc, load<u16>(segment(group(pc)), SEGMENT_SELECTOR_U16), sizeBytes);
    case 0x8f:
      return popTo(pc, sizeBytes);
    case 0x98:
      return extendAccumulator(sizeBytes);
    case 0x99:
      return extendIntoD(sizeBytes);
    case 0x9c:
      return push(rflags(), sizeBytes);
    case 0x9e:
      setFlags((arithmeticFlags() & OF) | (load<u8>(cpu, RAX + 1) & (SF | ZF | AF | PF | CF)));
      return true;
    case 0x9f:
      store<u8>(cpu, <u8>((arithmeticFlags() & 0xff) | 2), RAX + 1);
      return true;
    case 0xa0:
    case 0xa1: {
      const value = readValue(address(pc), sizeBytes);
      if (hasFaulted()) return false;
      setRegister(cpu + RAX, sizeBytes, value);
      return true;
    }
    case 0xa2:
    case 0xa3:
      return writeValue(address(pc), sizeBytes, load<u64>(cpu, RAX));
    case 0xa8:
    case 0xa9:
      logic(loadAt(cpu + RAX, sizeBytes) & <u64>immediate(pc), sizeBytes);
      return true;
    case 0xc0:
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
      return shiftTo(pc, code);
    case 0xc6:
    case 0xc7:
      return moveTo(pc, immediate(pc), sizeBytes);
    case 0xc8:
      return enter(pc);
    case 0xc9:
      return leaveFrame(pc);
    case 0xd4:
      return adjustForProduct(false, <u32>immediate(pc) & 0xff);
    case 0xd5:
      return adjustForProduct(true, <u32>immediate(pc) & 0xff);
    case 0xd7:
      return translateByte(pc);
    case 0xf5:
      setFlags(arithmeticFlags() ^ CF);
      return true;
    case 0xf6:
    case 0xf7:
      return group3(pc);
    case 0xf8:
      setFlags(arithmeticFlags() & ~CF);
      return true;
    case 0xf9:
      setFlags(arithmeticFlags() | CF);
      return true;
    case 0xfa:
      return clearInterruptFlag();
    case 0xfc:
    case 0xfd:
      return setDirection(code == 0xfd);
    case 0xfe:
    case 0xff:
      if (group(pc) < 2) return incOrDec(pc, group(pc) == 1, sizeBytes);
      break;
    default:
      return unsupported();
  }
  const value = source(pc, sizeBytes);
  return !hasFaulted() && push(value, sizeBytes);
}

function execInteger0f(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  switch (code >> 4) {
    case 4:
      return conditionalMove(pc, code);
    case 9:
      return moveTo(pc, condition(code & 15) ? 1 : 0, 1);
    default:
      break;
  }
  switch (code) {
    case 0x02:
    case 0x03:
      return loadDescriptorRights(pc, code == 0x03);
    case 0xa0:
    case 0xa8:
      return push(load<u16>(segment(code == 0xa0 ? 4 : 5), SEGMENT_SELECTOR_U16), sizeBytes);
    case 0xa3:
      return bitByRegister(pc, 0);
    case 0xab:
      return bitByRegister(pc, 1);
    case 0xb3:
      return bitByRegister(pc, 2);
    case 0xbb:
      return bitByRegister(pc, 3);
    case 0xa4:
    case 0xac:
      return doubleShift(pc, code == 0xac, <u32>immediate(pc));
    case 0xa5:
    case 0xad:
      return doubleShift(pc, code == 0xad, load<u8>(cpu, RCX));
    case 0xae:
      return fence(pc);
    case 0xaf:
      return multiplyTo(pc, loadAt(registerA(pc), sizeBytes));
    case 0xb0:
    case 0xb1:
      return compareExchange(pc);
    case 0xb6:
      return moveExtended(pc, 1, false);
    case 0xb7:
      return moveExtended(pc, 2, false);
    case 0xb8:
      return populationCount(pc);
    case 0xba:
      return bitByImmediate(pc);
    case 0xbc:
    case 0xbd:
      return bitScan(pc, code == 0xbd);
    case 0xbe:
      return moveExtended(pc, 1, true);
    case 0xbf:
      return moveExtended(pc, 2, true);
    case 0xc0:
    case 0xc1:
      return exchangeAdd(pc);
    case 0xc3:
      return moveTo(pc, load<u64>(registerA(pc)), sizeBytes);
    case 0xc7:
      return size(pc) == 8 ? compareExchange16(pc) : compareExchange8(pc);
    default:
      break;
  }
  if ((code & ~7) == 0xc8) {
    // BSWAP of 16 bits is undefined; it gives 0.
    store<u16>(registerA(pc), 0);
    return true;
  }
  return unsupported();
}

/** LFENCE, MFENCE, SFENCE, CLFLUSH. Wasm has no fence of its own here; any atomic access is one. */
function fence(pc: usize): bool {
  if (isMemory(pc)) {
    readValue(address(pc), 1);
    return !hasFaulted();
  }
  atomic.or<u32>(cpu + CPU_TEMPORARY, 0);
  return true;
}
