// SPDX-License-Identifier: Apache-2.0
// The host's kernel is replaced by kexec while a Debian guest keeps its memory, and what it was doing.
//
//   kexec-cpr-reboot.ts [--qemu tcg|kvm]
//
// Runs once under each kernel. Before the kexec: boot a guest whose RAM is /dev/dax0.0, save the rest of it in a file,
// end the VMM. After it: start a VMM on the same RAM and give it that file. With --qemu both VMMs are QEMU: that proves
// this script and the guest, not Baton.
import { readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findAssets, type LabAssets, missingGuestKernel, projectDir } from "../assets.ts";
import { Console } from "../console.ts";
import { guestInitrdPath } from "../initramfs.ts";
import { kexec } from "../kexec.ts";
import { labWorkDir } from "../machine.ts";
import { MonitoredVmm } from "../monitor.ts";
import { check, Skip, scenario, until } from "../scenario.ts";

const CONSOLE_PATH = "/tmp/con.sock";
const RAM_PATH = "/dev/dax0.0";
/** In the folder that outlives the kexec. */
const STATE_FILE = "vm.state";
/** What the first half tells the second. */
const NOTES_PATH = join(labWorkDir, "notes.json");
const BOOT_TIMEOUT_MS = 120_000;
const STEP_TIMEOUT_MS = 60_000;
/** Lines that the guest adds to its file on each side of the kexec. */
const MINIMUM_LINES = 5;
/** Lines of an answer that the kexec falls into. */
const ANSWER_LINES = 30;

const { values: options } = parseArgs({ options: { qemu: { type: "string" } } });
const isQemu = options.qemu !== undefined;

/** How far the host's clock may be off: each boot reads it from one that counts seconds. */
const CLOCK_TOLERANCE_SECONDS = 2;

interface Notes {
  hostKernel: string;
  hostBootId: string;
  guestConsole: string;
  /** Names the answer that the guest had begun to print. */
  nonce: string;
  guestHealth: Health;
}

/** What the guest's `keeper` prints. */
interface KeptLine {
  lines: number;
  /** The keeper's process. */
  pid: string;
  uptimeSeconds: number;
  bootId: string;
}

function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

async function startVmm(assets: LabAssets, ...more: string[]): Promise<MonitoredVmm> {
  const machine = isQemu
    ? ["-machine", "microvm,memory-backend=ram0,rtc=on", "-accel", options.qemu!, "-cpu", "max", "-no-reboot"]
    : ["-machine", "microvm,memory-backend=ram0", "-accel", "kvm"];
  const args = [
    ...["-monitor", "stdio", ...machine, "-m", "256M"],
    // A DAX device can be mapped in pieces of 2 MiB only: QEMU must be told.
    ...["-object", `memory-backend-file,id=ram0,size=256M,mem-path=${RAM_PATH},share=on,align=2M`],
    ...["-kernel", assets.guestKernels["6.12"]!.imagePath, "-initrd", guestInitrdPath],
    // To the guest the kexec is a pause; whether it takes it for as long as it was is seen from here: `checkUptime`.
    ...["-append", "console=ttyS0 quiet panic=-1 LONGEST_PAUSE=30000"],
    ...["-serial", `unix:${CONSOLE_PATH},server=on,wait=off`],
    ...["-nodefaults", "-display", "none", ...more],
  ];
  const program = isQemu ? "qemu-system-x86_64" : join(projectDir, "dist/baton");
  return await MonitoredVmm.start(program, args, labWorkDir);
}

/** The guest runs, and nothing but the DAX device is its RAM. */
async function checkRuns(vmm: MonitoredVmm): Promise<void> {
  await vmm.typeUntil("info status", "VM status: running");
  const maps = readFileSync(`/proc/${vmm.process.pid}/maps`, "latin1");
  check(maps.includes(RAM_PATH), `The VMM does not map ${RAM_PATH}\n${maps}`);
}

/** Throws when the guest has lost or repeated anything. `transcript` is all that its console ever printed. */
function checkKept(transcript: string): KeptLine[] {
  const complaint = /guest: (CORRUPT|clock) [^\n]*\n/.exec(transcript);
  check(complaint === null, `The guest found: ${complaint?.[0]}`);
  check(transcript.split("guest: ready").length === 2, "The guest booted again");
  const pattern = /guest: kept (\d+) lines ok \(keeper (\d+), uptime ([\d.]+), boot ([\da-f-]+)\)\r\n/g;
  const kept = [...transcript.matchAll(pattern)].map(([, lines, pid, uptime, bootId]) => {
    return { lines: Number(lines), pid: pid!, uptimeSeconds: Number(uptime), bootId: bootId! };
  });
  for (const [index, { lines, pid, uptimeSeconds, bootId }] of kept.entries()) {
    check(lines === index + 1, `After ${index} lines the guest says that it kept ${lines}`);
    check(pid === kept[0]!.pid, `The keeper is process ${pid}, and was ${kept[0]!.pid}`);
    check(bootId === kept[0]!.bootId, `The guest's boot id is ${bootId}, and was ${kept[0]!.bootId}`);
    const before = kept[index - 1]?.uptimeSeconds ?? 0;
    check(uptimeSeconds >= before, `The guest's uptime went from ${before} to ${uptimeSeconds}`);
  }
  for (const [index, [line, round]] of [...transcript.matchAll(/guest: round (\d+) ok [^\n]*/g)].entries()) {
    check(Number(round) === index, `After ${index} rounds of the workload came "${line.trim()}"`);
  }
  return kept;
}

/** Resolves when the guest has printed all of an answer; throws unless it is what it must be, byte by byte. */
async function waitForAnswer(guest: Console, nonce: string, earlier: string): Promise<void> {
  const wanted = Array.from({ length: ANSWER_LINES }, (_, line) => `${nonce}:${line + 1}:${(line + 1) * 7919}\r\n`);
  await guest.waitFor(new RegExp(`:${ANSWER_LINES}:\\d+\r\n`), STEP_TIMEOUT_MS);
  const transcript = earlier + guest.transcript;
  const lines = [...transcript.matchAll(new RegExp(`${nonce}:[^\n]*\n`, "g"))].map(([line]) => line);
  const wrong = wanted.findIndex((line, index) => line !== lines[index]);
  check(
    wrong === -1 && lines.length === wanted.length,
    `Line ${wrong + 1} of the guest's answer is not what it printed. Before the kexec\n${JSON.stringify(earlier.slice(-400))}\n` +
      `and after it\n${JSON.stringify(guest.transcript.slice(0, 400))}`,
  );
}

/** Resolves when the guest has kept that many. The kexec may have come in the middle of a line: `earlier` has its start. */
async function waitForLines(guest: Console, lines: number, earlier = ""): Promise<KeptLine[]> {
  return await until(
    () => {
      const kept = checkKept(earlier + guest.transcript);
      check(!guest.closed, `The guest's console was closed\n${guest.tail()}`);
      return kept.length >= lines ? kept : undefined;
    },
    STEP_TIMEOUT_MS,
    () => `The guest has not kept ${lines} lines\n${guest.tail()}`,
  );
}

/** What the guest says of itself, and between which times of the host's wall clock it does. */
interface Health {
  uptimeSeconds: number;
  /** What its kernel has complained about since it booted. */
  complaints: string[];
  askedAtMs: number;
  answeredAtMs: number;
}

async function askHealth(guest: Console): Promise<Health> {
  const nonce = crypto.randomUUID().slice(0, 8);
  const begin = guest.transcript.length;
  const askedAtMs = Date.now();
  guest.type(`health ${nonce}\n`);
  const [, uptime] = await guest.waitFor(new RegExp(`${nonce}:\\d+:([\\d.]+)\r\n`), STEP_TIMEOUT_MS, begin);
  const lines = guest.transcript.slice(begin).matchAll(new RegExp(`${nonce}! ([^\r\n]*)`, "g"));
  const complaints = [...lines].map(([, line]) => line!);
  return { uptimeSeconds: Number(uptime), complaints, askedAtMs, answeredAtMs: Date.now() };
}

/** Time goes on for the guest while it is not there; under QEMU it stands still. */
function checkUptime(before: Health, after: Health): void {
  const elapsedSeconds = after.uptimeSeconds - before.uptimeSeconds;
  const leastSeconds = isQemu ? 0 : (after.askedAtMs - before.answeredAtMs) / 1000 - CLOCK_TOLERANCE_SECONDS;
  const mostSeconds = (after.answeredAtMs - before.askedAtMs) / 1000 + CLOCK_TOLERANCE_SECONDS;
  check(
    elapsedSeconds >= leastSeconds && elapsedSeconds <= mostSeconds,
    `The guest's uptime went on by ${elapsedSeconds} s, and not by ${leastSeconds} to ${mostSeconds} s`,
  );
}

/** The first half. Ends in the other kernel. */
async function leave(assets: LabAssets): Promise<never> {
  const vmm = await startVmm(assets);
  const guest = await Console.connect(CONSOLE_PATH, STEP_TIMEOUT_MS, () => vmm.assertRuns());
  const [, ready = ""] = await guest.waitFor(/guest: ready ([^\r]*)\r\n/, BOOT_TIMEOUT_MS);
  console.log(`Guest ready: ${ready}`);
  await guest.waitFor(/guest# /, STEP_TIMEOUT_MS);
  guest.type("keeper &\n");
  await waitForLines(guest, MINIMUM_LINES);
  const guestHealth = await askHealth(guest);

  await checkRuns(vmm);
  await vmm.type("migrate_set_capability x-ignore-shared on");
  await vmm.type("migrate_set_parameter mode cpr-reboot");
  const nonce = crypto.randomUUID().slice(0, 8);
  guest.type(`answer ${nonce} ${ANSWER_LINES}\n`);
  await guest.waitFor(new RegExp(`${nonce}:2:`), STEP_TIMEOUT_MS);
  await vmm.type(`migrate -d file:${STATE_FILE}`);
  await vmm.typeUntil("info status", "VM status: paused (postmigrate)");
  await vmm.quit();
  check(guest.closed, "The VMM has ended, and its console is open");

  const last = checkKept(guest.transcript).at(-1)!;
  console.log(`Guest at the end: ${JSON.stringify(last)}`);
  const notes: Notes = {
    hostKernel: release(),
    hostBootId: readBootId(),
    guestConsole: guest.transcript,
    nonce,
    guestHealth,
  };
  writeFileSync(NOTES_PATH, JSON.stringify(notes));
  console.log(`# kexec -l ${assets.labKernel.imagePath} --reuse-cmdline && kexec -e`);
  return kexec(assets.labKernel.imagePath, "arrive");
}

/** The second half. */
async function arrive(assets: LabAssets): Promise<void> {
  const notes = JSON.parse(readFileSync(NOTES_PATH, "utf8")) as Notes;
  check(readBootId() !== notes.hostBootId, "The host did not boot");
  const before = checkKept(notes.guestConsole).at(-1)!;

  const vmm = await startVmm(assets, "-incoming", "defer");
  const guest = await Console.connect(CONSOLE_PATH, STEP_TIMEOUT_MS, () => vmm.assertRuns());
  check((await vmm.type("info status")) === "VM status: paused (inmigrate)", "The VMM does not wait for a guest");
  await vmm.type("migrate_set_capability x-ignore-shared on");
  await vmm.type("migrate_set_parameter mode cpr-reboot");
  await vmm.type(`migrate_incoming file:${STATE_FILE}`);
  await checkRuns(vmm);

  await waitForAnswer(guest, notes.nonce, notes.guestConsole);
  const kept = await waitForLines(guest, before.lines + MINIMUM_LINES, notes.guestConsole);
  const health = await askHealth(guest);
  checkUptime(notes.guestHealth, health);
  const complaints = health.complaints.filter(
    // QEMU halts kvm-clock for its migration, but not the TSC: the guest notices.
    (line) => !notes.guestHealth.complaints.includes(line) && !(isQemu && line.includes("Marking clocksource")),
  );
  check(complaints.length === 0, `The guest's kernel complains:\n${complaints.join("\n")}`);
  const first = kept[before.lines]!;
  const elapsedSeconds = (health.answeredAtMs - notes.guestHealth.answeredAtMs) / 1000;
  console.log(`Guest goes on: ${JSON.stringify(first)}`);
  console.log(
    `Host: Linux ${notes.hostKernel}, then ${release()}. Guest: one boot, its file grew from ${before.lines} to ` +
      `${kept.at(-1)!.lines} lines without a gap, its uptime went from ` +
      `${notes.guestHealth.uptimeSeconds} to ${health.uptimeSeconds} s in ${elapsedSeconds.toFixed(1)} s of the host`,
  );
  guest.type("poweroff -f\n");
  await vmm.waitForEnd("after the guest powered off");
}

await scenario(async () => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  const missing = missingGuestKernel(found.assets, "6.12");
  if (missing !== undefined) throw new Skip(missing);
  console.log(`Host kernel ${release()}, boot ${readBootId()}`);
  if (process.env.LAB_STAGE === undefined) await leave(found.assets);
  else await arrive(found.assets);
});
