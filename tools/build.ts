// SPDX-License-Identifier: Apache-2.0
// Builds the Wasm modules of assembly/ into build/*.ts, those of devices also into build/modules/, and, with --dist, the single-file release dist/baton.
//
// The modules are embedded as base64 in TypeScript files because that is the one form that Bun, Deno and the
// compiled binary all load the same way, without a file system.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import asc from "assemblyscript/asc";
import { endOf, parseFields } from "../src/machine/device-fields.ts";
import { DESCRIPTION_SECTION, describeLayout, type ModuleDescription } from "../src/machine/module-description.ts";
import { functionSizes, readWasm, withCustomSection } from "../src/machine/wasm-file.ts";
import { ENTRIES } from "../src/runtime/entry.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const buildDir = join(root, "build");
/** Device modules as files, for `device-module-swap`. */
const modulesDir = join(buildDir, "modules");

/** Every `assembly/…/module.ts` is one Wasm module, named by its folder: `assembly/devices/uart16550/module.ts`. */
function findModules(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) return findModules(path);
    return entry.name === "module.ts" ? [relative(root, path)] : [];
  });
}

function newestSource(dir: string): number {
  return Math.max(
    ...readdirSync(dir, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => statSync(join(entry.parentPath, entry.name)).mtimeMs),
  );
}

async function compileModule(source: string): Promise<Uint8Array> {
  let binary: Uint8Array | undefined;
  const { error, stderr } = await asc.main([source, "--config", "asconfig.json", "--outFile", "module.wasm"], {
    readFile: (name: string, baseDir: string) => {
      const path = join(baseDir, name);
      return existsSync(path) ? readFileSync(path, "utf8") : null;
    },
    writeFile: (name: string, contents: string | Uint8Array) => {
      if (name === "module.wasm") binary = contents as Uint8Array;
    },
  });
  if (error !== null || binary === undefined) {
    throw new Error(`asc ${source} failed: ${error?.message ?? "no output"}\n${stderr.toString()}`);
  }
  if (readWasm(binary).hasData) {
    throw new Error(`${source} has static data: modules share one memory and may not place data in it`);
  }
  checkFunctionSizes(source, binary);
  return binary;
}

/** Of a module's largest function: the interpreter's loop is meant. Beyond that runtimes are slow to optimise it, or never do. */
const LARGEST_FUNCTION_SIZE_BYTES = 40 * 1024;
/** Of any other. One that has more had things inlined into it that were not meant to be. */
const FUNCTION_SIZE_BYTES = 12 * 1024;

function checkFunctionSizes(source: string, binary: Uint8Array): void {
  const [largest = 0, second = 0] = functionSizes(binary).sort((a, b) => b - a);
  if (largest > LARGEST_FUNCTION_SIZE_BYTES) {
    throw new Error(
      `${source}: the largest function has ${largest} bytes of Wasm and may have ${LARGEST_FUNCTION_SIZE_BYTES}: runtimes do not optimise it then, see docs/engine.md`,
    );
  }
  if (second > FUNCTION_SIZE_BYTES) {
    throw new Error(
      `${source}: the largest function but one has ${second} bytes of Wasm and may have ${FUNCTION_SIZE_BYTES}: was something inlined that is large?`,
    );
  }
}

/** What a device module says of itself; undefined for other modules. */
async function describeDevice(name: string, source: string): Promise<ModuleDescription | undefined> {
  const path = join(root, dirname(source), "layout.ts");
  if (!source.startsWith("assembly/devices/") || !existsSync(path)) return undefined;
  return describeLayout(name, await import(path));
}

/** What saved state of a device looks like: made here, so that no update has to derive it inside the pause. */
function stateOf({ version, fields }: ModuleDescription): string {
  return JSON.stringify({ version, fields, sizeBytes: endOf(parseFields(fields)!) });
}

/** The rooms of `assembly/`, each with its modules: a file for each room, so that nobody loads what he does not use. */
function findRooms(): Map<string, string[]> {
  const rooms = new Map<string, string[]>();
  for (const source of findModules(join(root, "assembly")).sort()) {
    const room = source.split("/")[1]!;
    rooms.set(room, [...(rooms.get(room) ?? []), source]);
  }
  return rooms;
}

async function buildModules(): Promise<void> {
  const rooms = findRooms();
  const targetOf = (room: string): string => join(buildDir, `${room}.ts`);
  const others = [
    "asconfig.json",
    "tools/build.ts",
    ...["device-fields", "module-description", "wasm-file"].map((name) => `src/machine/${name}.ts`),
  ];
  const newest = Math.max(
    newestSource(join(root, "assembly")),
    ...others.map((file) => statSync(join(root, file)).mtimeMs),
  );
  const isBuilt = (target: string): boolean => existsSync(target) && statSync(target).mtimeMs > newest;
  if ([...rooms.keys()].every((room) => isBuilt(targetOf(room)))) return;
  mkdirSync(modulesDir, { recursive: true });
  for (const [room, sources] of rooms) await buildRoom(targetOf(room), room, sources);
}

async function buildRoom(target: string, room: string, sources: readonly string[]): Promise<void> {
  const lines = [`// Generated by tools/build.ts from assembly/${room}/. Do not edit.`, "export const modules = {"];
  const states: string[] = [];
  for (const source of sources) {
    const name = source.split("/").at(-2)!;
    let binary = await compileModule(source);
    const description = await describeDevice(name, source);
    if (description !== undefined) {
      binary = withCustomSection(binary, DESCRIPTION_SECTION, new TextEncoder().encode(JSON.stringify(description)));
      states.push(`  ${JSON.stringify(name)}: ${stateOf(description)},`);
      writeFileSync(join(modulesDir, `${name}.wasm`), binary);
    }
    lines.push(`  ${JSON.stringify(name)}: ${JSON.stringify(Buffer.from(binary).toString("base64"))},`);
    process.stderr.write(`build: ${name}.wasm ${binary.length} bytes\n`);
  }
  lines.push("} as const;");
  if (states.length > 0) {
    lines.push("export const deviceStates = {", ...states, "} as const;");
    lines.push("export type DeviceName = keyof typeof deviceStates;");
  }
  // Renamed into place so that two builds at once never show a half-written file.
  writeFileSync(`${target}.${process.pid}`, `${lines.join("\n")}\n`);
  renameSync(`${target}.${process.pid}`, target);
}

function buildDist(): void {
  const outfile = join(root, "dist/baton");
  mkdirSync(join(root, "dist"), { recursive: true });
  const { exitCode, stderr, stdout } = Bun.spawnSync(
    [
      process.execPath,
      "build",
      "--compile",
      "--minify",
      "--bytecode",
      // Else it is guessed from the entry points.
      "--root=src",
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
      ...ENTRIES.map((path) => `src/${path}`),
      "--outfile",
      `${outfile}.${process.pid}`,
    ],
    { cwd: root },
  );
  if (exitCode !== 0) throw new Error(`bun build failed: ${stderr.toString()}${stdout.toString()}`);
  renameSync(`${outfile}.${process.pid}`, outfile);
  process.stderr.write(`build: dist/baton ${(statSync(outfile).size / 2 ** 20).toFixed(0)} MiB\n`);
}

await buildModules();
if (process.argv.includes("--dist")) buildDist();
