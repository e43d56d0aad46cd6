// SPDX-License-Identifier: Apache-2.0
// An unmodified Debian kernel at work while the VMM under it is replaced by execve, again and again.
//
//   linux-cpr-exec.ts SERIES CPUS [UPDATES] [--qemu tcg|kvm]
//
// Console and QMP are connected once. Updates fall alternately into the middle of an answer that the guest prints and
// into the middle of a command that is typed. With --qemu the same guest runs under QEMU, whose "update" is a migration
// to nowhere: that proves this script and the guest, not Baton.
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findAssets, type GuestSeries, missingGuestKernel, projectDir } from "../assets.ts";
import { Console, Qmp } from "../console.ts";
import { guestInitrdPath } from "../initramfs.ts";
import { check, Skip, scenario, until } from "../scenario.ts";
import { countRounds } from "../workload.ts";

const CONSOLE_PATH = "/tmp/con.sock";
const QMP_PATH = "/tmp/qmp.sock";
const STATE_PATH = "/tmp/vm.state";
const ANSWER_LINES = 12;
const BOOT_TIMEOUT_MS = 60_000;
const STEP_TIMEOUT_MS = 30_000;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { qemu: { type: "string" } },
});
const [series = "6.12", cpus = "1", updates = "20"] = positionals as [GuestSeries?, string?, string?];
const cpuCount = Number(cpus);
const updateCount = Number(updates);
const isQemu = options.qemu !== undefined;

function startVmm(kernelPath: string): ChildProcess {
  const program = isQemu ? "qemu-system-x86_64" : join(projectDir, "dist/baton");
  const machine = isQemu
    ? ["-machine", "microvm,memory-backend=ram0,rtc=on", "-accel", options.qemu!, "-cpu", "max", "-no-reboot"]
    : ["-machine", "microvm,memory-backend=ram0,aux-ram-share=on", "-accel", "kvm"];
  const args = [
    ...machine,
    ...["-object", "memory-backend-memfd,id=ram0,size=256M,share=on", "-m", "256M", "-smp", String(cpuCount)],
    ...["-kernel", kernelPath, "-initrd", guestInitrdPath, "-append", "console=ttyS0 quiet panic=-1"],
    ...["-serial", `unix:${CONSOLE_PATH},server=on,wait=off`, "-qmp", `unix:${QMP_PATH},server=on,wait=off`],
    ...["-nodefaults", "-display", "none"],
  ];
  return spawn(program, args, { stdio: ["ignore", "inherit", "inherit"] });
}

/** What tells a process from others of the same number, and its program image from earlier ones in the same process. */
function identify(pid: number): { startTime: string; stackStart: string } {
  // Fields of proc_pid_stat(5), counted after the command name, which may hold spaces. An exec starts a new stack.
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { startTime: fields[19]!, stackStart: fields[25]! };
}

/** Runs one update and returns the downtime that the VMM reports. `during` is called once the VMM has its command. */
async function update(qmp: Qmp, during: () => void): Promise<number> {
  if (!isQemu) await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  const migrate = qmp.send("migrate", { uri: isQemu ? "exec:cat >/dev/null" : `file:${STATE_PATH}` });
  during();
  await qmp.answer(migrate, "migrate");
  const result = await until(
    async () => {
      const info = await qmp.execute("query-migrate");
      check(!["failed", "cancelled"].includes(String(info.status)), `The update failed: ${JSON.stringify(info)}`);
      return info.status === "completed" ? info : undefined;
    },
    STEP_TIMEOUT_MS,
    "The update did not complete",
  );
  if (isQemu) await qmp.execute("cont");
  check(typeof result.downtime === "number", `query-migrate has no downtime: ${JSON.stringify(result)}`);
  return result.downtime;
}

/** Types a command whose answer is known, with an update in the middle of the answer or of the command. */
async function updateAmidConversation(console: Console, qmp: Qmp, index: number): Promise<number> {
  const nonce = crypto.randomUUID().slice(0, 8);
  const begin = console.transcript.length;
  let downtimeMs: number;
  if (index % 2 === 0) {
    console.type(`answer ${nonce} ${ANSWER_LINES}\n`);
    await console.waitFor(new RegExp(`${nonce}:2:`), STEP_TIMEOUT_MS, begin);
    downtimeMs = await update(qmp, () => {});
  } else {
    console.type(`answer ${nonce.slice(0, 4)}`);
    downtimeMs = await update(qmp, () => console.type(`${nonce.slice(4)} ${ANSWER_LINES}\n`));
  }
  await console.waitFor(new RegExp(`${nonce}:${ANSWER_LINES}:\\d+\r\n`), STEP_TIMEOUT_MS, begin);

  const lines = [...console.transcript.slice(begin).matchAll(new RegExp(`${nonce}:[^\n]*\n`, "g"))].map(
    ([line]) => line,
  );
  const wanted = Array.from({ length: ANSWER_LINES }, (_, line) => `${nonce}:${line + 1}:${(line + 1) * 7919}\r\n`);
  check(
    JSON.stringify(lines) === JSON.stringify(wanted),
    `The answer across update ${index + 1} is not what the guest printed: ${JSON.stringify(lines)}\n${console.tail()}`,
  );
  return downtimeMs;
}

interface Health {
  uptimeSeconds: number;
  /** What the kernel complained about since it booted. */
  complaints: string[];
}

async function askGuestHealth(guest: Console): Promise<Health> {
  const nonce = crypto.randomUUID().slice(0, 8);
  const begin = guest.transcript.length;
  guest.type(`health ${nonce}\n`);
  const [, uptime] = await guest.waitFor(new RegExp(`${nonce}:\\d+:([\\d.]+)\r\n`), STEP_TIMEOUT_MS, begin);
  const lines = guest.transcript.slice(begin).matchAll(new RegExp(`${nonce}! ([^\r\n]*)`, "g"));
  return { uptimeSeconds: Number(uptime), complaints: [...lines].map(([, line]) => line!) };
}

/** What the VMM's threads are at, for whoever has to find out why a guest stands still. */
function describeThreads(pid: number): string {
  const lines = readdirSync(`/proc/${pid}/task`).map((tid) => {
    const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, "latin1");
    const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const place = readFileSync(`/proc/${pid}/task/${tid}/wchan`, "latin1");
    return `  thread ${tid} ${name}: state ${fields[0]} user ${fields[11]} system ${fields[12]} ticks, in ${place}`;
  });
  return lines.join("\n");
}

/** Prints it twice, a second apart: what moves and what does not. Says nothing when there is no VMM to ask. */
async function printDiagnosis(vmm: ChildProcess, qmp: Qmp): Promise<void> {
  try {
    console.log(describeThreads(vmm.pid!));
    console.log(`  query-status ${JSON.stringify(await qmp.execute("query-status"))}`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    console.log(describeThreads(vmm.pid!));
  } catch (error) {
    console.log(`  ${error}`);
  }
}

/** Boots, updates and checks. `enter` is told what comes next, and throws when the VMM has ended. */
async function converse(
  vmm: ChildProcess,
  guest: Console,
  qmp: Qmp,
  startedMs: number,
  enter: (what: string) => void,
): Promise<void> {
  const [, ready = ""] = await guest.waitFor(/guest: ready ([^\r]*)\r\n/, BOOT_TIMEOUT_MS);
  console.log(`Guest ready: ${ready} after ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  check(ready.includes(`cpus ${cpuCount} `), `The guest sees another number of CPUs than ${cpuCount}`);
  await guest.waitFor(/guest# /, STEP_TIMEOUT_MS);
  // An emulated CPU may displease a booting kernel; what counts is what it says afterwards.
  const healthBefore = await askGuestHealth(guest);
  for (const complaint of healthBefore.complaints) console.log(`At boot the guest's kernel says: ${complaint}`);
  const clockBeforeMs = performance.now();

  let identity = identify(vmm.pid!);
  const downtimesMs: number[] = [];
  for (let index = 0; index < updateCount; index++) {
    enter(`in update ${index + 1}, ${((performance.now() - startedMs) / 1000).toFixed(1)} s after the start`);
    downtimesMs.push(await updateAmidConversation(guest, qmp, index));
    const roundsBefore = countRounds(guest.transcript, cpuCount);
    const now = identify(vmm.pid!);
    check(now.startTime === identity.startTime, "The VMM is another process than before");
    check(isQemu || now.stackStart !== identity.stackStart, `Update ${index + 1} replaced no program`);
    identity = now;
    await until(
      () =>
        countRounds(guest.transcript, cpuCount).every((rounds, cpu) => rounds > roundsBefore[cpu]!) ? true : undefined,
      STEP_TIMEOUT_MS,
      () => `The workload stands still after update ${index + 1}\n${guest.tail()}`,
    );
  }

  enter("after the updates");
  const health = await askGuestHealth(guest);
  const complaints = health.complaints.filter(
    // QEMU halts kvm-clock for its migration, but not the TSC: the guest notices.
    (line) => !healthBefore.complaints.includes(line) && !(isQemu && line.includes("Marking clocksource")),
  );
  check(complaints.length === 0, `The guest's kernel complains:\n${complaints.join("\n")}`);
  const uptimeSeconds = health.uptimeSeconds - healthBefore.uptimeSeconds;
  const elapsedSeconds = (performance.now() - clockBeforeMs) / 1000;
  const rounds = countRounds(guest.transcript, cpuCount);
  const sorted = downtimesMs.toSorted((a, b) => a - b);
  console.log(
    `${updateCount} updates in ${elapsedSeconds.toFixed(1)} s, guest uptime advanced ${uptimeSeconds.toFixed(1)} s, ` +
      `rounds ${rounds.join("+")}, downtime reported: median ${sorted[sorted.length >> 1]} ms, max ${sorted.at(-1)} ms`,
  );
  check(uptimeSeconds > 0, "The guest's uptime went backwards");
  check(!guest.closed && !qmp.closed, "A connection was closed by an update");
}

async function run(vmm: ChildProcess): Promise<void> {
  let end: string | undefined;
  vmm.once("error", (error) => (end = error.message));
  vmm.once("exit", (code, signal) => {
    end = signal ?? `exit code ${code}`;
    console.log(`The VMM ended with ${end}`);
  });
  const stillRuns = () => check(end === undefined, `The VMM ended with ${end}`);

  const startedMs = performance.now();
  const guest = await Console.connect(CONSOLE_PATH, STEP_TIMEOUT_MS, stillRuns);
  // What timeout(1) sends: a hang should leave more behind than its name.
  let progress = "during boot";
  process.once("SIGTERM", () => {
    console.log(`FAIL Out of time ${progress}\n${guest.tail()}`);
    vmm.kill("SIGKILL");
    process.exit(1);
  });
  const qmp = await Qmp.connect(QMP_PATH, STEP_TIMEOUT_MS, stillRuns);
  try {
    await converse(vmm, guest, qmp, startedMs, (what) => {
      stillRuns();
      progress = what;
    });
  } catch (error) {
    await printDiagnosis(vmm, qmp);
    throw error;
  }

  guest.type("poweroff -f\n");
  const ending = await until(() => end, STEP_TIMEOUT_MS, "The VMM still runs after the guest powered off");
  check(ending === "exit code 0", `The VMM ended with ${ending} after the guest powered off`);
}

await scenario(async () => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  const missing = missingGuestKernel(found.assets, series);
  if (missing !== undefined) throw new Skip(missing);
  for (const path of [CONSOLE_PATH, QMP_PATH, STATE_PATH]) rmSync(path, { force: true });
  const vmm = startVmm(found.assets.guestKernels[series]!.imagePath);
  try {
    await run(vmm);
  } finally {
    vmm.kill("SIGKILL");
  }
});
