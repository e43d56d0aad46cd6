// SPDX-License-Identifier: Apache-2.0
// Baton as process 1 of a PID namespace, as in a container: it stays, whatever becomes of the processes that have the guest.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { GuestProcess, program, programMissing, type Runtime, update, updated } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { sockets, transferTo, waiting } from "../migration/transfers.ts";
import { sandboxMissing } from "../sandbox/support.ts";

const test = describe("init");

const UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

function namespacesMissing(): string | undefined {
  const { status } = spawnSync(UNSHARE[0]!, [...UNSHARE.slice(1), "true"]);
  return status === 0 ? undefined : "no PID namespace can be made here: that takes unshare(1) and the right to use it";
}

const skip = programMissing("compiled") ?? namespacesMissing();
const failingBaton = fileURLToPath(new URL("../migration/failing-baton.ts", import.meta.url));

/** The pids that a process has in its own namespace. */
function innerPid(pid: number): number {
  const line = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]!;
  return Number(line.split("\t").at(-1));
}

/** Processes of the namespace, by their pids in there. */
function processesOf(guest: GuestProcess): Map<number, number> {
  const found = new Map<number, number>();
  const descend = (pid: number): void => {
    const path = `/proc/${pid}/task/${pid}/children`;
    const children = existsSync(path) ? readFileSync(path, "utf8").split(" ").filter(Boolean).map(Number) : [];
    for (const child of children) {
      found.set(innerPid(child), child);
      descend(child);
    }
  };
  descend(guest.child.pid!);
  return found;
}

for (const runtime of ["compiled", "bun", "deno"] satisfies Runtime[]) {
  test.skipIf(skip, `process 1 (${runtime}) outlives updates, and a program that dies`, async () => {
    const env = { BATON_TEST_FAIL: "kill@restored" };
    await using guest = new GuestProcess({ program: [...UNSHARE, ...program(runtime)], env, payload: { cpuCount: 2 } });
    await using qmp = await guest.qmp();
    const init = await guest.until("process 1", () => processesOf(guest).get(1));
    await guest.find();
    const vmm = guest.pid;
    assert.ok(innerPid(vmm) !== 1);
    await guest.runsOn();
    await updated(guest, qmp);
    assert.is(guest.pid, vmm);
    const [bun, run] = program("bun");
    await qmp.execute("migrate-set-parameters", { "guard-timeout": 2000 });
    assert.is((await update(qmp, { command: [bun!, run!, failingBaton, ...guest.args] })).status, "failed");
    await guest.find();
    assert.ok(guest.pid !== vmm);
    assert.is(processesOf(guest).get(1), init);
    await guest.runsOn();
    await qmp.execute("quit");
    assert.equal(await guest.ended, { exitCode: 0, signal: null });
  });
}

test.skipIf(skip, "has the guest's exit code, and hands signals on", async () => {
  const command = [...UNSHARE, ...program("compiled")];
  const payload = { shutdown: { port: 0xf4, value: 20, sizeBytes: 4 as const } };
  await using guest = new GuestProcess({ program: command, payload });
  await guest.find();
  await guest.ready();
  guest.commandShutdown();
  assert.equal(await guest.ended, { exitCode: 41, signal: null });

  await using other = new GuestProcess({ program: command });
  await other.find();
  await other.ready();
  process.kill(processesOf(other).get(1)!, "SIGTERM");
  assert.equal(await other.ended, { exitCode: 0, signal: null });
});

/** Runs a command in the PID namespace of a guest, as a child of nobody in there: `docker exec` does it so. */
function inside(guest: GuestProcess): string[] {
  return ["nsenter", "--target", String(processesOf(guest).get(1)), "--pid", "--mount"];
}

/** Has another process of the namespace take the guest, which is no child of process 1. */
async function moveToStranger(guest: GuestProcess): Promise<GuestProcess> {
  const place = sockets();
  const stranger = waiting(place, { program: [...inside(guest), ...program("compiled")] });
  await using qmp = await guest.qmp();
  await stranger.until("who waits for the guest", () => existsSync(place.cpr));
  await qmp.execute("migrate-set-capabilities", {
    capabilities: [{ capability: "x-handover-connections", state: true }],
  });
  const info = await transferTo(qmp, place);
  assert.is(info.status, "completed", info["error-desc"]);
  await guest.find();
  assert.ok(![...processesOf(guest).values()].includes(guest.pid), "it is no descendant of process 1");
  return stranger;
}

test.skipIf(skip, "goes on as long as anybody in there has the guest, and ends as that one does", async () => {
  const payload = { shutdown: { port: 0xf4, value: 20, sizeBytes: 4 as const } };
  await using guest = new GuestProcess({ program: [...UNSHARE, ...program("compiled")], payload });
  await guest.find();
  await guest.ready();
  await using stranger = await moveToStranger(guest);
  await guest.until("its child to be reaped", () => processesOf(guest).size === 1);
  await guest.runsOn();
  await using again = await moveToStranger(guest);
  await guest.runsOn();
  guest.commandShutdown();
  assert.equal(await guest.ended, { exitCode: 41, signal: null });
  await Promise.all([stranger.ended, again.ended]);
});

test.skipIf(skip ?? sandboxMissing(), "knows of a VMM in a sandbox how it has ended", async () => {
  const payload = { shutdown: { port: 0xf4, value: 20, sizeBytes: 4 as const } };
  await using guest = new GuestProcess({
    program: [...UNSHARE, ...program("compiled")],
    payload,
    extra: ["-sandbox", "on"],
  });
  await guest.find();
  await guest.ready();
  guest.commandShutdown();
  assert.equal(await guest.ended, { exitCode: 41, signal: null });
  assert.is(guest.error, "");
});

test.skipIf(skip, "hands signals on to whoever has the guest, and says that it was killed", async () => {
  await using guest = new GuestProcess({ program: [...UNSHARE, ...program("compiled")] });
  await guest.find();
  await guest.ready();
  await using _stranger = await moveToStranger(guest);
  process.kill(processesOf(guest).get(1)!, "SIGTERM");
  assert.equal(await guest.ended, { exitCode: 0, signal: null });

  await using other = new GuestProcess({ program: [...UNSHARE, ...program("compiled")] });
  await other.find();
  await other.ready();
  await using _another = await moveToStranger(other);
  process.kill(other.pid, "SIGKILL");
  assert.equal(await other.ended, { exitCode: 137, signal: null });
});

test.skipIf(skip, "waits for no orphan", async () => {
  await using guest = new GuestProcess({ program: [...UNSHARE, ...program("compiled")] });
  await guest.find();
  await guest.ready();
  spawnSync(inside(guest)[0]!, [...inside(guest).slice(1), "sh", "-c", "sleep 1000 &"], { stdio: "ignore" });
  await guest.until("the orphan", () => processesOf(guest).size === 3);
  await using qmp = await guest.qmp();
  await qmp.execute("quit");
  assert.equal(await guest.ended, { exitCode: 0, signal: null });
});

test.skipIf(skip, "the relay's helper keeps the guest, and the container", async () => {
  const env = { BATON_TEST_FAIL: "kill@built" };
  await using guest = new GuestProcess({ program: [...UNSHARE, ...program("compiled")], env });
  await guest.find();
  await guest.ready();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { relay: true });
  assert.is((await update(qmp)).status, "completed");
  await guest.runsOn();
  await qmp.execute("migrate-set-parameters", { relay: true });
  const [bun, run] = program("bun");
  assert.is((await update(qmp, { command: [bun!, run!, failingBaton] })).status, "failed");
  await guest.find();
  await guest.runsOn();
  await qmp.execute("quit");
  assert.equal(await guest.ended, { exitCode: 0, signal: null });
});

test.skipIf(skip, "says what is wrong with a command line as any other process", () => {
  const { status, stderr } = spawnSync(UNSHARE[0]!, [...UNSHARE.slice(1), ...program("compiled"), "-no-such-option"], {
    encoding: "utf8",
  });
  assert.is(status, 2);
  assert.match(stderr, /no-such-option/);
});

test.run();
