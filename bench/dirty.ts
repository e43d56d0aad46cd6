// SPDX-License-Identifier: Apache-2.0
// The scanners of assembly/dirty against libc on the same bytes: what Wasm costs against hand-written AVX code.
import { Bench } from "tinybench";
import { addressOf, libcFunction } from "../ffi/native.ts";
import { loadDirtyModule } from "./dirty-module.ts";
import { ratioOf } from "./ratio.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";

const PAGE_SIZE_BYTES = 4096;
/** Bitmap of a guest of 4 GiB. */
const GUEST_PAGES = 2 ** 20;
const BITMAP = 0x1_0000;
const BITMAP_SIZE_BYTES = GUEST_PAGES / 8;
const SPARSE_BITMAP = BITMAP + BITMAP_SIZE_BYTES;
const OUT = 0x10_0000;
const OUT_CAPACITY = 0x1_0000;
const PAGES = 0x20_0000;
/** All that is read in one go, by libc and by Wasm: larger than a core's own caches, smaller than the shared one. */
const PAGES_SIZE_BYTES = 0x80_0000;
const PAGE_COUNT = PAGES_SIZE_BYTES / PAGE_SIZE_BYTES;
/** One page in this many is dirty in the sparse bitmap, as while a guest is nearly idle. */
const SPARSE_STRIDE = 1000;

interface Task {
  id: string;
  label: string;
  sizeBytes: number;
  run(): unknown;
}

function tasks(): Task[] {
  const { bytes, dirty } = loadDirtyModule(PAGES + PAGES_SIZE_BYTES);
  const base = addressOf(bytes);
  const memcmp = libcFunction("int memcmp(uintptr_t a, uintptr_t b, size_t n)");
  const memchr = libcFunction("uintptr_t memchr(uintptr_t s, int c, size_t n)");
  // Memory that was never written is one page of zeroes mapped many times, which would fit in the smallest cache.
  bytes.fill(0xff).fill(0);
  // The same bits on every run, about half of them set.
  for (let index = 0, word = 1; index < BITMAP_SIZE_BYTES; index++) {
    word = (Math.imul(word, 1664525) + 1013904223) | 0;
    bytes[BITMAP + index] = word >>> 24;
  }
  for (let page = 0; page < GUEST_PAGES; page += SPARSE_STRIDE) dirty.setRange(SPARSE_BITMAP, page, 1);
  const half = PAGES_SIZE_BYTES / 2;
  return [
    {
      id: "memcmp",
      label: "libc memcmp, two streams of zeroes",
      sizeBytes: PAGES_SIZE_BYTES,
      run: () => memcmp(base + BigInt(PAGES), base + BigInt(PAGES + half), half),
    },
    {
      id: "zero-scan",
      label: "scanZeroPages, all zero",
      sizeBytes: PAGES_SIZE_BYTES,
      run: () => dirty.scanZeroPages(PAGES, PAGE_COUNT, OUT),
    },
    {
      id: "hash",
      label: "hashPage",
      sizeBytes: PAGES_SIZE_BYTES,
      run: () => {
        for (let page = 0; page < PAGE_COUNT; page++) dirty.hashPage(PAGES + page * PAGE_SIZE_BYTES);
      },
    },
    {
      id: "memchr",
      label: "libc memchr, nothing found",
      sizeBytes: BITMAP_SIZE_BYTES,
      run: () => memchr(base + BigInt(PAGES), 0xff, BITMAP_SIZE_BYTES),
    },
    {
      id: "count",
      label: "countDirty, half dirty",
      sizeBytes: BITMAP_SIZE_BYTES,
      run: () => dirty.countDirty(BITMAP, GUEST_PAGES),
    },
    {
      id: "search",
      label: "nextDirtyRun, all clean",
      sizeBytes: BITMAP_SIZE_BYTES,
      run: () => dirty.nextDirtyRun(PAGES, GUEST_PAGES, 0),
    },
    {
      id: "collect-sparse",
      label: `collectDirty, 1 in ${SPARSE_STRIDE} dirty`,
      sizeBytes: BITMAP_SIZE_BYTES,
      run: () => dirty.collectDirty(SPARSE_BITMAP, GUEST_PAGES, 0, OUT, OUT_CAPACITY),
    },
  ];
}

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  // Interleaved rounds of short runs: when the machine slows down for a while, it does so for all tasks alike.
  const rounds = quick ? 3 : 12;
  const all = tasks();
  const samples = new Map<string, number[]>(all.map((task) => [task.id, []]));
  for (let round = 0; round < rounds; round++) {
    progress.update(`dirty: round ${round + 1} of ${rounds}`);
    const bench = new Bench({ time: quick ? 20 : 40, iterations: 8, warmupTime: round === 0 ? 50 : 5, throws: true });
    for (const task of all) bench.add(task.id, () => void task.run());
    await bench.run();
    for (const task of all) {
      const result = bench.getTask(task.id)!.result;
      if (!("latency" in result)) throw new Error(`Benchmark ${task.id} ended as ${result.state}`);
      samples.get(task.id)!.push(task.sizeBytes / 1e6 / result.latency.p50);
    }
  }
  const metrics = all.map(({ id, label }): Metric => ({ id, label, unit: "GB/s", samples: samples.get(id)! }));
  const metric = (id: string): Metric => metrics.find((candidate) => candidate.id === id)!;
  return {
    metrics,
    ratios: [
      ratioOf("zero-scan", "scanZeroPages / memcmp", "higher", metric("zero-scan"), metric("memcmp")),
      ratioOf("hash", "hashPage / memcmp", "higher", metric("hash"), metric("memcmp")),
      ratioOf("count", "countDirty / memchr", "higher", metric("count"), metric("memchr")),
      ratioOf("search", "nextDirtyRun / memchr", "higher", metric("search"), metric("memchr")),
    ],
    charts: [],
    notes: ["GB/s of bytes read; memcmp reads two streams of half the size. Each sample is the median of a short run"],
  };
}

export const subject: Subject = {
  description: "dirty bitmaps and zero pages: Wasm SIMD against libc",
  run,
};
