// SPDX-License-Identifier: Apache-2.0
// Whose the guest is. As a rule this process's; but it may be another's, part of it may be lost, or its RAM may be promised to
// the next kernel. What may be done with it follows from that, and from the run state.
import { VmmError } from "../errors.ts";
import type { HeldRam } from "../migration/held-ram.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { SerialPort } from "./serial-port.ts";

/** Run states from which `cont` may not start the guest, with the reason. */
const CANNOT_RUN: Partial<Record<RunState, string>> = {
  "finish-migrate": "Migration is not finalized yet",
  "internal-error": "Resetting the Virtual Machine is required",
  "guest-panicked": "Resetting the Virtual Machine is required",
  shutdown: "Resetting the Virtual Machine is required",
};

export class Ownership {
  /** Why the guest may not run in this process any more. */
  #fence: string | undefined;
  #lossReason: string | undefined;
  /** RAM of a guest that has been saved, when it ends with this process. */
  #held: HeldRam | undefined;
  /** What that guest has written and no console has got, of each serial port: it is in its state, too. */
  #heldOutput: Uint8Array[] = [];

  /** See `Vm.fence`. */
  fence(reason: string, ports: readonly SerialPort[]): void {
    this.#fence = reason;
    for (const port of ports) port.discardOutput();
  }

  /** See `Vm.lose`. */
  lose(reason: string, ports: readonly SerialPort[]): void {
    this.#lossReason = reason;
    this.fence(reason, ports);
  }

  /** See `Vm.holdRam`. */
  hold(held: HeldRam, ports: readonly SerialPort[]): void {
    this.#held = held;
    this.#heldOutput = ports.map((port) => port.pendingOutput());
    for (const port of ports) port.discardOutput();
  }

  /** The guest runs here again, with what it has written. Nothing happens when its RAM is not held. */
  takeBack(ports: readonly SerialPort[]): void {
    if (this.#held === undefined) return;
    this.release();
    for (const [index, port] of ports.entries()) {
      port.restoreOutput(this.#heldOutput[index]!);
      port.flush();
    }
  }

  /** The next kernel gets no RAM from here. */
  release(): void {
    this.#held?.release();
    this.#held = undefined;
  }

  /** @throws VmmError "cannot-run" when the guest may not run here */
  refuseToRun(state: RunState): void {
    const reason = this.#fence ?? CANNOT_RUN[state];
    if (reason !== undefined) throw new VmmError("cannot-run", reason);
  }

  /** @throws VmmError when the guest is on its way to or from somebody, or is somebody else's */
  refuseToChange(state: RunState): void {
    if (this.#fence !== undefined) throw new VmmError("fenced", this.#fence);
    if (this.#held !== undefined) throw new VmmError("ram-retained", this.#held.reason);
    if (state === "inmigrate") throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    if (state === "finish-migrate") throw new VmmError("cannot-run", "Migration is not finalized yet");
  }

  /** @throws VmmError "lost" after `lose` */
  refuseLost(): void {
    if (this.#lossReason !== undefined) throw new VmmError("lost", this.#lossReason);
  }

  /** @throws VmmError "ram-retained" the first time, when the end of this process would lose the guest */
  refuseToLoseRam(): void {
    this.#held?.refuseFirstQuit();
  }
}
