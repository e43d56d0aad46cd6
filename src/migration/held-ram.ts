// SPDX-License-Identifier: Apache-2.0
// RAM of a guest that has been saved, promised to the next kernel for as long as this process lives.
import { VmmError } from "../errors.ts";
import type { RetainedRam } from "../memory/retention.ts";

export class HeldRam {
  readonly #retained: RetainedRam;
  readonly #filename: string;
  #hasRefused = false;

  /** `filename` is the state file's. */
  constructor(retained: RetainedRam, filename: string) {
    this.#retained = retained;
    this.#filename = filename;
  }

  /** Why the guest may be neither reset nor changed now. */
  get reason(): string {
    return (
      `The guest is in '${this.#filename}' and its RAM waits for the next kernel ` +
      `(live update session '${this.#retained.sessionName}'): 'cont' takes it back`
    );
  }

  /** Lets the process end only when that is asked for once more. @throws VmmError "ram-retained" the first time */
  refuseFirstQuit(): void {
    if (this.#hasRefused) return;
    this.#hasRefused = true;
    throw new VmmError(
      "ram-retained",
      `The guest's RAM ends with this process: replace the kernel while it lives (kexec -e), then load it there with ` +
        `-incoming file:${this.#filename}. 'cont' takes the guest back, another 'quit' gives it up`,
    );
  }

  /** Takes the promise back: the RAM is an ordinary memfd again, and the state file is worth nothing. */
  release(): void {
    this.#retained.close();
  }
}
