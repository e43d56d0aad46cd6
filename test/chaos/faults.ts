// SPDX-License-Identifier: Apache-2.0
// What can go wrong in which mode, and when.

/** `relay` is cpr-exec with it; `cpr-exec` has a guard. */
export const MODES = ["cpr-exec", "relay", "cpr-transfer", "cpr-reboot", "normal"] as const;
export type Mode = (typeof MODES)[number];

/** Of the program that is to take the guest: see chaotic-baton.ts. */
const NEW_PHASES = ["start", "built", "restored"] as const;
const NEW_FAULTS = ["kill", "exit", "segv", "stop", "slow", "no-fds", "no-memory"] as const;
/** Of the program that has the guest: see old-faults.ts. */
const OLD_FAULTS = ["old-stop", "old-no-fds", "old-no-space"] as const;

export interface Fault {
  mode: Mode;
  /** `none`: an update that must succeed. */
  fault: string;
  phase: string;
}

/** Every fault that is tried, and for each mode none at all. */
export function allFaults({ hasSmallDisk }: { hasSmallDisk: boolean }): Fault[] {
  const faults: Fault[] = MODES.map((mode) => ({ mode, fault: "none", phase: "-" }));
  for (const mode of MODES) {
    for (const fault of NEW_FAULTS) {
      // Whoever waits for a file, or for a stream from a host that may be busy, may be waited for: nobody stands still meanwhile.
      if (fault === "stop" && (mode === "cpr-reboot" || mode === "normal")) continue;
      // A program that has begun to run the guest and then gets no memory dies with it, as any VMM does; one that gets no fds
      // then has a guest that runs, but may not be able to load what its monitors need.
      const phases = fault.startsWith("no-") ? NEW_PHASES.slice(0, 1) : NEW_PHASES;
      for (const phase of phases) faults.push({ mode, fault, phase });
    }
  }
  for (const mode of MODES) {
    for (const fault of OLD_FAULTS) faults.push({ mode, fault, phase: "old" });
  }
  // Elsewhere there is no old process beside the one that has the guest.
  for (const mode of ["cpr-transfer", "normal"] as const) faults.push({ mode, fault: "old-kill", phase: "resumed" });
  for (const fault of ["flip", "cut"]) {
    faults.push({ mode: "cpr-exec", fault, phase: "start" });
    faults.push({ mode: "cpr-reboot", fault, phase: "file" });
    faults.push({ mode: "normal", fault, phase: "stream" });
  }
  if (hasSmallDisk) faults.push({ mode: "cpr-reboot", fault: "no-space", phase: "file" });
  return faults;
}
