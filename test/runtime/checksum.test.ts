// SPDX-License-Identifier: Apache-2.0
import { crc32 as zlibCrc32 } from "node:zlib";
import fc from "fast-check";
import { crc32, crc32ByTable } from "../../src/runtime/checksum.ts";
import { assert, describe } from "../harness.ts";

const test = describe("checksum");

test("crc32 gives the check value of CRC-32/ISO-HDLC", () => {
  const bytes = new TextEncoder().encode("123456789");
  assert.is(crc32(bytes), 0xcbf4_3926);
  assert.is(crc32ByTable(bytes), 0xcbf4_3926);
  assert.is(crc32(new Uint8Array(0)), 0);
});

test("crc32 and crc32ByTable agree with zlib for any length and alignment", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.nat(7), (bytes, skip) => {
      const view = bytes.subarray(skip);
      const wanted = zlibCrc32(view);
      assert.is(crc32(view), wanted);
      assert.is(crc32ByTable(view), wanted);
    }),
  );
});

test("crc32 reads views of shared memory", () => {
  const shared = new Uint8Array(new SharedArrayBuffer(4096), 100, 3000).fill(0xa5);
  assert.is(crc32(shared), zlibCrc32(new Uint8Array(shared)));
});

test.run();
