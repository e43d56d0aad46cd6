// SPDX-License-Identifier: Apache-2.0
// What can go wrong in which mode, and when.

/** `relay` is cpr-exec with it; `cpr-exec` has a guard. */
export const MODES = ["cpr-exec", "relay", "cpr-transfer", "cpr-reboot", "normal"] as const;
export type Mode = (typeof MODES)[number];

/** Of the program that is to take the guest: see chaotic-baton.ts. */
const NEW_PHASES = ["start", "built", "restored"] as const;
/** While either program is at work. */
export const ANYTIME = "anytime";
const NEW_FAULTS = ["kill", "exit", "segv", "stop", "slow", "no-fds", "no-memory"] as const;
/** Of the program that has the guest: see old-faults.ts. */
const OLD_FAULTS = ["old-stop", "old-no-fds", "old-no-space"] as const;

/** Of the host. Nothing of an update may go by a clock that can be set. */
const CLOCK_FAULTS = ["clock-ahead", "clock-back"] as const;

export interface Fault {
  mode: Mode;
  /** `none`: an update that must succeed. */
  fault: string;
  phase: string;
}

/** What the host lets a run do to it. */
export interface Means {
  hasSmallDisk: boolean;
  mayStepClock: boolean;
}

/** An update that has to succeed, whatever goes wrong. */
export function mustSucceed({ fault }: Fault): boolean {
  return fault === "none" || isStepOfClock(fault);
}

export function isStepOfClock(fault: string): boolean {
  return (CLOCK_FAULTS as readonly string[]).includes(fault);
}

/** Every fault that is tried, and for each mode none at all. */
export function allFaults({ hasSmallDisk, mayStepClock }: Means): Fault[] {
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
  if (mayStepClock) {
    for (const mode of MODES) {
      for (const fault of CLOCK_FAULTS) {
        for (const phase of [...NEW_PHASES, ANYTIME]) faults.push({ mode, fault, phase });
      }
    }
  }
  return faults;
}

/** The modes take turns, each with its faults in the order of `rank`: so a run that has not time for all has some of each mode. */
export function inTurns(faults: readonly Fault[], rank: () => number): Fault[] {
  const shuffled = faults.map((fault) => ({ fault, rank: rank() })).sort((a, b) => a.rank - b.rank);
  const byMode = MODES.map((mode) => shuffled.filter(({ fault }) => fault.mode === mode));
  const longest = Math.max(...byMode.map(({ length }) => length));
  return Array.from({ length: longest }, (_, turn) => byMode.flatMap((own) => own[turn]?.fault ?? [])).flat();
}
