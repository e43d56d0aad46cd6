// SPDX-License-Identifier: Apache-2.0
// The shell of the demo's Linux: one that is there before the updates, and still the same after them.
import type { ConsoleLog } from "../../meter/console-log.ts";

/** A machine with more important things to do may take seconds. */
const TIMEOUT_MS = 30_000;
const UPTIME = "cut -d' ' -f1 /proc/uptime";
const GREETING = "uname -srm";

export class GuestShell {
  /** What it was, for a person, once `revisit` has found it again. */
  story: string | undefined;
  readonly #console: ConsoleLog;
  readonly #system: string;

  private constructor(console: ConsoleLog, system: string) {
    this.#console = console;
    this.#system = system;
  }

  /** Undefined where nobody answers: images of older versions had no shell beside their numbered lines. */
  static async open(console: ConsoleLog): Promise<GuestShell | undefined> {
    const answer = await console.ask(`${GREETING}; began=$(${UPTIME})`, TIMEOUT_MS);
    return answer === undefined ? undefined : new GuestShell(console, answer.join(" "));
  }

  /** What was typed, and what came back. */
  greeting(): string[] {
    return [`guest# ${GREETING}`, this.#system];
  }

  /** Asks for what was kept in it. Returns what is wrong, as sentences. */
  async revisit(): Promise<string[]> {
    const answer = await this.#console.ask(`echo $began $(${UPTIME})`, TIMEOUT_MS);
    if (answer === undefined) return ["The guest's shell does not answer any more"];
    const [began, now, ...others] = answer.join(" ").split(" ").map(Number);
    if (began === undefined || now === undefined || others.length > 0 || !(began < now)) {
      return [`The guest's shell has forgotten what it knew: ${JSON.stringify(answer)}`];
    }
    this.story = `the same, from second ${began.toFixed(1)} of the guest to second ${now.toFixed(1)}`;
    return [];
  }
}
