// SPDX-License-Identifier: Apache-2.0
// What a case does not tell: results that the SDM leaves undefined, or that are only nearly so. The other such places are
// features.h, of instructions that never become cases, and DIFFERENCES below.
import type { Bits } from "../rig.ts";
import { DATA, STATE_GPRS, STATE_MXCSR, type State } from "./state.ts";

const CF = 1;
const PF = 4;
const AF = 0x10;
const ZF = 0x40;
const SF = 0x80;
const OF = 0x800;
const ALL = CF | PF | AF | ZF | SF | OF;

const MAP_0F = 0x100;
const MAP_0F38 = 0x200;
const MAP_0F3A = 0x300;

export interface Parsed {
  bits: Bits;
  /** As in features.h. */
  opcode: number;
  modrm: number;
  has66: boolean;
  /** Its operands have 16 bits, if they can. */
  isWord: boolean;
  hasF2: boolean;
  hasF3: boolean;
  hasLock: boolean;
  hasRexW: boolean;
  /** FS or GS. */
  hasSegment: boolean;
  /** CS. */
  hasCodeSegment: boolean;
}

const SEGMENT_PREFIXES = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];
const CS_PREFIX = 0x2e;

/** Prefixes, opcode and ModRM, if it has one. */
export function parse(code: Uint8Array, bits: Bits = 64): Parsed {
  const parsed: Parsed = {
    bits,
    opcode: 0,
    modrm: 0,
    has66: false,
    isWord: false,
    hasF2: false,
    hasF3: false,
    hasLock: false,
    hasRexW: false,
    hasSegment: false,
    hasCodeSegment: false,
  };
  let at = 0;
  for (; at < code.length; at++) {
    const byte = code[at]!;
    if ((byte & 0xf0) === 0x40 && bits === 64) {
      parsed.hasRexW = (byte & 8) !== 0;
      continue;
    }
    if (byte === 0x64 || byte === 0x65) parsed.hasSegment = true;
    // Of several segment prefixes the last one counts.
    if (SEGMENT_PREFIXES.includes(byte)) parsed.hasCodeSegment = byte === CS_PREFIX;
    if (byte === 0x66) parsed.has66 = true;
    else if (byte === 0xf0) parsed.hasLock = true;
    else if (byte === 0xf2 || byte === 0xf3) {
      parsed.hasF2 = byte === 0xf2;
      parsed.hasF3 = byte === 0xf3;
    } else if (byte !== 0x67 && !SEGMENT_PREFIXES.includes(byte)) break;
    parsed.hasRexW = false;
  }
  parsed.isWord = parsed.has66 !== (bits === 16);
  parsed.opcode = code[at++] ?? 0;
  if (parsed.opcode === 0x0f) {
    const second = code[at++] ?? 0;
    if (second === 0x38) parsed.opcode = MAP_0F38 | (code[at++] ?? 0);
    else if (second === 0x3a) parsed.opcode = MAP_0F3A | (code[at++] ?? 0);
    else parsed.opcode = MAP_0F | second;
  }
  parsed.modrm = code[at] ?? 0;
  return parsed;
}

export interface Undefined {
  /** Bits of RFLAGS. */
  flags: number;
  /** The whole result. */
  result: boolean;
  /** Bits of the x87's status word. */
  status: number;
  /** Address and error code of a page fault. */
  address: boolean;
}

export const NOTHING: Undefined = { flags: 0, result: false, status: 0, address: false };
/** Whether it was rounded, and whether up; of what is tiny only that is an underflow. */
const UE_PE_C1 = 0x230;

/** What the instruction leaves undefined in this state. */
export function undefinedBy(code: Uint8Array, parsed: Parsed, before: State): Undefined {
  const { opcode, modrm, isWord, hasRexW } = parsed;
  const group = (modrm >> 3) & 7;
  // Of FXSAVE, FXRSTOR, FLDENV, FRSTOR, FNSTENV and FNSAVE it is not said which of their many bytes is looked at first.
  const isMemory = modrm < 0xc0;
  if (isMemory && opcode === (MAP_0F | 0xae) && group < 2) return { ...NOTHING, address: true };
  if (isMemory && ((opcode === 0xd9 && (group & 5) === 4) || (opcode === 0xdd && (group & 5) === 4))) {
    return { ...NOTHING, address: true };
  }
  if (isTranscendental(parsed)) return { ...NOTHING, status: UE_PE_C1 };
  if (opcode < 0x40) {
    // DAA and DAS; AAA and AAS.
    if (opcode === 0x27 || opcode === 0x2f) return { ...NOTHING, flags: OF };
    if (opcode === 0x37 || opcode === 0x3f) return { ...NOTHING, flags: OF | SF | ZF | PF };
    const operation = opcode >> 3;
    return (opcode & 7) < 6 && (operation === 1 || operation === 4 || operation === 6)
      ? { ...NOTHING, flags: AF }
      : NOTHING;
  }
  const countIn = (byte: number): number => byte & (hasRexW ? 63 : 31);
  const cl = before.bytes[STATE_GPRS + 8]!;
  switch (opcode) {
    // AND, OR and XOR with immediates; TEST.
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return { ...NOTHING, flags: group === 1 || group === 4 || group === 6 ? AF : 0 };
    case 0x84:
    case 0x85:
    case 0xa8:
    case 0xa9:
      return { ...NOTHING, flags: AF };
    case 0xf6:
    case 0xf7:
      if (group < 2) return { ...NOTHING, flags: AF };
      if (group === 4 || group === 5) return { ...NOTHING, flags: SF | ZF | AF | PF };
      return { ...NOTHING, flags: group >= 6 ? ALL : 0 };
    case 0x69:
    case 0x6b:
    case MAP_0F | 0xaf:
      return { ...NOTHING, flags: SF | ZF | AF | PF };
    case 0xc0:
    case 0xc1:
      return shift(group, countIn(code.at(-1)!), opcode & 1 ? operandBits(isWord, hasRexW) : 8);
    case 0xd0:
    case 0xd1:
      return shift(group, 1, 64);
    case 0xd2:
    case 0xd3:
      return shift(group, countIn(cl), opcode & 1 ? operandBits(isWord, hasRexW) : 8);
    // AAM, AAD.
    case 0xd4:
    case 0xd5:
      return { ...NOTHING, flags: OF | AF | CF };
    // SHLD, SHRD.
    case MAP_0F | 0xa4:
    case MAP_0F | 0xac:
      return doubleShift(countIn(code.at(-1)!), operandBits(isWord, hasRexW));
    case MAP_0F | 0xa5:
    case MAP_0F | 0xad:
      return doubleShift(countIn(cl), operandBits(isWord, hasRexW));
    // BT, BTS, BTR, BTC.
    case MAP_0F | 0xa3:
    case MAP_0F | 0xab:
    case MAP_0F | 0xb3:
    case MAP_0F | 0xbb:
    case MAP_0F | 0xba:
      return { ...NOTHING, flags: OF | SF | AF | PF };
    // BSF, BSR.
    case MAP_0F | 0xbc:
    case MAP_0F | 0xbd:
      return { ...NOTHING, flags: CF | OF | SF | AF | PF };
    default:
      return NOTHING;
  }
}

function operandBits(isWord: boolean, hasRexW: boolean): number {
  return hasRexW ? 64 : isWord ? 16 : 32;
}

function shift(group: number, count: number, bits: number): Undefined {
  if (count === 0) return NOTHING;
  let flags = count === 1 ? 0 : OF;
  if (group >= 4) {
    flags |= AF;
    // Of SAR it is the sign.
    if (count >= bits && group !== 7) flags |= CF;
  }
  return { ...NOTHING, flags };
}

function doubleShift(count: number, bits: number): Undefined {
  if (count === 0) return NOTHING;
  if (count > bits) return { ...NOTHING, flags: ALL, result: true };
  return { ...NOTHING, flags: AF | (count === 1 ? 0 : OF) };
}

/** x87 functions that come out differently in their last bits on every CPU: F2XM1, FYL2X, FPTAN, FPATAN, FYL2XP1, FSINCOS, FSIN, FCOS. */
const TRANSCENDENTAL = [0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff];

export function isTranscendental({ opcode, modrm }: Parsed): boolean {
  return opcode === 0xd9 && TRANSCENDENTAL.includes(modrm);
}

/** RCPPS, RCPSS, RSQRTPS, RSQRTSS: 12 bits of the result are right. */
export function isApproximate({ opcode }: Parsed): boolean {
  return opcode === (MAP_0F | 0x52) || opcode === (MAP_0F | 0x53);
}

const ALIGNMENT_VECTOR = 17;
const STACK_VECTOR = 12;
const GENERAL_PROTECTION_VECTOR = 13;
const PAGE_FAULT_VECTOR = 14;

const PAGE_SIZE_BYTES = 0x1000n;
/** Where segments end: of 16-bit code they begin at DATA. */
const SEGMENT_ENDS = [0x1_0000_0000n, BigInt(DATA)];

/** An exception that the engine has raised, and the address of a page fault. */
export interface Raised {
  vector: number;
  address: bigint;
}

/** Where the engine is not to be as this machine's CPU, and why. */
export const DIFFERENCES: readonly {
  why: string;
  matches: (parsed: Parsed, vector: number, after: State, raised: Raised) => boolean;
}[] = [
  {
    why: "The engine checks no alignment: CR0.AM has no effect, and nobody sets RFLAGS.AC but to see that it can be set",
    matches: (_, vector) => vector === ALIGNMENT_VECTOR,
  },
  {
    why: "AMD's MXCSR has a bit more, MM, which the engine's MXCSR_MASK does not show",
    matches: ({ opcode }, _, after) => opcode === (MAP_0F | 0xae) && (after.words[STATE_MXCSR / 4]! & 0x2_0000) !== 0,
  },
  {
    why: "Zen 5 wants an address to be canonical before the base of FS or GS is added, too",
    matches: ({ bits, hasSegment }, vector) => bits === 64 && hasSegment && vector === GENERAL_PROTECTION_VECTOR,
  },
  {
    why: "MASKMOVQ and MASKMOVDQU may fault on bytes that they do not write, and need not",
    matches: ({ opcode }, vector) =>
      opcode === (MAP_0F | 0xf7) && [STACK_VECTOR, GENERAL_PROTECTION_VECTOR, PAGE_FAULT_VECTOR].includes(vector),
  },
  {
    why: "Where both operands of CMPS fault, Zen 4 looks at the second one first, Zen 5 and the engine at the first",
    matches: ({ opcode }, vector) =>
      (opcode === 0xa6 || opcode === 0xa7) && (vector === GENERAL_PROTECTION_VECTOR || vector === PAGE_FAULT_VECTOR),
  },
  {
    why: "The engine checks no limits of segments: what lies across their end, after 4 GiB, is a page fault, or with a base in DATA nothing",
    matches: ({ bits, hasSegment }, vector, _, raised) => {
      if (bits === 64) return false;
      if (vector === STACK_VECTOR) return true;
      if (vector !== GENERAL_PROTECTION_VECTOR || raised.vector === GENERAL_PROTECTION_VECTOR) return false;
      if (hasSegment) return true;
      if (raised.vector !== PAGE_FAULT_VECTOR) return false;
      return SEGMENT_ENDS.some(
        (end) => raised.address >= end - PAGE_SIZE_BYTES && raised.address < end + PAGE_SIZE_BYTES,
      );
    },
  },
  {
    why: "Nor does it check types of segments: a code segment can be written, if its page can",
    matches: ({ bits, hasCodeSegment }, vector, _, raised) =>
      bits !== 64 &&
      hasCodeSegment &&
      vector === GENERAL_PROTECTION_VECTOR &&
      raised.vector !== GENERAL_PROTECTION_VECTOR,
  },
  {
    why: "AMD's POPA has loaded some registers when it faults. The SDM says nothing; the engine loads all or none",
    matches: ({ opcode }, vector, _, raised) =>
      opcode === 0x61 && vector === PAGE_FAULT_VECTOR && raised.vector === PAGE_FAULT_VECTOR,
  },
];
