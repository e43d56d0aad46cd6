// SPDX-License-Identifier: Apache-2.0
// An unmodified Debian kernel at work goes from KVM to the CPU engine and back, twice, by every mode.
//
//   linux-kvm-wasm-kvm.ts [SERIES] [CPUS] [MODE…]
//
// The modes take turns in bringing it to the engine and back to KVM. The engine is slow in the emulated machine: what must happen there
// is two rounds of the workload's checks on each CPU.
import { join } from "node:path";
import { KvmSystem } from "../../../ffi/kvm/kvm.ts";
import { missingFeatures } from "../../../src/accel/missing-features.ts";
import { engineCpuid } from "../../../src/accel/wasm/cpuid.ts";
import type { AcceleratorName } from "../../../src/config/types.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { MigMode } from "../../../src/qmp/schema/migration.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, program, update } from "../../guest.ts";
import { migrated, moveOn } from "../../src/migration/streams.ts";
import { over, sockets, transferTo, waiting, waitingWith } from "../../src/migration/transfers.ts";
import { findAssets, type GuestSeries, missingGuestKernel } from "../assets.ts";
import { guestInitrdPath } from "../initramfs.ts";
import { checkUptime, makeConsole, type PipeConsole } from "../pipe-console.ts";
import { check, Skip, scenario, until } from "../scenario.ts";
import { countRounds } from "../workload.ts";

const ALL_MODES: readonly MigMode[] = ["cpr-transfer", "cpr-exec", "normal", "cpr-reboot"];
/** In hundredths of a second, and in microseconds between two rounds: see guest/workload.sh. */
const LONGEST_PAUSE = 30_000;
const REST = 200_000;
const RAM = "128M";
const BOOT_TIMEOUT_MS = 120_000;
const STEP_TIMEOUT_MS = 240_000;
const POLL_MS = 100;

const [series = "6.1", cpus = "1", ...modes] = process.argv.slice(2) as [GuestSeries?, string?, ...MigMode[]];
const cpuCount = Number(cpus);

/** QEMU's TCG does not promise that its TSC is invariant; nothing else may be missing. */
function cpuModel(): string {
  const system = new KvmSystem();
  try {
    const missing = missingFeatures(engineCpuid(cpuCount), system.supportedCpuid(), true);
    return missing.includes("invtsc") ? "baton64,invtsc=off" : "baton64";
  } finally {
    system.close();
  }
}

/** A machine that has much else to do may miss the time limits of a rehearsal: the guest runs on here then, and goes at another try. */
async function transfer(qmp: QmpClient, extra: string[], tries = 3): Promise<GuestProcess> {
  const place = sockets();
  const next = waiting(place, { runtime: "compiled", extra });
  await (await next.qmp()).close();
  const { status, "error-desc": reason = "" } = await transferTo(qmp, place);
  if (status === "completed") return next;
  const isLate = /did not (send|take) a whole frame within/.test(reason);
  check(isLate && tries > 1, `cpr-transfer: ${reason} ${next.error}`);
  console.log(`Once more: ${reason}`);
  await next[Symbol.asyncDispose]();
  return transfer(qmp, extra, tries - 1);
}

/** Brings the guest to another accelerator; the process that had it ends, if it is not the one that has it then. */
async function move(old: GuestProcess, to: AcceleratorName, mode: MigMode, backends: string[]): Promise<GuestProcess> {
  const extra = ["-accel", to, ...backends];
  if (mode === "normal") return moveOn(old, { runtime: "compiled", extra, parameters: { mode, "max-bandwidth": 0 } });
  const qmp = await old.qmp();
  if (mode === "cpr-exec") {
    const args = old.args.map((arg, index) => (old.args[index - 1] === "-accel" ? to : arg));
    const info = await update(qmp, { command: [...program("compiled"), ...args] });
    check(info.status === "completed", `${mode}: ${info["error-desc"]} ${old.error}`);
    await qmp.close();
    return old;
  }
  let next: GuestProcess;
  if (mode === "cpr-transfer") {
    next = await transfer(qmp, extra);
  } else {
    const uri = `file:${join(temporaryDirectory(), "vm.state")}`;
    await qmp.execute("migrate-set-parameters", { mode });
    await migrated(qmp, uri);
    next = waitingWith([...extra, "-incoming", uri], { runtime: "compiled" });
  }
  await qmp.execute("quit");
  await old.ended;
  const nextQmp = await next.qmp();
  const { status, "error-desc": reason } = await over(nextQmp);
  check(status === "completed", `${mode}: ${reason} ${next.error}`);
  await nextQmp.close();
  return next;
}

/** The guest is on that accelerator, and every CPU has done and checked more than the round that was under way. */
async function goesOn(guest: GuestProcess, name: AcceleratorName, terminal: PipeConsole): Promise<void> {
  const { transcript, tail } = terminal;
  const qmp = await guest.qmp();
  const { enabled } = await qmp.execute("query-accelerators");
  check(enabled === name, `The guest is on ${enabled}`);
  await qmp.close();
  const before = countRounds(transcript(), cpuCount);
  await until(
    () => {
      check(!guest.hasEnded, `The VMM has ended: ${guest.error}`);
      return countRounds(transcript(), cpuCount).every((rounds, cpu) => rounds > before[cpu]! + 1) ? true : undefined;
    },
    STEP_TIMEOUT_MS,
    () => `The workload stands still on ${name}\n${tail()}`,
    POLL_MS,
  );
}

async function run(kernelPath: string, terminal: PipeConsole): Promise<void> {
  const beginMs = performance.now();
  const seconds = (): string => `${((performance.now() - beginMs) / 1000).toFixed(1)} s`;
  let guest = new GuestProcess({
    bare: true,
    extra: [
      ...["-accel", "kvm", "-cpu", cpuModel(), "-machine", "microvm,memory-backend=ram0", "-m", RAM, "-smp", cpus],
      ...["-object", `memory-backend-memfd,id=ram0,size=${RAM},share=on`, "-no-reboot"],
      ...["-kernel", kernelPath, "-initrd", guestInitrdPath],
      ...["-append", `console=ttyS0 quiet panic=-1 WATCH_KERNEL=yes LONGEST_PAUSE=${LONGEST_PAUSE} REST=${REST}`],
      ...terminal.backends,
    ],
  });
  try {
    const ready = await until(
      () => {
        check(!guest.hasEnded, `The VMM has ended: ${guest.error}`);
        return /guest: ready ([^\r]*)\r\n/.exec(terminal.transcript())?.[1];
      },
      BOOT_TIMEOUT_MS,
      () => `The guest does not come up\n${terminal.tail()}`,
      POLL_MS,
    );
    console.log(`Guest ready with ${cpuModel()}: ${ready}, after ${seconds()}`);
    await goesOn(guest, "kvm", terminal);
    for (const [index, mode] of (modes.length > 0 ? modes : ALL_MODES).entries()) {
      const name = index % 2 === 0 ? "wasm" : "kvm";
      guest = await move(guest, name, mode, terminal.backends);
      console.log(`On ${name} by ${mode}, after ${seconds()}`);
      await goesOn(guest, name, terminal);
      checkUptime(terminal.transcript(), beginMs);
      console.log(`Rounds: ${countRounds(terminal.transcript(), cpuCount).join(" and ")}, after ${seconds()}`);
    }
  } finally {
    await guest[Symbol.asyncDispose]();
  }
}

await scenario(async () => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  const missing = missingGuestKernel(found.assets, series);
  if (missing !== undefined) throw new Skip(missing);
  using terminal = makeConsole();
  await run(found.assets.guestKernels[series]!.imagePath, terminal);
});
