// SPDX-License-Identifier: Apache-2.0
// What a run needs of the guest that is updated, and the guest that it has unless there is another one: the self-checking payload.
import { GuestProcess } from "../guest.ts";
import { assert } from "../harness.ts";

export interface ChaosGuest {
  start(): Promise<GuestProcess>;
  /** Its back ends, as options of a process that waits for it. */
  backends: readonly string[];
  /** Waits until every vCPU has gone on and checked itself. @throws Error when it found anything changed */
  goesOn(owner: GuestProcess): Promise<void>;
  /** What it has done, for the summary. @throws Error when it found anything changed */
  report(owner: GuestProcess): string;
}

export function payload(): ChaosGuest {
  let counter = -1n;
  return {
    start: () => GuestProcess.start({ runtime: "compiled", payload: { cpuCount: 2 }, memory: "16M" }),
    backends: [],
    async goesOn(owner) {
      await owner.runsOn();
      assert.ok(owner.counter() > counter, "the guest has counted on");
      counter = owner.counter();
    },
    report(owner) {
      owner.isClean();
      const { checksRun, errorCount } = owner.report()!;
      return `ran ${checksRun.join(" and ")} rounds of checks and found ${errorCount} errors`;
    },
  };
}
