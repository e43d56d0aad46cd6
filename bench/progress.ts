// SPDX-License-Identifier: Apache-2.0
// One line on stderr that says how far a long run is.

const LOG_EVERY_MS = 10_000;

/** On a terminal the line is rewritten; in a log it is printed every ten seconds, and not at all by a short run. */
export class Progress {
  #lastLogMs = performance.now();
  #isShown = false;

  update(text: string): void {
    if (process.stderr.isTTY) {
      process.stderr.write(`\r\x1b[K${text}`);
      this.#isShown = true;
    } else if (performance.now() - this.#lastLogMs >= LOG_EVERY_MS) {
      process.stderr.write(`${text}\n`);
      this.#lastLogMs = performance.now();
    }
  }

  /** Takes the line away, before something else is printed. */
  clear(): void {
    if (this.#isShown) process.stderr.write("\r\x1b[K");
    this.#isShown = false;
  }
}
