// SPDX-License-Identifier: Apache-2.0
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseDemoOptions } from "../../../src/cli/demo/options.ts";
import { kvmProblem } from "../../../src/cli/demo/preconditions.ts";
import { sparkline } from "../../../src/cli/demo/summary.ts";
import { rowOf, Table } from "../../../src/cli/demo/table.ts";
import { Terminal } from "../../../src/cli/terminal.ts";
import type { MeasuredUpdate } from "../../../src/meter/measured-vm.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("demo");

const root = fileURLToPath(new URL("../../..", import.meta.url));
const runtimeArguments = process.versions.bun === undefined ? ["run", "-A", "--quiet"] : ["run"];

interface Outcome {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `baton demo` in this runtime. Its VMM is dist/baton where there is one. */
function demo(...args: string[]): Promise<Outcome> {
  const child = spawn(process.execPath, [...runtimeArguments, join(root, "src/cli/main.ts"), "demo", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  return new Promise((resolve) => child.once("close", (exitCode) => resolve({ exitCode, stdout, stderr })));
}

const noKvm = kvmProblem();

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
  const refused = [["--updates", "0"], ["--updates", "x"], ["--ram", "4G"], ["--vcpus", "9"], ["--frob"], ["more"]];
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

test("demo --check says what is in place and ends with 0", async () => {
  const { exitCode, stdout } = await demo("--check");
  assert.is(exitCode, 0);
  for (const part of ["kvm", "VMM", "payload"]) assert.match(stdout, part);
});

test("demo ends with 2 when it does not understand its command line", async () => {
  const { exitCode, stderr } = await demo("--updates", "none");
  assert.is(exitCode, 2);
  assert.match(stderr, "--updates none");
});

test.skipIf(noKvm, "demo --updates 2 replaces the VMM twice and the guest notices nothing", async () => {
  const svg = join(temporaryDirectory(), "demo.svg");
  const { exitCode, stdout, stderr } = await demo("--updates", "2", "--ram", "32M", "--svg", svg);
  assert.is(exitCode, 0, stdout + stderr);
  assert.match(stdout, /updates +2,/);
  assert.match(stdout, /PID \d+ throughout/);
  assert.match(stdout, /rounds, 0 errors/);
  assert.not.match(stdout, "\x1b");
  const picture = readFileSync(svg, "utf8");
  assert.match(picture, "<svg");
  assert.match(picture, "update 2");
});

test.skipIf(noKvm === undefined ? "KVM is usable here" : undefined, "demo says that KVM is missing", async () => {
  const { exitCode, stdout } = await demo();
  assert.is(exitCode, 1);
  assert.match(stdout, "KVM");
});

test.run();
