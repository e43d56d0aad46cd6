// SPDX-License-Identifier: Apache-2.0
// Character devices whose fds are open from beginning to end: file, pipe and stdio.
import { SysError } from "../../../ffi/error.ts";
import {
  close,
  O_APPEND,
  O_CREAT,
  O_NOCTTY,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  O_WRONLY,
  open,
  status,
} from "../../../ffi/fd.ts";
import { ENOENT } from "../../../ffi/libc.ts";
import type { ChardevSpec } from "../../config/types.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import { type Report, StreamChardev } from "./base.ts";
import type { StreamFds } from "./stream.ts";
import type { ChardevState } from "./types.ts";

/**
 * A stream that is never closed by what happens on the host: when the input ends there is simply no more of it, and
 * output that the host refuses (a full disk, a reader that has gone) is dropped.
 */
export class PlainChardev<Spec extends ChardevSpec = ChardevSpec> extends StreamChardev<Spec> {
  readonly filename: string = this.spec.backend;

  constructor(spec: Spec, reactor: Reactor, report: Report, fds: StreamFds, restored?: ChardevState) {
    super(spec, reactor, report, restored);
    this.openStream(fds, restored);
  }

  protected savedFds(): Record<string, number> {
    return { ...this.openFds };
  }

  protected inputEnded(error?: SysError): void {
    if (error !== undefined) this.reportOnce("input", "its input is lost", error);
  }

  protected outputFailed(error: SysError): void {
    this.reportOnce(error.code, "output is dropped", error);
  }
}

/** Fds of a saved plain device. */
export function plainFds(state: ChardevState): StreamFds {
  const fds: StreamFds = {};
  if (state.fds.in !== undefined) fds.in = state.fds.in;
  if (state.fds.out !== undefined) fds.out = state.fds.out;
  return fds;
}

/** `path` for the output, `input-path` (no input when absent) for the input. */
export function openFile(spec: Extract<ChardevSpec, { backend: "file" }>): StreamFds {
  const flags = O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | (spec.append ? O_APPEND : O_TRUNC);
  const out = open(spec.path, flags, 0o666);
  if (spec.inputPath === undefined) return { out };
  try {
    return { in: open(spec.inputPath, O_RDONLY | O_NONBLOCK | O_NOCTTY), out };
  } catch (error) {
    close(out);
    throw error;
  }
}

/**
 * The pair of fifos `PATH.in` and `PATH.out` (seen from the guest), or else one device `PATH` for both directions; one
 * fifo for both would read back what it wrote, so it gets the output only.
 *
 * Fifos are opened for reading and writing: so opening never waits for the other side, and the other side may come and
 * go unnoticed.
 */
export function openPipe(spec: Extract<ChardevSpec, { backend: "pipe" }>): StreamFds {
  const flags = O_RDWR | O_NONBLOCK | O_NOCTTY;
  const input = openIfThere(`${spec.path}.in`, flags);
  if (input !== undefined) {
    try {
      const output = openIfThere(`${spec.path}.out`, flags);
      if (output !== undefined) return { in: input, out: output };
    } catch (error) {
      close(input);
      throw error;
    }
    close(input);
  }
  const both = open(spec.path, flags);
  return status(both).kind === "fifo" ? { out: both } : { in: both, out: both };
}

function openIfThere(path: string, flags: number): number | undefined {
  try {
    return open(path, flags);
  } catch (error) {
    if (error instanceof SysError && error.errno === ENOENT) return undefined;
    throw error;
  }
}
