// SPDX-License-Identifier: Apache-2.0
// CRC-32 (ISO-HDLC, zlib's: reflected polynomial 0xedb88320) of saved state.
//
// The checksum is taken inside the pause, in a process that has just started, so what counts is the cost of the *first*
// call. 32 KiB in a fresh compiled binary on the reference machine, loading of modules included: Bun.hash 0.04 ms, a
// table in JavaScript 0.5-0.9 ms, a Wasm module 1.1 ms, node:crypto 1.7 ms, node:zlib 2.1 ms. In Deno node:zlib costs
// 10 ms and the table 0.7-0.9 ms. Hence Bun's built-in on Bun and the table elsewhere.

const POLYNOMIAL = 0xedb8_8320;

let table: Int32Array | undefined;

function buildTable(): Int32Array {
  const built = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) !== 0 ? POLYNOMIAL ^ (crc >>> 1) : crc >>> 1;
    built[byte] = crc;
  }
  return built;
}

/** `crc32` without any built-in of the runtime. Byte by byte: slicing by four is not faster on a first call. */
export function crc32ByTable(bytes: Uint8Array): number {
  table ??= buildTable();
  const entries = table;
  let crc = -1;
  for (let index = 0; index < bytes.length; index++) {
    crc = entries[(crc ^ bytes[index]!) & 0xff]! ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/**
 * CRC-32 of `bytes`, as an unsigned number. Views of shared memory are allowed.
 *
 * @example
 * crc32(new TextEncoder().encode("123456789")); // 0xcbf43926
 */
export const crc32: (bytes: Uint8Array) => number =
  typeof Bun === "undefined" ? crc32ByTable : (bytes) => Bun.hash.crc32(bytes as Uint8Array<ArrayBuffer>);
