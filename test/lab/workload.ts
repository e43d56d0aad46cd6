// SPDX-License-Identifier: Apache-2.0
// What the guest's workload (guest/workload.sh) says on the console.
import { check } from "./scenario.ts";

/**
 * Number of rounds each CPU has reported. Throws when one is missing, doubled (as by a guest that ran twice) or out of
 * order, when a check of the workload failed, or the kernel complained where guest/watch-kernel.sh watches it.
 */
export function countRounds(transcript: string, cpuCount: number): number[] {
  const complaint = /guest: (CORRUPT|clock|kernel) [^\n]*\n/.exec(transcript);
  check(complaint === null, `The guest found: ${complaint?.[0]}`);
  check(transcript.split("guest: ready").length === 2, `The guest booted again\n${transcript}`);
  const rounds = new Array<number>(cpuCount).fill(0);
  for (const [line, round, cpu] of transcript.matchAll(/guest: round (\d+) ok \(cpu (\d+)\)\r\n/g)) {
    check(Number(round) === rounds[Number(cpu)], `After round ${rounds[Number(cpu)]! - 1} came "${line.trim()}"`);
    rounds[Number(cpu)]!++;
  }
  return rounds;
}
