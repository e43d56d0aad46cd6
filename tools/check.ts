// SPDX-License-Identifier: Apache-2.0
// Everything that can be said of the sources without running them: format, lint, types for Bun and Deno, room rules.
//
//   bun run tools/check.ts
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { ENTRIES } from "../src/runtime/entry.ts";
import { VERSION } from "../src/version.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

export interface CheckResult {
  name: string;
  /** Empty when all is well. */
  problems: string;
}

async function command(name: string, args: string[]): Promise<CheckResult> {
  const child = Bun.spawn(args, { cwd: root, stdout: "pipe", stderr: "pipe" });
  const output = (await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])).join("");
  return { name, problems: (await child.exited) === 0 ? "" : output };
}

function sources(dir: string): string[] {
  return readdirSync(join(root, dir), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => join(dir, file));
}

/** Where imports may lead, by the folder they start in (docs/architecture.md). */
const ROOMS: Record<string, RegExp> = {
  ffi: /^ffi\//,
  assembly: /^assembly\//,
  src: /^(src\/|ffi\/|build\/[a-z-]+\.ts|assembly\/(.*\/)?layout\.ts)/,
};

function rooms(): CheckResult {
  const problems: string[] = [];
  for (const [room, allowed] of Object.entries(ROOMS)) {
    for (const file of sources(room)) {
      const text = readFileSync(join(root, file), "utf8");
      for (const [, target = ""] of text.matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)) {
        const path = relative(root, join(root, dirname(file), target));
        if (!allowed.test(path)) problems.push(`${file} may not import ${path}`);
      }
      if (room === "src" && /["']koffi["']|@koromix/.test(text)) problems.push(`${file} may not use koffi: ffi/ does`);
      if (room === "src" && !file.startsWith("src/runtime/") && /\b(Bun|Deno)\./.test(text)) {
        problems.push(`${file} may not name Bun or Deno: src/runtime/ does`);
      }
      if (room === "src" && /Atomics\.wait\(([^,;]*,){3}/.test(text)) {
        problems.push(`${file} may not wait with a timeout by Atomics: ffi/futex.ts does`);
      }
    }
  }
  return { name: "rooms", problems: problems.join("\n") };
}

/** Between `exec` and "guest runs" nothing of these is needed, and loading it would lengthen the pause. */
const NOT_IN_THE_PAUSE =
  /^src\/(accel\/(choose|kvm\/probe)\.ts|config|hmp|cli\/(?!main\.ts)|machine\/(boot|acpi)|qmp\/(?!events\.ts)|backends\/(?!chardev\/output-queue\.ts))/;

/** What `src/cli/main.ts` loads at once, by whom: imports of types alone load nothing. */
function updatePath(): CheckResult {
  const importers = new Map([["src/cli/main.ts", "the command line"]]);
  const problems: string[] = [];
  for (const [file, importer] of importers) {
    if (NOT_IN_THE_PAUSE.test(file)) {
      problems.push(`${importer} may not import ${file}: every update would load it before the guest runs`);
      continue;
    }
    if (!file.startsWith("src/") && !file.startsWith("ffi/")) continue;
    const text = readFileSync(join(root, file), "utf8");
    for (const [, target = ""] of text.matchAll(/^(?:import|export) (?!type )[^"();]*?"(\.[^"]+)"/gm)) {
      const path = relative(root, join(root, dirname(file), target));
      if (!importers.has(path)) importers.set(path, file);
    }
  }
  return { name: "update path", problems: problems.join("\n") };
}

function version(): CheckResult {
  const { version: packaged } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  return {
    name: "version",
    problems: packaged === VERSION ? "" : `package.json has ${packaged}, src/version.ts ${VERSION}`,
  };
}

/** Runs all checks; they are independent of each other. */
export async function runChecks(): Promise<CheckResult[]> {
  return Promise.all([
    command("format and lint (biome)", ["biome", "ci", "--colors=off", "."]),
    command("types for Bun (tsc)", ["tsc", "--noEmit"]),
    command("types for Deno (deno check)", [
      "deno",
      "check",
      "--quiet",
      "src/mod.ts",
      "src/qmp/client.ts",
      ...ENTRIES.map((path) => `src/${path}`),
    ]),
    rooms(),
    updatePath(),
    version(),
  ]);
}

if (import.meta.main) {
  const results = await runChecks();
  for (const { name, problems } of results)
    console.log(`${problems === "" ? "ok  " : "FAIL"} ${name}\n${problems}`.trim());
  process.exit(results.some(({ problems }) => problems !== "") ? 1 : 0);
}
