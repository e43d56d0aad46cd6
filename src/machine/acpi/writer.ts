// SPDX-License-Identifier: Apache-2.0
// A writer of packed little-endian tables: fields one after the other, lengths and checksums patched at the end.

const ADDRESS_SPACE_SYSTEM_IO = 1;

export class TableWriter {
  readonly #bytes: number[] = [];

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  u8(value: number): this {
    return this.#unsigned(value, 1);
  }

  u16(value: number): this {
    return this.#unsigned(value, 2);
  }

  u32(value: number): this {
    return this.#unsigned(value, 4);
  }

  u64(value: number): this {
    return this.#unsigned(value, 8);
  }

  /** ASCII, without a closing NUL. */
  text(characters: string): this {
    return this.append(Array.from(characters, (character) => character.charCodeAt(0)));
  }

  zeros(countBytes: number): this {
    return this.append(new Array<number>(countBytes).fill(0));
  }

  append(bytes: readonly number[]): this {
    for (const byte of bytes) this.#bytes.push(byte);
    return this;
  }

  /**
   * A Generic Address Structure for a register of I/O ports.
   * @param accessSizeBytes how the guest accesses it, when that is not the whole register at once
   */
  ioPorts(ioBase: number, sizeBytes: number, accessSizeBytes = sizeBytes): this {
    const bitOffset = 0;
    const accessSize = Math.log2(accessSizeBytes) + 1;
    return this.u8(ADDRESS_SPACE_SYSTEM_IO)
      .u8(sizeBytes * 8)
      .u8(bitOffset)
      .u8(accessSize)
      .u64(ioBase);
  }

  patchU32(offset: number, value: number): this {
    for (let index = 0; index < 4; index++) this.#bytes[offset + index] = (value >>> (8 * index)) & 0xff;
    return this;
  }

  /** Sets the byte at `offset` so that the bytes from `start` to `end`, itself included, add up to zero. */
  patchChecksum(offset: number, start: number, end: number): this {
    this.#bytes[offset] = 0;
    const sum = this.#bytes.slice(start, end).reduce((total, byte) => total + byte, 0);
    this.#bytes[offset] = -sum & 0xff;
    return this;
  }

  toBytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  #unsigned(value: number, sizeBytes: number): this {
    for (let index = 0; index < sizeBytes; index++) this.#bytes.push(Math.floor(value / 2 ** (8 * index)) & 0xff);
    return this;
  }
}
