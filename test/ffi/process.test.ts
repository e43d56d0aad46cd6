// SPDX-License-Identifier: Apache-2.0
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { close, isCloseOnExec } from "../../ffi/fd.ts";
import { lazyCall } from "../../ffi/libc.ts";
import { addressOf } from "../../ffi/native.ts";
import { POLLIN, poll } from "../../ffi/poll.ts";
import * as processes from "../../ffi/process.ts";
import { assert, describe } from "../harness.ts";
import { bytes, failsWith, withoutLeak } from "./support.ts";

const test = describe("ffi/process");

test("getPid() and getTid() say who this is", () => {
  assert.is(processes.getPid(), process.pid);
  assert.ok(processes.tgkill(process.pid, processes.getTid(), 0));
});

test("kill() and tgkill() fail for a process that is not there", () => {
  processes.kill(process.pid, 0);
  failsWith("ESRCH", "kill", () => processes.kill(0x3fffff, 0));
  failsWith("EINVAL", "kill", () => processes.kill(process.pid, 999));
  assert.not(processes.tgkill(process.pid, 0x3fffff, 0));
});

test("a pidfd becomes readable when the process has ended", async () => {
  const child = spawn("sleep", ["100"]);
  const pidfd = processes.pidfdOpen(child.pid!);
  assert.ok(isCloseOnExec(pidfd));
  assert.is(poll(pidfd, POLLIN), 0);
  const exited = once(child, "exit");
  processes.pidfdSendSignal(pidfd, processes.SIGKILL);
  assert.is(poll(pidfd, POLLIN, 5000) & POLLIN, POLLIN);
  await exited;
  failsWith("ESRCH", "pidfd_send_signal", () => processes.pidfdSendSignal(pidfd, 0));
  close(pidfd);
});

test("pidfdOpen() fails for a process that is not there", () =>
  withoutLeak(() => {
    failsWith("ESRCH", "pidfd_open", () => processes.pidfdOpen(0x3fffff));
    close(processes.pidfdOpen(process.pid));
  }));

/** Starts `/bin/sh -c SCRIPT` behind the runtime's back, so that the runtime does not reap it. */
function spawnShell(script: string): number {
  const posixSpawn = lazyCall("int posix_spawn(void *pid, const char *path, void *, void *, void *argv, void *envp)");
  const strings = ["sh", "-c", script].map((part) => bytes(`${part}\0`));
  // SAFETY: `strings` is used after the call, so what argv points at outlives it.
  const argv = new BigUint64Array([...strings.map(addressOf), 0n]);
  const pid = new Int32Array(1);
  assert.is(posixSpawn(pid, "/bin/sh", null, null, argv, new BigUint64Array(1)), 0);
  assert.is(strings.length, 3);
  return pid[0]!;
}

test("wait4() tells how a child ended", () => {
  const exited = spawnShell("exit 42");
  assert.equal(processes.wait4(exited), { pid: exited, exitCode: 42 });
  const killed = spawnShell("sleep 100");
  assert.is(processes.wait4(killed, processes.WNOHANG), undefined);
  processes.kill(killed, processes.SIGKILL);
  assert.equal(processes.wait4(killed), { pid: killed, signal: processes.SIGKILL });
});

test("wait4() fails with ECHILD where there is no such child", () => {
  failsWith("ECHILD", "wait4", () => processes.wait4(1, processes.WNOHANG));
});

/** Beyond the highest thread id that there can be: asm/…/threads.h, PID_MAX_LIMIT. */
const NO_THREAD = 0x3fffff;

test("setSchedulingPolicy() changes a thread's policy", () => {
  // proc_pid_stat(5): field 41 is the policy; the name, field 2, may have spaces in it.
  const policy = (): number => {
    const stat = readFileSync(`/proc/self/task/${processes.getTid()}/stat`, "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[41 - 3]);
  };
  const before = policy();
  assert.ok(processes.setSchedulingPolicy(processes.SCHED_BATCH));
  assert.is(policy(), processes.SCHED_BATCH);
  assert.is(processes.getSchedulingPolicy(processes.getTid()), processes.SCHED_BATCH);
  assert.ok(processes.setSchedulingPolicy(before, processes.getTid()));
  assert.is(policy(), before);
  assert.is(processes.getSchedulingPolicy(), before);
  failsWith("EINVAL", "sched_setscheduler", () => processes.setSchedulingPolicy(99));
  assert.not(processes.setSchedulingPolicy(processes.SCHED_BATCH, NO_THREAD));
  assert.is(processes.getSchedulingPolicy(NO_THREAD), undefined);
});

test("setAffinity() keeps a thread to some CPUs", () => {
  // proc_pid_status(5): the lowest CPU is the last bit.
  const allowed = (): bigint => {
    const status = readFileSync(`/proc/self/task/${processes.getTid()}/status`, "utf8");
    return BigInt(`0x${/^Cpus_allowed:\t(.*)$/m.exec(status)![1]!.replaceAll(",", "")}`);
  };
  const before = processes.getAffinity(0)!;
  const mask = (affinity: Uint8Array): bigint => affinity.reduceRight((all, byte) => (all << 8n) | BigInt(byte), 0n);
  assert.is(mask(before), allowed());
  const lowest = mask(before) & -mask(before);
  const one = new Uint8Array(new BigUint64Array(before.length / 8).fill(lowest, 0, 1).buffer);
  assert.ok(processes.setAffinity(0, one));
  assert.is(allowed(), lowest);
  assert.equal(processes.getAffinity(processes.getTid()), one);
  assert.ok(processes.setAffinity(processes.getTid(), before));
  assert.is(allowed(), mask(before));
  failsWith("EINVAL", "sched_setaffinity", () => processes.setAffinity(0, new Uint8Array(before.length)));
  assert.not(processes.setAffinity(NO_THREAD, before));
  assert.is(processes.getAffinity(NO_THREAD), undefined);
});

test.run();
