// SPDX-License-Identifier: Apache-2.0
// LZMA2, the compression inside of xz: chunks of LZMA, or of plain bytes.
// https://www.7-zip.org/sdk.html (lzma-specification.txt), https://tukaani.org/xz/xz-file-format.txt (section 5.3.1)
//
//   control   0x00 end   0x01 plain, dictionary reset   0x02 plain
//             0x80-0xff  LZMA; bits 5-6: reset 0 nothing, 1 state, 2 state and properties, 3 dictionary, too
//   plain     u16 size - 1, bytes (sizes are big-endian)
//   LZMA      low 5 bits of control and u16: unpacked size - 1; u16 packed size - 1; [properties]; bytes
//
// The output is the dictionary: there is no other window.

const STATES = 12;
/** States below it: the last thing was a literal. */
const LITERAL_STATES = 7;
const POSITION_STATES_MAX = 16;
const LITERAL_PROBABILITIES = 0x300;
/** Of LZMA2: lc + lp. */
const LITERAL_BITS_MAX = 4;
const MATCH_MIN_BYTES = 2;
const LENGTH_STATES = 4;
const ALIGN_BITS = 4;
/** From this slot on the low bits of a distance are coded as they are, but for the last four. */
const DIRECT_SLOT = 14;

const PROBABILITY_BITS = 11;
const PROBABILITY_EVEN = 1 << (PROBABILITY_BITS - 1);
const ADAPTATION_BITS = 5;
const RANGE_MIN = 1 << 24;

// A length coder: two choices, then trees of 3, 3 and 8 bits; the first two for each position state.
const LENGTH_LOW = 2;
const LENGTH_MIDDLE = LENGTH_LOW + POSITION_STATES_MAX * 8;
const LENGTH_HIGH = LENGTH_MIDDLE + POSITION_STATES_MAX * 8;
const LENGTH_SIZE = LENGTH_HIGH + 256;

// Where the probabilities are, all in one array.
const IS_MATCH = 0;
const IS_REPEAT = IS_MATCH + STATES * POSITION_STATES_MAX;
const IS_REPEAT0 = IS_REPEAT + STATES;
const IS_REPEAT0_LONG = IS_REPEAT0 + STATES;
const IS_REPEAT1 = IS_REPEAT0_LONG + STATES * POSITION_STATES_MAX;
const IS_REPEAT2 = IS_REPEAT1 + STATES;
const DISTANCE_SLOT = IS_REPEAT2 + STATES;
const DISTANCE_SPECIAL = DISTANCE_SLOT + LENGTH_STATES * 64;
const DISTANCE_ALIGN = DISTANCE_SPECIAL + 128;
const MATCH_LENGTH = DISTANCE_ALIGN + (1 << ALIGN_BITS);
const REPEAT_LENGTH = MATCH_LENGTH + LENGTH_SIZE;
const LITERAL = REPEAT_LENGTH + LENGTH_SIZE;
const PROBABILITIES = LITERAL + (LITERAL_PROBABILITIES << LITERAL_BITS_MAX);

/** Unpacks from `packed[at]` to `target[done]` on. Both ends are told by the stream. */
export class Lzma2Decoder {
  at: number;
  done: number;

  readonly #packed: Uint8Array;
  readonly #target: Uint8Array;
  readonly #probabilities = new Uint16Array(PROBABILITIES);
  #dictionaryStart: number;
  #state = 0;
  /** The last four distances, less one. */
  #repeats: [number, number, number, number] = [0, 0, 0, 0];
  #literalContextBits = 0;
  #literalPositionMask = 0;
  #positionMask = 0;
  #range = 0;
  #code = 0;

  constructor(packed: Uint8Array, at: number, target: Uint8Array, done: number) {
    this.#packed = packed;
    this.at = at;
    this.#target = target;
    this.done = done;
    this.#dictionaryStart = done;
  }

  /** @throws Error saying what is wrong with the bytes */
  run(): void {
    // A stream begins with a reset of everything.
    let needed = 3;
    for (;;) {
      const control = this.#byte();
      if (control === 0) return;
      const reset = control >= 0x80 ? (control >> 5) & 3 : control === 1 ? 3 : 0;
      if ((control > 2 && control < 0x80) || (reset < needed && !(needed === 2 && control === 2))) {
        throw new Error(`LZMA2: The control byte at ${this.at - 1} is ${control}`);
      }
      if (reset === 3) this.#dictionaryStart = this.done;
      if (control < 0x80) {
        this.#plain(this.#u16() + 1);
        if (reset === 3) needed = 2;
        continue;
      }
      const sizeBytes = (((control & 0x1f) << 16) | this.#u16()) + 1;
      const packedSizeBytes = this.#u16() + 1;
      if (reset >= 2) this.#setProperties(this.#byte());
      if (reset >= 1) this.#resetState();
      needed = 0;
      this.#chunk(sizeBytes, packedSizeBytes);
    }
  }

  #plain(sizeBytes: number): void {
    this.#checkRoom(sizeBytes);
    if (this.at + sizeBytes > this.#packed.length) throw new Error("LZMA2: The bytes end in a plain chunk");
    this.#target.set(this.#packed.subarray(this.at, this.at + sizeBytes), this.done);
    this.at += sizeBytes;
    this.done += sizeBytes;
  }

  #chunk(sizeBytes: number, packedSizeBytes: number): void {
    this.#checkRoom(sizeBytes);
    const packedEnd = this.at + packedSizeBytes;
    if (packedEnd > this.#packed.length) throw new Error("LZMA2: The bytes end in a chunk");
    if (this.#byte() !== 0) throw new Error(`LZMA2: The chunk at ${this.at - 1} does not begin with 0`);
    this.#range = 0xffffffff;
    this.#code = 0;
    for (let index = 0; index < 4; index++) this.#code = ((this.#code << 8) | this.#byte()) >>> 0;
    this.#decode(this.done + sizeBytes);
    if (this.at !== packedEnd || this.#code !== 0) {
      throw new Error(`LZMA2: A chunk ends at ${this.at}, and should at ${packedEnd}`);
    }
  }

  #checkRoom(sizeBytes: number): void {
    if (this.done + sizeBytes > this.#target.length) {
      throw new Error(`LZMA2: There are more than ${this.#target.length} bytes`);
    }
  }

  #byte(): number {
    const byte = this.#packed[this.at++];
    if (byte === undefined) throw new Error("LZMA2: The bytes end too early");
    return byte;
  }

  #u16(): number {
    return (this.#byte() << 8) | this.#byte();
  }

  #setProperties(byte: number): void {
    const literalContextBits = byte % 9;
    const literalPositionBits = Math.floor(byte / 9) % 5;
    const positionBits = Math.floor(byte / 45);
    if (positionBits > 4 || literalContextBits + literalPositionBits > LITERAL_BITS_MAX) {
      throw new Error(`LZMA2: The properties at ${this.at - 1} are ${byte}`);
    }
    this.#literalContextBits = literalContextBits;
    this.#literalPositionMask = (1 << literalPositionBits) - 1;
    this.#positionMask = (1 << positionBits) - 1;
  }

  #resetState(): void {
    this.#state = 0;
    this.#repeats = [0, 0, 0, 0];
    this.#probabilities.fill(PROBABILITY_EVEN);
  }

  /** Up to `target[end]`, where a chunk ends: no match goes beyond. */
  #decode(end: number): void {
    const target = this.#target;
    const repeats = this.#repeats;
    while (this.done < end) {
      const position = this.done - this.#dictionaryStart;
      const positionState = position & this.#positionMask;
      const state = this.#state;
      if (this.#bit(IS_MATCH + state * POSITION_STATES_MAX + positionState) === 0) {
        this.#literal(position);
        continue;
      }
      let length: number;
      if (this.#bit(IS_REPEAT + state) === 0) {
        length = this.#length(MATCH_LENGTH, positionState);
        const distance = this.#distance(Math.min(length, LENGTH_STATES - 1));
        repeats.copyWithin(1, 0, 3);
        repeats[0] = distance;
        this.#state = state < LITERAL_STATES ? 7 : 10;
      } else {
        if (this.#bit(IS_REPEAT0 + state) === 0) {
          if (this.#bit(IS_REPEAT0_LONG + state * POSITION_STATES_MAX + positionState) === 0) {
            this.#checkDistance(position);
            this.#state = state < LITERAL_STATES ? 9 : 11;
            target[this.done] = target[this.done - repeats[0] - 1]!;
            this.done++;
            continue;
          }
        } else {
          const index = this.#bit(IS_REPEAT1 + state) === 0 ? 1 : 2 + this.#bit(IS_REPEAT2 + state);
          const distance = repeats[index]!;
          repeats.copyWithin(1, 0, index);
          repeats[0] = distance;
        }
        length = this.#length(REPEAT_LENGTH, positionState);
        this.#state = state < LITERAL_STATES ? 8 : 11;
      }
      this.#checkDistance(position);
      length += MATCH_MIN_BYTES;
      if (length > end - this.done) throw new Error(`LZMA2: A match of ${length} bytes goes beyond its chunk`);
      const stop = this.done + length;
      const distance = repeats[0] + 1;
      for (let to = this.done; to < stop; to++) target[to] = target[to - distance]!;
      this.done = stop;
    }
    this.#normalize();
  }

  #checkDistance(position: number): void {
    if (this.#repeats[0] >= position) throw new Error(`LZMA2: A match begins ${this.#repeats[0] + 1} bytes back`);
  }

  #literal(position: number): void {
    const target = this.#target;
    const previous = position === 0 ? 0 : target[this.done - 1]!;
    const context =
      ((position & this.#literalPositionMask) << this.#literalContextBits) |
      (previous >> (8 - this.#literalContextBits));
    const base = LITERAL + context * LITERAL_PROBABILITIES;
    let symbol = 1;
    if (this.#state >= LITERAL_STATES) {
      this.#checkDistance(position);
      // The byte that a repeated match would have had is known to be wrong.
      let match = target[this.done - this.#repeats[0] - 1]!;
      let offset = 0x100;
      while (symbol < 0x100) {
        match <<= 1;
        const matchBit = match & offset;
        const bit = this.#bit(base + offset + matchBit + symbol);
        symbol = (symbol << 1) | bit;
        offset = bit === 0 ? offset & ~matchBit : matchBit;
      }
    } else {
      while (symbol < 0x100) symbol = (symbol << 1) | this.#bit(base + symbol);
    }
    target[this.done++] = symbol;
    const state = this.#state;
    this.#state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }

  #length(base: number, positionState: number): number {
    if (this.#bit(base) === 0) return this.#tree(base + LENGTH_LOW + positionState * 8, 3);
    if (this.#bit(base + 1) === 0) return 8 + this.#tree(base + LENGTH_MIDDLE + positionState * 8, 3);
    return 16 + this.#tree(base + LENGTH_HIGH, 8);
  }

  /** Less one, as in `#repeats`. */
  #distance(lengthState: number): number {
    const slot = this.#tree(DISTANCE_SLOT + lengthState * 64, 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const high = ((2 | (slot & 1)) << bits) >>> 0;
    // The tree of a slot begins where its smallest distance says, so that trees of different depth lie close together.
    if (slot < DIRECT_SLOT) return high + this.#reverseTree(DISTANCE_SPECIAL + high - slot, bits);
    const direct = this.#directBits(bits - ALIGN_BITS) * (1 << ALIGN_BITS);
    return high + direct + this.#reverseTree(DISTANCE_ALIGN, ALIGN_BITS);
  }

  #tree(base: number, bits: number): number {
    let symbol = 1;
    for (let count = 0; count < bits; count++) symbol = (symbol << 1) | this.#bit(base + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(base: number, bits: number): number {
    let symbol = 1;
    let value = 0;
    for (let index = 0; index < bits; index++) {
      const bit = this.#bit(base + symbol);
      symbol = (symbol << 1) | bit;
      value |= bit << index;
    }
    return value;
  }

  #directBits(count: number): number {
    let value = 0;
    for (let index = 0; index < count; index++) {
      this.#normalize();
      this.#range >>>= 1;
      const bit = this.#code >= this.#range ? 1 : 0;
      if (bit === 1) this.#code -= this.#range;
      value = value * 2 + bit;
    }
    return value;
  }

  #bit(index: number): number {
    this.#normalize();
    const probability = this.#probabilities[index]!;
    const bound = (this.#range >>> PROBABILITY_BITS) * probability;
    if (this.#code < bound) {
      this.#range = bound;
      this.#probabilities[index] = probability + (((1 << PROBABILITY_BITS) - probability) >> ADAPTATION_BITS);
      return 0;
    }
    this.#range -= bound;
    this.#code -= bound;
    this.#probabilities[index] = probability - (probability >> ADAPTATION_BITS);
    return 1;
  }

  #normalize(): void {
    if (this.#range >= RANGE_MIN) return;
    this.#range = (this.#range << 8) >>> 0;
    this.#code = ((this.#code << 8) | this.#byte()) >>> 0;
  }
}
