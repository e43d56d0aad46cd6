// SPDX-License-Identifier: Apache-2.0
// What a case starts from: registers and memory made of a seed and a profile, the same as in state.h.

export const CODE = 0x1000_0000;
export const CODE_SIZE_BYTES = 0x2000;
export const DATA = 0x2000_0000;
export const DATA_SIZE_BYTES = 0x3000;
/** The last page may only be read. */
export const DATA_WRITABLE_BYTES = 0x2000;
export const FS_BASE = 0x2000_0700;
export const GS_BASE = 0x1000;
export const FILLER = 0xf4;

const PROFILE_STRING = 1;
const PROFILE_DIVIDE = 2;
const PROFILE_FLOAT = 4;
const PROFILE_X87 = 8;
const PROFILE_ALIGN = 16;
const PROFILE_CONTROL = 32;
const PROFILE_EQUAL = 64;

// struct state, offsets in bytes.
/** u64[16] */
export const STATE_GPRS = 0;
/** u64, of which the upper half is only used in outcomes. */
export const STATE_RIP = 128;
export const STATE_RFLAGS = 136;
export const STATE_MXCSR = 140;
/** u16, u16, u8 */
export const STATE_FCW = 144;
export const STATE_FSW = 146;
export const STATE_VALID = 148;
/** u8[8][16]: 10 bytes of each, by physical number. */
export const STATE_X87 = 160;
/** u8[16][16] */
export const STATE_XMMS = 288;
const STATE_CHUNKS = 544;
export const STATE_SIZE_BYTES = 560;

const CHUNK_BEFORE = 16;
const CHUNK_WORDS = 16;

export interface State {
  words: Uint32Array;
  bytes: Uint8Array;
  view: DataView;
}

export function newState(): State {
  const buffer = new ArrayBuffer(STATE_SIZE_BYTES);
  return { words: new Uint32Array(buffer), bytes: new Uint8Array(buffer), view: new DataView(buffer) };
}

let derived = 0;

function derive(): number {
  derived ^= derived << 13;
  derived ^= derived >>> 17;
  derived ^= derived << 5;
  return Math.imul(derived, 0x9e3779b1) >>> 0;
}

function startDerivation(seed: number): void {
  derived = Math.imul(seed + 1, 0x85ebca6b);
  derived ^= derived >>> 15;
  if (derived === 0) derived = 1;
  derive();
  derive();
}

function deriveValue(words: Uint32Array, at: number): void {
  const r = derive();
  const small = (r >>> 8) & 0xff;
  const bit = (r >>> 8) & 63;
  let low = 0;
  let high = 0;
  switch (r & 15) {
    case 0:
      break;
    case 1:
    case 2:
      low = small;
      break;
    case 3:
      low = ~small;
      high = -1;
      break;
    case 4:
    case 5:
    case 6:
      low = bit < 32 ? 1 << bit : 0;
      high = bit < 32 ? 0 : 1 << (bit - 32);
      if ((r & 15) === 5) {
        high -= low === 0 ? 1 : 0;
        low -= 1;
      } else if ((r & 15) === 6) {
        low = ~low;
        high = ~high;
      }
      break;
    case 7:
      low = derive();
      break;
    case 8:
      low = derive();
      high = low >> 31;
      break;
    case 9:
      low = high = Math.imul(small, 0x01010101);
      break;
    default:
      low = derive();
      high = derive();
  }
  words[at] = low;
  words[at + 1] = high;
}

// biome-ignore format: a table
const SINGLES = [
  0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7fa12345,
  0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0x3f000000, 0x3fc00000, 0x4f000000, 0xcf000000,
];

function deriveSingle(): number {
  const r = derive();
  const sign = r & 0x80000000;
  const more = derive();
  switch (r & 7) {
    case 0:
      return SINGLES[(r >>> 8) & 15]!;
    case 1:
      return sign | ((124 + ((r >>> 8) & 15)) << 23) | (more & 0x7e0000);
    case 2:
      return sign | (((r >>> 8) & 3) << 23) | (more & 0x7fffff);
    case 3:
      return sign | ((252 + ((r >>> 8) & 3)) << 23) | (more & 0x7fffff);
    case 4:
      return sign | ((150 + ((r >>> 8) & 63)) << 23) | (more & 0x7fffff);
    default:
      return sign | ((112 + ((r >>> 8) & 31)) << 23) | (more & 0x7fffff);
  }
}

// biome-ignore format: a table
const DOUBLES = [
  0x00000000, 0x80000000, 0x3ff00000, 0xbff00000, 0x7ff00000, 0xfff00000, 0x7ff80000, 0x7ff12345,
  0x36a00000, 0x800fffff, 0x00100000, 0x7fefffff, 0x3fe00000, 0x3ff80000, 0x41e00000, 0xc3e00000,
];

function deriveDouble(words: Uint32Array, at: number): void {
  const r = derive();
  const sign = r & 0x80000000;
  const more = derive();
  words[at] = derive();
  switch (r & 7) {
    case 0:
      words[at + 1] = DOUBLES[(r >>> 8) & 15]!;
      words[at] = 0;
      break;
    case 1:
      words[at + 1] = sign | ((1020 + ((r >>> 8) & 15)) << 20) | (more & 0xf8000);
      words[at] = 0;
      break;
    case 2:
      words[at + 1] = sign | (((r >>> 8) & 3) << 20) | (more & 0xfffff);
      break;
    case 3:
      words[at + 1] = sign | ((2044 + ((r >>> 8) & 3)) << 20) | (more & 0xfffff);
      break;
    case 4:
      words[at + 1] = sign | ((((r >>> 8) & 1 ? 866 : 1146) + ((r >>> 9) & 15)) << 20) | (more & 0xfffff);
      break;
    case 5:
      words[at + 1] = sign | ((1050 + ((r >>> 8) & 31)) << 20) | (more & 0xfffff);
      break;
    default:
      words[at + 1] = sign | ((1008 + ((r >>> 8) & 31)) << 20) | (more & 0xfffff);
  }
}

function deriveExtended(words: Uint32Array, at: number): void {
  const r = derive();
  const sign = (r >>> 16) & 0x8000;
  const more = (r >>> 8) & 0xff;
  const low = derive();
  const high = derive() | 0x80000000;
  let exponent: number;
  words[at] = low;
  words[at + 1] = high;
  switch (r & 7) {
    case 0:
      words[at] = 0;
      words[at + 1] = more & 1 ? 0x80000000 : 0;
      exponent = more & 1 ? (more & 2 ? 0x7fff : 0x3fff) : 0;
      break;
    case 1:
      words[at] = 0;
      words[at + 1] = high & 0xff000000;
      exponent = 0x3ffc + (more & 15);
      break;
    case 2:
      words[at + 1] = high & (more & 4 ? -1 : 0x7fffffff);
      exponent = 0;
      break;
    case 3:
      words[at + 1] = high & (more & 12 ? -1 : 0x7fffffff);
      exponent = 0x7fff;
      break;
    case 4:
      exponent = (more & 1 ? 0x0000 : 0x7ffe - 64) + (more >> 2);
      break;
    case 5:
      exponent = 0x3fff + (more & 127);
      break;
    default:
      exponent = 0x3fff - 16 + (more & 31);
  }
  words[at + 2] = exponent | sign;
}

function patternOfData(): Uint8Array {
  const words = new Uint32Array(DATA_SIZE_BYTES / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1) ^ (i << 7);
  return new Uint8Array(words.buffer);
}

const PATTERN = patternOfData();

function deriveChunkPlaces(words: Uint32Array): void {
  for (let i = 0; i < 4; i++) {
    const r = derive();
    const more = r >>> 8;
    let at: number;
    switch (r & 15) {
      case 0:
        at = 0x1000 - 32 + (more & 63);
        break;
      case 1:
        at = 0x2000 - 32 + (more & 63);
        break;
      case 2:
        at = 0x3000 - 32 + (more & 63);
        break;
      case 3:
        at = (more & 31) - 16;
        break;
      case 4:
        at = 0x2000 + (more & 0xff0);
        break;
      case 5:
      case 6:
      case 7:
        at = 0x100 + (more & 0xfff);
        break;
      default:
        at = ((more & 63) + 1) << 6;
    }
    words[STATE_CHUNKS / 4 + i] = DATA + at;
  }
}

function deriveRegisters(words: Uint32Array, profile: number): void {
  const chunk = (number: number): number => words[STATE_CHUNKS / 4 + (number & 3)]!;
  for (let at = 0; at < 32; at += 2) {
    const r = derive();
    words[at + 1] = 0;
    switch (r & 7) {
      case 0:
      case 1:
      case 2:
        words[at] = chunk(r >>> 3) + ((r >>> 8) & 1 ? (r >>> 9) & 7 : 0);
        break;
      case 3:
        words[at] = (r >>> 8) & 63;
        break;
      case 4:
        words[at] = words[0]!;
        words[at + 1] = words[1]!;
        break;
      default:
        deriveValue(words, at);
    }
  }
  words[9] = 0;
  words[8] = chunk(0) + (derive() & 7 ? 16 : 5);
  if (profile & PROFILE_STRING) {
    const r = derive();
    words[2] = r & 15 ? (r >>> 4) & 15 : 0;
    words[3] = 0;
    words[12] = chunk(r >>> 8) + ((r >>> 10) & 7);
    words[13] = 0;
    words[14] = chunk(r >>> 16) + ((r >>> 18) & 7);
    words[15] = 0;
  }
  if (profile & PROFILE_DIVIDE) {
    const r = derive();
    switch (r & 3) {
      case 0:
        words[4] = words[5] = 0;
        break;
      case 1:
        words[5] = words[1]! >> 31;
        words[4] = r & 4 ? words[5]! : words[0]! >> 31;
        break;
      case 2:
        words[4] = (r >>> 8) & 0xff;
        words[5] = 0;
        break;
    }
  }
  let r = derive();
  let rflags = 0x202 | (r & 0x8d5);
  if (profile & PROFILE_STRING && !(r & 0x3000)) rflags |= 0x400;
  if (profile & PROFILE_ALIGN) rflags |= 0x40000;
  words[STATE_RFLAGS / 4] = rflags;
  r = derive();
  const place = r >>> 8;
  let rip = CODE + 0x40 + (place & 0xeff);
  if ((r & 31) === 0) rip = CODE + CODE_SIZE_BYTES - 1 - (place & 15);
  else if ((r & 31) === 1) rip = CODE + 0x1000 - 1 - (place & 15);
  words[STATE_RIP / 4] = rip;
  words[STATE_RIP / 4 + 1] = 0;
}

function deriveVectors(words: Uint32Array, profile: number): void {
  let mxcsr = 0x1f80;
  for (let at = STATE_XMMS / 4; at < STATE_CHUNKS / 4; at += 4) {
    const r = derive();
    if (profile & PROFILE_FLOAT && (r & 7) < 6) deriveFloats(words, at, (r & 1) !== 0);
    else deriveTwoValues(words, at);
  }
  if (profile & PROFILE_CONTROL) {
    const r = derive();
    mxcsr = r & 0xffff;
    if (r & 0x30000) mxcsr |= 0x1f80;
  }
  words[STATE_MXCSR / 4] = mxcsr;
}

function deriveFloats(words: Uint32Array, at: number, areDoubles: boolean): void {
  if (areDoubles) {
    deriveDouble(words, at);
    deriveDouble(words, at + 2);
  } else {
    for (let k = 0; k < 4; k++) words[at + k] = deriveSingle();
  }
}

function deriveTwoValues(words: Uint32Array, at: number): void {
  deriveValue(words, at);
  deriveValue(words, at + 2);
}

function deriveX87({ words, view }: State, profile: number): void {
  let fcw = 0x37f;
  let fsw = 0;
  let valid = 0;
  words.fill(0, STATE_X87 / 4, STATE_XMMS / 4);
  if (profile & PROFILE_X87) {
    for (let at = STATE_X87 / 4; at < STATE_XMMS / 4; at += 4) deriveExtended(words, at);
    let r = derive();
    fsw = r & 0x7800;
    valid = r & 0x300 ? 0xff : (r >>> 16) & 0xff;
    if (profile & PROFILE_CONTROL) {
      r = derive();
      fcw = 0x40 | (r & 0xf00) | (r & 0x30000 ? 0x3f : r & 0x3f);
      fsw |= (r >>> 28) & 1 ? (r >>> 20) & 0x7f : 0;
      fsw |= (r >>> 29) & 1 ? 0x200 : 0;
      if (fsw & 0x3f & ~fcw) fsw |= 0x8080;
    }
  }
  view.setUint16(STATE_FCW, fcw, true);
  view.setUint16(STATE_FSW, fsw, true);
  view.setUint8(STATE_VALID, valid);
}

function deriveChunk(chunk: Uint32Array, gprs: Uint32Array, profile: number): void {
  for (let at = 0; at < CHUNK_WORDS; at += 4) {
    const r = derive();
    if (profile & PROFILE_X87 && (r & 3) !== 0) {
      deriveX87Operand(chunk, at, r);
    } else if (profile & PROFILE_FLOAT && (r & 7) < 6) {
      deriveFloats(chunk, at, (r & 1) !== 0);
    } else if (profile & PROFILE_EQUAL && (r & 7) < 6) {
      chunk[at] = gprs[0]!;
      chunk[at + 1] = r & 1 ? gprs[1]! : gprs[4]!;
      chunk[at + 2] = gprs[4]!;
      chunk[at + 3] = gprs[5]!;
    } else if (profile & PROFILE_STRING && (r & 3) !== 0) {
      chunk.fill(Math.imul(gprs[0]! & 0xff, 0x01010101), at, at + 4);
      if (!(r & 0x30)) chunk[at + ((r >>> 6) & 3)] = derive();
    } else {
      deriveTwoValues(chunk, at);
    }
  }
}

function deriveX87Operand(chunk: Uint32Array, at: number, r: number): void {
  switch ((r >>> 2) & 3) {
    case 0:
      deriveExtended(chunk, at);
      chunk[at + 3] = 0;
      break;
    case 1:
      chunk[at] = derive() & 0x77777777;
      chunk[at + 1] = derive() & 0x19191919;
      chunk[at + 2] = r & 0x80800077;
      chunk[at + 3] = 0;
      break;
    default:
      deriveFloats(chunk, at, ((r >>> 2) & 3) === 2);
  }
}

const chunk = new Uint32Array(CHUNK_WORDS);
const chunkBytes = new Uint8Array(chunk.buffer);

/** Registers into `state`, what DATA has in it into `memory`. */
export function deriveState(seed: number, profile: number, state: State, memory: Uint8Array): void {
  const { words } = state;
  startDerivation(seed);
  deriveChunkPlaces(words);
  deriveRegisters(words, profile);
  deriveVectors(words, profile);
  deriveX87(state, profile);
  memory.set(PATTERN);
  for (let i = 0; i < 4; i++) {
    deriveChunk(chunk, words, profile);
    const at = words[STATE_CHUNKS / 4 + i]! - DATA - CHUNK_BEFORE;
    const from = Math.max(0, -at);
    const end = Math.min(chunkBytes.length, DATA_SIZE_BYTES - at);
    if (from < end) memory.set(chunkBytes.subarray(from, end), at + from);
  }
}
