// SPDX-License-Identifier: Apache-2.0
// The new program's side of a dry run: takes over a guest that runs elsewhere, but for running it, and says how that went.
//
// How long its phases take is told in CPU time: in earnest the guest stands, and nobody else wants a CPU. Beside a guest that
// runs, KVM waits for workers of the kernel that wait for a CPU; its phase then takes four times as long.
import { threadCpuMs } from "../../ffi/clock.ts";
import { close, O_RDONLY, open } from "../../ffi/fd.ts";
import type { Difference } from "../config/same-machine.ts";
import type { MachineSpec } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { buildVm } from "../machine/build.ts";
import type { Vm } from "../machine/vm.ts";
import type { MigMode, MigrationProblem } from "../qmp/schema/migration.ts";
import { readDirectory, StateReader, unreadable } from "../state/reader.ts";
import { PRODUCER } from "../version.ts";
import { describeDifference, readCommandLine } from "./command-line.ts";
import { readImage } from "./cpr-incoming.ts";
import type { DryRunAnswer } from "./dry-run.ts";
import { GUEST_SECTIONS, readCpuids, readMachine } from "./guest-image.ts";
import type { Phase } from "./timeline.ts";

/** Before a transfer its pause is rehearsed. */
const TRANSFER_ROUNDS = 40;
const SAME_BOOT = { isSameBoot: true };

export interface DryRunTask {
  mode: MigMode;
  /** Paths of the state image, and of the guest's RAM. Without RAM its memory is empty. */
  statePath: string;
  ramPath: string | undefined;
  /** This program's arguments, as they would be in earnest; with `isSame` an update would not look at them. */
  args: readonly string[];
  isSame: boolean;
  /** What it took to start: to the first line, and from there to where the modules of an update are loaded. */
  execMs: number;
  loadMs: number;
}

/** Never throws for what is wrong with the guest, its state or this program: that is the answer. */
export async function tryTakeover(task: DryRunTask): Promise<DryRunAnswer> {
  const answer: DryRunAnswer = { image: PRODUCER, problems: [], phases: [] };
  try {
    await takeOver(task, answer);
  } catch (error) {
    answer.problems.push(problemOf(error));
  }
  return answer;
}

async function takeOver(task: DryRunTask, { problems, phases }: DryRunAnswer): Promise<void> {
  const { mode, statePath, ramPath, args, isSame, execMs, loadMs } = task;
  const note = (phase: Phase, durationMs: number): void => {
    phases.push({ phase, "duration-us": Math.max(0, Math.round(durationMs * 1000)) });
  };
  const isExec = mode === "cpr-exec";
  if (isExec) note("exec", execMs);
  let startMs = threadCpuMs();
  const image = readImageFile(statePath);
  problems.push(...unreadableSections(image));
  if (problems.length > 0) return;
  const reader = new StateReader(image, GUEST_SECTIONS);
  const { spec } = readMachine(reader);
  const [accelerator] = spec.accelerators;
  if (!isSame) {
    const { accelerators, differences } = readCommandLine(args, spec);
    spec.accelerators = accelerators;
    problems.push(...differences.map(problemOfDifference));
  }
  if (isExec) note("boot", loadMs + threadCpuMs() - startMs);
  startMs = threadCpuMs();
  const ramFd = ramPath === undefined ? undefined : open(ramPath, O_RDONLY);
  let vm: Vm;
  try {
    vm = await buildVm(privately(spec, ramFd), {
      cpuids: readCpuids(reader, spec.cpuCount),
      isFromElsewhere: spec.accelerators[0] !== accelerator,
      ...(ramFd === undefined ? {} : { ramFd }),
    });
  } catch (error) {
    if (ramFd !== undefined) close(ramFd);
    throw error;
  }
  if (isExec) note("kvm", threadCpuMs() - startMs);
  try {
    if (!isExec) {
      await vm.accel.prepareToRun();
      rehearse(vm, reader);
    }
    startMs = threadCpuMs();
    for (const restore of [vm.devices, vm.accel]) {
      try {
        restore.restoreState(reader, SAME_BOOT);
      } catch (error) {
        problems.push(problemOf(error));
      }
    }
    note("restore", threadCpuMs() - startMs);
  } finally {
    await vm.accel.close();
  }
}

function rehearse(vm: Vm, reader: StateReader): void {
  const rehearsal = vm.accel.rehearse();
  try {
    for (let round = 0; round < TRANSFER_ROUNDS; round++) {
      vm.devices.restoreState(reader, SAME_BOOT);
      rehearsal.restoreState(reader, SAME_BOOT);
    }
  } finally {
    rehearsal.close();
  }
}

function readImageFile(path: string): Uint8Array {
  const fd = open(path, O_RDONLY);
  try {
    return readImage(fd);
  } finally {
    close(fd);
  }
}

/** Sections that this version does not know, or knows only in older versions: all of them, not only the first. */
function unreadableSections(image: Uint8Array): MigrationProblem[] {
  const { producer, sections } = readDirectory(image);
  const problems: MigrationProblem[] = [];
  for (const entry of sections) {
    const text = entry.required ? unreadable(entry, GUEST_SECTIONS, producer) : undefined;
    const device = `${entry.id} ${entry.instance}`;
    if (text !== undefined) problems.push({ code: "state-refused", device, text, fix: FIXES["state-refused"]! });
  }
  return problems;
}

function problemOfDifference(difference: Difference): MigrationProblem {
  return {
    code: "machine-differs",
    device: difference.what,
    text: describeDifference(difference),
    fix: FIXES["machine-differs"]!,
  };
}

/** The machine with RAM that is this process's own: of the guest's file only what nobody writes here, if anything. */
function privately(spec: MachineSpec, ramFd: number | undefined): MachineSpec {
  const memoryBackends = spec.memoryBackends.map((backend) => {
    const { hugetlb, hugetlbSizeBytes, memPath, ...plain } = backend;
    const own = { ...plain, share: false, prealloc: false };
    return ramFd === undefined ? { ...own, qomType: "memory-backend-ram" as const } : own;
  });
  return { ...spec, memoryBackends };
}

const FIXES: Readonly<Record<string, string>> = {
  "state-refused": "Update to a version that is not older than the running one",
  "kvm-unavailable": "Let the new program open /dev/kvm: same user, same container",
  "cpu-features": "Leave it on its accelerator; a guest that was started with -cpu baton64 can go to any",
  "machine-differs": "Leave that out of the new command line, or say what the running VM has",
};

function problemOf(error: unknown): MigrationProblem {
  const code = error instanceof VmmError ? error.code : "failed";
  const fix = FIXES[code];
  return { code, text: describeError(error), ...(fix === undefined ? {} : { fix }) };
}
