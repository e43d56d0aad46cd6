// SPDX-License-Identifier: Apache-2.0
// The demo as an SVG picture.
import os from "node:os";
import { medianOf } from "../../meter/format.ts";
import type { Chart } from "../../meter/svg.ts";
import type { Row } from "./table.ts";

/** More rows than this are no picture any more. */
const MAX_ROWS = 30;

/** @param guest `ram`: how much, and what of it is used */
export function picture(rows: readonly Row[], guest: { ram: string; cpuCount: number }, vmm: string): Chart[] {
  const last = rows.slice(-MAX_ROWS);
  const offset = rows.length - last.length;
  const unseen = (row: Row): number => row.pauseMs - row.phases.reduce((sum, { durationMs }) => sum + durationMs, 0);
  const machine = `${os.cpus()[0]?.model.trim() ?? "unknown CPU"}, Linux ${os.release()}`;
  const size = `${guest.ram}, ${guest.cpuCount} vCPU${guest.cpuCount === 1 ? "" : "s"}`;
  const median = medianOf(rows.map(({ pauseMs }) => pauseMs)).toFixed(2);
  return [
    {
      kind: "timeline",
      title: `The VMM replaced under a running guest: median pause ${median} ms`,
      subtitle: `${size}; ${vmm}; ${machine}; ${new Date().toISOString().slice(0, 10)}`,
      unit: "ms",
      rows: last.map((row, index) => ({
        label: `update ${offset + index + 1}`,
        segments: [
          ...row.phases.map(({ label, durationMs }) => ({ label, duration: durationMs, isPause: true })),
          ...(unseen(row) > 0 ? [{ label: "rest", duration: unseen(row), isPause: true }] : []),
        ],
      })),
    },
  ];
}
