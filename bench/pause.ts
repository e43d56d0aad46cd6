// SPDX-License-Identifier: Apache-2.0
// The pause that a guest observes when its VMM is replaced by cpr-exec, measured from outside the VMM.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { FloorProgram, floorMetrics } from "./floor.ts";
import { checkPeer } from "./pause/peer.ts";
import { idOf, planSessions } from "./pause/plan.ts";
import { resultOf } from "./pause/result.ts";
import type { Series } from "./pause/series.ts";
import { canBeQuiet, runSession, type SessionTools } from "./pause/session.ts";
import { machineFacts } from "./report.ts";
import type { Subject, SubjectOptions, SubjectResult } from "./types.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What is measured is what KVM takes, wherever that is: left alone, Baton would pass over one that interprets. */
export const ACCELERATOR = ["-accel", "kvm"];

/** The compiled binary. @throws Error when there is none */
export function batonProgram(): string {
  const compiled = `${root}dist/baton`;
  if (!existsSync(compiled)) throw new Error("There is no dist/baton: bun run tools/build.ts --dist");
  return compiled;
}

/** Command lines of Baton in its forms. @throws Error when there is no compiled binary */
export function batonCommands(): SessionTools["commands"] {
  return {
    compiled: [batonProgram(), ...ACCELERATOR],
    "bun-run": [`${root}node_modules/.bin/bun`, "run", `${root}src/cli/main.ts`, ...ACCELERATOR],
  };
}

async function run({ quick, progress, peer }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  if (peer !== undefined) await checkPeer(peer);
  using floor = await FloorProgram.build();
  const tools: SessionTools = {
    commands: batonCommands(),
    peer,
    floor,
    floorMetrics: { compiled: floorMetrics("compiled", "floor/"), "bun-run": floorMetrics("bun-run", "floor/") },
    progress: (text) => progress.update(`pause: ${text}`),
  };
  const series = new Map<string, Series>();
  for (const session of planSessions({ quick, hasPeer: peer !== undefined })) {
    const { configuration } = session;
    const id = idOf(configuration);
    const own = series.get(id) ?? { configuration, fresh: [], updates: [], stopCont: [] };
    series.set(id, own);
    await runSession(session, own, tools);
  }
  const { cpu, kernel, date } = machineFacts();
  const subtitle = `${cpu}, ${kernel}, ${date.slice(0, 10)}`;
  const result = resultOf({ series: [...series.values()], floor: tools.floorMetrics, subtitle });
  const crowded = [...series.values()].map((own) => own.configuration.cpuCount).filter((count) => !canBeQuiet(count));
  if (crowded.length > 0) {
    result.notes.push(
      `Too few cores for ${Math.min(...crowded)} vCPUs and the meter: those pauses have waits for a core in them`,
    );
  }
  return result;
}

export const subject: Subject = {
  description: "guest-observed pause of cpr-exec updates (needs /dev/kvm)",
  run,
};
