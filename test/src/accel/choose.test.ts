// SPDX-License-Identifier: Apache-2.0
// Which accelerator a VM gets: by what a probe of KVM says, and by the real one of this machine.

import { spawnSync } from "node:child_process";
import { SysError } from "../../../ffi/error.ts";
import { chooseAccelerator, hintAt } from "../../../src/accel/choose.ts";
import { GOOD_LOOPS_PER_SECOND, judge, type KvmFitness, probeKvm } from "../../../src/accel/kvm/probe.ts";
import { type GuestOptions, GuestProcess, program, programMissing, updated } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { hidingKvmMissing, kvmMissing, WITHOUT_KVM } from "../../kvm.ts";

const test = describe("accel/choose");

const GOOD: KvmFitness = { verdict: "good" };
const INTERPRETS: KvmFitness = { verdict: "interprets", loopsPerSecond: 0.98e6 };
const UNUSABLE: KvmFitness = { verdict: "unusable", error: new SysError("open", 2, "/dev/kvm") };

const neverProbed = (): KvmFitness => {
  throw new Error("KVM was probed");
};

test("KVM is taken where it runs guests on the CPU", () => {
  const { name, passedOver } = chooseAccelerator(["kvm", "wasm"], () => GOOD);
  assert.equal([name, passedOver], ["kvm", undefined]);
});

test("a KVM that interprets is passed over, and how to force it is said", () => {
  const choice = chooseAccelerator(["kvm", "wasm"], () => INTERPRETS);
  assert.equal([choice.name, choice.passedOver], ["wasm", "interprets"]);
  assert.match(choice.reason, "KVM interprets guests (0.98 million loops in a second");
  assert.is(hintAt(choice, "-accel kvm"), " (-accel kvm takes KVM all the same)");
});

test("without a KVM it is the engine, and there is nothing to force", () => {
  const choice = chooseAccelerator(["kvm", "wasm"], () => UNUSABLE);
  assert.equal([choice.name, choice.passedOver], ["wasm", "unusable"]);
  assert.match(choice.reason, /^KVM cannot be used \(.*ENOENT.*\): guests run on Baton's own CPU engine here$/);
  assert.is(hintAt(choice, "-accel kvm"), "");
});

test("KVM is not probed for those who leave no choice, or want the engine first", () => {
  assert.is(chooseAccelerator(["kvm"], neverProbed).name, "kvm");
  assert.is(chooseAccelerator(["kvm", "kvm"], neverProbed).name, "kvm");
  assert.is(chooseAccelerator(["wasm"], neverProbed).name, "wasm");
  assert.is(chooseAccelerator(["wasm", "kvm"], neverProbed).name, "wasm");
});

test("judge() divides interpreters from CPUs", () => {
  assert.equal(judge(1e6), { verdict: "interprets", loopsPerSecond: 1e6 });
  assert.is(judge(GOOD_LOOPS_PER_SECOND).verdict, "good");
  assert.is(judge(1e9).verdict, "good");
});

test("probeKvm() says of this machine's KVM what holds, and leaves nothing behind", () => {
  const missing = kvmMissing();
  const before = fds();
  const { verdict } = probeKvm();
  assert.is(verdict === "unusable", missing !== undefined, `${verdict}; ${missing}`);
  assert.is(probeKvm().verdict, verdict);
  assert.equal(fds(), before);
});

/** fds of this process that lead to KVM. */
function fds(): string[] {
  const { stdout } = spawnSync("find", [`/proc/${process.pid}/fd`, "-lname", "*kvm*"], { encoding: "utf8" });
  return stdout.split("\n");
}

const NOTICE = /^baton: KVM .*: guests run on Baton's own CPU engine here/gm;
const noticesOf = (text: string): number => [...text.matchAll(NOTICE)].length;

/** A VM that leaves the choice. */
function undecided(options: GuestOptions = {}): Promise<GuestProcess> {
  return GuestProcess.start({ accel: [], ...options });
}

const skip = programMissing("compiled");

test.skipIf(skip, "a VM has what the probe says, and its updates change nothing about it and say nothing", async () => {
  const { name, passedOver } = chooseAccelerator(["kvm", "wasm"]);
  await using guest = await undecided();
  await using qmp = await guest.qmp();
  const enabled = async (): Promise<string> => (await qmp.execute("query-accelerators")).enabled;
  assert.is(await enabled(), name);
  assert.is((await qmp.execute("query-kvm")).enabled, name === "kvm");
  assert.is(noticesOf(guest.error), passedOver === undefined ? 0 : 1, guest.error);
  assert.is(guest.error.includes("-accel kvm takes KVM all the same"), passedOver === "interprets");
  await updated(guest, qmp);
  await updated(guest, qmp, { command: guest.command("bun") });
  // The choice is left once more: the guest has one already.
  await updated(guest, qmp, { command: [...guest.command("compiled"), "-accel", "kvm", "-accel", "wasm"] });
  assert.is(await enabled(), name);
  assert.is(noticesOf(guest.error), passedOver === undefined ? 0 : 1, guest.error);
});

test.skipIf(skip ?? kvmMissing(), "-accel kvm has KVM, whatever it is good for, and no notice", async () => {
  await using guest = await GuestProcess.start({ accel: ["-accel", "kvm"] });
  await using qmp = await guest.qmp();
  assert.equal(await qmp.execute("query-accelerators"), { enabled: "kvm", present: ["kvm", "wasm"] });
  assert.is(guest.error, "");
});

test.skipIf(skip, "-accel wasm has the engine, and no notice", async () => {
  await using guest = await GuestProcess.start({ accel: ["-accel", "wasm"] });
  await using qmp = await guest.qmp();
  assert.equal(await qmp.execute("query-accelerators"), { enabled: "wasm", present: ["kvm", "wasm"] });
  assert.equal(await qmp.execute("query-kvm"), { enabled: false, present: true });
  assert.is(guest.error, "");
});

test.skipIf(skip ?? hidingKvmMissing(), "without /dev/kvm a VM says so in a line, and runs on the engine", async () => {
  await using guest = await undecided({ program: [...WITHOUT_KVM, ...program("compiled")] });
  await using qmp = await guest.qmp();
  assert.is((await qmp.execute("query-accelerators")).enabled, "wasm");
  assert.match(guest.error, /^baton: KVM cannot be used \(KVM_GET_API_VERSION.*\): guests run .* engine here\n$/);
  await using asked = new GuestProcess({ program: [...WITHOUT_KVM, ...program("compiled")], accel: ["-accel", "kvm"] });
  assert.equal(await asked.ended, { exitCode: 1, signal: null });
  assert.match(asked.error, "KVM cannot be used on this machine");
});

test.run();
