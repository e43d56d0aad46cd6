// SPDX-License-Identifier: Apache-2.0
// A VM process with the self-checking guest, for tests: how to start it, talk to it, and look into it from outside.
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { connect as connectSocket, type Socket } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { unlessErrno } from "../ffi/error.ts";
import { close, O_RDWR, open, pread, pwrite } from "../ffi/fd.ts";
import { lazyCall } from "../ffi/libc.ts";
import { kill, SIGKILL } from "../ffi/process.ts";
import { findMemoryFile } from "../src/meter/guest-ram.ts";
import {
  COMMAND_SHUTDOWN,
  counterGpa,
  HEADER_COMMAND_U32,
  REPORT_GPA,
  REPORT_SIZE_BYTES,
  type Report,
  readReport,
} from "../src/payload/report.ts";
import { buildSelfCheck, type SelfCheckOptions } from "../src/payload/self-check.ts";
import { connect, type QmpClient, type QmpEvent } from "../src/qmp/client.ts";
import type { CommandResult } from "../src/qmp/schema.ts";
import { accelOptions } from "./accelerator.ts";
import { temporaryDirectory } from "./ffi/support.ts";
import { assert } from "./harness.ts";

export type Runtime = "bun" | "deno" | "compiled";

const root = fileURLToPath(new URL("..", import.meta.url));
export const mainPath = join(root, "src/cli/main.ts");
const compiledPath = join(root, "dist/baton");
const binPath = join(root, "node_modules/.bin");

/** Program and first arguments that start Baton in a runtime. Absolute, for `cpr-exec-command`. */
export function program(runtime: Runtime): string[] {
  switch (runtime) {
    case "bun":
      return [join(binPath, "bun"), "run", mainPath];
    case "deno":
      return [join(binPath, "deno"), "run", "--allow-all", "--quiet", mainPath];
    case "compiled":
      return [compiledPath];
  }
}

/** Why Baton cannot be started in a runtime; undefined when it can. */
export function programMissing(runtime: Runtime): string | undefined {
  return existsSync(program(runtime)[0]!) ? undefined : `${program(runtime)[0]} is not there`;
}

/** The runtime that this test runs in. Tests that start other runtimes themselves run in one of them only. */
export const thisRuntime: Runtime = "Deno" in globalThis ? "deno" : "bun";
export const onlyOnBun =
  thisRuntime === "bun" ? undefined : "it starts VMs on all runtimes itself, and is run once, on Bun";

// <asm-generic/resource.h>
const RLIMIT_FSIZE = 1;
const UNLIMITED = 0xffff_ffff_ffff_ffffn;
const cPrlimit = lazyCall("int prlimit(int pid, int resource, const void *limits, void *old)");

/** The emulated machine of the lab needs more of them. */
const LIMIT_MS = Number(process.env.BATON_TEST_LIMIT_SECONDS ?? 60) * 1000;

/** Waits until `probe` gives something. A guest may be slow on a loaded host, so the limit only ends what hangs. */
export async function until<T>(what: string, probe: () => T | undefined | false | Promise<T | undefined | false>) {
  const deadline = performance.now() + LIMIT_MS;
  for (;;) {
    const found = await probe();
    if (found !== undefined && found !== false) return found as T;
    if (performance.now() > deadline) throw new Error(`Waited for nothing: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface GuestOptions {
  runtime?: Runtime;
  /** Instead of `program(runtime)`. */
  program?: string[];
  payload?: SelfCheckOptions;
  /** RAM. Default "32M". */
  memory?: string;
  /** Default: shared memfd. */
  ram?: string[];
  /** Path of a file to be shared RAM, instead of `ram`. */
  ramFile?: string;
  /** Default: a UNIX socket `serial`. */
  serial?: string[];
  extra?: string[];
  /** Options that say which accelerator it is; default: `accelOptions`, unless `extra` has some. */
  accel?: readonly string[];
  /** Nothing but a monitor and `extra`: for a guest that brings its machine along. */
  bare?: boolean;
  /** With `no-reboot`, which is the default, a reset ends the VM. */
  noReboot?: boolean;
  env?: Record<string, string>;
  /** Path of a terminal to be standard input, output and error. */
  terminal?: string;
  /** An fd of this process that the VM has as number 3. Only on Bun. */
  inheritedFd?: number;
}

/** Path of a file with the payload. */
export function payloadFile(options: SelfCheckOptions = {}): string {
  const path = join(temporaryDirectory(), "payload.elf");
  writeFileSync(path, buildSelfCheck(options));
  return path;
}

const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** `GuestOptions.ram` that no update can hand over: what the guest writes is in no file. */
export function privateRam(): string[] {
  const path = join(temporaryDirectory(), "ram");
  return ["-object", `memory-backend-file,id=ram0,size=32M,mem-path=${path},share=off`];
}

/** One VM process. `await using` kills it; it is killed at the latest when this process ends. */
export class GuestProcess implements AsyncDisposable {
  readonly dir: string;
  /** Options without program: those of a command line for an update. */
  readonly args: string[];
  readonly #ramFile: string | undefined;
  readonly child: ChildProcess;
  /** What it has written to standard output and error. */
  output = "";
  error = "";
  readonly ended: Promise<{ exitCode: number | null; signal: string | null }>;
  hasEnded = false;
  #ramFd: number | undefined;
  #successorPid: number | undefined;

  constructor(options: GuestOptions = {}) {
    this.dir = temporaryDirectory();
    const memory = options.memory ?? "32M";
    const kernel = join(this.dir, "payload.elf");
    writeFileSync(kernel, buildSelfCheck({ touchBytes: 4 << 20, ...options.payload }));
    this.#ramFile = options.ramFile;
    const memfd = `memory-backend-memfd,id=ram0,size=${memory},share=on`;
    const file = `memory-backend-file,id=ram0,size=${memory},share=on,mem-path=${options.ramFile}`;
    const machine = [
      ...["-machine", "microvm,memory-backend=ram0"],
      ...(options.ram ?? ["-object", options.ramFile === undefined ? memfd : file]),
      ...["-m", memory, "-smp", String(options.payload?.cpuCount ?? 1), "-kernel", kernel],
      ...(options.serial ?? ["-serial", `unix:${join(this.dir, "serial")},server=on,wait=off`]),
      ...["-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
      ...(options.noReboot === false ? [] : ["-no-reboot"]),
    ];
    // A guest that comes to a bare VM brings its accelerator along.
    const isChosen = options.bare || options.extra?.includes("-accel");
    this.args = [
      ...(options.bare ? [] : machine),
      ...(options.accel ?? (isChosen ? [] : accelOptions)),
      ...["-qmp", `unix:${join(this.dir, "qmp")},server=on,wait=off`, "-nodefaults", "-display", "none"],
      ...(options.extra ?? []),
    ];
    const command = [...(options.program ?? program(options.runtime ?? "compiled")), ...this.args];
    const env = { ...process.env, ...options.env };
    // Node's way to pass an fd is not every runtime's; the shell's is.
    const wrapped =
      options.terminal === undefined
        ? command
        : ["/bin/sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', options.terminal, ...command];
    const stdio = ["pipe" as const, "pipe" as const, "pipe" as const, options.inheritedFd ?? ("ignore" as const)];
    if (options.inheritedFd === undefined) stdio.length = 3;
    this.child = spawn(wrapped[0]!, wrapped.slice(1), { stdio, env, cwd: this.dir });
    this.child.stdout!.on("data", (bytes: Uint8Array) => (this.output += Buffer.from(bytes).toString("latin1")));
    this.child.stderr!.on("data", (bytes: Uint8Array) => (this.error += Buffer.from(bytes).toString("utf8")));
    this.ended = new Promise((resolve) => {
      this.child.once("exit", (exitCode, signal) => {
        this.hasEnded = true;
        running.delete(this.child);
        resolve({ exitCode, signal });
      });
      this.child.once("error", () => {
        this.hasEnded = true;
        resolve({ exitCode: null, signal: null });
      });
    });
    running.add(this.child);
  }

  /** Starts a VM and waits until its guest is ready. */
  static async start(options: GuestOptions = {}): Promise<GuestProcess> {
    const guest = new GuestProcess(options);
    await guest.ready();
    return guest;
  }

  get pid(): number {
    return this.#successorPid ?? this.child.pid!;
  }

  /** The process that was started has ended, and another one has the guest: this is about that one from now on. */
  async follow(): Promise<void> {
    await this.ended;
    this.hasEnded = false;
    await this.find();
  }

  /** Whether any process has the guest's RAM open. */
  isAnywhere(): boolean {
    const { ino } = statSync(`/proc/self/fd/${this.openRam()}`);
    const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
    return pids.some((pid) => ramInode(Number(pid)) === ino);
  }

  /** Waits until a process has the guest that is neither the one that was started nor the last one found. */
  async find(): Promise<void> {
    const known = [process.pid, this.child.pid, this.#successorPid];
    const ino = this.#ramFd === undefined ? undefined : statSync(`/proc/self/fd/${this.#ramFd}`).ino;
    const isIt = (pid: number): boolean => {
      if (known.includes(pid)) return false;
      if (ino !== undefined) return ramInode(pid) === ino;
      return ramInode(pid) !== undefined && commandLineOf(pid).some((word) => word.includes(this.dir));
    };
    this.#successorPid = await until("another process with the guest", () =>
      readdirSync("/proc")
        .filter((name) => /^\d+$/.test(name))
        .map(Number)
        .find(isIt),
    );
  }

  /** Command line that starts the same VM in another runtime. */
  command(runtime: Runtime): string[] {
    return [...program(runtime), ...this.args];
  }

  async ready(): Promise<void> {
    await this.until("the guest to be ready", () => this.report()?.ready);
  }

  /** `until`, which fails at once when the process has ended. */
  until<T>(what: string, probe: () => T | undefined | false | Promise<T | undefined | false>): Promise<T> {
    return until(what, () => {
      if (this.hasEnded) throw new Error(`The VM has ended while waiting for ${what}: ${this.error}`);
      return probe();
    });
  }

  /** A client of the monitor. */
  async qmp(): Promise<QmpClient> {
    const path = join(this.dir, "qmp");
    return this.until("the monitor", async () => {
      if (!existsSync(path)) return undefined;
      try {
        return await connect({ path });
      } catch (error) {
        // The file of a socket is there a moment before somebody listens.
        if (((error as Error).cause as { code?: string } | undefined)?.code === "ECONNREFUSED") return undefined;
        throw error;
      }
    });
  }

  /** A connection to one of the VM's sockets, whose bytes are kept. */
  async stream(name: "serial" | "qmp" | string): Promise<ByteStream> {
    const path = join(this.dir, name);
    await this.until(`socket ${name}`, () => existsSync(path));
    return ByteStream.connect(path);
  }

  /** The guest's report; undefined while there is none. */
  report(): Report | undefined {
    const fd = this.openRam();
    if (fd === undefined) return undefined;
    // A file that is not as long as RAM yet has none; the buffer has that of another guest.
    if (pread(fd, reportBuffer.subarray(REPORT_GPA), REPORT_GPA) !== REPORT_SIZE_BYTES) return undefined;
    return readReport(reportBuffer);
  }

  counter(vcpu = 0): bigint {
    const word = new BigUint64Array(1);
    pread(this.openRam()!, new Uint8Array(word.buffer), counterGpa(vcpu));
    return word[0]!;
  }

  /** Waits until every vCPU has counted on, and checked itself at least once since. */
  async runsOn(): Promise<void> {
    await this.ready();
    const before = this.report()!;
    await this.until("the guest to go on", () => {
      const now = this.report()!;
      return now.counters.every((counter, vcpu) => {
        return counter > before.counters[vcpu]! && now.checksRun[vcpu]! > before.checksRun[vcpu]! + 1n;
      });
    });
    this.isClean();
  }

  /** Fails when the guest has found any of its state changed. */
  isClean(): void {
    const report = this.report()!;
    const errors = report.errors.map(({ vcpu, text, expected, found, round }) => {
      return `vCPU ${vcpu}, round ${round}: ${text} (expected ${expected}, found ${found})`;
    });
    assert.is(report.errorCount, 0, errors.join("\n"));
  }

  /** Tells the guest to end the VM, as if from inside. */
  commandShutdown(): void {
    pwrite(this.openRam()!, new Uint8Array(Uint32Array.of(COMMAND_SHUTDOWN).buffer), REPORT_GPA + HEADER_COMMAND_U32);
  }

  /** Open fds of the process, as their targets. */
  fds(): string[] {
    return readdirSync(`/proc/${this.pid}/fd`).flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/${this.pid}/fd/${fd}`)];
      } catch {
        return [];
      }
    });
  }

  /** Resolves when the process that has the guest has ended. */
  async gone(): Promise<void> {
    await until("the end of the VM", () => commandLineOf(this.pid).length === 0);
  }

  /** Not by `child.kill`, which in Deno does nothing once it has been called. */
  signal(name: NodeJS.Signals): void {
    process.kill(this.pid, name);
  }

  /** How large a file the process may make. */
  limitFiles(sizeBytes = UNLIMITED): void {
    assert.is(cPrlimit(this.pid, RLIMIT_FSIZE, BigUint64Array.of(sizeBytes, UNLIMITED), null), 0);
  }

  /** Pids of its children, zombies included. */
  children(): string[] {
    return readFileSync(`/proc/${this.pid}/task/${this.pid}/children`, "utf8").split(" ").filter(Boolean);
  }

  /** A number that every exec changes: where the stack begins. */
  imageIdentity(): string {
    const stat = readFileSync(`/proc/${this.pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[25]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.ended;
    if (this.#ramFd !== undefined) close(this.#ramFd);
    this.#ramFd = undefined;
  }

  #kill(): void {
    if (this.#successorPid !== undefined) unlessErrno("ESRCH", () => kill(this.#successorPid!, SIGKILL));
    // Without effect when it has ended.
    this.child.kill("SIGKILL");
  }

  /** Its RAM as a file, which stays open, so that this process knows whose guest it is; undefined when it has none yet. */
  openRam(): number | undefined {
    if (this.#ramFd !== undefined) return this.#ramFd;
    if (this.#ramFile !== undefined && existsSync(this.#ramFile)) this.#ramFd = open(this.#ramFile, O_RDWR);
    const path = existsSync(`/proc/${this.pid}/fd`) ? findMemoryFile(this.pid, ["ram0"]) : undefined;
    // It may have been closed meanwhile.
    if (path !== undefined) this.#ramFd = unlessErrno("ENOENT", () => open(path, O_RDWR));
    return this.#ramFd;
  }
}

/** Of a process with guest RAM. */
function ramInode(pid: number): number | undefined {
  try {
    const path = findMemoryFile(pid, ["ram0"]);
    return path === undefined ? undefined : statSync(path).ino;
  } catch {
    // It has ended, or is not ours to look at.
    return undefined;
  }
}

/** Empty when the process has ended. */
function commandLineOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  } catch {
    return [];
  }
}

const reportBuffer = new Uint8Array(REPORT_GPA + REPORT_SIZE_BYTES);

export interface UpdateOptions {
  /** `cpr-exec-command`; absent for the same command line. */
  command?: string[];
  uri?: string;
}

/** Asks for an update and returns what `query-migrate` says when it is over. The connection lives through it. */
export async function update(qmp: QmpClient, options: UpdateOptions = {}): Promise<CommandResult<"query-migrate">> {
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": options.command ?? [] });
  await qmp.execute("migrate", options.uri === undefined ? {} : { uri: options.uri });
  return until("the end of the update", async () => {
    const info = await qmp.execute("query-migrate");
    return info.status === "completed" || info.status === "failed" ? info : undefined;
  });
}

/** Waits until the readers of events have had their turn. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** `update`, which must succeed. */
export async function updated(guest: GuestProcess, qmp: QmpClient, options: UpdateOptions = {}): Promise<void> {
  const before = { image: guest.imageIdentity(), counter: guest.counter() };
  const info = await update(qmp, options);
  assert.is(info.status, "completed", `${info["error-desc"]} ${guest.error}`);
  assert.ok(guest.imageIdentity() !== before.image, "the program was replaced");
  assert.ok(guest.counter() >= before.counter, "the guest's RAM is the same");
  await settled();
}

/** An event as one word: `STOP`, `MIGRATION active`. */
export function eventName(event: QmpEvent): string {
  return event.event === "MIGRATION" ? `MIGRATION ${event.data.status}` : event.event;
}

/** Asks for MIGRATION events, and returns a list that grows as events come. */
export async function recordEvents(qmp: QmpClient): Promise<string[]> {
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
  const names: string[] = [];
  const events = qmp.events();
  void (async () => {
    for await (const event of events) names.push(eventName(event));
  })();
  return names;
}

/** A raw connection: what came over it so far, as latin1, one character for each byte. */
export class ByteStream {
  text = "";
  hasEnded = false;
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (bytes: Uint8Array) => (this.text += Buffer.from(bytes).toString("latin1")));
    socket.on("close", () => (this.hasEnded = true));
    socket.on("error", () => (this.hasEnded = true));
  }

  static async connect(path: string): Promise<ByteStream> {
    const socket = connectSocket({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", () => resolve());
      socket.once("error", reject);
    });
    return new ByteStream(socket);
  }

  write(text: string): void {
    this.#socket.write(Buffer.from(text, "latin1"));
  }

  /** Waits until `pattern` has come at or after position `from`. */
  waitFor(pattern: string, from = 0): Promise<void> {
    return until(JSON.stringify(pattern), () => {
      if (this.text.includes(pattern, from)) return true;
      if (this.hasEnded) throw new Error(`The connection ended before ${JSON.stringify(pattern)} came: ${this.text}`);
      return undefined;
    }).then(() => {});
  }

  close(): void {
    this.#socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
