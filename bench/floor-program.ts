// SPDX-License-Identifier: Apache-2.0
// A program that does nothing but exec itself, and says how long each exec took.
//
// The clock is handed over in the environment: FLOOR_EXEC_MS is CLOCK_MONOTONIC just before the exec. The new image
// reads performance.now() on its first line, before koffi is loaded, and takes CLOCK_MONOTONIC and performance.now()
// together once koffi is there: their difference gives the first line its CLOCK_MONOTONIC time. (performance.timeOrigin
// and process.hrtime() would need no koffi, but their zero is the runtime's own start and not the exec.)
//
// Prints one line of JSON at the end: { firstLineMs: number[], koffiMs: number[] }.
import "./first-line.ts";
import { monotonicMs } from "../ffi/clock.ts";
import { execSelf, planExecSelf } from "./exec-self.ts";
import { firstLineMs } from "./first-line.ts";

// koffi is loaded and the clock's function declared by the first call; the second measures.
const koffiReady = monotonicMs();
const firstLine = monotonicMs() - (performance.now() - firstLineMs);

const { FLOOR_EXEC_MS, FLOOR_FIRST_LINE = "", FLOOR_KOFFI = "", FLOOR_ROUNDS = "20" } = process.env;
let firstLines = FLOOR_FIRST_LINE;
let koffis = FLOOR_KOFFI;
if (FLOOR_EXEC_MS !== undefined) {
  firstLines += `${(firstLine - Number(FLOOR_EXEC_MS)).toFixed(4)} `;
  koffis += `${(koffiReady - Number(FLOOR_EXEC_MS)).toFixed(4)} `;
}
const numbers = (text: string): number[] => text.trim().split(" ").filter(Boolean).map(Number);

if (numbers(firstLines).length >= Number(FLOOR_ROUNDS)) {
  console.log(JSON.stringify({ firstLineMs: numbers(firstLines), koffiMs: numbers(koffis) }));
} else {
  const env = { FLOOR_FIRST_LINE: firstLines, FLOOR_KOFFI: koffis, FLOOR_ROUNDS };
  // Planned once before the clock is read: the first time is ten times as slow and no part of the exec.
  planExecSelf({ ...env, FLOOR_EXEC_MS: "0" });
  execSelf({ ...env, FLOOR_EXEC_MS: String(monotonicMs()) });
}
