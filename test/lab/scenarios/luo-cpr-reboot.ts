// SPDX-License-Identifier: Apache-2.0
// The host's kernel is replaced by kexec under a guest whose RAM is a memfd: cpr-reboot by the Live Update Orchestrator.
//
// The guest is the payload that checks itself. Runs once under each kernel. Before the kexec: the guest is saved, `quit`
// is refused, `cont` takes the guest back, it is saved again. After it: the older state file is refused, the newer one
// has the guest, whose RAM is compared byte by byte before it goes on, and which then checks itself.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { close, O_RDONLY, open, pread, status } from "../../../ffi/fd.ts";
import { KvmSystem } from "../../../ffi/kvm/kvm.ts";
import { REPORT_GPA, REPORT_SIZE_BYTES, type Report, readReport } from "../../../src/payload/report.ts";
import { buildSelfCheck } from "../../../src/payload/self-check.ts";
import { findAssets, type LabAssets, missingLuoKernel, projectDir } from "../assets.ts";
import { Qmp } from "../console.ts";
import { kexec } from "../kexec.ts";
import { labWorkDir } from "../machine.ts";
import { MonitoredVmm } from "../monitor.ts";
import { check, Skip, scenario, until } from "../scenario.ts";

const RAM_SIZE_BYTES = 64 << 20;
const CPU_COUNT = 2;
const TOUCH_BYTES = 16 << 20;
/** In the emulated machine rounds are few: each looks at many pages. */
const SWEEP_PAGES = 128;
/** In the folder that outlives the kexec; the first is the one that `cont` makes worthless. */
const STATE_FILES = ["vm1.state", "vm2.state"] as const;
const KERNEL_PATH = join(labWorkDir, "payload.elf");
/** What the first half tells the second. */
const NOTES_PATH = join(labWorkDir, "notes.json");
const QMP_PATH = "/tmp/qmp.sock";
const STEP_TIMEOUT_MS = 60_000;
/** To the guest the kexec is one step of its clock. */
const LONGEST_KEXEC_NS = 250_000_000_000;
/** The host that TCG emulates is slow: nobody's timer is late because of an update. */
const LOST_TICK_LIMIT = 1000;

interface Notes {
  hostKernel: string;
  ramDigest: string;
  counters: string[];
  ticks: string[];
  sweeps: number;
  lastClockNs: string;
}

/** The guest's RAM, seen from outside the VMM. */
class Ram {
  readonly #fd: number;
  readonly path: string;

  constructor(pid: number) {
    const folder = `/proc/${pid}/fd`;
    const candidates = readdirSync(folder).map((name) => join(folder, name));
    const found = candidates.find((path) => isMemfdOf(path, RAM_SIZE_BYTES));
    check(
      found !== undefined,
      `No memfd of ${RAM_SIZE_BYTES} bytes among ${candidates.map((path) => readlinkSync(path))}`,
    );
    this.path = readlinkSync(found);
    this.#fd = open(found, O_RDONLY);
  }

  report(): Report | undefined {
    const bytes = new Uint8Array(REPORT_GPA + REPORT_SIZE_BYTES);
    pread(this.#fd, bytes.subarray(REPORT_GPA), REPORT_GPA);
    return readReport(bytes);
  }

  /** Of all its bytes. */
  digest(): string {
    const hash = createHash("sha256");
    const chunk = new Uint8Array(1 << 20);
    for (let offset = 0; offset < RAM_SIZE_BYTES; offset += chunk.length) {
      check(pread(this.#fd, chunk, offset) === chunk.length, `RAM cannot be read at ${offset}`);
      hash.update(chunk);
    }
    return hash.digest("hex");
  }

  close(): void {
    close(this.#fd);
  }
}

/** A memfd has a name at first; what Linux 7.2 gives back has none. */
function isMemfdOf(path: string, sizeBytes: number): boolean {
  if (!/^\/(memfd:\S+)? \(deleted\)$/.test(readlinkSync(path))) return false;
  const fd = open(path, O_RDONLY);
  const isIt = status(fd).sizeBytes === sizeBytes;
  close(fd);
  return isIt;
}

async function startVmm(...more: string[]): Promise<MonitoredVmm> {
  return await MonitoredVmm.start(join(projectDir, "dist/baton"), vmmArguments(more), labWorkDir);
}

function vmmArguments(more: string[]): string[] {
  return [
    ...[
      "-monitor",
      "stdio",
      "-accel",
      "kvm",
      "-machine",
      "microvm,memory-backend=ram0",
      "-m",
      `${RAM_SIZE_BYTES >> 20}M`,
    ],
    ...["-object", `memory-backend-memfd,id=ram0,size=${RAM_SIZE_BYTES >> 20}M,share=on`],
    ...["-smp", String(CPU_COUNT), "-kernel", KERNEL_PATH, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    ...["-nodefaults", "-display", "none", "-no-reboot", ...more],
  ];
}

async function prepare(vmm: MonitoredVmm): Promise<void> {
  await vmm.type("migrate_set_capability x-ignore-shared on");
  await vmm.type("migrate_set_parameter mode cpr-reboot");
}

function errorsOf(report: Report): string {
  return report.errors.map(({ vcpu, text }) => `vCPU ${vcpu}: ${text}`).join("\n");
}

/** Each vCPU counts on and has a round of checks behind it that began after this was called, and none has failed. */
async function checkRuns(vmm: MonitoredVmm, ram: Ram): Promise<Report> {
  const before = await until(
    () => {
      vmm.assertRuns();
      const report = ram.report();
      return report?.ready ? report : undefined;
    },
    STEP_TIMEOUT_MS,
    () => `The guest is not ready: phase ${ram.report()?.phase}`,
  );
  const after = await until(
    () => {
      vmm.assertRuns();
      const report = ram.report()!;
      const goesOn = report.vcpus.every(({ counter, checksRun }, vcpu) => {
        return counter > before.counters[vcpu]! && checksRun > before.checksRun[vcpu]! + 1n;
      });
      return report.errorCount > 0 || goesOn ? report : undefined;
    },
    STEP_TIMEOUT_MS,
    () => `The guest stands still: counters ${before.counters}, then ${ram.report()!.counters}`,
  );
  check(after.errorCount === 0, `The guest found ${after.errorCount} errors\n${errorsOf(after)}`);
  return after;
}

async function save(vmm: MonitoredVmm, stateFile: string): Promise<void> {
  await vmm.type(`migrate -d file:${stateFile}`);
  await vmm.typeUntil("info status", "VM status: paused (postmigrate)");
}

function checkMentions(answer: string, ...wanted: string[]): void {
  for (const text of wanted) check(answer.includes(text), `"${text}" is not in the answer "${answer}"`);
}

/**
 * What KVM takes for the frequency of the TSC. No two boots measure the emulated one alike, and a guest does not move to
 * a host with another: the second kernel is told what the first one found, instead of measuring.
 */
function readTscKhz(): number {
  const system = new KvmSystem();
  const vm = system.createVm();
  const vcpu = vm.createVcpu(0);
  const khz = vcpu.tscKhz();
  vcpu.close();
  vm.close();
  system.close();
  return khz;
}

/** The first half. Ends in the other kernel. */
async function leave(assets: LabAssets): Promise<never> {
  const payload = {
    cpuCount: CPU_COUNT,
    touchBytes: TOUCH_BYTES,
    sweepPagesPerRound: SWEEP_PAGES,
    lostTickLimit: LOST_TICK_LIMIT,
  };
  writeFileSync(KERNEL_PATH, buildSelfCheck({ ...payload, clockJumpLimitNs: LONGEST_KEXEC_NS }));
  const vmm = await startVmm();
  const ram = new Ram(vmm.process.pid!);
  console.log(`RAM is ${ram.path}`);
  await checkRuns(vmm, ram);

  await prepare(vmm);
  await save(vmm, STATE_FILES[0]);
  // As whoever shuts a host down does; what it says goes to standard error.
  vmm.process.kill("SIGTERM");
  await vmm.typeUntil("info status", "VM status: paused (postmigrate)");
  checkMentions(await vmm.type("system_reset"), "waits for the next kernel");
  await vmm.type("cont");
  await checkRuns(vmm, ram);
  const startMs = performance.now();
  await save(vmm, STATE_FILES[1]);
  console.log(`Saved, with ${RAM_SIZE_BYTES >> 20} MiB retained, in ${(performance.now() - startMs).toFixed(0)} ms`);
  checkMentions(await vmm.type("quit"), "kexec", STATE_FILES[1]);

  const report = ram.report()!;
  check(report.errorCount === 0, errorsOf(report));
  const notes: Notes = {
    hostKernel: release(),
    ramDigest: ram.digest(),
    counters: report.counters.map(String),
    ticks: report.ticks.map(String),
    sweeps: report.sweeps,
    lastClockNs: String(report.vcpus[0]!.lastClockNs),
  };
  writeFileSync(NOTES_PATH, JSON.stringify(notes));
  console.log(`Before the kexec: ${JSON.stringify(notes)}`);
  console.log(`# kexec -l ${assets.luoKernel!.imagePath} --reuse-cmdline && kexec -e`);
  return kexec(assets.luoKernel!.imagePath, "arrive", `tsc_early_khz=${readTscKhz()}`);
}

/** The state file that was saved before `cont` belongs to a promise that was taken back. The VMM waits on. */
async function checkStale(vmm: MonitoredVmm): Promise<void> {
  const qmp = await Qmp.connect(QMP_PATH, STEP_TIMEOUT_MS, () => vmm.assertRuns());
  await qmp.execute("migrate-incoming", { uri: `file:${STATE_FILES[0]}`, "exit-on-error": false });
  const info = await until(
    async () => {
      const info = await qmp.execute("query-migrate");
      return info.status === "failed" || info.status === "completed" ? info : undefined;
    },
    STEP_TIMEOUT_MS,
    `The load of ${STATE_FILES[0]} does not end`,
  );
  checkMentions(String(info["error-desc"]), "The last kernel left no live update session");
}

/** The second half. */
async function arrive(): Promise<void> {
  const notes = JSON.parse(readFileSync(NOTES_PATH, "utf8")) as Notes;
  const vmm = await startVmm("-S", "-incoming", "defer", "-qmp", `unix:${QMP_PATH},server=on,wait=off`);
  await prepare(vmm);
  await checkStale(vmm);
  await vmm.type(`migrate_incoming file:${STATE_FILES[1]}`);
  await vmm.typeUntil("info status", "VM status: paused");
  const ram = new Ram(vmm.process.pid!);
  const digest = ram.digest();
  console.log(`RAM is ${ram.path}, SHA-256 ${digest}`);
  check(digest === notes.ramDigest, `RAM had SHA-256 ${notes.ramDigest}`);
  await vmm.type("cont");
  const report = await checkRuns(vmm, ram);
  for (const [vcpu, { counter, lastClockNs }] of report.vcpus.entries()) {
    check(counter > BigInt(notes.counters[vcpu]!), `vCPU ${vcpu} counted to ${notes.counters[vcpu]}, then ${counter}`);
    check(lastClockNs > BigInt(notes.lastClockNs), `kvmclock of vCPU ${vcpu} is ${lastClockNs}`);
  }
  const swept = await until(
    () => {
      vmm.assertRuns();
      const now = ram.report()!;
      return now.sweeps > notes.sweeps + 1 || now.errorCount > 0 ? now : undefined;
    },
    STEP_TIMEOUT_MS,
    () => `The guest has swept its RAM ${ram.report()!.sweeps} times, ${notes.sweeps} before`,
  );
  check(swept.errorCount === 0, errorsOf(swept));
  console.log(
    `Host: Linux ${notes.hostKernel}, then ${release()}. Guest: its counters went from ${notes.counters} to ` +
      `${swept.counters}, it swept all its RAM ${swept.sweeps - notes.sweeps} times and found no error in ` +
      `${swept.vcpus[0]!.checks.join(", ")}`,
  );
  // The next kernel can have it too: the session has been finished.
  await save(vmm, STATE_FILES[0]);
  checkMentions(await vmm.type("quit"), "kexec");
  ram.close();
  await vmm.quit();
}

await scenario(async () => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  const missing = missingLuoKernel(found.assets);
  if (missing !== undefined) throw new Skip(missing);
  console.log(`Host kernel ${release()}`);
  if (process.env.LAB_STAGE === undefined) await leave(found.assets);
  else await arrive();
});
