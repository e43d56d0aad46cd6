// SPDX-License-Identifier: Apache-2.0
// The RAM of a guest in another process, through the memory file that it is: /proc/PID/fd/N.
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync, writeSync } from "node:fs";
import { COUNTER_MAGIC, COUNTER_OFFSET } from "../image/counter.ts";
import {
  COMMAND_SHUTDOWN,
  HEADER_COMMAND_U32,
  REPORT_GPA,
  REPORT_SIZE_BYTES,
  type Report,
  readReport,
} from "../payload/report.ts";

const PAGE_SIZE_BYTES = 4096;
const SCAN_CHUNK_SIZE_BYTES = 1 << 20;

/** The process's own memory file of one of these names, as a path; undefined when it has none (yet). */
export function findMemoryFile(pid: number, names: readonly string[]): string | undefined {
  const fds = `/proc/${pid}/fd`;
  for (const fd of readdirSync(fds)) {
    try {
      // One that may not be written is the RAM of another VMM, which this one takes pages out of.
      if ((lstatSync(`${fds}/${fd}`).mode & 0o200) === 0) continue;
      const name = /^\/memfd:(.*) \(deleted\)$/.exec(readlinkSync(`${fds}/${fd}`))?.[1];
      if (name !== undefined && names.includes(name)) return `${fds}/${fd}`;
    } catch {
      // Closed since it was listed.
    }
  }
  return undefined;
}

/** Guest RAM that begins at guest physical address 0, read and written with system calls: nothing of it is mapped here. */
export class GuestRam implements Disposable {
  readonly path: string;
  readonly #fd: number;
  /** Room up to the report's end, because `readReport` counts addresses from 0. */
  readonly #bytes = new Uint8Array(REPORT_GPA + REPORT_SIZE_BYTES);

  /** Keeps a file description of its own: it stays valid when the other process execs. */
  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, "r+");
  }

  /** Undefined as long as the self-checking payload has not started. */
  report(): Report | undefined {
    readSync(this.#fd, this.#bytes, REPORT_GPA, REPORT_SIZE_BYTES, REPORT_GPA);
    return readReport(this.#bytes);
  }

  /** Addresses of the counters of processes in a Linux guest (image/counter.ts). Reads all of RAM. */
  linuxCounters(): number[] {
    const chunk = new DataView(new ArrayBuffer(SCAN_CHUNK_SIZE_BYTES));
    const found: number[] = [];
    for (let gpa = 0; ; ) {
      const sizeBytes = readSync(this.#fd, chunk, 0, SCAN_CHUNK_SIZE_BYTES, gpa);
      if (sizeBytes === 0) return found;
      for (let page = 0; page + COUNTER_OFFSET < sizeBytes; page += PAGE_SIZE_BYTES) {
        if (chunk.getBigUint64(page, true) === COUNTER_MAGIC) found.push(gpa + page + COUNTER_OFFSET);
      }
      gpa += sizeBytes;
    }
  }

  /** Asks the payload to end the VM. */
  shutDown(): void {
    writeSync(this.#fd, Uint8Array.of(COMMAND_SHUTDOWN, 0, 0, 0), 0, 4, REPORT_GPA + HEADER_COMMAND_U32);
  }

  close(): void {
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
