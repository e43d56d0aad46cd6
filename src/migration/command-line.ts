// SPDX-License-Identifier: Apache-2.0
// A command line that was changed for an update, held against the running machine.
import { readFileSync } from "node:fs";
import { interpretOptions } from "../config/interpret.ts";
import { parseArguments } from "../config/parse-arguments.ts";
import { compareSpecs, type Difference } from "../config/same-machine.ts";
import type { MachineSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";

/** @throws VmmError "usage" */
export function commandLineDifferences(args: readonly string[], running: MachineSpec): Difference[] {
  const wanted = interpretOptions(parseArguments([...args], (path) => readFileSync(path, "utf8")).options);
  return compareSpecs(running, wanted);
}

export function describeDifference({ what, running, wanted }: Difference): string {
  return `${what} is ${running}, the new command line says ${wanted}`;
}

/**
 * Everything comes from the state; what the command line says of it may not contradict that. Back ends cannot be changed
 * in an update yet either: better to refuse than to ignore it.
 * @throws VmmError "usage", "machine-differs"
 */
export function checkCommandLine(args: readonly string[], running: MachineSpec): void {
  const differences = commandLineDifferences(args, running);
  if (differences.length === 0) return;
  const list = differences.map(describeDifference);
  throw new VmmError("machine-differs", `The new command line differs from the running machine: ${list.join("; ")}`);
}
