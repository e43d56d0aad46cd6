// SPDX-License-Identifier: Apache-2.0
// From bytes to uops: prefixes, opcode, ModRM, SIB, immediates; SDM volume 2, chapter 2 and appendix A.
//
// What becomes of it then is in instructions.ts.
import { PAGE_SIZE_BYTES } from "../layout.ts";
import { translateFetch } from "./access.ts";
import { codeLinear, markCode, NO_PAGE } from "./blocks.ts";
import { beginBlock, endInstruction, isOpen, putEnd, putRaise } from "./emit.ts";
import { forgetComparison } from "./emit-branches.ts";
import { emit } from "./instructions.ts";
import {
  CPU_MODE,
  CPU_TEMPORARY,
  SEGMENT_CS,
  SEGMENT_DS,
  SEGMENT_ES,
  SEGMENT_FS,
  SEGMENT_GS,
  SEGMENT_SS,
} from "./layout.ts";
import { MODE_32, MODE_64, MODE_STEP } from "./modes.ts";
import {
  HAS_MODRM,
  IMMEDIATE_16,
  IMMEDIATE_8,
  IMMEDIATE_8_MORE,
  IMMEDIATE_FAR,
  IMMEDIATE_MOFFS,
  IMMEDIATE_NEAR,
  IMMEDIATE_V,
  IMMEDIATE_Z,
  operandsOf,
} from "./opcode-map.ts";
import { isMapped } from "./page-walk.ts";
import { FORM_66, FORM_F2, FORM_F3, FORM_LOCK, FORM_REX, FORM_REX_W, MAP_0F, MAP_0F38, MAP_0F3A } from "./uop.ts";
import { cpu, GP, ramBase, ramSizeBytes } from "./vcpu.ts";

const MAX_LENGTH: u32 = 15;
/** So that no count overflows, and a block ends before its uops are many. */
const MAX_INSTRUCTIONS: u32 = 64;

// ── The instruction at hand ──

/** Its address as RIP has it, and where its bytes are. */
export let rip: u64 = 0;
let bytes: usize = 0;
/** How many bytes there are in the first page, and how many were taken. */
let available: u32 = 0;
export let length: u32 = 0;
/** It needs more bytes than there are in its page. */
let isCut: bool = false;

/** MODE_64, MODE_32 or 0. */
export let codeSize: u32 = 0;
export let form: u32 = 0;
/** 40 to 4F, or 0. */
export let rex: u32 = 0;
/** Bytes. */
export let operandSize: u32 = 0;
export let addressSize: u32 = 0;
/** Of the address, SEGMENT_*; and whether a prefix says so. */
export let segmentNumber: u32 = 0;
let isOverridden: bool = false;
/** MAP_* | opcode. */
export let code: u32 = 0;
export let modrm: u32 = 0;
/** Numbers of registers, REX included. */
export let reg: u32 = 0;
export let rm: u32 = 0;
export let hasMemory: bool = false;
/** Of the address: NO_REGISTER for none, RIP for the next instruction's. */
export let base: u32 = 0;
export let index: u32 = 0;
export let scale: u32 = 0;
export let displacement: i64 = 0;
export let immediate: i64 = 0;
export const NO_REGISTER: u32 = 0xff;
export const BASE_RIP: u32 = 0xfe;

/**
 * Translates the code at an address, up to the end of its page at most. Returns the physical page into which a last instruction
 * reaches, NO_PAGE for none. No uop is made when an exception was raised: of the first instruction there is no whole.
 */
export function decodeBlock(start: u64, physical: u64): u64 {
  const mode = load<u32>(cpu, CPU_MODE);
  codeSize = mode & (MODE_64 | MODE_32);
  rip = start;
  available = PAGE_SIZE_BYTES - (<u32>physical & (PAGE_SIZE_BYTES - 1));
  // What is no RAM reads as zeros, from a place in the state page that is zero.
  bytes = physical < ramSizeBytes ? ramBase + <usize>physical : 0;
  if (bytes == 0) available = 0;
  let second = NO_PAGE;
  beginBlock();
  forgetComparison();
  for (let count: u32 = 1; ; count++) {
    decode();
    if (isCut) {
      length = 0;
      if (count > 1) break;
      const place = joinPages(start, physical);
      if (!isMapped(place)) return NO_PAGE;
      second = place;
      decode();
    }
    if (length > MAX_LENGTH) putRaise(GP);
    else emit();
    endInstruction();
    if (!isOpen || second != NO_PAGE) break;
    rip += length;
    bytes += length;
    available -= length;
    if (available == 0 || count == MAX_INSTRUCTIONS || mode & MODE_STEP) {
      length = 0;
      break;
    }
  }
  if (isOpen) putEnd(second != NO_PAGE ? rip + length : rip);
  return second;
}

/** Puts the end of this page and the beginning of the next one together. Returns where that is. */
function joinPages(start: u64, physical: u64): u64 {
  const next = start + available;
  const place = translateFetch(codeLinear(next));
  if (!isMapped(place)) return place;
  const joined = cpu + CPU_TEMPORARY;
  memory.fill(joined, 0, 2 * MAX_LENGTH + 2);
  if (physical < ramSizeBytes) memory.copy(joined, bytes, available);
  if (place < ramSizeBytes) {
    markCode(place);
    memory.copy(joined + available, ramBase + <usize>place, MAX_LENGTH + 1);
  }
  bytes = joined;
  available = 2 * MAX_LENGTH;
  return place;
}

@inline
function next8(): u32 {
  if (length >= available) {
    isCut = true;
    return 0;
  }
  return load<u8>(bytes + length++);
}

function nextSigned(sizeBytes: u32): i64 {
  if (length + sizeBytes > available) {
    isCut = true;
    return 0;
  }
  const place = bytes + length;
  length += sizeBytes;
  switch (sizeBytes) {
    case 1:
      return load<i8>(place);
    case 2:
      return load<i16>(place);
    case 4:
      return load<i32>(place);
    default:
      return load<i64>(place);
  }
}

/** Prefixes and opcode; what follows depends on the opcode. */
function decode(): void {
  length = 0;
  isCut = false;
  form = 0;
  rex = 0;
  isOverridden = false;
  segmentNumber = SEGMENT_DS;
  hasMemory = false;
  immediate = 0;
  let hasOperandPrefix = false;
  let hasAddressPrefix = false;
  let byte: u32 = 0;
  for (;;) {
    byte = next8();
    if (isCut || length > MAX_LENGTH) return;
    if (codeSize == MODE_64 && (byte & 0xf0) == 0x40) {
      rex = byte;
      continue;
    }
    let isPrefix = true;
    switch (byte) {
      case 0x26:
        useSegment(SEGMENT_ES);
        break;
      case 0x2e:
        useSegment(SEGMENT_CS);
        break;
      case 0x36:
        useSegment(SEGMENT_SS);
        break;
      case 0x3e:
        useSegment(SEGMENT_DS);
        break;
      case 0x64:
        useSegment(SEGMENT_FS);
        break;
      case 0x65:
        useSegment(SEGMENT_GS);
        break;
      case 0x66:
        hasOperandPrefix = true;
        break;
      case 0x67:
        hasAddressPrefix = true;
        break;
      case 0xf0:
        form |= FORM_LOCK;
        break;
      case 0xf2:
        form = (form & ~(<u32>FORM_F3)) | FORM_F2;
        break;
      case 0xf3:
        form = (form & ~(<u32>FORM_F2)) | FORM_F3;
        break;
      default:
        isPrefix = false;
    }
    if (!isPrefix) break;
    // Only the last thing before the opcode is a REX prefix.
    rex = 0;
  }
  if (hasOperandPrefix) form |= FORM_66;
  if (rex) form |= FORM_REX;
  if (rex & 8) form |= FORM_REX_W;
  if (codeSize == MODE_64) {
    operandSize = rex & 8 ? 8 : hasOperandPrefix ? 2 : 4;
    addressSize = hasAddressPrefix ? 4 : 8;
  } else {
    operandSize = (codeSize == MODE_32) == hasOperandPrefix ? 2 : 4;
    addressSize = (codeSize == MODE_32) == hasAddressPrefix ? 2 : 4;
  }
  if (byte == 0x0f) {
    byte = next8();
    if (byte == 0x38) code = MAP_0F38 | next8();
    else if (byte == 0x3a) code = MAP_0F3A | next8();
    else code = MAP_0F | byte;
  } else {
    code = byte;
  }
  if (!isCut) decodeOperands();
}

function useSegment(number: u32): void {
  // In 64-bit mode only FS and GS count.
  if (codeSize == MODE_64 && number < <u32>SEGMENT_FS) return;
  segmentNumber = number;
  isOverridden = true;
}

/** What follows the opcode. */
function decodeOperands(): void {
  // VEX and EVEX in 64-bit mode, of which nothing is here: whatever follows is #UD.
  if (codeSize == MODE_64 && (code == 0xc4 || code == 0xc5 || code == 0x62)) return;
  const kinds = operandsOf(code);
  if (kinds & HAS_MODRM) {
    decodeModrm();
    if (isCut) return;
  }
  // F6 and F7 have an immediate in two of their forms.
  const isTest = (code == 0xf6 || code == 0xf7) && ((modrm >> 3) & 7) < 2;
  if (kinds & IMMEDIATE_8 || (isTest && code == 0xf6)) immediate = nextSigned(1);
  else if (kinds & IMMEDIATE_Z || isTest) immediate = nextSigned(operandSize == 2 ? 2 : 4);
  else if (kinds & IMMEDIATE_V) immediate = nextSigned(operandSize);
  else if (kinds & IMMEDIATE_16) immediate = nextSigned(2) & 0xffff;
  else if (kinds & IMMEDIATE_NEAR) immediate = nextSigned(codeSize != MODE_64 && operandSize == 2 ? 2 : 4);
  else if (kinds & IMMEDIATE_MOFFS) {
    // As an address without registers.
    displacement = nextSigned(addressSize);
    if (addressSize == 4) displacement &= 0xffff_ffff;
    if (addressSize == 2) displacement &= 0xffff;
    base = NO_REGISTER;
    index = NO_REGISTER;
    scale = 0;
    hasMemory = true;
  } else if (kinds & IMMEDIATE_FAR) {
    immediate = nextSigned(operandSize == 2 ? 2 : 4) & (operandSize == 2 ? 0xffff : 0xffff_ffff);
    immediate |= (nextSigned(2) & 0xffff) << 32;
  }
  if (kinds & IMMEDIATE_8_MORE) immediate = (immediate & 0xffff) | ((nextSigned(1) & 0xff) << 16);
}

export function addDisplacement(sizeBytes: u32): void {
  displacement += sizeBytes;
}

function decodeModrm(): void {
  modrm = next8();
  const mod = modrm >> 6;
  reg = ((modrm >> 3) & 7) | ((rex & 4) << 1);
  rm = (modrm & 7) | ((rex & 1) << 3);
  // Moves to and from control and debug registers have no memory form.
  if (mod == 3 || (code >= (MAP_0F | 0x20) && code <= (MAP_0F | 0x23))) return;
  hasMemory = true;
  displacement = 0;
  index = NO_REGISTER;
  scale = 0;
  if (addressSize == 2) {
    decodeAddress16(mod);
    return;
  }
  base = rm;
  if ((modrm & 7) == 4) {
    const sib = next8();
    const number = ((sib >> 3) & 7) | ((rex & 2) << 2);
    if (number != 4) index = number;
    scale = sib >> 6;
    base = (sib & 7) | ((rex & 1) << 3);
    if ((sib & 7) == 5 && mod == 0) {
      base = NO_REGISTER;
      displacement = nextSigned(4);
    }
  } else if ((modrm & 7) == 5 && mod == 0) {
    base = codeSize == MODE_64 ? BASE_RIP : NO_REGISTER;
    displacement = nextSigned(4);
  }
  if (mod == 1) displacement = nextSigned(1);
  else if (mod == 2) displacement = nextSigned(4);
  if (!isOverridden && (base == 4 || base == 5)) segmentNumber = SEGMENT_SS;
}

/** SDM volume 2, table 2-1. */
function decodeAddress16(mod: u32): void {
  const kind = modrm & 7;
  base = NO_REGISTER;
  if (kind < 2 || kind == 7) base = 3;
  else if (kind == 2 || kind == 3 || (kind == 6 && mod != 0)) base = 5;
  if (kind == 0 || kind == 2) index = 6;
  else if (kind == 1 || kind == 3) index = 7;
  else if (kind == 4) base = 6;
  else if (kind == 5) base = 7;
  if (mod == 1) displacement = nextSigned(1);
  else if (mod == 2 || (kind == 6 && mod == 0)) displacement = nextSigned(2);
  if (!isOverridden && base == 5) segmentNumber = SEGMENT_SS;
}
