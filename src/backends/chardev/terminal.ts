// SPDX-License-Identifier: Apache-2.0
// The user's terminal in raw mode, and its way back.

import { getTermios, rawTermios, setTermios } from "../../../ffi/termios.ts";
import { keepTerminalsAtExit } from "../../runtime/terminal.ts";
import { survivesUncaught } from "../../runtime/uncaught.ts";

/** Signals that end a program by default: without a handler of ours they would leave the terminal raw. */
const FATAL_SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1, SIGQUIT: 3 } as const;

/**
 * Holds a terminal in raw mode from `enter` until `leave`, the end of the process or a fatal signal, whichever comes
 * first.
 */
export class RawTerminal {
  readonly #fd: number;
  readonly #signals: boolean;
  readonly #isInherited: boolean;
  /** Settings to go back to. */
  readonly original: Uint8Array;
  #undo: (() => void) | undefined;

  /** `original`: settings from before raw mode, when another process image has set it already. */
  constructor(fd: number, signals: boolean, original?: Uint8Array) {
    this.#fd = fd;
    this.#signals = signals;
    this.#isInherited = original !== undefined;
    this.original = original ?? getTermios(fd);
  }

  /**
   * `onLost` hears that an inherited terminal cannot be set any more: it has gone, and the program goes on without it.
   * @throws SysError when a terminal that was not inherited cannot be set
   */
  enter(onLost: (error: unknown) => void): void {
    if (this.#undo !== undefined) return;
    const setRaw = (): void => {
      setTermios(this.#fd, rawTermios(this.original, { signals: this.#signals, postProcessOutput: true }));
    };
    const makeRaw = (): void => {
      try {
        setRaw();
      } catch (error) {
        onLost(error);
      }
    };
    if (!this.#isInherited) setRaw();
    const restore = (): void => this.leave();
    // The shell has changed the settings while this process was stopped.
    process.on("SIGCONT", makeRaw);
    process.on("exit", restore);
    // Deno dies of an exception without an "exit".
    const restoreIfFatal = (): void => {
      if (!survivesUncaught()) restore();
    };
    process.on("uncaughtExceptionMonitor", restoreIfFatal);
    const handlers = Object.entries(FATAL_SIGNALS).map(([name, number]) => {
      const handler = (): void => {
        // Somebody else who listens decides what the signal means, and ends the process in an orderly way.
        if (process.listenerCount(name) > 1) return;
        restore();
        process.exit(128 + number);
      };
      process.on(name, handler);
      return { name, handler };
    });
    if (this.#isInherited) keepTerminalsAtExit();
    this.#undo = () => {
      process.off("SIGCONT", makeRaw);
      process.off("exit", restore);
      process.off("uncaughtExceptionMonitor", restoreIfFatal);
      for (const { name, handler } of handlers) process.off(name, handler);
    };
    if (this.#isInherited) makeRaw();
  }

  /** Restores the settings. */
  leave(): void {
    if (this.#undo === undefined) return;
    this.#forget();
    try {
      setTermios(this.#fd, this.original);
    } catch {
      // The terminal has gone, and its settings with it.
    }
  }

  /** Leaves the terminal raw: it is another process's now. */
  release(): void {
    if (this.#undo === undefined) return;
    keepTerminalsAtExit();
    this.#forget();
  }

  #forget(): void {
    this.#undo?.();
    this.#undo = undefined;
  }
}
