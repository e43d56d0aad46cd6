// SPDX-License-Identifier: Apache-2.0
// Consoles of the self-checking guest, from the side of who sits at them: for the tests of what updates leave of them.
import { Buffer } from "node:buffer";
import type { SysError } from "../../../ffi/error.ts";
import { close, read, write } from "../../../ffi/fd.ts";
import { BANNER, type SelfCheckOptions } from "../../../src/payload/self-check.ts";
import { assert } from "../../harness.ts";

/** Lines as often as rounds, and an echo of everything: nothing ends the guest. */
export const TALKATIVE: SelfCheckOptions = { ticksPerLine: 1, echo: "irq", quitByte: undefined };

/** Pieces of `tick NNNNNNNN` lines are lower case, so upper case is echo. */
export function splitConsole(text: string): { ticks: number[]; echo: string; rest: string } {
  const typed = text.replace(BANNER, "");
  const echo = typed.replace(/[^A-Z]/g, "");
  const lines = typed.replace(/[A-Z]/g, "");
  const first = lines.indexOf("tick ");
  const whole = lines.slice(Math.max(first, 0), lines.lastIndexOf("\n") + 1);
  const ticks = [...whole.matchAll(/tick (\d{8})\n/g)].map(([, number]) => Number(number));
  return { ticks, echo, rest: whole.replace(/tick \d{8}\n/g, "") };
}

export function assertConsecutive(ticks: readonly number[]): void {
  for (const [index, tick] of ticks.entries()) {
    assert.is(tick, ticks[0]! + index, `line ${tick} follows line ${ticks[index - 1]}`);
  }
}

export const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** One end of a console: what a terminal program is. */
export interface Terminal {
  text(): string;
  write(text: string): void;
}

/** A terminal by its fd. */
export class FdTerminal implements Terminal {
  #text = "";
  #unsent = "";
  readonly #fd: number;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(fd: number) {
    this.#fd = fd;
    this.#timer = setInterval(() => this.#transfer(), 5);
  }

  text(): string {
    return this.#text;
  }

  write(text: string): void {
    this.#unsent += text;
    this.#transfer();
  }

  close(): void {
    clearInterval(this.#timer);
    close(this.#fd);
  }

  #transfer(): void {
    const buffer = new Uint8Array(4096);
    let count = 0;
    try {
      count = read(this.#fd, buffer) ?? 0;
    } catch (error) {
      // Nobody is at the other end of a pseudo-terminal: not yet, or no more.
      if ((error as SysError).code !== "EIO") throw error;
    }
    this.#text += Buffer.from(buffer.subarray(0, count)).toString("latin1");
    if (this.#unsent === "") return;
    const written = write(this.#fd, new TextEncoder().encode(this.#unsent)) ?? 0;
    this.#unsent = this.#unsent.slice(written);
  }
}
