// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  close,
  duplicate,
  duplicateTo,
  makeFifo,
  O_NOCTTY,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  open,
  setNonBlocking,
  statusFlags,
} from "../../../ffi/fd.ts";
import { openPty } from "../../../ffi/pty.ts";
import { socketPair } from "../../../ffi/socket.ts";
import { getTermios, setTermios } from "../../../ffi/termios.ts";
import { create, restore } from "../../../src/backends/chardev/create.ts";
import { RawTerminal } from "../../../src/backends/chardev/terminal.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { carry, Peer, until, warmReactor } from "./support.ts";

const test = describe("src/backends/chardev: stdio");
const directory = temporaryDirectory();
const probe = fileURLToPath(new URL("stdio-probe.ts", import.meta.url));
const runtime = process.versions.bun === undefined ? ["run", "-A", "--quiet"] : ["run"];

/** asm-generic/termbits.h: what a shell's terminal has and raw mode has not. */
const [ICRNL, OPOST_ONLCR, ISIG, ICANON, ECHO] = [0o400, 0o5, 0o1, 0o2, 0o10];

/** Runs the probe with its standard streams redirected by the shell: only so does a child get raw fds everywhere. */
function startProbe(stdin: string, stdout: string, env: Record<string, string> = {}): ChildProcess {
  const command = `exec "$0" "$@" <${stdin} >${stdout}`;
  const args = ["-c", command, process.execPath, ...runtime, probe];
  return spawn("/bin/sh", args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...env } });
}

/** A terminal as a shell leaves it, and both of its sides. */
class Terminal {
  readonly #pty = openPty();
  readonly #slaveFd = open(this.#pty.name, O_RDWR | O_NOCTTY);
  readonly screen = new Peer(this.#pty.fd);
  readonly name = this.#pty.name;
  readonly cooked: Uint8Array;

  constructor() {
    const termios = getTermios(this.#slaveFd);
    const flags = new Uint32Array(termios.buffer, 0, 4);
    flags[0]! |= ICRNL;
    flags[1]! |= OPOST_ONLCR;
    flags[3]! |= ISIG | ICANON | ECHO;
    setTermios(this.#slaveFd, termios);
    this.cooked = getTermios(this.#slaveFd);
  }

  get settings(): Uint8Array {
    return getTermios(this.#slaveFd);
  }

  get localFlags(): number {
    return new Uint32Array(this.settings.buffer)[3]!;
  }

  close(): void {
    this.screen.close();
    close(this.#slaveFd);
  }
}

for (const [how, end, exitCode] of [
  ["is closed", "c", 0],
  ["exits", "x", 0],
  ["dies of an error", "e", 1],
] as const) {
  test(`the terminal is raw, and restored when the program ${how}`, async () => {
    const terminal = new Terminal();
    const child = startProbe(terminal.name, terminal.name);
    const exited = once(child, "exit");
    await terminal.screen.expect("ready\r\n");
    assert.is(terminal.localFlags & (ISIG | ICANON | ECHO), 0);
    terminal.screen.write("\x03\r");
    await terminal.screen.expect("<3><13>");
    terminal.screen.write(end);
    assert.equal((await exited)[0], exitCode);
    assert.equal(terminal.settings, terminal.cooked);
    terminal.close();
  });
}

test("the terminal stays raw when the program survives an error", async () => {
  const terminal = new Terminal();
  const child = startProbe(terminal.name, terminal.name, { SURVIVE: "on" });
  const exited = once(child, "exit");
  await terminal.screen.expect("ready\r\n");
  terminal.screen.write("e");
  await terminal.screen.expect("<101>survived\r\n");
  assert.is(terminal.localFlags & (ISIG | ICANON | ECHO), 0);
  child.kill("SIGTERM");
  await exited;
  assert.equal(terminal.settings, terminal.cooked);
  terminal.close();
});

test("an inherited terminal that cannot be set is reported, and only that", async () => {
  const [end, peerFd] = socketPair();
  const errors: unknown[] = [];
  const gone = new RawTerminal(end, false, new Terminal().cooked);
  gone.enter((error) => errors.push(error));
  gone.leave();
  assert.is(errors.length, 1);
  for (const fd of [end, peerFd]) close(fd);
});

test("a shared socket is blocking again at the end, over updates too", async () => {
  const reactor = await warmReactor();
  const [end, peerFd] = socketPair();
  const own = [0, 1].map((fd) => duplicate(fd, 3));
  const isNonBlocking = (): boolean => (statusFlags(end) & O_NONBLOCK) !== 0;
  try {
    for (const fd of [0, 1]) duplicateTo(end, fd);
    for (const updates of [0, 1, 2]) {
      setNonBlocking(end, false);
      let device = create({ backend: "stdio", id: "s", signal: false }, reactor);
      for (let update = 0; update < updates; update++) {
        device.freeze();
        const state = carry(device);
        device.release();
        assert.ok(isNonBlocking());
        device = restore(state, reactor);
      }
      assert.ok(isNonBlocking());
      device.close();
      assert.not(isNonBlocking());
    }
    setNonBlocking(end, true);
    create({ backend: "stdio", id: "s", signal: false }, reactor).close();
    assert.ok(isNonBlocking(), "it was before");
  } finally {
    for (const [fd, copy] of own.entries()) duplicateTo(copy, fd);
  }
  for (const fd of [...own, end, peerFd]) close(fd);
  await reactor.close();
});

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  test(`the terminal is restored after ${signal}`, async () => {
    const terminal = new Terminal();
    const child = startProbe(terminal.name, terminal.name, { SIGNAL: "on" });
    const exited = once(child, "exit");
    await terminal.screen.expect("ready\r\n");
    // signal=on leaves ^C to the terminal.
    assert.is(terminal.localFlags & (ISIG | ICANON | ECHO), ISIG);
    child.kill(signal);
    const [code, name] = await exited;
    // Deno tells an exit code of 128 + n as a death by signal n.
    assert.ok(code === 128 + constants.signals[signal] || name === signal, `${code} ${name}`);
    assert.equal(terminal.settings, terminal.cooked);
    terminal.close();
  });
}

test("after an exec the terminal is still raw, nothing that was typed is lost, and the end restores it", async () => {
  const terminal = new Terminal();
  const child = startProbe(terminal.name, terminal.name);
  const exited = once(child, "exit");
  await terminal.screen.expect("ready\r\n");
  terminal.screen.write("1u23u4");
  await terminal.screen.expect("<49><117>restored\r\n<50><51><117>restored\r\n<52>");
  assert.is(terminal.localFlags & (ISIG | ICANON | ECHO), 0);
  terminal.screen.write("x");
  assert.is((await exited)[0], 0);
  assert.equal(terminal.settings, terminal.cooked);
  terminal.close();
});

test("stdin and stdout may be files: the end of the input is not the end of the output", async () => {
  const [input, output] = [join(directory, "input"), join(directory, "output")];
  writeFileSync(input, "ab");
  const child = startProbe(input, output);
  const exited = once(child, "exit");
  await until(() => {
    try {
      return readFileSync(output, "utf8") === "ready\n<97><98>";
    } catch {
      return false;
    }
  });
  child.kill("SIGKILL");
  await exited;
});

test("stdin and stdout may be pipes, and the shell's O_NONBLOCK stays as it was", async () => {
  const path = join(directory, "fifo");
  makeFifo(`${path}.in`);
  makeFifo(`${path}.out`);
  const peer = new Peer(open(`${path}.out`, O_RDONLY | O_NONBLOCK), open(`${path}.in`, O_RDWR | O_NONBLOCK));
  const child = startProbe(`${path}.in`, `${path}.out`);
  const exited = once(child, "exit");
  await peer.expect("ready\n");
  for (const fd of [0, 1]) {
    const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/${child.pid}/fdinfo/${fd}`, "utf8"))![1]!;
    assert.is(Number.parseInt(flags, 8) & O_NONBLOCK, 0);
  }
  peer.write("ac");
  await peer.expect("<97><99>");
  assert.is((await exited)[0], 0);
  peer.close();
});

test("only one device may have standard input and output", async () => {
  const reactor = await warmReactor();
  const spec = { backend: "stdio", id: "first", signal: true } as const;
  const device = create(spec, reactor);
  const error = await rejection(() => create({ ...spec, id: "second" }, reactor));
  assert.is((error as Error & { code: string }).code, "stdio-in-use");
  device.close();
  create(spec, reactor).close();
  await reactor.close();
});

test.run();
