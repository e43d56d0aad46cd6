// SPDX-License-Identifier: Apache-2.0
// A guest goes from KVM to the engine and back, by every mode. Its CPU is the model that both have.
import { join } from "node:path";
import { pread } from "../../../ffi/fd.ts";
import { KvmSystem } from "../../../ffi/kvm/kvm.ts";
import { missingFeatures } from "../../../src/accel/missing-features.ts";
import { engineCpuid } from "../../../src/accel/wasm/cpuid.ts";
import type { AcceleratorName } from "../../../src/config/types.ts";
import { CPU_PVCLOCK, cpuPageGpa } from "../../../src/payload/report.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, program, thisRuntime, until, update, updated } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { kvmMissing } from "../../kvm.ts";
import { freePath, migrated, moveOn, type Settings, set } from "./streams.ts";
import { moved, over, sockets, waiting } from "./transfers.ts";

const test = describe("between accelerators");

/** A KVM that interprets guest code lacks some of the model's features. */
function cpuModel(): string {
  const system = new KvmSystem();
  try {
    const missing = missingFeatures(engineCpuid(1), system.supportedCpuid(), true);
    return ["baton64", ...missing.map((name) => `${name}=off`)].join(",");
  } finally {
    system.close();
  }
}

async function runsOnAccelerator(guest: GuestProcess, name: AcceleratorName): Promise<void> {
  await using qmp = await guest.qmp();
  assert.is((await qmp.execute("query-accelerators")).enabled, name);
  await guest.runsOn();
}

const start = (name: AcceleratorName, options: GuestOptions = {}): Promise<GuestProcess> => {
  return GuestProcess.start({ runtime: thisRuntime, ...options, extra: ["-accel", name, "-cpu", cpuModel()] });
};

/** By how much kvmclock differs between the first two vCPUs: struct pvclock_vcpu_time_info. */
function kvmclocksApartNs(guest: GuestProcess): bigint {
  const clocks = [0, 1].map((vcpu) => {
    const page = new DataView(new ArrayBuffer(32));
    pread(guest.openRam()!, new Uint8Array(page.buffer), cpuPageGpa(vcpu) + CPU_PVCLOCK);
    return page;
  });
  const [first, second] = clocks as [DataView, DataView];
  const ticks = second.getBigUint64(8, true) - first.getBigUint64(8, true);
  const shift = first.getInt8(28);
  const shifted = shift < 0 ? ticks >> BigInt(-shift) : ticks << BigInt(shift);
  const passedNs = (shifted * BigInt(first.getUint32(24, true))) >> 32n;
  const apartNs = second.getBigUint64(16, true) - first.getBigUint64(16, true) - passedNs;
  return apartNs < 0n ? -apartNs : apartNs;
}

/** A guest that began on KVM goes there and back: its TSC has a frequency that KVM need not scale. */
const WAY = ["wasm", "kvm"] as const;

for (const cpuCount of [1, 2]) {
  test.skipIf(kvmMissing(), `cpr-transfer, vCPUs: ${cpuCount}`, async () => {
    let guest = await start("kvm", { payload: { cpuCount } });
    for (const name of WAY) {
      await using old = guest;
      const place = sockets();
      guest = waiting(place, { extra: ["-accel", name] });
      await moved(old, guest, place);
      await runsOnAccelerator(guest, name);
      // A guest compares what it reads on one vCPU with what it read on another.
      if (cpuCount === 2 && name === "wasm") assert.ok(kvmclocksApartNs(guest) <= 10n, `${kvmclocksApartNs(guest)} ns`);
    }
    await guest[Symbol.asyncDispose]();
  });
}

test.skipIf(kvmMissing(), "normal migration", async () => {
  let guest = await start("kvm", { payload: { cpuCount: 2, idle: true } });
  for (const name of WAY) {
    await using old = guest;
    guest = await moveOn(old, { extra: ["-accel", name], parameters: { "max-bandwidth": 0 } });
    await runsOnAccelerator(guest, name);
  }
  await guest[Symbol.asyncDispose]();
});

for (const isShared of [true, false]) {
  test.skipIf(kvmMissing(), `cpr-reboot, RAM ${isShared ? "stays in its" : "goes into the"} file`, async () => {
    const ramFile = join(temporaryDirectory(), "ram");
    const settings: Settings = {
      parameters: { mode: "cpr-reboot" },
      capabilities: { "x-ignore-shared": isShared },
    };
    let guest = await start("kvm", { ramFile, payload: { cpuCount: 2 } });
    for (const name of WAY) {
      await using old = guest;
      await using qmp = await old.qmp();
      const uri = `file:${freePath("vm.state")}`;
      await set(qmp, settings);
      await migrated(qmp, uri);
      await qmp.execute("quit");
      await old.ended;
      const extra = ["-accel", name, "-cpu", cpuModel(), "-incoming", "defer"];
      guest = new GuestProcess({ runtime: thisRuntime, ramFile, payload: { cpuCount: 2 }, extra });
      await using nextQmp = await guest.qmp();
      await set(nextQmp, settings);
      await nextQmp.execute("migrate-incoming", { uri });
      assert.is((await over(nextQmp)).status, "completed", guest.error);
      await runsOnAccelerator(guest, name);
    }
    await guest[Symbol.asyncDispose]();
  });
}

test.skipIf(kvmMissing(), "cpr-exec", async () => {
  await using guest = await start("kvm", { payload: { cpuCount: 2 } });
  for (const name of WAY) {
    await using qmp = await guest.qmp();
    const args = guest.args.map((arg, index) => (guest.args[index - 1] === "-accel" ? name : arg));
    await updated(guest, qmp, { command: [...program(thisRuntime), ...args] });
    await runsOnAccelerator(guest, name);
  }
});

test.skipIf(kvmMissing(), "a dry run of cpr-exec tries the other accelerator", async () => {
  for (const [options, status] of [
    [["-cpu", cpuModel()], "would-work"],
    [[], "would-fail"],
  ] as const) {
    await using guest = await GuestProcess.start({ runtime: thisRuntime, extra: ["-accel", "kvm", ...options] });
    await using qmp = await guest.qmp();
    const args = guest.args.map((arg) => (arg === "kvm" ? "wasm" : arg));
    await set(qmp, { parameters: { mode: "cpr-exec", "cpr-exec-command": [...program(thisRuntime), ...args] } });
    await qmp.execute("migrate", { "dry-run": true });
    const info = await until("the end of the dry run", async () => {
      const { "dry-run": found } = await qmp.execute("query-migrate");
      return found?.status === "active" ? undefined : found;
    });
    assert.is(info.status, status, JSON.stringify(info));
    await runsOnAccelerator(guest, "kvm");
  }
});

test.skipIf(kvmMissing(), "a guest that has seen the host's CPU stays on KVM, and hears why", async () => {
  await using guest = await GuestProcess.start({ runtime: thisRuntime, extra: ["-accel", "kvm"] });
  await using qmp = await guest.qmp();
  const args = guest.args.map((arg) => (arg === "kvm" ? "wasm" : arg));
  const info = await update(qmp, { command: [...program(thisRuntime), ...args] });
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, /accelerator wasm cannot run the guest.*-cpu baton64/);
  await runsOnAccelerator(guest, "kvm");
});

test.skipIf(kvmMissing(), "KVM refuses the model where it lacks features, by name", async () => {
  const system = new KvmSystem();
  const missing = missingFeatures(engineCpuid(1), system.supportedCpuid(), true);
  system.close();
  await using guest = new GuestProcess({ runtime: thisRuntime, extra: ["-accel", "kvm", "-cpu", "baton64"] });
  if (missing.length === 0) {
    await runsOnAccelerator(guest, "kvm");
    return;
  }
  assert.is((await guest.ended).exitCode, 1);
  assert.match(guest.error, new RegExp(`its KVM does not have: ${missing.join(", ")}\\. .*NAME=off`));
});

test.run();
