// SPDX-License-Identifier: Apache-2.0
// Post-copy: a guest that goes on elsewhere before its RAM is there, and what becomes of it when one side fails.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { userfaultfdMissing } from "../../ffi/userfaultfd/support.ts";
import { type GuestOptions, GuestProcess, program, recordEvents, settled, thisRuntime, until } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { over } from "./transfers.ts";

const test = describe("post-copy");
const skip = userfaultfdMissing();

const TOUCHED_BYTES = 48 << 20;
/** Every page is checked and changed soon after the guest goes on. */
const GUEST: GuestOptions = { memory: "64M", payload: { touchBytes: TOUCHED_BYTES, sweepPagesPerRound: 256 } };
/** A first round at this speed takes minutes. */
const SLOW = 2 << 20;

interface Pair extends AsyncDisposable {
  uri: string;
  old: GuestProcess;
  qmp: QmpClient;
  next: GuestProcess;
  nextQmp: QmpClient;
}

async function pair(options: GuestOptions = GUEST, nextOptions: GuestOptions = {}, address?: string): Promise<Pair> {
  const incoming = address ?? `unix:${join(temporaryDirectory(), "main")}`;
  await using open = new AsyncDisposableStack();
  const old = open.use(await GuestProcess.start({ runtime: thisRuntime, ...options }));
  const qmp = open.use(await old.qmp());
  const extra = ["-incoming", incoming, ...(nextOptions.extra ?? [])];
  const next = open.use(new GuestProcess({ runtime: thisRuntime, bare: true, ...nextOptions, extra }));
  const nextQmp = open.use(await next.qmp());
  const listening = await next.until("the other side to listen", async () => {
    return (await nextQmp.execute("query-migrate"))["socket-address"]?.[0];
  });
  const uri = listening.type === "inet" ? `tcp:${listening.host}:${listening.port}` : incoming;
  const all = open.move();
  return { uri, old, qmp, next, nextQmp, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** Begins a migration whose first round takes minutes, and waits until it is in the middle of that. */
async function begin({ qmp, uri }: Pair, { capabilities = [] as "multifd"[], parameters = {} } = {}): Promise<void> {
  await qmp.execute("migrate-set-capabilities", {
    capabilities: ["postcopy-ram" as const, ...capabilities].map((capability) => ({ capability, state: true })),
  });
  await qmp.execute("migrate-set-parameters", { "max-bandwidth": SLOW, ...parameters });
  await qmp.execute("migrate", { uri });
  await until("the first round", async () => {
    const { status, ram, ...info } = await qmp.execute("query-migrate");
    if (status === "failed") throw new Error(info["error-desc"]);
    return (ram?.transferred ?? 0) > 2 << 20;
  });
}

async function statusOf(qmp: QmpClient): Promise<string | undefined> {
  return (await qmp.execute("query-migrate")).status;
}

/** The guest has been over all of its pages twice since. */
async function swept({ next }: Pair): Promise<void> {
  await next.ready();
  const before = next.report()!.sweeps;
  await next.until("the guest to go over its RAM", () => next.report()!.sweeps >= before + 2);
  await next.runsOn();
}

for (const [name, address, capabilities] of [
  ["a unix socket", undefined, []],
  ["TCP with multifd", "tcp:127.0.0.1:0", ["multifd"]],
] as const) {
  test.skipIf(skip, `in the middle of the first round, over ${name}`, async () => {
    await using both = await pair(GUEST, {}, address);
    const { old, qmp, next, nextQmp } = both;
    const events = await recordEvents(qmp);
    const nextEvents = await recordEvents(nextQmp);
    await begin(both, { capabilities: [...capabilities] });
    await qmp.execute("migrate-start-postcopy");
    const info = await over(qmp);
    assert.is(info.status, "completed", `${info["error-desc"]} ${old.error} ${next.error}`);
    const ram = info.ram!;
    assert.is(ram.remaining, 0);
    assert.ok(ram["postcopy-bytes"] > TOUCHED_BYTES / 2, `${ram["postcopy-bytes"]} bytes came late`);
    assert.ok(ram["postcopy-requests"] > 0, "the guest waited for pages");
    assert.ok(ram["precopy-bytes"] > 1 << 20, `${ram["precopy-bytes"]} bytes came early`);
    assert.is((await over(nextQmp)).status, "completed");
    await swept(both);
    await settled();
    const statuses = ["setup", "active", "postcopy-active", "completed"].map((status) => `MIGRATION ${status}`);
    assert.equal(
      events.filter((event) => event.startsWith("MIGRATION ")),
      statuses,
    );
    assert.equal(nextEvents.filter((event) => event.startsWith("MIGRATION ")).slice(-2), statuses.slice(-2));
    assert.equal((await qmp.execute("query-status")).status, "postmigrate");
    assert.match((await rejection(() => qmp.execute("cont"))).message, /moved to another VMM/);
    assert.equal(
      next.fds().filter((target) => target.includes("userfaultfd")),
      [],
    );
  });
}

test.skipIf(skip, "pages that were written after they had been sent come anew", async () => {
  // The working set is written in every round of the guest's: at the speed of this round it is stale by its end.
  await using both = await pair({
    memory: "64M",
    payload: {
      cpuCount: 2,
      touchBytes: 24 << 20,
      workingSetBytes: 4 << 20,
      workingSetStrideBytes: 4096,
      sweepPagesPerRound: 256,
    },
  });
  await begin(both, { parameters: { "max-bandwidth": 8 << 20, "downtime-limit": 0 } });
  await until("a second round", async () => (await both.qmp.execute("query-migrate")).ram!["dirty-sync-count"] >= 2);
  await both.qmp.execute("migrate-start-postcopy");
  const info = await over(both.qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  assert.ok(info.ram!["postcopy-bytes"] > 0, "nothing was stale");
  await swept(both);
});

test.skipIf(skip, "asked for before the first round, everything comes late", async () => {
  await using both = await pair();
  await both.qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "postcopy-ram", state: true }] });
  await both.qmp.execute("migrate", { uri: both.uri });
  await both.qmp.execute("migrate-start-postcopy");
  const info = await over(both.qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  await swept(both);
});

test.skipIf(skip, "anonymous RAM is filled late as well, and the guest can go on to the next place", async () => {
  const ram = (backend: string): string[] => [
    "-object",
    `${backend},id=ram0,size=64M`,
    "-machine",
    "memory-backend=ram0",
  ];
  await using both = await pair(GUEST, { extra: ram("memory-backend-ram,share=off") });
  await begin(both);
  await both.qmp.execute("migrate-start-postcopy");
  assert.is((await over(both.qmp)).status, "completed");
  assert.is((await over(both.nextQmp)).status, "completed");
  // Into RAM that can be looked at from outside.
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  const extra = ["-incoming", uri, ...ram("memory-backend-memfd,share=on")];
  await using last = new GuestProcess({ runtime: thisRuntime, bare: true, extra });
  await using lastQmp = await last.qmp();
  await last.until("the last side to listen", async () => (await lastQmp.execute("query-migrate"))["socket-address"]);
  await both.nextQmp.execute("migrate", { uri });
  assert.is((await over(both.nextQmp)).status, "completed");
  await last.runsOn();
});

test.skipIf(skip, "a migration that can go on by post-copy need not, and can be cancelled", async () => {
  await using both = await pair();
  await begin(both);
  await both.qmp.execute("migrate_cancel");
  assert.is((await over(both.qmp)).status, "cancelled");
  await both.old.runsOn();
  assert.is((await both.next.ended).exitCode, 1);
});

test.skipIf(skip, "the other side goes away before the commit: the guest runs on here", async () => {
  await using both = await pair();
  await begin(both);
  both.next.child.kill("SIGKILL");
  const info = await over(both.qmp);
  assert.is(info.status, "failed");
  await both.old.runsOn();
});

/** In post-copy, with background pages so slow that it does not end by itself. */
async function stranded(): Promise<Pair> {
  const both = await pair();
  await begin(both, { parameters: { "max-postcopy-bandwidth": 1 << 16 } });
  await both.qmp.execute("migrate-start-postcopy");
  await until("post-copy", async () => (await statusOf(both.nextQmp)) === "postcopy-active");
  return both;
}

test.skipIf(skip, "nothing can be cancelled in post-copy, and nothing else begun", async () => {
  await using both = await stranded();
  assert.is(await statusOf(both.qmp), "postcopy-active");
  await both.qmp.execute("migrate_cancel");
  await both.nextQmp.execute("migrate_cancel");
  assert.match((await rejection(() => both.nextQmp.execute("migrate", { uri: "unix:x" }))).message, /in progress/);
  assert.match((await rejection(() => both.qmp.execute("cont"))).message, /moved to another VMM/);
  assert.is(await statusOf(both.nextQmp), "postcopy-active");
  await swept(both);
});

test.skipIf(skip, "the old side goes away in post-copy: the new one stops the guest and says so", async () => {
  await using both = await stranded();
  both.old.child.kill("SIGKILL");
  const info = await over(both.nextQmp);
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, /Post-copy failed .* has to be started anew/);
  assert.equal(await both.nextQmp.execute("query-status"), { running: false, status: "internal-error" });
  for (const command of ["cont", "system_reset"] as const) {
    assert.match((await rejection(() => both.nextQmp.execute(command))).message, /has to be started anew/);
  }
  const refusal = await rejection(() => both.nextQmp.execute("migrate", { uri: "unix:x" }));
  assert.match(refusal.message, /has to be started anew/);
  await both.nextQmp.execute("quit");
  assert.is((await both.next.ended).exitCode, 0);
});

test.skipIf(skip, "the new side goes away in post-copy: the old one says what is lost", async () => {
  await using both = await stranded();
  both.next.child.kill("SIGKILL");
  const info = await over(both.qmp);
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, /pages of its RAM are only here/);
  assert.match((await rejection(() => both.qmp.execute("cont"))).message, /moved to another VMM/);
});

/** Of a side that cannot do it: the old one says why, and the guest has not been stopped. */
async function refused(next: GuestOptions, reason: RegExp): Promise<void> {
  await using both = await pair(undefined, next);
  const events = await recordEvents(both.qmp);
  await both.qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "postcopy-ram", state: true }] });
  await both.qmp.execute("migrate", { uri: both.uri });
  const info = await over(both.qmp);
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, reason);
  await settled();
  assert.not.ok(events.includes("STOP"), "the guest was not stopped");
  await both.old.runsOn();
}

test.skipIf(skip, "RAM that cannot be filled page by page is refused before the guest is stopped", async () => {
  const ramFile = join(temporaryDirectory(), "ram");
  const backend = `memory-backend-file,id=ram0,size=64M,share=off,mem-path=${ramFile}`;
  await refused({ extra: ["-object", backend, "-machine", "memory-backend=ram0"] }, /private mapping of a file/);
});

const hidden = ["unshare", "-m", "/bin/sh", "-c"];
const HIDE = 'mount --bind /dev/null /dev/userfaultfd; exec setpriv --bounding-set=-sys_ptrace -- "$@"';
const cannotHide =
  process.getuid?.() === 0 && existsSync("/usr/bin/setpriv") && existsSync("/dev/userfaultfd")
    ? undefined
    : "only root with setpriv(1) can hide userfaultfd from a process";

test.skipIf(skip ?? cannotHide, "a host without userfaultfd refuses before the guest is stopped", async () => {
  await refused({ program: [...hidden, HIDE, "sh", ...program(thisRuntime)] }, /userfaultfd\(2\) cannot be used/);
});

test.skipIf(skip, "is refused where it makes no sense", async () => {
  await using old = await GuestProcess.start({ runtime: thisRuntime });
  await using qmp = await old.qmp();
  const start = () => qmp.execute("migrate-start-postcopy");
  assert.match((await rejection(start)).message, /no migration in progress/);
  await qmp.execute("migrate-set-capabilities", {
    capabilities: [
      { capability: "postcopy-ram", state: true },
      { capability: "x-ignore-shared", state: true },
    ],
  });
  await qmp.execute("migrate", { uri: `unix:${join(old.dir, "nobody")}` });
  assert.match((await over(qmp))["error-desc"]!, /not compatible with x-ignore-shared/);
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "x-ignore-shared", state: false }] });
  await qmp.execute("migrate", { uri: "exec:cat >/dev/null" });
  assert.match((await over(qmp))["error-desc"]!, /use tcp or unix/);
  await qmp.execute("migrate", { uri: `file:${join(old.dir, "state")}` });
  assert.match((await rejection(start)).message, /no file/);
  assert.is((await over(qmp)).status, "completed");
});

test.run();
