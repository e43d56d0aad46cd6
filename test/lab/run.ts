// SPDX-License-Identifier: Apache-2.0
// Boots the lab and runs scenarios, a command or a shell in it.
//
//   npm run lab -- [--fetch] [--no-build] [--shell | --command COMMAND | SCENARIO[:ARGUMENT…] …]
//
// `--fetch` alone only gets the kernels. Without scenarios all of them run; the beginning of a name is enough: `kexec`.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fetchUserland } from "../linux/assets.ts";
import { fetchKernels, findAssets, type LabAssets, projectDir } from "./assets.ts";
import { writeGuestInitramfs } from "./initramfs.ts";
import { runLab } from "./machine.ts";
import {
  BOOTS,
  chooseBoots,
  labPrologue,
  type Outcome,
  runScenarios,
  SCENARIO_TIMEOUT_SECONDS,
  whySkipped,
} from "./suite.ts";

/** Long: somebody watches, or has a shell. */
const INTERACTIVE_TIMEOUT_MS = 24 * 3600 * 1000;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    fetch: { type: "boolean" },
    "no-build": { type: "boolean" },
    shell: { type: "boolean" },
    command: { type: "string" },
  },
});

const complain = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

function prepareAssets(): LabAssets {
  try {
    fetchKernels(complain);
    fetchUserland(complain);
  } catch (error) {
    complain(`lab: ${error instanceof Error ? error.message : error}`);
  }
  const found = findAssets();
  if (!found.ok) {
    complain(`lab: ${found.reason}`);
    process.exit(1);
  }
  return found.assets;
}

function build(): void {
  const { status } = spawnSync(process.execPath, ["run", join(projectDir, "tools/build.ts"), "--dist"], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (status !== 0) {
    complain("lab: The build failed (--no-build runs what dist/ holds)");
    process.exit(1);
  }
}

async function runCommand(assets: LabAssets, command: string, interactive: boolean): Promise<number> {
  writeGuestInitramfs(assets);
  const run = await runLab(assets, {
    command: labPrologue() + command,
    interactive,
    timeoutMs: INTERACTIVE_TIMEOUT_MS,
    onOutput: (chunk) => process.stdout.write(chunk),
  });
  return interactive ? 0 : (run.exitCode ?? 1);
}

async function runSuite(assets: LabAssets): Promise<number> {
  writeGuestInitramfs(assets);
  const outcomes = new Map<string, Outcome>();
  for (const { scenarios, scenarioTimeoutSeconds = SCENARIO_TIMEOUT_SECONDS, ...kernels } of positionals.length > 0
    ? positionals.flatMap(chooseBoots)
    : BOOTS) {
    const runnable = scenarios.filter((scenario) => {
      const reason = whySkipped(scenario, assets);
      if (reason !== undefined) console.log(`SKIP ${scenario.spec}: ${reason}`);
      return reason === undefined;
    });
    if (runnable.length === 0) continue;
    const specs = runnable.map(({ spec }) => spec);
    const run = await runScenarios(assets, specs, {
      scenarioTimeoutSeconds,
      labTimeoutMs: (specs.length * scenarioTimeoutSeconds + 60) * 1000,
      onOutput: (chunk) => process.stdout.write(chunk),
      ...kernels,
    });
    for (const [spec, outcome] of run) outcomes.set(spec, outcome);
  }
  for (const [spec, { verdict, reason }] of outcomes) {
    console.log(`${verdict.toUpperCase().padEnd(7)} ${spec}${reason === "" ? "" : `: ${reason}`}`);
  }
  return [...outcomes.values()].some(({ verdict }) => verdict === "failed") ? 1 : 0;
}

const assets = prepareAssets();
const onlyFetches = options.fetch && !options.shell && options.command === undefined && positionals.length === 0;
if (onlyFetches) process.exit(0);
if (!options["no-build"]) build();
if (options.shell) process.exitCode = await runCommand(assets, "exec bash -i", true);
else if (options.command !== undefined) process.exitCode = await runCommand(assets, options.command, false);
else process.exitCode = await runSuite(assets);
