// SPDX-License-Identifier: Apache-2.0
// The lifeline of a VM in a container: a pipe to process 1 (cli/init.ts), whose writing end goes wherever the guest goes. It tells
// process 1 who has the guest and how the VM has ended; and when nobody holds it any more, that no VMM is left.
//
//   u32  pid of the process that has the guest
//   i32  exit code of the VM; -1 as long as it has not ended
import { readlinkSync } from "node:fs";
import { close, isOpen, setCloseOnExec, status, write } from "../../ffi/fd.ts";
import { VmmError } from "../errors.ts";

/** Set by process 1 for the VMM that it starts: the number of its lifeline. */
export const ENV_LIFELINE = "BATON_LIFELINE";
/** Less than PIPE_BUF: it is written whole. */
const RECORD_BYTES = 8;
const HAS_NOT_ENDED = -1;

export interface LifelineRecord {
  pid: number;
  /** Undefined as long as the VM has not ended. */
  exitCode: number | undefined;
}

/** The fd, if process 1 has started this one; taken out of the environment. @throws VmmError when it makes no sense */
export function takeLifeline(env: Record<string, string | undefined>): number | undefined {
  const fd = lifelineOf(env);
  delete env[ENV_LIFELINE];
  if (fd !== undefined) setCloseOnExec(fd, true);
  return fd;
}

/** This process is about to execute its program again, which will take it. @throws VmmError as `takeLifeline` */
export function keepLifeline(env: Record<string, string | undefined>): void {
  const fd = lifelineOf(env);
  if (fd !== undefined) setCloseOnExec(fd, false);
}

function lifelineOf(env: Record<string, string | undefined>): number | undefined {
  const text = env[ENV_LIFELINE];
  if (text === undefined) return undefined;
  const fd = Number(text);
  if (Number.isInteger(fd) && fd >= 0 && isOpen(fd) && status(fd).kind === "fifo") return fd;
  throw new VmmError("lifeline", `${ENV_LIFELINE} is not what process 1 of a container sets: unset it`);
}

/** One process has one end of the pipe, for one VM. */
export class Lifeline {
  readonly fd: number;

  /** From now on this process has the guest. The fd is this object's. */
  constructor(fd: number) {
    this.fd = fd;
    this.#tell(HAS_NOT_ENDED);
  }

  /** The VM has ended here. */
  tellEnd(exitCode: number): void {
    this.#tell(exitCode);
  }

  close(): void {
    close(this.fd);
  }

  #tell(exitCode: number): void {
    const record = new DataView(new ArrayBuffer(RECORD_BYTES));
    record.setUint32(0, process.pid, true);
    record.setInt32(4, exitCode, true);
    write(this.fd, new Uint8Array(record.buffer));
  }
}

/** What was read from the other end. */
export function readRecords(bytes: Uint8Array): LifelineRecord[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / RECORD_BYTES }, (_, index) => {
    const exitCode = view.getInt32(index * RECORD_BYTES + 4, true);
    return {
      pid: view.getUint32(index * RECORD_BYTES, true),
      exitCode: exitCode === HAS_NOT_ENDED ? undefined : exitCode,
    };
  });
}

/** Of another namespace, process 1 of a lifeline would know this process by another pid, or not at all. */
export function pidNamespace(): string {
  return readlinkSync("/proc/self/ns/pid");
}
