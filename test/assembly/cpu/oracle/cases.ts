// SPDX-License-Identifier: Apache-2.0
// Cases as oracle.c writes them, one behind the other. What they start from is made of their seeds (state.ts): of what an
// instruction did, only the changes are written down. Numbers are little-endian, "number" is LEB128.
//
//   u8      length of the instruction, up to 15; of a sequence of them all
//   u8      profile
//   number  seed, less that of the case before
//   u8[]    instruction
//             of a sequence, whose profile has bit 7: u8 count, u8[] lengths of its instructions
//   u8      vector of the exception, ff for none;
//             with one: number, error code
//             with 14 (#PF): u64, address
//   u8      what has changed, bits from 0 on; in this order:
//     RIP     u64; else it is that of the next instruction, or with an exception the same
//     RFLAGS  number, without TF and RF
//     GPRs    u16 mask, then of each: u8 length, bytes, zero-extended
//     XMMs    u16 mask, then 16 bytes of each
//     MXCSR   u32
//     x87     u16 control word, u16 status word, u8 of tags (1 is not empty), u8 mask of physical registers, 10 bytes of each
//     memory  u8 count of runs, then of each: u16 offset in DATA, u8 length, bytes
//
// A corpus of sequences has only what they start from: they end well there, and nothing has changed.
//
// A corpus is u32 seed before the first, u32 number of cases, cases; all of it compressed with Brotli.
import { brotliDecompressSync } from "node:zlib";
import {
  DATA_SIZE_BYTES,
  deriveState,
  newState,
  STATE_FCW,
  STATE_FSW,
  STATE_GPRS,
  STATE_MXCSR,
  STATE_RFLAGS,
  STATE_RIP,
  STATE_VALID,
  STATE_X87,
  STATE_XMMS,
  type State,
} from "./state.ts";

export const NO_VECTOR = 0xff;
export const PAGE_FAULT_VECTOR = 14;
/** Of RFLAGS, all that is compared. */
export const COMPARED_FLAGS = 0x24_4ed7;

const CHANGED_RIP = 1;
const CHANGED_RFLAGS = 2;
const CHANGED_GPRS = 4;
const CHANGED_XMMS = 8;
const CHANGED_MXCSR = 16;
const CHANGED_X87 = 32;
const CHANGED_MEMORY = 64;

const PROFILE_SEQUENCE = 128;

/** No case has more bytes. */
const CASE_MAX_BYTES = 8192;

/** One case. All of it is overwritten by the next. */
export interface Case {
  seed: number;
  profile: number;
  code: Uint8Array;
  /** Of the instructions in it, when it is a sequence. */
  lengths: Uint8Array;
  vector: number;
  errorCode: number;
  faultAddress: bigint;
  before: State;
  after: State;
  memoryBefore: Uint8Array;
  memoryAfter: Uint8Array;
}

/** Reads cases of a stream of bytes that comes in pieces. */
export class CaseReader {
  readonly #case: Case = {
    seed: 0,
    profile: 0,
    code: new Uint8Array(),
    lengths: new Uint8Array(),
    vector: NO_VECTOR,
    errorCode: 0,
    faultAddress: 0n,
    before: newState(),
    after: newState(),
    memoryBefore: new Uint8Array(DATA_SIZE_BYTES),
    memoryAfter: new Uint8Array(DATA_SIZE_BYTES),
  };
  #bytes: Uint8Array = new Uint8Array();
  #view: DataView = new DataView(new ArrayBuffer(0));
  #at = 0;

  constructor(seedBefore: number) {
    this.#case.seed = seedBefore;
  }

  /** Adds what has arrived. */
  push(bytes: Uint8Array): void {
    const rest = this.#bytes.subarray(this.#at);
    const joined = rest.length === 0 ? bytes : new Uint8Array(rest.length + bytes.length);
    if (rest.length > 0) {
      joined.set(rest);
      joined.set(bytes, rest.length);
    }
    this.#bytes = joined;
    this.#view = new DataView(joined.buffer, joined.byteOffset, joined.length);
    this.#at = 0;
  }

  /** The next case; undefined when there may be not all of it yet. `isLast`: no more is coming. */
  next(isLast: boolean): Case | undefined {
    const left = this.#bytes.length - this.#at;
    if (left === 0 || (!isLast && left < CASE_MAX_BYTES)) return undefined;
    this.#read();
    return this.#case;
  }

  #u8(): number {
    return this.#bytes[this.#at++]!;
  }

  #u16(): number {
    this.#at += 2;
    return this.#view.getUint16(this.#at - 2, true);
  }

  #take(count: number): Uint8Array {
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }

  #number(): number {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = this.#u8();
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
  }

  #read(): void {
    const found = this.#case;
    const length = this.#u8();
    const profile = this.#u8();
    found.profile = profile & ~PROFILE_SEQUENCE;
    found.seed += this.#number();
    found.code = this.#take(length);
    found.lengths = profile & PROFILE_SEQUENCE ? this.#take(this.#u8()) : new Uint8Array();
    deriveState(found.seed, found.profile, found.before, found.memoryBefore);
    found.after.bytes.set(found.before.bytes);
    found.memoryAfter.set(found.memoryBefore);
    found.vector = this.#u8();
    found.errorCode = found.vector === NO_VECTOR ? 0 : this.#number();
    found.faultAddress = 0n;
    if (found.vector === PAGE_FAULT_VECTOR) {
      found.faultAddress = this.#view.getBigUint64(this.#at, true);
      this.#at += 8;
    }
    this.#readChanges(found, length);
  }

  #readChanges({ vector, after, memoryAfter }: Case, length: number): void {
    const changed = this.#u8();
    if (changed & CHANGED_RIP) after.bytes.set(this.#take(8), STATE_RIP);
    else if (vector === NO_VECTOR) after.words[STATE_RIP / 4]! += length;
    if (changed & CHANGED_RFLAGS) after.words[STATE_RFLAGS / 4] = this.#number();
    if (changed & CHANGED_GPRS) {
      const mask = this.#u16();
      for (let n = 0; n < 16; n++) {
        if (!((mask >> n) & 1)) continue;
        const at = STATE_GPRS + 8 * n;
        after.bytes.fill(0, at, at + 8);
        after.bytes.set(this.#take(this.#u8()), at);
      }
    }
    if (changed & CHANGED_XMMS) {
      const mask = this.#u16();
      for (let n = 0; n < 16; n++) if ((mask >> n) & 1) after.bytes.set(this.#take(16), STATE_XMMS + 16 * n);
    }
    if (changed & CHANGED_MXCSR) after.bytes.set(this.#take(4), STATE_MXCSR);
    if (changed & CHANGED_X87) {
      after.bytes.set(this.#take(2), STATE_FCW);
      after.bytes.set(this.#take(2), STATE_FSW);
      after.bytes.set(this.#take(1), STATE_VALID);
      const mask = this.#u8();
      for (let n = 0; n < 8; n++) if ((mask >> n) & 1) after.bytes.set(this.#take(10), STATE_X87 + 16 * n);
    }
    if (changed & CHANGED_MEMORY) {
      for (let count = this.#u8(); count > 0; count--) {
        const at = this.#u16();
        memoryAfter.set(this.#take(this.#u8()), at);
      }
    }
  }
}

/** A case without what came of it. `distance`: from the seed before. */
export function codeOf({ code, lengths, profile }: Case, distance: number): Uint8Array {
  const bytes = [code.length, profile | (lengths.length > 0 ? PROFILE_SEQUENCE : 0)];
  for (let left = distance; ; left = Math.floor(left / 128)) {
    bytes.push((left % 128) | (left >= 128 ? 128 : 0));
    if (left < 128) break;
  }
  bytes.push(...code);
  if (lengths.length > 0) bytes.push(lengths.length, ...lengths);
  return Uint8Array.of(...bytes, NO_VECTOR, 0);
}

/** Every case of a corpus; each is only good until the next. */
export function* readCorpus(compressed: Uint8Array): Generator<Case> {
  const bytes = new Uint8Array(brotliDecompressSync(compressed));
  const view = new DataView(bytes.buffer);
  const reader = new CaseReader(view.getUint32(0, true));
  reader.push(bytes.subarray(8));
  for (let left = view.getUint32(4, true); left > 0; left--) {
    const found = reader.next(true);
    if (found === undefined) throw new Error("The corpus ends early");
    yield found;
  }
}
