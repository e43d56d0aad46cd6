// SPDX-License-Identifier: Apache-2.0
// Runs scenarios one after another in one boot of the lab and tells how each went.
import {
  cacheDir,
  type GuestSeries,
  type Kernel,
  type LabAssets,
  missingGuestKernel,
  missingLuoKernel,
  projectDir,
} from "./assets.ts";
import { type LabRun, runLab } from "./machine.ts";
import { EXIT_SKIPPED } from "./scenario.ts";

export interface Scenario {
  /** `NAME[:ARGUMENT…]`: the program `scenarios/NAME.ts` and its arguments. */
  spec: string;
  /** The kernel that its guest boots. */
  guestSeries?: GuestSeries;
  /** It needs /dev/liveupdate. */
  usesLuo?: boolean;
}

/** Scenarios that run one after another in one boot of the lab. */
export interface Boot {
  scenarios: readonly Scenario[];
  /** Its one scenario replaces the lab's kernel, and runs again under the new one. */
  kexecs?: boolean;
  /** The lab's kernel, before and after, is the one with the Live Update Orchestrator. */
  luo?: boolean;
  /** Default: `SCENARIO_TIMEOUT_SECONDS`. */
  scenarioTimeoutSeconds?: number;
}

/** Two at a time run side by side: the one that takes longest begins. */
export const BOOTS: readonly Boot[] = [
  // A minute or more for a relay with two cores that are busy.
  {
    scenarios: [{ spec: "clock-set-back" }, { spec: "linux-chaos", guestSeries: "6.12" }],
    scenarioTimeoutSeconds: 600,
  },
  {
    scenarios: [
      { spec: "kvm-present" },
      { spec: "linux-cpr-exec:6.12:1", guestSeries: "6.12" },
      { spec: "linux-cpr-exec:6.1:2", guestSeries: "6.1" },
    ],
  },
  {
    scenarios: [
      { spec: "linux-cpr-exec:6.12:2", guestSeries: "6.12" },
      { spec: "linux-cpr-exec:6.1:1", guestSeries: "6.1" },
      { spec: "unpacked-kernel", guestSeries: "6.12" },
    ],
  },
  // On the engine, in an emulated machine, a round of checks takes seconds, of two vCPUs on one CPU a minute.
  {
    scenarios: [{ spec: "linux-kvm-wasm-kvm:6.12:1:cpr-exec:cpr-transfer:cpr-reboot:normal", guestSeries: "6.12" }],
    scenarioTimeoutSeconds: 600,
  },
  { kexecs: true, scenarios: [{ spec: "kexec-cpr-reboot", guestSeries: "6.12" }] },
  { kexecs: true, luo: true, scenarios: [{ spec: "luo-kexec", usesLuo: true }] },
  { kexecs: true, luo: true, scenarios: [{ spec: "luo-cpr-reboot", usesLuo: true }] },
];

/**
 * The boots that a person asks for: by the beginning of scenarios' names (`kexec`), by the first words of their specs
 * (`linux-cpr-exec:6.12`), or by a spec with arguments of its own (`linux-cpr-exec:6.12:1:200`).
 */
export function chooseBoots(wanted: string): Boot[] {
  const isWanted = (spec: string) =>
    spec.startsWith(wanted) && (!wanted.includes(":") || /^(:|$)/.test(spec.slice(wanted.length)));
  const known = BOOTS.map(({ scenarios, ...boot }) => {
    return { ...boot, scenarios: scenarios.filter(({ spec }) => isWanted(spec)) };
  }).filter(({ scenarios }) => scenarios.length > 0);
  if (known.length > 0) return known;
  const nameOf = (spec: string) => spec.split(":")[0];
  const kin = BOOTS.find(({ scenarios }) => scenarios.some(({ spec }) => nameOf(spec) === nameOf(wanted)));
  return [{ ...kin, scenarios: [{ spec: wanted }], scenarioTimeoutSeconds: OWN_ARGUMENTS_TIMEOUT_SECONDS }];
}

/** A person may ask for any number of updates. */
const OWN_ARGUMENTS_TIMEOUT_SECONDS = 24 * 3600;

/** The longest takes two minutes on two cores that two boots share. */
export const SCENARIO_TIMEOUT_SECONDS = 300;

export interface Outcome {
  verdict: "passed" | "failed" | "skipped";
  /** Why it failed or was skipped: its last line. */
  reason: string;
  /** What it printed. */
  output: string;
}

export interface SuiteOptions {
  scenarioTimeoutSeconds: number;
  labTimeoutMs: number;
  /** The lab's kernel is to be replaced: it starts with an older one where there is one. */
  kexecs?: boolean;
  luo?: boolean;
  onOutput?: (chunk: string) => void;
}

/** Why a scenario cannot run with these assets, or `undefined`. */
export function whySkipped(scenario: Scenario, assets: LabAssets): string | undefined {
  const missingLuo = scenario.usesLuo ? missingLuoKernel(assets) : undefined;
  return scenario.guestSeries === undefined ? missingLuo : missingGuestKernel(assets, scenario.guestSeries);
}

const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

/** What a command in the lab needs before it runs: only /tmp can be written to, and nothing is inherited. */
export function labPrologue(): string {
  const environment = {
    PATH: `${projectDir}/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    HOME: "/tmp",
    DENO_DIR: "/tmp/deno",
    DENO_NO_UPDATE_CHECK: "1",
    NO_COLOR: "1",
    TERM: "dumb",
    BATON_LAB_DIR: cacheDir,
    BATON_TEST_LIMIT_SECONDS: "240",
  };
  const exports = Object.entries(environment).map(([name, value]) => `export ${name}=${quote(value)}`);
  return [...exports, `cd ${quote(projectDir)}`, ""].join("\n");
}

function scenarioCommand(spec: string, timeoutSeconds: number): string {
  const [name, ...args] = spec.split(":");
  const words = ["bun", "run", `test/lab/scenarios/${name}.ts`, ...args].map(quote).join(" ");
  return [
    `echo "lab: begin ${spec}"`,
    `timeout -k 5 ${timeoutSeconds} ${words} 2>&1`,
    // On a line of its own, whatever the scenario printed last.
    `printf '\\nlab: end %s %d\\n' ${quote(spec)} $?`,
    "",
  ].join("\n");
}

function readOutcome(spec: string, run: LabRun): Outcome {
  const text = run.output.replaceAll("\r", "");
  const begin = text.indexOf(`lab: begin ${spec}\n`);
  if (begin < 0) {
    return { verdict: "failed", reason: `The lab ended${run.timedOut ? " by timeout" : ""} before it`, output: text };
  }
  const end = text.indexOf(`\nlab: end ${spec} `, begin);
  const output = text.slice(text.indexOf("\n", begin) + 1, end < 0 ? undefined : end);
  if (end < 0) return { verdict: "failed", reason: `The lab ended${run.timedOut ? " by timeout" : ""} in it`, output };
  const exitCode = Number(/lab: end \S+ (\d+)/.exec(text.slice(end))?.[1]);
  const lastLine = output.trimEnd().split("\n").at(-1) ?? "";
  if (exitCode === 0) return { verdict: "passed", reason: "", output };
  if (exitCode === EXIT_SKIPPED) return { verdict: "skipped", reason: lastLine.replace(/^SKIP /, ""), output };
  // timeout(1): 124 when SIGTERM was enough, 137 when it took SIGKILL.
  const ranOut = exitCode === 124 || exitCode === 137;
  const failure = /^FAIL (.*)$/m.exec(output)?.[1] ?? lastLine;
  return { verdict: "failed", reason: ranOut ? "It ran out of time" : `Exit code ${exitCode}: ${failure}`, output };
}

function kernelsFor(assets: LabAssets, { kexecs, luo }: Pick<SuiteOptions, "kexecs" | "luo">): Kernel[] {
  if (luo) {
    const missing = missingLuoKernel(assets);
    if (missing !== undefined) throw new Error(missing);
    return [assets.luoKernel!];
  }
  return kexecs && assets.olderLabKernel !== undefined ? [assets.olderLabKernel, assets.labKernel] : [assets.labKernel];
}

/** Boots the lab once and runs the scenarios in it. The guests' image must be there: `writeGuestInitramfs`. */
export async function runScenarios(
  assets: LabAssets,
  specs: string[],
  options: SuiteOptions,
): Promise<Map<string, Outcome>> {
  const command = labPrologue() + specs.map((spec) => scenarioCommand(spec, options.scenarioTimeoutSeconds)).join("");
  const run = await runLab(assets, {
    kernels: kernelsFor(assets, options),
    command,
    interactive: false,
    timeoutMs: options.labTimeoutMs,
    ...(options.onOutput === undefined ? {} : { onOutput: options.onOutput }),
  });
  return new Map(specs.map((spec) => [spec, readOutcome(spec, run)]));
}
