// SPDX-License-Identifier: Apache-2.0
// The command line of `baton demo`.
import { parseSize } from "../../config/qemu-options.ts";
import { UsageError } from "../../config/usage.ts";
import { parseVerbArguments } from "../arguments.ts";

export interface DemoOptions {
  updates: number;
  /** Only look whether everything is in place. */
  check: boolean;
  ramSizeBytes: number;
  cpuCount: number;
  /** File for a picture. */
  svg: string | undefined;
  help: boolean;
}

export const USAGE = `Usage: baton demo [OPTION…]
Replaces the VMM under a running guest, and shows how long the guest stood still.

  --updates N   how often (default 10)
  --ram SIZE    the guest's RAM, 16M to 3G (default 128M)
  --vcpus N     1 to 8 (default 1)
  --svg FILE    draw a picture of it
  --check       only say whether everything that it needs is in place
  --help`;

const OPTIONS = {
  updates: { type: "string", default: "10" },
  check: { type: "boolean", default: false },
  ram: { type: "string", default: "128M" },
  vcpus: { type: "string", default: "1" },
  svg: { type: "string" },
} as const;

const MIB = 2 ** 20;
const MIN_RAM_SIZE_BYTES = 16 * MIB;
const MAX_RAM_SIZE_BYTES = 3072 * MIB;
const MAX_UPDATES = 10_000;
const MAX_VCPUS = 8;

/** @throws UsageError */
export function parseDemoOptions(args: readonly string[]): DemoOptions {
  const { values } = parseVerbArguments("demo", args, OPTIONS);
  return {
    updates: integer("updates", values.updates, MAX_UPDATES),
    check: values.check,
    ramSizeBytes: ramSize(values.ram),
    cpuCount: integer("vcpus", values.vcpus, MAX_VCPUS),
    svg: values.svg,
    help: values.help,
  };
}

function integer(name: string, text: string, max: number): number {
  const value = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > max) throw new UsageError(`demo: --${name} ${text}: not a number from 1 to ${max}`);
  return value;
}

function ramSize(text: string): number {
  // As with -m, a bare number counts in MiB.
  const sizeBytes = parseSize(text, MIB);
  if (sizeBytes === undefined || sizeBytes < MIN_RAM_SIZE_BYTES || sizeBytes > MAX_RAM_SIZE_BYTES) {
    throw new UsageError(`demo: --ram ${text}: not a size from 16M to 3G`);
  }
  return Math.floor(sizeBytes / MIB) * MIB;
}
