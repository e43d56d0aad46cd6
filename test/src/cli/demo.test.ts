// SPDX-License-Identifier: Apache-2.0
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chooseAccelerator } from "../../../src/accel/choose.ts";
import type { KvmFitness } from "../../../src/accel/kvm/probe.ts";
import { chooseGuest } from "../../../src/cli/demo/guest.ts";
import { parseDemoOptions } from "../../../src/cli/demo/options.ts";
import { sparkline } from "../../../src/cli/demo/summary.ts";
import { rowOf, Table } from "../../../src/cli/demo/table.ts";
import { Terminal } from "../../../src/cli/terminal.ts";
import type { MeasuredUpdate } from "../../../src/meter/measured-vm.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { hidingKvmMissing, kvmMissing, WITHOUT_KVM } from "../../kvm.ts";
import { FakeMachine, whyNoApt } from "../image/support.ts";

const test = describe("demo");

const root = fileURLToPath(new URL("../../..", import.meta.url));
const runtimeArguments = process.versions.bun === undefined ? ["run", "-A", "--quiet"] : ["run"];

/** No Linux can be had there, whatever the user has. */
const bare = new FakeMachine([]);

interface Outcome {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `baton demo` in this runtime. Its VMM is dist/baton where there is one. */
function demo(...args: string[]): Promise<Outcome> {
  return run([...baton, "demo", ...args], bare.env);
}

function run([program, ...args]: readonly string[], env: NodeJS.ProcessEnv): Promise<Outcome> {
  const child = spawn(program!, args, { stdio: ["ignore", "pipe", "pipe"], env });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  return new Promise((resolve) => child.once("close", (exitCode) => resolve({ exitCode, stdout, stderr })));
}

const baton = [process.execPath, ...runtimeArguments, join(root, "src/cli/main.ts")];

const updateOf = (pauseMs: number, isDisturbed = false): MeasuredUpdate => ({
  pauseMs,
  atMostMs: pauseMs,
  isDisturbed,
  info: {
    "downtime-us": 4000,
    phases: [
      { phase: "exec", "duration-us": 3000 },
      { phase: "save", "duration-us": 1000 },
    ],
  },
});

function terminalOf(isFancy: boolean): { terminal: Terminal; written: () => string } {
  let text = "";
  const write = (more: string): void => {
    text += more;
  };
  const terminal = new Terminal({ isFancy, columns: 80, write });
  return { terminal, written: () => text };
}

test("parseDemoOptions has defaults and takes QEMU's sizes", () => {
  const { updates, check, ramSizeBytes, cpuCount, svg } = parseDemoOptions([]);
  assert.equal([updates, check, ramSizeBytes, cpuCount, svg], [10, false, 128 << 20, 1, undefined]);
  assert.is(parseDemoOptions(["--ram", "1.5G"]).ramSizeBytes, 1536 * 2 ** 20);
  assert.is(parseDemoOptions(["--ram", "256"]).ramSizeBytes, 256 * 2 ** 20);
});

test("parseDemoOptions refuses what makes no sense as a usage error", async () => {
  const refused = [
    ["--updates", "0"],
    ["--updates", "x"],
    ["--ram", "4G"],
    ["--vcpus", "9"],
    ["--frob"],
    ["more"],
    ["--guest", "bsd"],
    ["--accel", "tcg"],
  ];
  for (const args of refused) {
    const error = await rejection(() => parseDemoOptions(args));
    assert.is((error as Error & { code?: string }).code, "usage", args.join(" "));
  }
});

test("Table draws the phases in their order as letters, and what the VMM did not see as dots", () => {
  const { terminal } = terminalOf(false);
  const lines = new Table(terminal, 10).add(updateOf(8));
  assert.is(lines.length, 2);
  assert.match(lines[0]!, /guest saw +VMM says +0 +10 ms$/);
  assert.match(lines[1]!, /^ +1 +8\.00 ms +4\.00 ms {3}s+e+\.+$/);
  const [saved, execed] = [/s+/, /e+/].map((pattern) => pattern.exec(lines[1]!.slice(33))![0].length);
  assert.ok(Math.abs(execed! - 3 * saved!) <= 2, `${execed} is about 3 × ${saved}`);
});

test("Table keeps its scale, and marks what is cut off or disturbed", () => {
  const { terminal } = terminalOf(false);
  const table = new Table(terminal, 10);
  table.add(updateOf(8));
  const lines = table.add(updateOf(1000, true));
  assert.is(lines.length, 1);
  assert.match(lines[0]!, /^ +2.*≥ 1000\.00 ms.*>$/);
});

test("Table's legend has a line for each phase that was seen", () => {
  const { terminal } = terminalOf(false);
  const table = new Table(terminal, 10);
  table.add(updateOf(8));
  assert.equal(
    table.legend().map((line) => line.trim().split(/\s+/).slice(0, 4).join(" ")),
    ["ss save 1.00 ms", "ee exec 3.00 ms"],
  );
});

test("rowOf copes with a VMM that tells no phases", () => {
  assert.equal(rowOf({ pauseMs: 1, atMostMs: 1, isDisturbed: false, info: { status: "completed" } }), {
    pauseMs: 1,
    isDisturbed: false,
    downtimeMs: 0,
    phases: [],
  });
});

test("Terminal writes no escape sequence and no progress when plain", () => {
  const { terminal, written } = terminalOf(false);
  terminal.progress("working");
  terminal.print(terminal.strong("bold"), terminal.colour(33, "blue"));
  assert.is(written(), "bold\nblue\n");
});

test("Terminal erases its progress line before it prints", () => {
  const { terminal, written } = terminalOf(true);
  terminal.progress("working");
  terminal.progress("working");
  terminal.print("done");
  assert.is(written(), "\r\x1b[K  \x1b[2mworking\x1b[0m\r\x1b[Kdone\n");
});

test("Terminal.wrap keeps lines within the columns and loses no word", () => {
  const { terminal } = terminalOf(false);
  const paragraph = "word ".repeat(60).trim();
  const lines = terminal.wrap(paragraph);
  assert.ok(lines.length > 1 && lines.every((line) => line.length <= 80));
  assert.is(lines.join(" "), paragraph);
});

test("sparkline rises from zero to the longest", () => {
  assert.is(sparkline([0, 4, 8]), "▁▅█");
});

test("demo --check says which accelerator it would take, and why, and ends with 0", async () => {
  const { name, passedOver } = chooseAccelerator(["kvm", "wasm"]);
  const { exitCode, stdout } = await demo("--check");
  assert.is(exitCode, 0);
  assert.match(stdout, new RegExp(`^accel +${name}: KVM `));
  assert.is(stdout.includes("--accel kvm takes KVM all the same"), passedOver === "interprets");
  for (const part of ["VMM", "payload", "Linux"]) assert.match(stdout, part);
  assert.match((await demo("--check", "--accel", "wasm")).stdout, /^accel +wasm: asked for by name\n/);
});

test.skipIf(hidingKvmMissing(), "demo --check says how to have KVM where there is none", async () => {
  const { exitCode, stdout } = await run([...WITHOUT_KVM, ...baton, "demo", "--check"], process.env);
  assert.is(exitCode, 0);
  assert.match(stdout, /^accel +wasm: KVM cannot be used \(/);
  assert.match(stdout, /\n\nKVM cannot be used: it does not work on this machine\./);
});

test("demo ends with 2 when it does not understand its command line", async () => {
  const { exitCode, stderr } = await demo("--updates", "none");
  assert.is(exitCode, 2);
  assert.match(stderr, "--updates none");
});

test("chooseGuest() leaves Linux alone where KVM interprets it, unless it is asked for by name", () => {
  const kvm = { name: "kvm", reason: "asked for by name" } as const;
  const probe = (): KvmFitness => ({ verdict: "interprets", loopsPerSecond: 1e6 });
  const { linux, reason } = chooseGuest("auto", kvm, () => {}, probe);
  assert.is(linux, undefined);
  assert.match(reason, "--guest linux");
});

test("demo takes the payload where no Linux can be had, and says so", async () => {
  const none = await demo("--updates", "1", "--ram", "16M", "--accel", "wasm");
  assert.is(none.exitCode, 0, none.stdout + none.stderr);
  assert.match(none.stdout, /guest +the built-in payload: there is no Linux to be had/);
  const wanted = await demo("--guest", "linux");
  assert.is(wanted.exitCode, 1, wanted.stdout + wanted.stderr);
  assert.match(wanted.stderr, "There is no");
});

test.skipIf(whyNoApt(), "demo boots a Linux to its shell on the engine, and updates the VMM under it", async () => {
  const env = { ...process.env, XDG_CACHE_HOME: temporaryDirectory() };
  const { exitCode, stdout, stderr } = await run([...baton, "demo", "--accel", "wasm", "--updates", "2"], env);
  assert.is(exitCode, 0, stdout + stderr);
  assert.match(stdout, /guest +Linux \S+: from baton image/);
  assert.match(stdout, /guest# uname -srm\n +Linux \S+ x86_64\n/, stdout);
  assert.match(stdout, /updates +2,/);
  assert.match(stdout, /shell +the same, from second [\d.]+ of the guest to second [\d.]+\n/, stdout);
});

for (const accelerator of ["kvm", "wasm"] as const) {
  const skip = accelerator === "kvm" ? kvmMissing() : undefined;
  test.skipIf(skip, `demo replaces the VMM twice on ${accelerator}, and the guest notices nothing`, async () => {
    const svg = join(temporaryDirectory(), "demo.svg");
    const options = ["--updates", "2", "--ram", "32M", "--svg", svg, "--guest", "payload", "--accel", accelerator];
    const { exitCode, stdout, stderr } = await demo(...options);
    assert.is(exitCode, 0, stdout + stderr);
    assert.match(stdout, `accel  ${accelerator}: asked for by name`);
    assert.match(stdout, /updates +2,/);
    assert.match(stdout, /PID \d+ throughout/);
    assert.match(stdout, /rounds, 0 errors/);
    assert.not.match(stdout, "\x1b");
    const picture = readFileSync(svg, "utf8");
    assert.match(picture, "<svg");
    assert.match(picture, "update 2");
  });
}

test.run();
