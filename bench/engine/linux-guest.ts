// SPDX-License-Identifier: Apache-2.0
// A Linux guest that does some jobs, says on its console when each begins and ends, and checks what came out of them.
import { createHash } from "node:crypto";
import {
  type CpioEntry,
  encodeCpio,
  MODE_CHARACTER_DEVICE,
  MODE_DIRECTORY,
  MODE_FILE,
  MODE_PROGRAM,
} from "../../src/image/cpio.ts";

export interface Job {
  id: string;
  label: string;
  /** In busybox's shell. */
  script: string;
  /** What it has to print. */
  answer(): string;
}

const MIB = 2 ** 20;
const DATA_SIZE_BYTES = 4 * MIB;
const DATA_COPIES = 4;
const FORKS = 60;
const SHELL_TURNS = 30_000;

/** Text that compresses about as well as text does, and is the same everywhere. */
function makeData(): Uint8Array {
  const bytes = new Uint8Array(DATA_SIZE_BYTES);
  let x = 1;
  for (let index = 0; index < bytes.length; index++) {
    x = Math.imul(x, 1664525) + 1013904223;
    // Sixteen letters, and one in four as the one 64 before it.
    bytes[index] = x >>> 30 === 0 && index >= 64 ? bytes[index - 64]! : 0x61 + ((x >>> 24) & 0xf);
  }
  return bytes;
}

const sha256 = (bytes: Uint8Array, copies: number): string => {
  const hash = createHash("sha256");
  for (let copy = 0; copy < copies; copy++) hash.update(bytes);
  return hash.digest("hex");
};

let data: Uint8Array | undefined;
const theData = (): Uint8Array => {
  data ??= makeData();
  return data;
};

/** In the order in which they run. */
export const JOBS: readonly Job[] = [
  {
    id: "sha256",
    label: `sha256sum of ${(DATA_SIZE_BYTES * DATA_COPIES) / MIB} MiB`,
    script: "cat /data /data /data /data | sha256sum | cut -c 1-64",
    answer: () => sha256(theData(), DATA_COPIES),
  },
  {
    id: "gzip",
    label: `gzip of ${DATA_SIZE_BYTES / MIB} MiB, and back`,
    script: "gzip -c /data | gunzip -c | sha256sum | cut -c 1-64",
    answer: () => sha256(theData(), 1),
  },
  {
    id: "fork",
    label: `${FORKS} times fork and exec`,
    // With a slash, so that the shell does not do it itself.
    script: `i=0; while [ $i -lt ${FORKS} ]; do /bin/true && i=$((i + 1)); done; echo $i`,
    answer: () => String(FORKS),
  },
  {
    id: "shell",
    label: `${SHELL_TURNS} turns of a shell's loop`,
    script: `i=0; s=0; while [ $i -lt ${SHELL_TURNS} ]; do i=$((i + 1)); s=$((s + i)); done; echo $s`,
    answer: () => String((SHELL_TURNS * (SHELL_TURNS + 1)) / 2),
  },
];

/** The first mark: the boot ends with it. */
export const INIT_MARK = "init";
export const beginMark = ({ id }: Job): string => `begin ${id}`;
/** With what the job printed. */
export const endMark = ({ id }: Job): string => `end ${id}`;
/** Before each mark, on a line of its own. */
export const MARK_PREFIX = "BENCH ";

const INIT = `#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
/bin/busybox echo "${MARK_PREFIX}${INIT_MARK}"
/bin/busybox --install -s /bin
export PATH=/bin
${JOBS.map(
  (job) => `echo "${MARK_PREFIX}${beginMark(job)}"
answer=$(${job.script})
echo "${MARK_PREFIX}${endMark(job)} $answer"`,
).join("\n")}
while true; do sleep 1; done
`;

/** Not compressed: unpacking it would be most of the boot. */
export function buildJobsInitramfs(busybox: Uint8Array): Uint8Array {
  const entries: CpioEntry[] = [
    { path: "bin", mode: MODE_DIRECTORY },
    { path: "dev", mode: MODE_DIRECTORY },
    { path: "dev/console", mode: MODE_CHARACTER_DEVICE, device: [5, 1] },
    { path: "bin/busybox", mode: MODE_PROGRAM, data: busybox },
    { path: "data", mode: MODE_FILE, data: theData() },
    { path: "init", mode: MODE_PROGRAM, data: new TextEncoder().encode(INIT) },
  ];
  return encodeCpio(entries);
}
