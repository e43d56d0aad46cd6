// SPDX-License-Identifier: Apache-2.0
// Runs a command with the project's pinned tools on PATH, installing them first when this checkout has none yet.
// Plain Node on purpose: it is the one thing a fresh machine has.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const stamp = join(root, "node_modules", ".baton-lock");
const lockHash = createHash("sha256")
  .update(readFileSync(join(root, "package-lock.json")))
  .digest("hex");

if (!existsSync(stamp) || readFileSync(stamp, "utf8") !== lockHash) {
  console.error("setup: installing the pinned tools from npm");
  // Not `npm ci`: that fails where a registry lacks the binaries of other platforms. Install scripts are not left to
  // npm, which runs them or not depending on its version; only two are needed, to put binaries in their places.
  const install = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  for (const [command, ...args] of [
    ["npm", ...install],
    [process.execPath, "node_modules/bun/install.js"],
    [process.execPath, "node_modules/deno/install.cjs"],
  ]) {
    const step = spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
    if (step.status === 0) continue;
    console.error(`setup: ${args[0]} failed with ${step.error?.message ?? `exit code ${step.status}`}`);
    process.exit(1);
  }
  writeFileSync(stamp, lockHash);
}

const [command, ...args] = process.argv.slice(2);
const run = spawnSync(command, args, {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, PATH: `${join(root, "node_modules", ".bin")}:${process.env.PATH}` },
});
if (run.error) console.error(`setup: ${command}: ${run.error.message}`);
process.exit(run.status ?? 1);
