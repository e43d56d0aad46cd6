// SPDX-License-Identifier: Apache-2.0
// `migrate` with `dry-run`: would the new program take over the guest, and how long would the guest stand?
//
//   guest runs    rehearse  saving is tried on a VM that never runs, until its code is warm
//   ┌ stands      read      vCPUs, clocks and devices: as long as for QMP's stop and cont
//   └
//   guest runs    ask       the new program runs beside this one, as `dry-run`: it gets that state and a copy-on-write view of
//                           the RAM, empty RAM if the guest's is private, builds everything, never runs a vCPU, and says what is
//                           wrong, or how long it took
//
// Nothing of it can touch the guest: the new program cannot write the guest's RAM, and gets none of its connections.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { monotonicMs } from "../../ffi/clock.ts";
import { close, fileSystemType, HUGETLBFS_MAGIC, status } from "../../ffi/fd.ts";
import { addSeals, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, memfdCreate } from "../../ffi/memfd.ts";
import { findOption } from "../config/options.ts";
import { describeError, VmmError } from "../errors.ts";
import { isGuestRequest } from "../machine/guest-request.ts";
import type { Vm } from "../machine/vm.ts";
import { movedBytes } from "../memory/sharing.ts";
import { check } from "../qmp/schema/check.ts";
import {
  type DryRunInfo,
  type MigMode,
  type MigrationBlocker,
  MigrationPhase,
  MigrationProblem,
} from "../qmp/schema/migration.ts";
import { arrayOf, type Static, str, struct } from "../qmp/schema/types.ts";
import { cpusOf, GuestFirst } from "../runtime/guest-first.ts";
import { commandLine, findProgram } from "../runtime/program.ts";
import { runProgram } from "../runtime/run-program.ts";
import { writeImage } from "./cpr-exec.ts";
import { isSameCommandLine } from "./cpr-incoming.ts";
import type { ExecImage } from "./exec-image.ts";
import { planGuest } from "./guest-image.ts";
import { correct, type PauseHistory } from "./pause-history.ts";

/** What the new program prints. The phases are those of the new program, none when it did not come so far. */
export const DryRunAnswer = struct({
  image: str,
  problems: arrayOf(MigrationProblem),
  phases: arrayOf(MigrationPhase),
});
export type DryRunAnswer = Static<typeof DryRunAnswer>;

/** `quiesce`, `save` and `carry` are the old program's. */
const OLD_PHASES = 3;
/** The new program's. */
const NEW_PHASES: Partial<Record<MigMode, readonly string[]>> = {
  "cpr-exec": ["exec", "boot", "kvm", "restore"],
  "cpr-transfer": ["restore"],
};
/** After so many the code of saving is compiled. */
const ROUNDS = 20;
const ROUNDS_AT_ONCE = 4;
const MAX_ATTEMPTS = 3;
const VERSION_TIMEOUT_MS = 10_000;
const ANSWER_TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 2 ** 20;
/** Of what a program says that failed. */
const MAX_COMPLAINT_LENGTH = 1000;

export interface DryRunOptions {
  vm: Vm;
  mode: MigMode;
  /** `cpr-exec-command`; empty: what this process was started with. */
  command: readonly string[];
  /** The program, if it is not to be found by the command's first word; the dry run's to close. */
  image: ExecImage | undefined;
  /** Of that mode. */
  blockers: readonly MigrationBlocker[];
  /** What started this process is Baton, and not a program that embeds it. */
  startsBaton: boolean;
  /** Of this guest: predictions learn from it. */
  history: PauseHistory;
}

/** Of a pause, in µs. */
export interface Prediction {
  totalUs: number;
  /** The same without what earlier updates have taught. */
  estimateUs: number;
  /** What of that is the new program's. */
  newUs: number;
}

export class DryRun {
  readonly #options: DryRunOptions;
  readonly #abort = new AbortController();
  readonly ended: Promise<void>;
  #info: DryRunInfo;

  /** Begins. @throws VmmError "dry-run" for a mode in which no program is started */
  constructor(options: DryRunOptions) {
    try {
      refuseSenseless(options);
    } catch (error) {
      options.image?.close();
      throw error;
    }
    this.#options = options;
    this.#info = { status: "active", mode: options.mode, problems: [] };
    this.ended = this.#run();
  }

  get isActive(): boolean {
    return this.#info.status === "active";
  }

  info(): DryRunInfo {
    return this.#info;
  }

  /** What is predicted of an update in that mode with that command; undefined when this says nothing about it. */
  predictionOf(mode: MigMode, command: readonly string[], sha256: string): Prediction | undefined {
    const { status, phases = [], "predicted-downtime-us": totalUs = 0 } = this.#info;
    const { mode: ownMode, command: ownCommand, image } = this.#options;
    const isSameProgram = (image?.sha256 ?? "") === sha256 && command.join("\0") === ownCommand.join("\0");
    const isSame = mode === ownMode && isSameProgram;
    if (!isSame || status !== "would-work") return undefined;
    const estimateUs = sumUs(phases);
    return { totalUs, estimateUs, newUs: Math.round((totalUs * sumUs(phases.slice(OLD_PHASES))) / estimateUs) };
  }

  /** Without effect when it is over. */
  cancel(): void {
    this.#abort.abort();
  }

  async #run(): Promise<void> {
    const { mode } = this.#options;
    try {
      const found = await this.#findOut();
      this.#info = { ...found, mode, status: found.problems.length === 0 ? "would-work" : "would-fail" };
    } catch (error) {
      const isCancelled = this.#abort.signal.aborted;
      this.#info = {
        status: isCancelled ? "cancelled" : "failed",
        mode,
        problems: [],
        ...(isCancelled ? {} : { "error-desc": describeError(error) }),
      };
    } finally {
      this.#options.image?.close();
    }
  }

  #predict(phases: MigrationPhase[]): Pick<DryRunInfo, "predicted-downtime-us" | "phases"> {
    const { history, mode } = this.#options;
    const estimateUs = sumUs(phases);
    // What is known of earlier transfers is how right their rehearsals were.
    return { "predicted-downtime-us": mode === "cpr-exec" ? correct(history, mode, estimateUs) : estimateUs, phases };
  }

  async #findOut(): Promise<Omit<DryRunInfo, "status" | "mode">> {
    const { vm, mode, command, image: pinned, blockers } = this.#options;
    const { signal } = this.#abort;
    // The reply to `migrate` goes out first.
    await new Promise((resolve) => setTimeout(resolve, 0));
    const problems = blockers.map(({ code, device, reason, fix }): MigrationProblem => {
      return { code, text: reason, ...(device === undefined ? {} : { device }), ...(fix === undefined ? {} : { fix }) };
    });
    const image = new NewImage(command.length > 0 ? command : commandLine(), pinned, mode, signal);
    const notBaton = await image.problem();
    if (notBaton !== undefined) return { problems: [...problems, notBaton] };
    const vcpuTids = vm.isRunning ? vm.accel.vcpuThreadIds() : [];
    const guestFirst = GuestFirst.begin(cpusOf(vcpuTids), vcpuTids);
    let stateFd: number | undefined;
    try {
      const state = await readState(vm, guestFirst, signal);
      stateFd = state.fd;
      const privateBytes = vm.ram.backend.sizeBytes - movedBytes(vm.ram);
      const found = {
        "standstill-us": toUs(state.standstillMs),
        ...(privateBytes === 0 ? {} : { "private-ram": privateBytes }),
      };
      // The first run brings the program into the caches, where an update would find it.
      let answer = await image.ask(state.fd, ramFdOf(vm));
      if (!("code" in answer) && answer.problems.length === 0) answer = await image.ask(state.fd, ramFdOf(vm));
      if ("code" in answer) return { ...found, problems: [...problems, answer] };
      problems.push(...answer.problems);
      if (problems.length > 0) return { ...found, image: answer.image, problems };
      return { ...found, image: answer.image, problems, ...this.#predict([...state.phases, ...answer.phases]) };
    } finally {
      guestFirst.end();
      if (stateFd !== undefined) close(stateFd);
    }
  }
}

/** @throws VmmError "dry-run" for a mode in which no program is started, and for a command that may be anything */
function refuseSenseless({ mode, command, startsBaton }: DryRunOptions): void {
  if (NEW_PHASES[mode] === undefined) {
    const modes = Object.keys(NEW_PHASES).join(" or ");
    throw new VmmError("dry-run", `A dry run is of an update: set mode to ${modes}, not ${mode}`);
  }
  if (command.length === 0 && !startsBaton) {
    throw new VmmError(
      "dry-run",
      "This VM is part of a program that may do anything when it is started again: set cpr-exec-command to a Baton",
    );
  }
}

function sumUs(phases: readonly MigrationPhase[]): number {
  return phases.reduce((us, phase) => us + phase["duration-us"], 0);
}

function toUs(durationMs: number): number {
  return Math.round(durationMs * 1000);
}

/** RAM that the new program can have a private view of: of huge pages there may be none left for that, and private RAM is in no file. */
function ramFdOf({ ram: { fd, backend, isShared } }: Vm): number | undefined {
  if (fd === undefined || !isShared || backend.hugetlb === true || status(fd).kind !== "file") return undefined;
  return fileSystemType(fd) === HUGETLBFS_MAGIC ? undefined : fd;
}

interface ReadState {
  /** Of a sealed memfd with the image; the caller's. */
  fd: number;
  phases: MigrationPhase[];
  standstillMs: number;
}

/** A guest that asks for a reset, say, in that moment gets it first. @throws VmmError "guest-request" when it goes on asking */
async function readState(vm: Vm, guestFirst: GuestFirst, signal: AbortSignal): Promise<ReadState> {
  await warmUp(vm, signal);
  for (let attempt = 1; ; attempt++) {
    await vm.whenSettled();
    signal.throwIfAborted();
    try {
      return readStateNow(vm, guestFirst);
    } catch (error) {
      if (!isGuestRequest(error) || attempt === MAX_ATTEMPTS) throw error;
    }
  }
}

async function warmUp(vm: Vm, signal: AbortSignal): Promise<void> {
  const rehearsal = vm.accel.rehearse();
  try {
    for (let round = 0; round < ROUNDS; round++) {
      // Whoever else has something to do is let in.
      if (round % ROUNDS_AT_ONCE === 0) await new Promise((resolve) => setTimeout(resolve, 0));
      signal.throwIfAborted();
      const planned = planGuest(vm, vm.state, rehearsal, noSections);
      rehearsal.park();
      planned.take();
    }
  } finally {
    rehearsal.close();
  }
}

function readStateNow(vm: Vm, guestFirst: GuestFirst): ReadState {
  const planned = planGuest(vm, vm.state, vm.accel, noSections);
  const fd = memfdCreate("baton-dry-run-state", 0, { seals: 0 });
  try {
    guestFirst.hurry();
    const startMs = monotonicMs();
    const [image, parkedMs, savedMs] = vm.inspect(() => {
      const parkedMs = monotonicMs();
      return [planned.take(), parkedMs, monotonicMs()] as const;
    });
    const resumedMs = monotonicMs();
    guestFirst.makeWay();
    const carryStartMs = monotonicMs();
    writeImage(fd, image);
    const carryMs = monotonicMs() - carryStartMs;
    addSeals(fd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    return {
      fd,
      standstillMs: resumedMs - startMs,
      phases: [
        { phase: "quiesce", "duration-us": toUs(parkedMs - startMs) },
        { phase: "save", "duration-us": toUs(savedMs - parkedMs) },
        { phase: "carry", "duration-us": toUs(carryMs) },
      ],
    };
  } catch (error) {
    close(fd);
    throw error;
  }
}

const noSections = () => () => () => {};

/**
 * What of a command line starts Baton, and what it gets as arguments. That is not always the program alone: `bun run FILE` does,
 * too. Baton's arguments begin with an option of its own.
 */
export function splitCommand(command: readonly string[]): { program: string[]; args: string[] } {
  const at = command.findIndex((word, index) => index > 0 && isOption(word));
  const count = at < 0 ? command.length : at;
  return { program: command.slice(0, count), args: command.slice(count) };
}

function isOption(word: string): boolean {
  const name = /^--?(.+)$/.exec(word)?.[1];
  return name !== undefined && findOption(name) !== undefined;
}

/** What execFile of node:child_process fails with. */
interface ExecFailure {
  code?: unknown;
  /** By execFile itself. */
  killed?: boolean;
  signal?: string | null;
  stderr?: string;
}

/** The program that would take over, as one that can be asked. */
class NewImage {
  readonly #command: readonly string[];
  readonly #pinned: ExecImage | undefined;
  readonly #mode: MigMode;
  readonly #signal: AbortSignal;

  constructor(command: readonly string[], pinned: ExecImage | undefined, mode: MigMode, signal: AbortSignal) {
    this.#command = command;
    this.#pinned = pinned;
    this.#mode = mode;
    this.#signal = signal;
  }

  /** Why it cannot even be asked: any other program than Baton might do something. */
  async problem(): Promise<MigrationProblem | undefined> {
    const [name] = this.#command;
    const isThere = await this.#isThere();
    if (isThere !== undefined) return isThere;
    const { error, stdout } = await this.#execute(["--version"], VERSION_TIMEOUT_MS);
    if (error === undefined && /^baton \d/.test(stdout)) return undefined;
    const why = error ?? `'${name} --version' printed ${JSON.stringify(stdout.slice(0, 60))}`;
    return {
      code: "not-baton",
      text: `${name} is not Baton, or cannot run here: ${why}`,
      fix: "Give the path of a Baton",
    };
  }

  async #isThere(): Promise<MigrationProblem | undefined> {
    try {
      if (this.#pinned === undefined) findProgram(this.#command[0]!);
      else await this.#pinned.verify(this.#signal);
      return undefined;
    } catch (error) {
      this.#signal.throwIfAborted();
      const fix = "Set cpr-exec-command to a program that is there";
      if (this.#pinned === undefined) return { code: "exec-failed", text: describeError(error), fix };
      return { code: "image", text: describeError(error), fix: "Pass the program that has this hash" };
    }
  }

  /** Its answer, or why there is none. */
  async ask(stateFd: number, ramFd: number | undefined): Promise<DryRunAnswer | MigrationProblem> {
    const { args } = splitCommand(this.#command);
    const own = (fd: number): string => `/proc/${process.pid}/fd/${fd}`;
    const options = ["--mode", this.#mode, "--state", own(stateFd)];
    if (ramFd !== undefined) options.push("--ram", own(ramFd));
    if (isSameCommandLine(args, commandLine())) options.push("--same");
    const { error, stdout } = await this.#execute(["dry-run", ...options, "--", ...args], ANSWER_TIMEOUT_MS);
    if (error === undefined) return parseAnswer(stdout, this.#mode);
    return {
      code: "no-answer",
      text: `The new program did not say whether it could take over the guest: ${error}`,
      fix: "Use a Baton that has 'dry-run', or update without it",
    };
  }

  /** Runs it with these arguments; `error` says in what it failed. @throws the signal's reason */
  async #execute(args: readonly string[], timeout: number): Promise<{ error?: string; stdout: string }> {
    const { program } = splitCommand(this.#command);
    if (this.#pinned !== undefined) return this.#executePinned(this.#pinned.fd, [...program, ...args], timeout);
    const [name, ...before] = program;
    const options = { timeout, maxBuffer: MAX_ANSWER_BYTES, killSignal: "SIGKILL" as const, signal: this.#signal };
    try {
      const { stdout } = await promisify(execFile)(findProgram(name!), [...before, ...args], options);
      return { stdout };
    } catch (cause) {
      this.#signal.throwIfAborted();
      const { code, killed, signal, stderr = "" } = cause as ExecFailure;
      const how = killed === true ? lateAfter(timeout) : `it ended with ${signal ?? code}`;
      return { error: complain(how, stderr), stdout: "" };
    }
  }

  async #executePinned(fd: number, argv: string[], timeoutMs: number): Promise<{ error?: string; stdout: string }> {
    const options = { argv, timeoutMs, maxOutputBytes: MAX_ANSWER_BYTES, signal: this.#signal };
    try {
      const { end, isLate, stdout, stderr } = await runProgram(fd, options);
      if ("exitCode" in end && end.exitCode === 0) return { stdout };
      const how = `it ended with ${"signal" in end ? `signal ${end.signal}` : end.exitCode}`;
      return { error: complain(isLate ? lateAfter(timeoutMs) : how, stderr), stdout: "" };
    } catch (error) {
      this.#signal.throwIfAborted();
      return { error: describeError(error), stdout: "" };
    }
  }
}

function lateAfter(timeoutMs: number): string {
  return `it was killed after ${timeoutMs / 1000} s`;
}

function complain(how: string, stderr: string): string {
  const complaint = stderr.trim().slice(-MAX_COMPLAINT_LENGTH);
  return complaint === "" ? how : `${how}: ${complaint}`;
}

/** @throws VmmError "dry-run" */
function parseAnswer(text: string, mode: MigMode): DryRunAnswer {
  try {
    const answer = check(DryRunAnswer, JSON.parse(text.trim()), "answer");
    const phases = answer.phases.map(({ phase }) => phase).join();
    if (answer.problems.length === 0 && phases !== NEW_PHASES[mode]?.join()) {
      throw new VmmError("dry-run", `Nothing is wrong, and what was done is '${phases}'`);
    }
    return answer;
  } catch (cause) {
    throw new VmmError("dry-run", "The new program's answer to the dry run makes no sense", { cause });
  }
}
