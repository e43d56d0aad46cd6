// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { loadDirtyModule } from "../../bench/dirty-module.ts";
import { assert, describe } from "../harness.ts";

const test = describe("dirty");

const PAGE = 4096;
const BITMAP = 0x1000;
const OTHER = 0x4000;
const OUT = 0x8000;
const PAGES = 0x1_0000;
const MAX_PAGES = 3000;
const { bytes, dirty } = loadDirtyModule(PAGES + 140 * PAGE);
const words = new Uint32Array(bytes.buffer);

/** Sizes around words, vectors and the groups of 480 bytes that countDirty adds up at once. */
const EDGE_SIZES = [0, 1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 255, 256, 257, 511, 512, 513, 576, 3000];
const EDGE_GROUPS = [1023, 1024, 3839, 3840, 3841, 4096, 7680, 8000, 8191];

const pageCounts = fc.oneof(fc.constantFrom(...EDGE_SIZES), fc.integer({ min: 0, max: MAX_PAGES }));

/** Bitmaps of runs, because random bits alone would hardly ever have one that is longer than a few pages. */
const bitmaps = pageCounts.chain((pageCount) =>
  fc.record({
    pageCount: fc.constant(pageCount),
    runs: fc.array(fc.tuple(fc.nat(Math.max(pageCount - 1, 0)), fc.integer({ min: 1, max: 700 })), { maxLength: 12 }),
    /** What lies behind the last page, which nobody may count or change. */
    garbage: fc.boolean(),
  }),
);

function expand({ pageCount, runs }: { pageCount: number; runs: [number, number][] }): boolean[] {
  const bits = new Array<boolean>(pageCount).fill(false);
  for (const [start, length] of runs) bits.fill(true, start, Math.min(start + length, pageCount));
  return bits;
}

function put(address: number, bits: boolean[], garbage = false): void {
  bytes.fill(garbage ? 0xff : 0, address, address + 0x2000);
  for (const [page, isDirty] of bits.entries()) {
    const at = address + (page >> 3);
    bytes[at] = isDirty ? bytes[at]! | (1 << (page & 7)) : bytes[at]! & ~(1 << (page & 7));
  }
}

function get(address: number, pageCount: number): boolean[] {
  return Array.from({ length: pageCount }, (_, page) => ((bytes[address + (page >> 3)]! >> (page & 7)) & 1) === 1);
}

/** The whole area of a bitmap as text, to prove that nothing around the wanted bits was touched. */
function area(address: number): string {
  return Buffer.from(bytes.slice(address - 16, address + 0x2000)).toString("hex");
}

function runsOf(bits: boolean[], from = 0): [number, number][] {
  const runs: [number, number][] = [];
  for (let page = from; page < bits.length; page++) {
    if (!bits[page]) continue;
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === page) last[1]++;
    else runs.push([page, 1]);
  }
  return runs;
}

test("countDirty counts the bits of the pages and none behind them", () => {
  fc.assert(
    fc.property(bitmaps, (bitmap) => {
      const bits = expand(bitmap);
      put(BITMAP, bits, bitmap.garbage);
      assert.is(dirty.countDirty(BITMAP, bits.length), bits.filter(Boolean).length);
    }),
  );
});

test("countDirty counts all of a full bitmap at every edge size", () => {
  for (const pageCount of [...EDGE_SIZES, ...EDGE_GROUPS]) {
    put(BITMAP, [], true);
    assert.is(dirty.countDirty(BITMAP, pageCount), pageCount);
  }
});

test("nextDirtyRun finds the first run at or after the page", () => {
  fc.assert(
    fc.property(bitmaps, fc.nat(MAX_PAGES + 100), (bitmap, from) => {
      const bits = expand(bitmap);
      put(BITMAP, bits, bitmap.garbage);
      const packed = BigInt.asUintN(64, dirty.nextDirtyRun(BITMAP, bits.length, from));
      const found = [Number(packed & 0xffff_ffffn), Number(packed >> 32n)];
      assert.equal(found, runsOf(bits, from)[0] ?? [bits.length, 0]);
    }),
  );
});

test("nextDirtyPage and nextCleanPage find the first such page at or after the page", () => {
  fc.assert(
    fc.property(bitmaps, fc.nat(MAX_PAGES + 100), (bitmap, from) => {
      const bits = expand(bitmap);
      put(BITMAP, bits, bitmap.garbage);
      const find = (value: boolean): number => {
        const page = bits.findIndex((bit, index) => index >= from && bit === value);
        return page < 0 ? bits.length : page;
      };
      assert.is(dirty.nextDirtyPage(BITMAP, bits.length, from), find(true));
      assert.is(dirty.nextCleanPage(BITMAP, bits.length, from), find(false));
    }),
  );
});

test("collectDirty lists all runs, also in pieces", () => {
  fc.assert(
    fc.property(bitmaps, fc.integer({ min: 1, max: 5 }), (bitmap, capacity) => {
      const bits = expand(bitmap);
      put(BITMAP, bits, bitmap.garbage);
      const found: [number, number][] = [];
      for (let from = 0; ; ) {
        words.fill(0xdead_beef, OUT / 4, OUT / 4 + 12);
        const count = dirty.collectDirty(BITMAP, bits.length, from, OUT, capacity);
        for (let run = 0; run < count; run++) found.push([words[OUT / 4 + run * 2]!, words[OUT / 4 + run * 2 + 1]!]);
        assert.is(words[OUT / 4 + count * 2], 0xdead_beef, "wrote behind the runs");
        if (count < capacity) break;
        from = found.at(-1)![0] + found.at(-1)![1];
      }
      assert.equal(found, runsOf(bits));
    }),
  );
});

test("clearRange and setRange change exactly their pages", () => {
  fc.assert(
    fc.property(bitmaps, fc.nat(MAX_PAGES), fc.nat(MAX_PAGES), fc.boolean(), (bitmap, start, length, value) => {
      const bits = expand(bitmap);
      const from = Math.min(start, bits.length);
      const end = Math.min(from + length, bits.length);
      put(BITMAP, bits.fill(value, from, end), bitmap.garbage);
      const wanted = area(BITMAP);
      put(BITMAP, expand(bitmap), bitmap.garbage);
      (value ? dirty.setRange : dirty.clearRange)(BITMAP, from, end - from);
      assert.is(area(BITMAP), wanted);
    }),
  );
});

test("orBitmap unites two bitmaps and leaves the source and what lies behind alone", () => {
  fc.assert(
    fc.property(bitmaps, bitmaps, (target, source) => {
      const targetBits = expand(target);
      const sourceBits = expand({ ...source, pageCount: target.pageCount });
      put(OTHER, sourceBits, source.garbage);
      const untouched = area(OTHER);
      put(
        BITMAP,
        targetBits.map((bit, page) => bit || sourceBits[page]!),
        target.garbage,
      );
      const wanted = area(BITMAP);
      put(BITMAP, targetBits, target.garbage);
      dirty.orBitmap(BITMAP, OTHER, target.pageCount);
      assert.is(area(BITMAP), wanted);
      assert.is(area(OTHER), untouched);
    }),
  );
});

test("leading pages are counted up to the first of the other kind, and never beyond the last", () => {
  bytes.fill(0, PAGES, PAGES + 6 * PAGE);
  for (const page of [2, 3, 5]) bytes[PAGES + page * PAGE + 4095] = 1;
  assert.is(dirty.countLeadingZeroPages(PAGES, 5), 2);
  assert.is(dirty.countLeadingZeroPages(PAGES, 1), 1);
  assert.is(dirty.countLeadingZeroPages(PAGES + 2 * PAGE, 3), 0);
  assert.is(dirty.countLeadingDataPages(PAGES + 2 * PAGE, 4), 2);
  assert.is(dirty.countLeadingDataPages(PAGES + 5 * PAGE, 1), 1);
  assert.is(dirty.countLeadingDataPages(PAGES, 6), 0);
  assert.is(dirty.countLeadingDataPages(PAGES, 0), 0);
});

test("zeroPages makes its pages zero, or only those that were written, and no other", () => {
  const first = (page: number): number => bytes[PAGES + page * PAGE]!;
  const fill = (): void => {
    for (let page = 0; page < 6; page++) bytes.fill(page + 1, PAGES + page * PAGE, PAGES + (page + 1) * PAGE);
  };
  fill();
  dirty.zeroPages(PAGES, 1, 3, 0);
  assert.equal([0, 1, 2, 3, 4].map(first), [1, 0, 0, 0, 5]);
  assert.ok(bytes.subarray(PAGES + PAGE, PAGES + 4 * PAGE).every((byte) => byte === 0));
  fill();
  put(BITMAP, [false, true, false, true, true, true]);
  dirty.zeroPages(PAGES, 1, 4, BITMAP);
  assert.equal([0, 1, 2, 3, 4, 5].map(first), [1, 0, 3, 0, 0, 6]);
});

test("isZeroPage sees a single bit anywhere in the page, and nothing outside of it", () => {
  bytes.fill(0, PAGES, PAGES + 4 * PAGE);
  const page = PAGES + PAGE;
  bytes[page - 1] = 0xff;
  bytes[page + PAGE] = 0xff;
  assert.is(dirty.isZeroPage(page), 1);
  for (let offset = 0; offset < PAGE; offset++) {
    bytes[page + offset] = 1 << (offset & 7);
    assert.is(dirty.isZeroPage(page), 0, `bit at ${offset}`);
    bytes[page + offset] = 0;
  }
});

test("scanZeroPages marks the pages that hold something and pads with zeroes", () => {
  const touches = fc.array(fc.tuple(fc.nat(139), fc.nat(PAGE - 1)), { maxLength: 60 });
  fc.assert(
    fc.property(
      fc.oneof(fc.constantFrom(0, 1, 63, 64, 65, 127, 128, 129, 140), fc.nat(140)),
      touches,
      (count, list) => {
        bytes.fill(0, PAGES, PAGES + 140 * PAGE);
        const wanted = new Array<boolean>(count).fill(false);
        for (const [page, offset] of list) {
          bytes[PAGES + page * PAGE + offset] = 0x40;
          if (page < count) wanted[page] = true;
        }
        put(OUT, [], true);
        assert.is(dirty.scanZeroPages(PAGES, count, OUT), wanted.filter(Boolean).length);
        const paddedCount = Math.ceil(count / 64) * 64;
        assert.equal(get(OUT, paddedCount), [...wanted, ...new Array(paddedCount - count).fill(false)]);
        assert.is(bytes[OUT + paddedCount / 8], 0xff, "wrote behind the bitmap");
      },
    ),
  );
});

/** The large-input branch of XXH3-64 as the specification words it, with BigInt, for 4096 bytes. */
function xxh3OfPage(page: Uint8Array): bigint {
  const secret = Buffer.from(
    "uP5sOSOkS758AYEs9yGtHN7UbemDkJfbckCkpLezZx/LeeZOzMDleIJa0H3M/3IhuAhGdPdDJI7gNZDmgTomTDwoUruRwwDLiNBlixtTLqNxZEiXog35TjgZ70ap3qzYqPp2P+OcND/53LvHxwtPHYpR4EvNtFkxyJ9+ydl4c2TqxayDNNPrw8WBoP/6E2PrFw3dUbfw2knTFlUmKdRonisWvlh9R6H8j/i40XrQMc5FyzqPlRYEKK/X+8q7S0B+",
    "base64",
  );
  const data = Buffer.from(page);
  const wrap = (value: bigint): bigint => BigInt.asUintN(64, value);
  const [prime1, prime2, prime3, prime4, prime5] = [
    0x9e3779b185ebca87n,
    0xc2b2ae3d27d4eb4fn,
    0x165667b19e3779f9n,
    0x85ebca77c2b2ae63n,
    0x27d4eb2f165667c5n,
  ] as const;
  const accumulators = [0xc2b2ae3dn, prime1, prime2, prime3, prime4, 0x85ebca77n, prime5, 0x9e3779b1n];
  const accumulate = (offset: number, secretOffset: number): void => {
    for (let lane = 0; lane < 8; lane++) {
      const value = data.readBigUInt64LE(offset + lane * 8);
      const key = value ^ secret.readBigUInt64LE(secretOffset + lane * 8);
      accumulators[lane ^ 1] = wrap(accumulators[lane ^ 1]! + value);
      accumulators[lane] = wrap(accumulators[lane]! + (key & 0xffff_ffffn) * (key >> 32n));
    }
  };
  for (let stripe = 0; stripe < 63; stripe++) {
    accumulate(stripe * 64, (stripe % 16) * 8);
    if (stripe % 16 !== 15) continue;
    for (const [lane, value] of accumulators.entries()) {
      accumulators[lane] = wrap((value ^ (value >> 47n) ^ secret.readBigUInt64LE(128 + lane * 8)) * 0x9e3779b1n);
    }
  }
  accumulate(4096 - 64, 192 - 64 - 7);
  let result = 4096n * prime1;
  for (let lane = 0; lane < 8; lane += 2) {
    const product =
      (accumulators[lane]! ^ secret.readBigUInt64LE(11 + lane * 8)) *
      (accumulators[lane + 1]! ^ secret.readBigUInt64LE(19 + lane * 8));
    result += wrap(product) ^ (product >> 64n);
  }
  result = wrap(result);
  result = wrap((result ^ (result >> 37n)) * 0x165667919e3779f9n);
  return result ^ (result >> 32n);
}

test("hashPage is XXH3-64 with seed 0", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: PAGE, maxLength: PAGE }), fc.nat(15), (content, misalignment) => {
      const page = PAGES + misalignment;
      bytes.set(content, page);
      const hash = BigInt.asUintN(64, dirty.hashPage(page));
      assert.is(hash, xxh3OfPage(content));
      if (typeof Bun !== "undefined") assert.is(hash, Bun.hash.xxHash3(content));
    }),
    { numRuns: 50 },
  );
});

test.run();
