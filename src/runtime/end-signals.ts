// SPDX-License-Identifier: Apache-2.0
// The signals that end a VM, while a program is replaced by another one: they wait, and whoever has the guest then obeys them.
//
//   old program   hold     blocked, which an exec inherits                          ── exec ──
//   new program   note     before it has other threads: Bun's let blocked signals through whenever they wait for something
//                 heed     when there is somebody to obey them; or it goes back, and
//                 hold     hands them on to the next program
import { getTid, SIGHUP, SIGINT, SIGTERM, tgkill } from "../../ffi/process.ts";
import { blockSignals, unblockSignals } from "../../ffi/signal.ts";

type EndSignal = "SIGTERM" | "SIGINT" | "SIGHUP";
const NUMBERS: Readonly<Record<EndSignal, number>> = { SIGTERM, SIGINT, SIGHUP };
const NAMES = ["SIGTERM", "SIGINT", "SIGHUP"] as const;

const noted: EndSignal[] = [];
const note = (signal: EndSignal): void => void noted.push(signal);

/** They wait from now on for a program that this thread executes, as do those noted so far. */
export function holdEndSignals(): void {
  blockSignals([SIGTERM, SIGINT, SIGHUP]);
  // To this thread, which has them blocked; others would take them.
  for (const name of noted.splice(0)) tgkill(process.pid, getTid(), NUMBERS[name]);
}

/** Nothing was executed. */
export function releaseEndSignals(): void {
  unblockSignals([SIGTERM, SIGINT, SIGHUP]);
}

/** They do not end this process any more, but are noted. */
export function noteEndSignals(): void {
  for (const name of NAMES) process.on(name, note);
  releaseEndSignals();
}

/** Has each of them obeyed once, those noted so far included. */
export function heedEndSignals(obey: (signal: EndSignal) => void): void {
  for (const name of NAMES) {
    process.once(name, obey);
    process.off(name, note);
  }
  for (const name of noted.splice(0)) process.emit(name, name);
}
