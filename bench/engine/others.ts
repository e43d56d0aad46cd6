// SPDX-License-Identifier: Apache-2.0
// What the engine is measured in, and what it is measured beside, as far as this machine has it.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { VmmError } from "../../src/errors.ts";
import { findProgram } from "../../src/runtime/program.ts";

const binary = (name: string): string => fileURLToPath(new URL(`../../node_modules/.bin/${name}`, import.meta.url));

/** What runs a program of this project. */
export const RUNTIMES = { bun: [binary("bun"), "run"], deno: [binary("deno"), "run", "-A", "--quiet"] } as const;
export type RuntimeName = keyof typeof RUNTIMES;
export const RUNTIME_NAMES = Object.keys(RUNTIMES) as RuntimeName[];

/** The path of v86's libv86.mjs, when it is not where `import("v86")` would find it. */
const V86_VARIABLE = "BATON_V86";
const QEMU = "qemu-system-x86_64";

/** Adds to `notes` why there is none. */
export function findQemu(peer: string | undefined, notes: string[]): string | undefined {
  if (peer !== undefined) return peer;
  try {
    return findProgram(QEMU);
  } catch (error) {
    if (!(error instanceof VmmError)) throw error;
    notes.push(`No QEMU to compare with: ${error.message} (--peer names one)`);
    return undefined;
  }
}

/** Adds to `notes` why there is none. */
export function findV86(notes: string[]): string | undefined {
  const named = process.env[V86_VARIABLE];
  if (named !== undefined) {
    if (existsSync(named)) return named;
    throw new Error(`${V86_VARIABLE} names ${named}, which does not exist`);
  }
  try {
    return fileURLToPath(import.meta.resolve("v86"));
  } catch {
    notes.push(`No v86 to compare with: npm install v86 somewhere, and name its libv86.mjs in ${V86_VARIABLE}`);
    return undefined;
  }
}
