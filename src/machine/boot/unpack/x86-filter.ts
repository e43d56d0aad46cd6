// SPDX-License-Identifier: Apache-2.0
// The x86 filter of xz (BCJ): before compression, relative targets of CALL and JMP were made absolute, because the same
// target then has the same bytes. This is the way back.
// https://tukaani.org/xz/xz-file-format.txt (section 5.3.2); the algorithm is that of the LZMA SDK (public domain)

/** CALL and JMP with 32 bits of operand. */
const isBranch = (opcode: number): boolean => (opcode & 0xfe) === 0xe8;
/** Only targets within 16 MiB were converted: their highest byte is one of these. */
const isSignExtension = (byte: number): boolean => byte === 0x00 || byte === 0xff;

/** By which of the three bytes before were possible opcodes, too: whether this one may still be one. */
const MAY_BE_OPCODE = [true, true, true, false, true, false, false, false];
/** By the same: which byte of the operand the nearest of them shares. */
const SHARED_BYTE = [0, 1, 2, 2, 3, 3, 3, 3];

/** Undoes the filter on `bytes`, all of what was filtered, in place. */
export function undoX86Filter(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let previous = -1;
  let mask = 0;
  for (let at = 0; at < bytes.length - 4; at++) {
    if (!isBranch(bytes[at]!)) continue;
    const distance = at - previous;
    previous = at;
    mask = distance > 3 ? 0 : (mask << (distance - 1)) & 7;
    if (mask !== 0 && (!MAY_BE_OPCODE[mask] || isSignExtension(bytes[at + 4 - SHARED_BYTE[mask]!]!))) {
      mask = (mask << 1) | 1;
      continue;
    }
    if (!isSignExtension(bytes[at + 4]!)) {
      mask = (mask << 1) | 1;
      continue;
    }
    let source = view.getUint32(at + 1, true);
    const end = at + 5;
    let target = (source - end) >>> 0;
    if (mask !== 0) {
      const bits = SHARED_BYTE[mask]! * 8;
      while (isSignExtension((target >>> (24 - bits)) & 0xff)) {
        source = (target ^ (2 ** (32 - bits) - 1)) >>> 0;
        target = (source - end) >>> 0;
      }
    }
    view.setInt32(at + 1, (target << 7) >> 7, true);
    at += 4;
  }
}
