// SPDX-License-Identifier: Apache-2.0
// The character device on standard input and output.
import { Buffer } from "node:buffer";
import { SysError } from "../../../ffi/error.ts";
import {
  close,
  duplicate,
  O_NOCTTY,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  open,
  setNonBlocking,
  status,
  statusFlags,
} from "../../../ffi/fd.ts";
import { isTerminal } from "../../../ffi/termios.ts";
import type { ChardevSpec } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import type { HostChardevState, Report } from "./base.ts";
import { PlainChardev, plainFds } from "./plain.ts";
import type { StreamFds } from "./stream.ts";
import { RawTerminal } from "./terminal.ts";

type StdioSpec = Extract<ChardevSpec, { backend: "stdio" }>;

let inUse = false;

export class StdioChardev extends PlainChardev<StdioSpec> {
  readonly #terminal: RawTerminal | undefined;
  readonly #undo: () => void;

  private constructor(
    spec: StdioSpec,
    reactor: Reactor,
    report: Report,
    fds: StreamFds,
    undo: () => void,
    restored?: HostChardevState,
  ) {
    super(spec, reactor, report, fds, restored);
    inUse = true;
    this.#undo = undo;
    if (restored === undefined) {
      if (isTerminal(fds.in!)) this.#terminal = new RawTerminal(fds.in!, spec.signal);
      this.#terminal?.enter();
    } else if (restored.termios !== undefined) {
      const original = new Uint8Array(Buffer.from(restored.termios, "base64"));
      this.#terminal = new RawTerminal(fds.in!, spec.signal, original);
    }
  }

  static open(spec: StdioSpec, reactor: Reactor, report: Report): StdioChardev {
    assertUnused(spec);
    const input = privateFd(0, O_RDONLY);
    try {
      const output = privateFd(1, O_WRONLY);
      const undo = (): void => {
        input.undo();
        output.undo();
      };
      return new StdioChardev(spec, reactor, report, { in: input.fd, out: output.fd }, undo);
    } catch (error) {
      input.undo();
      close(input.fd);
      throw error;
    }
  }

  static restore(spec: StdioSpec, reactor: Reactor, report: Report, state: HostChardevState): StdioChardev {
    assertUnused(spec);
    return new StdioChardev(spec, reactor, report, plainFds(state), () => {}, state);
  }

  override save(): HostChardevState {
    const state = super.save();
    if (this.#terminal === undefined) return state;
    return { ...state, termios: Buffer.from(this.#terminal.original).toString("base64") };
  }

  protected override thawed(): void {
    this.#terminal?.enter();
  }

  protected override dispose(undo: boolean): void {
    inUse = false;
    if (undo) this.#terminal?.leave();
    else this.#terminal?.release();
    if (undo) this.#undo();
  }
}

function assertUnused(spec: StdioSpec): void {
  if (!inUse) return;
  throw new VmmError("stdio-in-use", `Character device ${spec.id}: another one uses standard input and output already`);
}

/**
 * A non-blocking duplicate of a standard stream. O_NONBLOCK belongs to the open file, which is shared with the shell and
 * with stderr, so the file is opened anew where that gives the same thing: terminals and pipes.
 */
function privateFd(fd: number, flags: number): { fd: number; undo: () => void } {
  const { kind } = status(fd);
  if (kind === "character" || kind === "fifo") {
    try {
      return { fd: open(`/proc/self/fd/${fd}`, flags | O_NONBLOCK | O_NOCTTY), undo: () => {} };
    } catch (error) {
      // Another user's terminal (after su), or a pipe whose other end is closed.
      if (!(error instanceof SysError)) throw error;
    }
  }
  if (kind === "file") return { fd: duplicate(fd), undo: () => {} };
  const wasNonBlocking = (statusFlags(fd) & O_NONBLOCK) !== 0;
  setNonBlocking(fd, true);
  const undo = (): void => setNonBlocking(fd, wasNonBlocking);
  process.on("exit", undo);
  return {
    fd: duplicate(fd),
    undo: () => {
      process.off("exit", undo);
      undo();
    },
  };
}
