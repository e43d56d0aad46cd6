// SPDX-License-Identifier: Apache-2.0
// Compiles AssemblyScript for a test alone: parts of the engine that are no module by themselves.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import asc from "assemblyscript/asc";

const root = fileURLToPath(new URL("../..", import.meta.url));
const ENTRY = "test-entry.ts";

/** `source` is at the root of the project, and imports from `./assembly/…` without `.ts`. */
export async function compileAssembly(source: string): Promise<Uint8Array<ArrayBuffer>> {
  let binary: Uint8Array | undefined;
  const { error, stderr } = await asc.main([ENTRY, "--config", "asconfig.json", "--outFile", "test.wasm"], {
    readFile: (name: string) => {
      if (name === ENTRY) return source;
      const path = join(root, name);
      return existsSync(path) ? readFileSync(path, "utf8") : null;
    },
    writeFile: (name: string, contents: string | Uint8Array) => {
      if (name === "test.wasm") binary = contents as Uint8Array;
    },
  });
  if (error !== null || binary === undefined) throw new Error(`asc failed: ${error?.message}\n${stderr.toString()}`);
  return new Uint8Array(binary);
}
