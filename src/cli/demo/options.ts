// SPDX-License-Identifier: Apache-2.0
// The command line of `baton demo`.
import { parseSize } from "../../config/qemu-options.ts";
import type { AcceleratorName } from "../../config/types.ts";
import { UsageError } from "../../config/usage.ts";
import { parseVerbArguments } from "../arguments.ts";
import type { GuestChoice } from "./guest.ts";

export interface DemoOptions {
  updates: number;
  /** Only look what there is. */
  check: boolean;
  ramSizeBytes: number;
  cpuCount: number;
  /** Undefined: the one that is good. */
  accelerator: AcceleratorName | undefined;
  guest: GuestChoice;
  /** File for a picture. */
  svg: string | undefined;
  help: boolean;
}

export const USAGE = `Usage: baton demo [OPTION…]
Replaces the VMM under a running guest, and shows how long the guest stood still.

  --updates N   how often (default 10)
  --ram SIZE    the guest's RAM, 16M to 3G (default 128M)
  --vcpus N     1 to 8 (default 1)
  --accel NAME  kvm or wasm, Baton's own CPU engine (default: kvm where it runs guests on the CPU, else wasm)
  --guest WHICH payload: built in, checks itself; linux: the one of baton image, with 256M of RAM or more;
                auto: linux where it can be had, else payload (default)
  --svg FILE    draw a picture of it
  --check       only say which accelerator and which guest it would take, and why
  --help`;

const OPTIONS = {
  updates: { type: "string", default: "10" },
  check: { type: "boolean", default: false },
  ram: { type: "string", default: "128M" },
  vcpus: { type: "string", default: "1" },
  accel: { type: "string" },
  guest: { type: "string", default: "auto" },
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
    accelerator: accelerator(values.accel),
    guest: guestChoice(values.guest),
    svg: values.svg,
    help: values.help,
  };
}

function integer(name: string, text: string, max: number): number {
  const value = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > max) throw new UsageError(`demo: --${name} ${text}: not a number from 1 to ${max}`);
  return value;
}

function accelerator(text: string | undefined): AcceleratorName | undefined {
  if (text === undefined || text === "kvm" || text === "wasm") return text;
  throw new UsageError(`demo: --accel ${text}: not kvm or wasm`);
}

function guestChoice(text: string): GuestChoice {
  if (text === "auto" || text === "linux" || text === "payload") return text;
  throw new UsageError(`demo: --guest ${text}: not auto, linux or payload`);
}

function ramSize(text: string): number {
  // As with -m, a bare number counts in MiB.
  const sizeBytes = parseSize(text, MIB);
  if (sizeBytes === undefined || sizeBytes < MIN_RAM_SIZE_BYTES || sizeBytes > MAX_RAM_SIZE_BYTES) {
    throw new UsageError(`demo: --ram ${text}: not a size from 16M to 3G`);
  }
  return Math.floor(sizeBytes / MIB) * MIB;
}
