// SPDX-License-Identifier: Apache-2.0
// Which VMs are measured, how often, and in which order.

/** How Baton is run. */
export type Form = "compiled" | "bun-run";
/** Who is measured: Baton in one of its forms, or the QEMU beside it. */
export type Contestant = Form | "peer";

export interface Configuration {
  contestant: Contestant;
  ramMiB: number;
  cpuCount: number;
}

/** One VM's life: started, RAM touched, its first update, then `updates` more. */
export interface Session {
  configuration: Configuration;
  updates: number;
}

export const SMALL_MIB = 128;
export const LARGE_MIB = 3072;
const RAM_MIB = [SMALL_MIB, 1024, LARGE_MIB];

const LABELS: Record<Contestant, string> = { compiled: "compiled", "bun-run": "bun run", peer: "QEMU" };

export const labelOf = (contestant: Contestant): string => LABELS[contestant];

export function ramLabel(ramMiB: number): string {
  return ramMiB >= 1024 ? `${ramMiB / 1024} GiB` : `${ramMiB} MiB`;
}

const vcpuLabel = (cpuCount: number): string => `${cpuCount} vCPU${cpuCount === 1 ? "" : "s"}`;

/** Stable: `compiled/128-mib/1-vcpu`. */
export function idOf({ contestant, ramMiB, cpuCount }: Configuration): string {
  return `${contestant}/${ramLabel(ramMiB).toLowerCase().replace(" ", "-")}/${cpuCount}-vcpu`;
}

export function describeConfiguration({ contestant, ramMiB, cpuCount }: Configuration): string {
  return `${labelOf(contestant)}, ${ramLabel(ramMiB)}, ${vcpuLabel(cpuCount)}`;
}

interface Share {
  /** Fresh VMs, and so first updates. */
  sessions: number;
  /** Further updates of each. */
  updates: number;
}

/** What the promises are made for gets 20 first updates. Always 20 further updates or more. */
function shareOf({ contestant, ramMiB, cpuCount }: Configuration): Share {
  const isPromised = contestant === "compiled" && cpuCount === 1 && ramMiB !== 1024;
  return isPromised ? { sessions: 20, updates: 2 } : { sessions: 2, updates: 10 };
}

export interface PlanOptions {
  quick: boolean;
  hasPeer: boolean;
}

function configurationsOf({ quick, hasPeer }: PlanOptions): Configuration[] {
  if (quick) {
    const contestants: Contestant[] = hasPeer ? ["compiled", "peer"] : ["compiled"];
    return [SMALL_MIB, LARGE_MIB].flatMap((ramMiB) =>
      contestants.map((contestant) => ({ contestant, ramMiB, cpuCount: 1 })),
    );
  }
  const forms: Contestant[] = ["compiled", "bun-run"];
  return RAM_MIB.flatMap((ramMiB) => [
    ...forms.flatMap((contestant) => [1, 2].map((cpuCount) => ({ contestant, ramMiB, cpuCount }))),
    ...(hasPeer ? [{ contestant: "peer" as const, ramMiB, cpuCount: 1 }] : []),
  ]);
}

/** In turns, so that a disturbance of the machine meets all configurations and not one. */
export function planSessions(options: PlanOptions): Session[] {
  const shares = configurationsOf(options).map((configuration) => ({
    configuration,
    ...(options.quick ? { sessions: 2, updates: 3 } : shareOf(configuration)),
  }));
  const turns = Math.max(...shares.map(({ sessions }) => sessions));
  // Those with fewer sessions have them all over the run, not at its beginning.
  const isIn = (turn: number, sessions: number): boolean =>
    Math.floor((turn * sessions) / turns) !== Math.floor(((turn - 1) * sessions) / turns);
  return Array.from({ length: turns }, (_, turn) => turn).flatMap((turn) =>
    shares
      .filter(({ sessions }) => isIn(turn, sessions))
      .map(({ configuration, updates }): Session => ({ configuration, updates })),
  );
}
