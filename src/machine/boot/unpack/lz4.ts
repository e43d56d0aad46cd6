// SPDX-License-Identifier: Apache-2.0
// LZ4 in the "legacy frame", the form of Linux kernels: blocks of up to 8 MiB, each independent of the others.
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md#legacy-frame, lz4_Block_format.md beside it
//
//   frame     magic, then for each block: u32 packed size, bytes
//   block     sequences of: token, [more literals], literals, u16 offset, [more match]; the last ends after its literals

const MAGIC = 0x184c2102;
const MATCH_MIN_BYTES = 4;
/** From here on a call of `copyWithin` is faster than a loop. */
const LONG_COPY_BYTES = 64;

/** Unpacks to `sizeBytes` at most. @throws Error saying what is wrong with the bytes */
export function unpackLz4(packed: Uint8Array, sizeBytes: number): Uint8Array {
  const unpacked = new Uint8Array(sizeBytes);
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  let doneBytes = 0;
  for (let at = 0; at < packed.length; ) {
    if (at + 4 > packed.length) throw new Error(`LZ4: The bytes end in the size of a block, at ${at}`);
    const blockSizeBytes = view.getUint32(at, true);
    at += 4;
    // Frames may follow each other.
    if (blockSizeBytes === MAGIC) continue;
    if (blockSizeBytes > packed.length - at) {
      throw new Error(`LZ4: The block at ${at} has ${blockSizeBytes} bytes, there are ${packed.length - at}`);
    }
    doneBytes = unpackBlock(packed.subarray(at, at + blockSizeBytes), unpacked, doneBytes);
    at += blockSizeBytes;
  }
  return unpacked.subarray(0, doneBytes);
}

/** Writes to `target` from `start` on; returns where that ends. */
function unpackBlock(block: Uint8Array, target: Uint8Array, start: number): number {
  const end = block.length;
  let at = 0;
  let done = start;
  for (;;) {
    const token = block[at++]!;
    let literalCount = token >> 4;
    // Behind the block's end bytes are undefined and sums NaN, which fulfils no condition.
    if (literalCount === 15) {
      let more: number;
      do literalCount += more = block[at++]!;
      while (more === 255);
    }
    if (!(at + literalCount <= end)) throw new Error("LZ4: A block ends in its literals");
    if (done + literalCount > target.length) throw new Error(`LZ4: There are more than ${target.length} bytes`);
    for (const stop = at + literalCount; at < stop; ) target[done++] = block[at++]!;
    if (at === end) return done;

    const distance = block[at]! | (block[at + 1]! << 8);
    at += 2;
    let length = token & 15;
    if (length === 15) {
      let more: number;
      do length += more = block[at++]!;
      while (more === 255);
    }
    length += MATCH_MIN_BYTES;
    if (!(at < end)) throw new Error("LZ4: A block ends in a match");
    if (distance === 0 || distance > done - start) throw new Error(`LZ4: A match begins ${distance} bytes back`);
    if (done + length > target.length) throw new Error(`LZ4: There are more than ${target.length} bytes`);
    if (length >= LONG_COPY_BYTES && distance >= length) {
      target.copyWithin(done, done - distance, done - distance + length);
      done += length;
    } else {
      for (const stop = done + length; done < stop; done++) target[done] = target[done - distance]!;
    }
  }
}
