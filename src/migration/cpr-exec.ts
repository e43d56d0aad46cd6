// SPDX-License-Identifier: Apache-2.0
// cpr-exec: this process becomes the new VMM by execve, and the guest goes on in it. The whole update on one page.
//
//   guest runs    prepare   resolve the program, open the state file
//                 share     RAM that is anonymous moves to a memfd: see share-ram.ts
//                 warm up   the new program runs once, `--version`, so that it starts from caches
//                 freeze    consoles and monitors stop reading, their state goes into the image, which is laid out
//                 hold      a process that keeps the old address space from being torn down inside the pause
//   ┌ pause       park      vCPUs leave the guest                                  quiesce
//   │             fill      vCPU, interrupt controller, clock and device state     save
//   │             carry     image into the memfd, fds made to survive exec         carry
//   │             exec      ── point of no return ──                               exec
//   └             (new image: cpr-incoming.ts)             boot, kvm, restore, resume
//
// Everything up to exec can fail, and the guest then runs on here as if nothing had happened.
import { monotonicMs } from "../../ffi/clock.ts";
import {
  type ExecPlan,
  exec,
  holdAddressSpace,
  killHolder,
  type Program,
  planExec,
  readyHolder,
} from "../../ffi/exec.ts";
import {
  close,
  isOpen,
  O_CREAT,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  open,
  pwrite,
  setCloseOnExec,
  status,
} from "../../ffi/fd.ts";
import { addSeals, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, memfdCreate } from "../../ffi/memfd.ts";
import type { MigrationAddress } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import type { Connections } from "../machine/connections.ts";
import type { Vm } from "../machine/vm.ts";
import { holdEndSignals, releaseEndSignals } from "../runtime/end-signals.ts";
import { commandLine, environment, findProgram } from "../runtime/program.ts";
import {
  type Carried,
  type CarriedMigration,
  ENV_OLD_COMMAND,
  ENV_STATE,
  formatHandover,
  planImage,
} from "./carried.ts";
import type { Guard } from "./guard.ts";
import { reapLater } from "./reaping.ts";
import { Timeline } from "./timeline.ts";

/** The holder keeps the old address space until the new image releases it; if that image is slow, at most this long. */
export const HOLDER_SECONDS = 10;

export interface CprExecRequest {
  /** Program and arguments; empty for the command line that this process was started with. */
  command: readonly string[];
  /** Open on the program to execute, instead of the one that `command` names. */
  programFd?: number;
  /** Where a copy of the state image is to go. The image itself travels in a memfd. */
  file?: Extract<MigrationAddress, { transport: "file" }>;
}

/** What `prepareCprExec` has opened and planned. `discard` gives it back when the update is not carried out. */
export interface PreparedExec {
  program: Program;
  stateFd: number;
  ownProgramFd: number;
  stateFile: Carried["stateFile"];
  /** The exec, once it is known which fds go along. */
  planExec(fds: readonly number[]): ExecPlan;
  discard(): void;
}

/**
 * All that can be done while the guest runs.
 * @throws VmmError with QEMU's text for a program that cannot be executed, or a file that cannot be written
 */
export function prepareCprExec(request: CprExecRequest): PreparedExec {
  readyHolder();
  const argv = request.command.length > 0 ? [...request.command] : commandLine();
  const { programFd } = request;
  const program = programFd === undefined ? { path: findProgram(argv[0]!) } : { fd: programFd };
  const opened: number[] = [];
  const keep = (fd: number): number => {
    opened.push(fd);
    return fd;
  };
  const discard = (): void => {
    for (const fd of opened.splice(0)) close(fd);
  };
  try {
    const stateFile = request.file === undefined ? undefined : openStateFile(request.file, keep);
    const stateFd = keep(memfdCreate("baton-cpr-exec-state", 0, { seals: 0 }));
    const ownProgramFd = keep(open("/proc/self/exe", O_RDONLY));
    const plan = (fds: readonly number[]): ExecPlan =>
      planExec(program, argv, {
        ...environment(),
        [ENV_STATE]: formatHandover(stateFd, ownProgramFd, fds),
        [ENV_OLD_COMMAND]: JSON.stringify(commandLine()),
      });
    return { program, stateFd, ownProgramFd, stateFile, planExec: plan, discard };
  } catch (error) {
    discard();
    throw error;
  }
}

function openStateFile(
  file: NonNullable<CprExecRequest["file"]>,
  keep: (fd: number) => number,
): NonNullable<Carried["stateFile"]> {
  try {
    // A fifo without a reader would keep open(2) waiting.
    const fd = keep(open(file.filename, O_WRONLY | O_CREAT | O_NONBLOCK, 0o600));
    if (status(fd).kind !== "file") throw new VmmError("state-file", "It is not a regular file");
    return { fd, offset: file.offset };
  } catch (error) {
    throw new VmmError("state-file", `The state file '${file.filename}' cannot be written`, { cause: error });
  }
}

export interface CommitOptions {
  /** Called when all connections are frozen, right before the vCPUs are parked: events of the pause go out here. */
  beforePause(): void;
  /** Called in the pause when the state is taken, that long after it began: the guest goes on here when this throws. */
  afterSave(elapsedMs: number): void;
  guard: Guard | undefined;
  migration: CarriedMigration;
}

/**
 * The pause, up to the point of no return. Synchronous on purpose: nothing else of this process runs in between.
 * Returns only by throwing; the connections are frozen then, and the guest's vCPUs perhaps parked, for the caller to undo.
 */
export function commitCprExec(vm: Vm, connections: Connections, prepared: PreparedExec, options: CommitOptions): never {
  const runState = vm.state;
  refuseChangingVm(vm);
  options.beforePause();
  const connectionState = connections.save();
  const { guard } = options;
  const image = planImage(vm, {
    runState,
    ramFd: vm.ram.fd!,
    connections: connectionState.value,
    commandLine: commandLine(),
    stateFile: prepared.stateFile,
    ...(guard === undefined ? {} : { guard: guard.ref }),
    ...(vm.lifelineFd === undefined ? {} : { lifelineFd: vm.lifelineFd }),
    migration: options.migration,
  });
  const survivors = fdsToKeep(vm, connectionState.fds, prepared);
  if (guard !== undefined) survivors.push(...guard.fds);
  const plan = prepared.planExec(survivors);
  const holder = holdAddressSpace(HOLDER_SECONDS);
  try {
    const timeline = new Timeline([monotonicMs()]);
    vm.park();
    refuseChangingVm(vm);
    timeline.stamps.push(monotonicMs());
    image.fill();
    timeline.stamps.push(monotonicMs());
    options.afterSave(timeline.downtimeMs);
    for (const fd of survivors) setCloseOnExec(fd, false);
    timeline.stamps.push(monotonicMs());
    writeImage(prepared.stateFd, image.seal(holder, timeline.stamps));
    // Whatever the new program does with the image, the old one can still go back to it.
    addSeals(prepared.stateFd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    // One that comes earlier is the old program's, which cannot obey it any more: it is lost if the exec succeeds.
    holdEndSignals();
    guard?.offer();
    exec(plan);
  } catch (error) {
    releaseEndSignals();
    guard?.standDown();
    killHolder(holder);
    reapLater(holder);
    for (const fd of survivors) if (isOpen(fd)) setCloseOnExec(fd, true);
    throw error;
  }
}

/** Every fd that the guest needs in the new program, and in the old one if it comes to that. */
export function fdsToKeep(vm: Vm, connectionFds: readonly number[], prepared: PreparedExec): number[] {
  const { stateFd, ownProgramFd, stateFile } = prepared;
  const others = [stateFile?.fd, vm.lifelineFd].filter((fd) => fd !== undefined);
  return [stateFd, ownProgramFd, vm.ram.fd!, ...others, ...connectionFds];
}

/** What the guest has asked for and this process has not done yet is in no state image: it would never be done. */
function refuseChangingVm(vm: Vm): void {
  if (vm.state === "shutdown") throw new VmmError("vm-ended", "The VM has ended");
  vm.refuseRequested();
}

/** Writes a state image to `offset` of a file. @throws VmmError, SysError */
export function writeImage(fd: number, image: Uint8Array, offset = 0): void {
  for (let done = 0; done < image.length; ) {
    const written = pwrite(fd, image.subarray(done), offset + done);
    if (written === undefined || written === 0) throw new VmmError("state-write", "The state image cannot be written");
    done += written;
  }
}
