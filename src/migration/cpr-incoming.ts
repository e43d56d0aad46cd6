// SPDX-License-Identifier: Apache-2.0
// The new image's side of cpr-exec: from the first line of this program to "guest runs", and back if that cannot be.
//
// Every statement here is inside the guest's pause until `runLent`. QMP, consoles and everything else comes after it.
//
// Each of them runs for the first time in its process, and what that costs depends on how it is written. Most array
// functions of JavaScriptCore are JavaScript themselves and compiled at their first call: `map` takes 130 µs then,
// `Array.from` 170, `filter` and `find` 30 each; a Map made from pairs takes 100, a regular expression 70, node:buffer
// more than 150. A loop takes nothing. A function of ours that is called more than 30 times makes the JIT compile it, on
// a thread that wants the same CPU. Hence the loops, here and in all that this file calls before `runLent`.
import { MAX_VCPUS } from "../../assembly/layout.ts";
import { monotonicMs } from "../../ffi/clock.ts";
import { takeEventfd } from "../../ffi/eventfd.ts";
import { exec, planExec } from "../../ffi/exec.ts";
import { pread, setCloseOnExec, status } from "../../ffi/fd.ts";
import { VCPU_SECTION } from "../accel/state/vcpu-state.ts";
import { VcpuWorker } from "../accel/vcpu-worker-handle.ts";
import type { AcceleratorName } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { buildVm } from "../machine/build.ts";
import type { Vm } from "../machine/vm.ts";
import { holdEndSignals } from "../runtime/end-signals.ts";
import { importEntry } from "../runtime/entry.ts";
import { MAX_IMAGE_SIZE_BYTES } from "../state/format.ts";
import { StateReader } from "../state/reader.ts";
import {
  type Carried,
  type CarriedMachine,
  CPR_EXEC_SECTION,
  ENV_ERROR,
  ENV_OLD_COMMAND,
  ENV_STATE,
  formatHandover,
  KNOWN_SECTIONS,
  MACHINE_SECTION,
} from "./carried.ts";
import { CARRIED_STAMPS, Timeline } from "./timeline.ts";

const MAX_REASON_LENGTH = 4096;

/** A guest that runs again, and what is left to do for it. */
export interface Resumed {
  vm: Vm;
  /** It ran before, and was set going here. */
  hasRun: boolean;
  carried: Carried;
  /** The image, for the copy in a file. */
  image: Uint8Array;
  timeline: Timeline;
  holderPid: number;
  stateFd: number;
  /** Open on the program that was left, and how that was started. */
  oldProgramFd: number;
  oldCommand: string[];
  /** Set when this image took the guest back because the other one refused it: why. */
  refusal: string | undefined;
}

/** What the environment says of an update, taken out of it: programs started later must not see it. */
interface Handover {
  stateFd: number;
  oldProgramFd: number;
  /** Every fd of the VM, the two above included. Bun marks inherited fds close-on-exec when it starts. */
  fds: number[];
  oldCommand: string[];
  refusal: string | undefined;
}

/** Undefined when this process was not started by an update. @throws VmmError when the variables make no sense */
export function takeHandover(env: Record<string, string | undefined>): Handover | undefined {
  const state = env[ENV_STATE];
  const oldCommand = env[ENV_OLD_COMMAND];
  const refusal = env[ENV_ERROR];
  for (const name of [ENV_STATE, ENV_OLD_COMMAND, ENV_ERROR]) delete env[name];
  if (state === undefined) return undefined;
  const [stateFd, oldProgramFd, fds, excess] = state.split(":");
  const numbers = parseFds(`${stateFd},${oldProgramFd},${fds}`);
  const command = parseCommand(oldCommand);
  if (numbers === undefined || excess !== undefined || command === undefined) {
    throw new VmmError(
      "handover",
      `${ENV_STATE} and ${ENV_OLD_COMMAND} are not what an update by cpr-exec sets: unset them to start a new VM`,
    );
  }
  return {
    stateFd: numbers[0]!,
    oldProgramFd: numbers[1]!,
    fds: numbers.slice(2),
    oldCommand: command,
    refusal,
  };
}

/** Undefined when the text is no command line as JSON. */
function parseCommand(text: string | undefined): string[] | undefined {
  let command: unknown;
  try {
    command = JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
  if (!Array.isArray(command) || command.length === 0) return undefined;
  for (const argument of command) if (typeof argument !== "string") return undefined;
  return command;
}

/** Undefined when one of the numbers is no fd as `formatHandover` writes it. */
function parseFds(list: string): number[] | undefined {
  const fds: number[] = [];
  for (const text of list.split(",")) {
    const fd = Number.parseInt(text, 10);
    if (String(fd) !== text || fd < 0) return undefined;
    fds.push(fd);
  }
  return fds;
}

/**
 * Takes over the guest. When this image cannot, the old one is executed again and does; then this does not return.
 * @param firstLineMs CLOCK_MONOTONIC of this program's first line
 * @param args this program's own arguments
 */
export async function resumeFromExec(
  handover: Handover,
  firstLineMs: number,
  args: readonly string[],
): Promise<Resumed> {
  let restored: Resumed;
  try {
    restored = await restore(handover, firstLineMs, args);
  } catch (error) {
    // The runtime tells of a signal at its next turn.
    await new Promise((resolve) => setTimeout(resolve, 0));
    goBack(handover, error);
  }
  const { vm, timeline, carried } = restored;
  // A guard that has it already is about to kill this process.
  if (carried.guard !== undefined && takeEventfd(carried.guard.tokenFd) === 0n) {
    throw new VmmError("guard", "The guard has taken the guest: this program was not ready to run it in time");
  }
  timeline.stamps.push(monotonicMs());
  // The point from which there is no way back: once the guest has run here, the old state is not its state any more.
  if (vm.isRunning) vm.accel.runLent();
  // Deno leaves inherited fds as they are; Bun has done this already.
  for (const fd of handover.fds) setCloseOnExec(fd, true);
  return restored;
}

/** Builds the VM and gives it its state. Everything in here may fail: the guest has not run yet. */
async function restore(
  { stateFd, oldProgramFd, oldCommand, refusal }: Handover,
  firstLineMs: number,
  args: readonly string[],
): Promise<Resumed> {
  const image = readImage(stateFd);
  const reader = new StateReader(image, KNOWN_SECTIONS);
  const { spec, runState } = reader.section(MACHINE_SECTION).json() as CarriedMachine;
  const accelerator = spec.accelerators[0]!;
  if (!Number.isInteger(spec.cpuCount) || spec.cpuCount < 1 || spec.cpuCount > MAX_VCPUS) {
    throw new VmmError(
      "state-refused",
      `State section machine 0 has ${spec.cpuCount} CPUs; 1 to ${MAX_VCPUS} are possible`,
    );
  }
  const section = reader.section(CPR_EXEC_SECTION);
  const carried = section.json() as Carried;
  if (!isSameCommandLine(args, carried.commandLine)) {
    const { checkCommandLine } = await importEntry<typeof import("./command-line.ts")>("migration/command-line.ts");
    spec.accelerators = checkCommandLine(args, spec);
  }
  const workers = spawnWorkers(spec.accelerators[0]!, spec.cpuCount);
  const timeline = new Timeline(readNumbers(section.part("stamps", CARRIED_STAMPS * 8)));
  const holder = section.part("holder", 4);
  const holderPid = new DataView(holder.buffer, holder.byteOffset, 4).getInt32(0, true);
  timeline.stamps.push(firstLineMs, monotonicMs());
  const ramSizeBytes = status(carried.ramFd).sizeBytes;
  if (ramSizeBytes < spec.memorySizeBytes) {
    throw new VmmError(
      "state-refused",
      `The RAM's file has ${ramSizeBytes} bytes, fewer than the guest's ${spec.memorySizeBytes}`,
    );
  }
  const vm = await buildVm(spec, {
    ramFd: carried.ramFd,
    cpuids: readCpuids(reader, spec.cpuCount),
    isFromElsewhere: spec.accelerators[0] !== accelerator,
    workers,
  });
  timeline.stamps.push(monotonicMs());
  // An exec never leaves the boot: nothing needs to be compared for that.
  const options = { isSameBoot: true };
  vm.devices.restoreState(reader, options);
  vm.accel.restoreState(reader, options);
  vm.assumeState(runState);
  timeline.stamps.push(monotonicMs());
  return { vm, hasRun: vm.isRunning, carried, image, timeline, holderPid, stateFd, oldProgramFd, oldCommand, refusal };
}

/** Workers take longest to start, so they start as soon as the accelerator is known: one that is ended while it starts ends the runtime. On KVM, vCPU 0's is not needed yet, the main thread stands in for it. */
function spawnWorkers(accelerator: AcceleratorName, count: number): (VcpuWorker | undefined)[] {
  const workers: (VcpuWorker | undefined)[] = accelerator === "kvm" ? [undefined] : [];
  while (workers.length < count) workers.push(new VcpuWorker(accelerator));
  return workers;
}

function readCpuids(reader: StateReader, count: number): Uint8Array[] {
  const cpuids: Uint8Array[] = [];
  while (cpuids.length < count) cpuids.push(reader.section(VCPU_SECTION, cpuids.length).part("cpuid"));
  return cpuids;
}

function readNumbers(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const numbers: number[] = [];
  for (let offset = 0; offset < bytes.length; offset += 8) numbers.push(view.getFloat64(offset, true));
  return numbers;
}

/**
 * The usual command line of an update is the old one, perhaps with another program in front or `-incoming` behind. The
 * topology is in the state, so that nothing of it needs to be looked at.
 */
export function isSameCommandLine(args: readonly string[], oldCommandLine: readonly string[]): boolean {
  const own = withoutIncoming(args);
  const old = withoutIncoming(oldCommandLine).slice(-own.length);
  for (let index = 0; index < own.length; index++) if (own[index] !== old[index]) return false;
  return true;
}

function withoutIncoming(args: readonly string[]): string[] {
  const others: string[] = [];
  for (let index = 0; index < args.length; index++) {
    if (args[index] === "-incoming" || args[index] === "--incoming") index++;
    else others.push(args[index]!);
  }
  return others;
}

/** @throws VmmError "state-refused" */
export function readImage(fd: number): Uint8Array {
  const { sizeBytes } = status(fd);
  if (sizeBytes > MAX_IMAGE_SIZE_BYTES) {
    throw new VmmError(
      "state-refused",
      `State image has ${sizeBytes} bytes, more than the limit of ${MAX_IMAGE_SIZE_BYTES}`,
    );
  }
  const image = new Uint8Array(sizeBytes);
  for (let offset = 0; offset < image.length; ) {
    const count = pread(fd, image.subarray(offset), offset);
    if (count === undefined || count === 0) throw new VmmError("state-refused", "State image ended early");
    offset += count;
  }
  return image;
}

/** Executes the old image again, with the old state and the reason. */
function goBack({ stateFd, oldProgramFd, fds, oldCommand, refusal }: Handover, error: unknown): never {
  // One environment string holds it: that may have no NUL in it and not more than 128 KiB.
  const reason = describeError(error).replaceAll("\0", "").slice(0, MAX_REASON_LENGTH);
  // The old image refuses its own state: there is nowhere to go, and going on for ever would help nobody.
  if (refusal !== undefined) {
    throw new VmmError("guest-lost", `The guest is lost: ${refusal}; and back in the old image: ${reason}`);
  }
  for (const fd of fds) setCloseOnExec(fd, false);
  holdEndSignals();
  const env = {
    ...process.env,
    [ENV_STATE]: formatHandover(stateFd, oldProgramFd, fds),
    [ENV_OLD_COMMAND]: JSON.stringify(oldCommand),
    [ENV_ERROR]: reason,
  };
  try {
    exec(planExec({ fd: oldProgramFd }, oldCommand, env));
  } catch (cause) {
    const message = `The guest is lost: ${reason}; and the program before this one cannot be executed again`;
    throw new VmmError("guest-lost", message, { cause });
  }
}
