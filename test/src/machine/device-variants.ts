// SPDX-License-Identifier: Apache-2.0
// Device modules for tests: the built-in ones as files, with another description, or compiled from changed sources.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DeviceName } from "../../../build/devices.ts";
import { builtInModule } from "../../../src/machine/module-candidate.ts";
import {
  DESCRIPTION_SECTION,
  describeLayout,
  type ModuleDescription,
} from "../../../src/machine/module-description.ts";
import { withCustomSection } from "../../../src/machine/wasm-file.ts";
import { temporaryDirectory } from "../../ffi/support.ts";

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** Path of a file with these bytes. */
export function moduleFile(bytes: Uint8Array, name = "module.wasm"): string {
  const path = join(temporaryDirectory(), name);
  writeFileSync(path, bytes);
  return path;
}

/** The module without what it says of itself. */
export function undescribed(name: DeviceName): Uint8Array<ArrayBuffer> {
  const { bytes, description } = builtInModule(name);
  const section = withCustomSection(new Uint8Array(0), DESCRIPTION_SECTION, json(description));
  return bytes.slice(0, bytes.length - section.length);
}

export function describedAs(bytes: Uint8Array, description: unknown): Uint8Array<ArrayBuffer> {
  return withCustomSection(bytes, DESCRIPTION_SECTION, json(description));
}

/** The built-in module, which says something else of itself. */
export function variantOf(name: DeviceName, changes: Partial<ModuleDescription>): Uint8Array<ArrayBuffer> {
  return describedAs(undescribed(name), { ...builtInModule(name).description, ...changes });
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** Replaces text of a source file; fails when it is not there. */
export type Edit = readonly [file: "module.ts" | "layout.ts", from: string, to: string];

/** Compiles a device from its sources with these edits. What it says of itself follows from the edited layout. */
export async function compileDevice(name: DeviceName, edits: readonly Edit[]): Promise<Uint8Array<ArrayBuffer>> {
  const folder = `assembly/devices/${name}`;
  const edited = (file: string): string => {
    let text = readFileSync(join(root, folder, file), "utf8");
    for (const [target, from, to] of edits) {
      if (target !== file) continue;
      if (!text.includes(from)) throw new Error(`${folder}/${file} does not contain ${from}`);
      text = text.replace(from, to);
    }
    return text;
  };
  const { default: asc } = await import("assemblyscript/asc");
  let binary: Uint8Array | undefined;
  const options = [`${folder}/module.ts`, "--config", "asconfig.json", "--outFile", "module.wasm"];
  const { error, stderr } = await asc.main(options, {
    readFile: (file: string, baseDir: string) => {
      const path = join(root, baseDir === "." ? "" : baseDir, file);
      if (path === join(root, folder, "module.ts")) return edited("module.ts");
      if (path === join(root, folder, "layout.ts")) return edited("layout.ts");
      return existsSync(path) ? readFileSync(path, "utf8") : null;
    },
    writeFile: (file: string, contents: string | Uint8Array) => {
      if (file === "module.wasm") binary = contents as Uint8Array;
    },
  });
  if (error !== null || binary === undefined) throw new Error(`asc: ${error?.message}\n${stderr.toString()}`);
  const constants: Record<string, number> = {};
  for (const [, constant, value] of edited("layout.ts").matchAll(/^export const ([A-Z0-9_]+) = (\w+);/gm)) {
    constants[constant!] = Number(value);
  }
  return describedAs(binary, describeLayout(name, constants));
}
