// SPDX-License-Identifier: Apache-2.0
// Records of guest RAM, from friends and from strangers.
import fc from "fast-check";
import { write } from "../../../../ffi/fd.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { RamReceiver } from "../../../../src/migration/ram/ram-receiver.ts";
import {
  decodeRecord,
  encodeRecord,
  MAX_RECORD_PAGES,
  type RamRecord,
  RECORD_END_OF_ROUND,
  RECORD_HEADER_SIZE_BYTES,
  RECORD_PAGES,
  RECORD_REQUEST,
  RECORD_ZERO,
  RECORD_ZSTD,
} from "../../../../src/migration/ram/record.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { PAGE, Ram, Sockets } from "./support.ts";

const test = describe("RAM records");

const RAM_PAGES = 1000;

const words = (record: RamRecord): Uint32Array => {
  const header = new Uint32Array(RECORD_HEADER_SIZE_BYTES / 4);
  encodeRecord(header, 0, record);
  return header;
};
const good: RamRecord = {
  kind: RECORD_PAGES,
  firstPage: 3,
  pageCount: 2,
  payloadSizeBytes: 2 * PAGE,
  sequence: 0,
  round: 0,
};
const expected = { ramPages: RAM_PAGES, sequence: 0, round: 0 };
const u32 = fc.oneof(fc.nat(RAM_PAGES + 10), fc.nat(0xffff_ffff));

test("what is encoded is decoded", () => {
  for (const record of [
    good,
    { ...good, firstPage: RAM_PAGES - MAX_RECORD_PAGES, pageCount: MAX_RECORD_PAGES, payloadSizeBytes: 1 << 20 },
    { ...good, kind: RECORD_ZSTD, payloadSizeBytes: 1 },
    { ...good, kind: RECORD_ZERO, firstPage: 0, pageCount: RAM_PAGES, payloadSizeBytes: 0 },
    { ...good, kind: RECORD_END_OF_ROUND, firstPage: 0, pageCount: 0, payloadSizeBytes: 0 },
    { ...good, kind: RECORD_REQUEST, pageCount: 1, payloadSizeBytes: 0 },
  ] satisfies RamRecord[]) {
    assert.equal(decodeRecord(words(record), 0, expected), record);
  }
});

test("everything that does not fit is refused, with what is wrong", async () => {
  for (const [change, message] of [
    [{ kind: 7 as RamRecord["kind"] }, /of kind 7, which this Baton does not know/],
    [{ firstPage: RAM_PAGES - 1 }, /pages 999 to 1001 do not lie in RAM of 1000 pages/],
    [{ firstPage: 0xffff_ffff }, /do not lie in RAM/],
    [{ pageCount: 0, payloadSizeBytes: 0 }, /do not lie in RAM/],
    [{ payloadSizeBytes: PAGE }, /kind 1 with 2 pages has 4096 bytes/],
    [{ pageCount: 257, payloadSizeBytes: 257 * PAGE }, /257 pages/],
    [{ kind: RECORD_ZSTD }, /kind 3 with 2 pages has 8192 bytes/],
    [{ kind: RECORD_ZSTD, payloadSizeBytes: 0 }, /has 0 bytes/],
    [{ kind: RECORD_ZERO }, /kind 2 with 2 pages has 8192 bytes/],
    [{ kind: RECORD_END_OF_ROUND, payloadSizeBytes: 0 }, /names a page/],
    [{ kind: RECORD_REQUEST, payloadSizeBytes: 0 }, /kind 5 with 2 pages has 0 bytes/],
    [{ sequence: 1 }, /record 1 came in place of 0/],
    [{ round: 1 }, /of round 1 came in round 0/],
  ] as [Partial<RamRecord>, RegExp][]) {
    const error = await rejection(() => decodeRecord(words({ ...good, ...change }), 0, expected));
    assert.is((error as VmmError).code, "ram-stream");
    assert.match(error.message, message);
  }
  const noMagic = words(good).fill(0, 0, 1);
  assert.match((await rejection(() => decodeRecord(noMagic, 0, expected))).message, /starts with 0x0/);
});

test("a single wrong bit in a header is found", () => {
  fc.assert(
    fc.property(fc.nat(RECORD_HEADER_SIZE_BYTES * 8 - 1), (bit) => {
      const header = words(good);
      header[bit >> 5] = header[bit >> 5]! ^ (1 << (bit & 31));
      try {
        decodeRecord(header, 0, expected);
      } catch (error) {
        return (error as VmmError).code === "ram-stream";
      }
      return false;
    }),
  );
});

test("no header leads outside RAM", () => {
  fc.assert(
    fc.property(fc.nat(7), u32, u32, u32, (kind, firstPage, pageCount, payloadSizeBytes) => {
      const record = { ...good, kind: kind as RamRecord["kind"], firstPage, pageCount, payloadSizeBytes };
      try {
        decodeRecord(words(record), 0, expected);
      } catch (error) {
        return (error as VmmError).code === "ram-stream";
      }
      return kind === RECORD_END_OF_ROUND || firstPage + pageCount <= RAM_PAGES;
    }),
    { numRuns: 1000 },
  );
});

/** What a stranger sends: headers that are right but for one field, raw bytes, frames that are none. */
const pieces = fc.array(
  fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 100 }).map((bytes) => () => bytes),
    fc
      .record({ kind: fc.nat(7), firstPage: u32, pageCount: u32, payloadSizeBytes: u32, body: fc.uint8Array() })
      .map(({ body, ...fields }) => (sequence: number) => {
        const header = words({ ...fields, kind: fields.kind as RamRecord["kind"], sequence, round: 0 });
        return new Uint8Array([...new Uint8Array(header.buffer), ...body]);
      }),
    fc.uint8Array({ minLength: 1, maxLength: 200 }).map((body) => (sequence: number) => {
      const header = words({ ...good, kind: RECORD_ZSTD, payloadSizeBytes: body.length, sequence });
      return new Uint8Array([...new Uint8Array(header.buffer), ...body]);
    }),
    fc.constant((sequence: number) => {
      const header = words({ ...good, kind: RECORD_ZERO, payloadSizeBytes: 0, sequence });
      return new Uint8Array(header.buffer);
    }),
  ),
  { minLength: 1, maxLength: 6 },
);

test("a receiver survives strangers: a named error, and not a byte outside RAM", async () => {
  using ram = new Ram(16);
  const surroundings = [
    new Uint8Array(ram.memory.buffer, ram.ramBase - 3 * PAGE, 3 * PAGE).fill(0x5a),
    new Uint8Array(ram.memory.buffer, ram.ramBase + ram.ramSizeBytes, PAGE).fill(0x5a),
  ];
  await fc.assert(
    fc.asyncProperty(pieces, async (made) => {
      using sockets = new Sockets(1);
      await using receiver = new RamReceiver({ ...ram, fds: sockets.far });
      for (const [sequence, make] of made.entries()) write(sockets.near[0]!, make(sequence));
      sockets.close(sockets.near[0]!);
      let code: string | undefined;
      try {
        await receiver.receiveRound();
      } catch (error) {
        code = (error as VmmError).code;
      }
      assert.ok(["ram-stream", "ram-peer", undefined].includes(code), code);
      for (const bytes of surroundings) assert.ok(bytes.every((byte) => byte === 0x5a));
    }),
    { numRuns: 40 },
  );
});

test("a frame that unpacks to more, or to less, than its pages is refused", async () => {
  const { zstdCompressSync } = process.getBuiltinModule("node:zlib");
  for (const pages of [1, 3, 4000]) {
    using ram = new Ram(16);
    using sockets = new Sockets(1);
    await using receiver = new RamReceiver({ ...ram, fds: sockets.far });
    const body = zstdCompressSync(new Uint8Array(pages * PAGE).fill(1));
    const header = words({ ...good, kind: RECORD_ZSTD, payloadSizeBytes: body.length });
    write(sockets.near[0]!, new Uint8Array(header.buffer));
    write(sockets.near[0]!, body);
    write(sockets.near[0]!, new Uint8Array(RECORD_HEADER_SIZE_BYTES));
    const error = (await rejection(() => receiver.receiveRound())) as VmmError;
    assert.is(error.code, "ram-stream");
    assert.match(
      error.message,
      pages === 1 ? /2 packed pages of guest RAM are 4096 bytes/ : /from page 3 on are damaged/,
    );
    assert.ok(ram.bytes.every((byte) => byte === 0));
  }
});

test.run();
