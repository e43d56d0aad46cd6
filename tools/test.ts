// SPDX-License-Identifier: Apache-2.0
// Runs every test file alone, on Bun and on Deno, and closes with `N passed, N failed, N skipped`. Some of those that run guests on KVM
// are run once more with guests on the engine.
//
//   bun run tools/test.ts [--runtime bun|deno] [--accelerator kvm|wasm] [--only SUBSTRING] [--verbose]
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { kvmMissing } from "../test/kvm.ts";
import { runChecks } from "./check.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const { values: options } = parseArgs({
  options: {
    runtime: { type: "string" },
    accelerator: { type: "string" },
    only: { type: "string" },
    verbose: { type: "boolean" },
  },
});

const runtimes: Record<string, string[]> = {
  bun: ["bun", "run"],
  deno: ["deno", "run", "--allow-all", "--quiet"],
};
/** What is run once more on the engine: all kinds of updates, and what the VM does beside them; the rest would find the same. */
const ENGINE_UPDATES = ["cpr-exec", "cpr-reboot", "cpr-transfer", "normal"].map((name) => `migration/${name}`);
const ENGINE_FILES: Record<string, readonly string[]> = {
  bun: [
    ...ENGINE_UPDATES,
    ...["machine/create-vm", "machine/vm", "migration/anonymous-ram", "migration/cpr-exec-rollback"],
    ...["migration/dry-run", "migration/relay", "migration/save"],
  ],
  // What is beside the updates has been run on Bun.
  deno: ENGINE_UPDATES,
};
/** A file that takes longer hangs. The slowest, those of the lab, take up to fifteen minutes. */
const FILE_TIMEOUT_MS = 1_800_000;

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Reads the closing lines uvu prints when a file runs by itself; a file that registered no test prints none. */
function readCounts(output: string): { total: number; passed: number; skipped: number } | undefined {
  let found: { total: number; passed: number; skipped: number } | undefined;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: uvu colours its output
  const plain = output.replace(/\x1b\[\d+m/g, "");
  for (const match of plain.matchAll(/Total: +(\d+)\s+Passed: +(\d+)\s+Skipped: +(\d+)/g)) {
    found = { total: Number(match[1]), passed: Number(match[2]), skipped: Number(match[3]) };
  }
  return found;
}

async function run(command: string[], env: Record<string, string> = {}): Promise<{ exitCode: number; output: string }> {
  const child = Bun.spawn(command, {
    ...{ cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: FILE_TIMEOUT_MS },
    env: { ...process.env, ...env },
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const exitCode = await child.exited;
  return { exitCode: child.signalCode === null ? exitCode : 124, output: stdout + stderr };
}

/** On the accelerator that the test takes by itself, unless one is named: see test/accelerator.ts. */
async function runFile(runtime: string, file: string, accelerator?: string): Promise<Counts> {
  const env = accelerator === undefined ? {} : { BATON_TEST_ACCELERATOR: accelerator };
  const beginMs = performance.now();
  const { exitCode, output } = await run([...runtimes[runtime]!, file], env);
  const seconds = ((performance.now() - beginMs) / 1000).toFixed(1);
  const name = accelerator === undefined ? file : `${file} on ${accelerator}`;
  const counts = readCounts(output);
  const passed = counts?.passed ?? 0;
  // uvu counts a skipped test in `skipped` only; `total` is what ran.
  const skipped = counts?.skipped ?? 0;
  let failed = counts === undefined ? 0 : counts.total - counts.passed;
  let problem = "";
  if (counts === undefined || counts.total + counts.skipped === 0) problem = "registered no test";
  else if (exitCode === 124) problem = `did not end within ${FILE_TIMEOUT_MS / 1000} s`;
  else if (exitCode !== 0 && failed === 0) problem = `exited with ${exitCode} though no test failed`;
  if (problem !== "") failed++;
  console.log(
    `${failed > 0 ? "FAIL" : "ok  "} ${runtime.padEnd(4)} ${name} (${passed} passed, ${skipped} skipped, ${seconds} s)`,
  );
  for (const line of output.split("\n")) if (/^(.* )?(SKIP|NOTE) /.test(line)) console.log(`     ${line}`);
  if (failed > 0) console.log(`${problem === "" ? "" : `     ${problem}\n`}${output.replace(/^/gm, "     | ")}`);
  else if (options.verbose) console.log(output);
  return { passed, failed, skipped };
}

const build = await run(["bun", "run", "tools/build.ts", "--dist"]);
if (build.exitCode !== 0) {
  process.stderr.write(build.output);
  console.log("0 passed, 1 failed, 0 skipped");
  process.exit(1);
}

const totals: Counts = { passed: 0, failed: 0, skipped: 0 };
if (options.only === undefined) {
  for (const { name, problems } of await runChecks()) {
    console.log(`${problems === "" ? "ok  " : "FAIL"} check ${name}`);
    if (problems !== "") console.log(problems.replace(/^/gm, "     | "));
    totals[problems === "" ? "passed" : "failed"]++;
  }
}
const files = readdirSync(join(root, "test"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".test.ts"))
  .map((file) => `test/${file}`)
  .filter((file) => options.only === undefined || file.includes(options.only))
  .sort();
for (const runtime of options.runtime === undefined ? Object.keys(runtimes) : [options.runtime]) {
  const again = options.accelerator === undefined && kvmMissing() === undefined ? ENGINE_FILES[runtime]! : [];
  const passes = [
    ...files.map((file) => [file, options.accelerator] as const),
    ...files
      .filter((file) => again.some((name) => file === `test/src/${name}.test.ts`))
      .map((file) => [file, "wasm"] as const),
  ];
  for (const [file, accelerator] of passes) {
    const counts = await runFile(runtime, file, accelerator);
    totals.passed += counts.passed;
    totals.failed += counts.failed;
    totals.skipped += counts.skipped;
  }
}
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exit(totals.failed > 0 || totals.passed === 0 ? 1 : 0);
