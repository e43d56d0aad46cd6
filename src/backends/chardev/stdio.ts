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
  /** Streams to make blocking again. */
  readonly #shared: NonBlockingStreams;
  /** They are the standard streams of a process that this device came from. */
  readonly #isForeign: boolean;

  private constructor(
    spec: StdioSpec,
    reactor: Reactor,
    report: Report,
    fds: StreamFds,
    shared: NonBlockingStreams,
    restored?: HostChardevState,
  ) {
    super(spec, reactor, report, fds, restored);
    this.#isForeign = restored?.isForeign ?? false;
    if (!this.#isForeign) inUse = true;
    this.#shared = shared;
    if (restored === undefined) {
      if (isTerminal(fds.in!)) this.#terminal = new RawTerminal(fds.in!, spec.signal);
      this.#enterTerminal();
    } else if (restored.termios !== undefined) {
      const original = new Uint8Array(Buffer.from(restored.termios, "base64"));
      this.#terminal = new RawTerminal(fds.in!, spec.signal, original);
    }
  }

  static open(spec: StdioSpec, reactor: Reactor, report: Report): StdioChardev {
    assertUnused(spec);
    const shared = new NonBlockingStreams([]);
    const fds: StreamFds = {};
    try {
      fds.in = privateFd(0, O_RDONLY, shared);
      fds.out = privateFd(1, O_WRONLY, shared);
      return new StdioChardev(spec, reactor, report, fds, shared);
    } catch (error) {
      inUse = false;
      shared.undo();
      for (const fd of [fds.in, fds.out]) if (fd !== undefined) close(fd);
      throw error;
    }
  }

  static restore(spec: StdioSpec, reactor: Reactor, report: Report, state: HostChardevState): StdioChardev {
    if (!state.isForeign) assertUnused(spec);
    return new StdioChardev(
      spec,
      reactor,
      report,
      plainFds(state),
      new NonBlockingStreams(state.madeNonBlocking ?? []),
      state,
    );
  }

  override save(): HostChardevState {
    const state: HostChardevState = { ...super.save(), madeNonBlocking: [...this.#shared.fds] };
    if (this.#terminal !== undefined) state.termios = Buffer.from(this.#terminal.original).toString("base64");
    if (this.#isForeign) state.isForeign = true;
    return state;
  }

  protected override thawed(): void {
    this.#enterTerminal();
  }

  protected override dispose(undo: boolean): void {
    if (!this.#isForeign) inUse = false;
    if (undo) this.#terminal?.leave();
    else this.#terminal?.release();
    if (undo) this.#shared.undo();
    else this.#shared.release();
  }

  #enterTerminal(): void {
    this.#terminal?.enter((error) => this.reportOnce("terminal", "its terminal cannot be set", error));
  }
}

/** Duplicates of standard streams that this program made non-blocking, until `undo` or its end. */
class NonBlockingStreams {
  readonly fds: number[];
  readonly #undo = (): void => this.undo();

  /** `fds`: those that another image of this program has made non-blocking. */
  constructor(fds: readonly number[]) {
    this.fds = [...fds];
    if (fds.length > 0) process.on("exit", this.#undo);
  }

  /** O_NONBLOCK is the open file's, so that it is the standard stream that this is done to. */
  add(fd: number): void {
    // Standard input and output may be one open file.
    if ((statusFlags(fd) & O_NONBLOCK) !== 0) return;
    setNonBlocking(fd, true);
    if (this.fds.push(fd) === 1) process.on("exit", this.#undo);
  }

  undo(): void {
    const fds = [...this.fds];
    this.release();
    for (const fd of fds) setNonBlocking(fd, false);
  }

  /** Leaves them as they are: they are another process's now. */
  release(): void {
    this.fds.length = 0;
    process.off("exit", this.#undo);
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
function privateFd(fd: number, flags: number, shared: NonBlockingStreams): number {
  const { kind } = status(fd);
  if (kind === "character" || kind === "fifo") {
    try {
      return open(`/proc/self/fd/${fd}`, flags | O_NONBLOCK | O_NOCTTY);
    } catch (error) {
      // Another user's terminal (after su), or a pipe whose other end is closed.
      if (!(error instanceof SysError)) throw error;
    }
  }
  const own = duplicate(fd);
  if (kind !== "file") shared.add(own);
  return own;
}
