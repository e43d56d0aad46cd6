// SPDX-License-Identifier: Apache-2.0
// A command line that was changed for an update, held against the running machine.
import { readFileSync } from "node:fs";
import { interpretOptions } from "../config/interpret.ts";
import { parseArguments } from "../config/parse-arguments.ts";
import { compareSpecs, type Difference } from "../config/same-machine.ts";
import type { AcceleratorName, MachineSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";

export interface CommandLine {
  /** Where the guest will run: it may go to another accelerator. */
  accelerators: AcceleratorName[];
  /** Everything else that the command line would have otherwise. */
  differences: Difference[];
}

/** @throws VmmError "usage" */
export function readCommandLine(args: readonly string[], running: MachineSpec): CommandLine {
  const wanted = interpretOptions(parseArguments([...args], (path) => readFileSync(path, "utf8")).options);
  const accelerators = wanted.accelerators ?? running.accelerators;
  const isStaying = accelerators.includes(running.accelerators[0]!);
  const differences = compareSpecs(running, { ...wanted, accelerators: running.accelerators });
  // Nothing is measured while the guest stands: it goes to the first.
  return { accelerators: isStaying ? running.accelerators : accelerators.slice(0, 1), differences };
}

export function describeDifference({ what, running, wanted }: Difference): string {
  return `${what} is ${running}, the new command line says ${wanted}`;
}

/**
 * The accelerator that the guest is to have. Everything else comes from the state; what the command line says of it may not contradict that. Back ends cannot be changed
 * in an update yet either: better to refuse than to ignore it.
 * @throws VmmError "usage", "machine-differs"
 */
export function checkCommandLine(args: readonly string[], running: MachineSpec): AcceleratorName[] {
  const { accelerators, differences } = readCommandLine(args, running);
  if (differences.length === 0) return accelerators;
  const list = differences.map(describeDifference);
  throw new VmmError("machine-differs", `The new command line differs from the running machine: ${list.join("; ")}`);
}
