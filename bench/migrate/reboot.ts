// SPDX-License-Identifier: Apache-2.0
// What cpr-reboot takes beside the reboot: saving a guest whose RAM stays where it is, and going on with it in a new process.
import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VmmError } from "../../src/errors.ts";
import { RAM_NAME, sleep, type VmmOptions, VmmProcess } from "../../src/meter/vmm-process.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { MigrationInfo } from "../../src/qmp/schema/migration.ts";

const MEMORY_DIR = "/dev/shm";
/** linux/magic.h */
const TMPFS_MAGIC = 0x0102_1994;
const TIMEOUT_MS = 60_000;
/** Time for the guest to be somewhere in its loop. */
const SETTLE_MS = 300;
const POLL_MS = 1;

export interface Reboot {
  /** From `migrate` to "completed". */
  saveMs: number;
  /** From the start of the new process until it says that the guest runs. */
  resumeMs: number;
  /** From the start of a process without a guest until its monitor answers: what a start takes anyway. */
  idleMs: number;
}

export type StatePlace = "memory" | "disk";

/** Where the state file is written; undefined when this machine has no such place. */
export function stateDirectory(place: StatePlace): string | undefined {
  if (place === "memory") return MEMORY_DIR;
  return statfsSync(tmpdir()).type === TMPFS_MAGIC ? undefined : tmpdir();
}

/** Saves a guest with RAM in a file, ends its VMM, and goes on with it in a new one. */
export async function measureReboot(options: VmmOptions, directory: string): Promise<Reboot> {
  const state = mkdtempSync(join(directory, "baton-state-"));
  const ram = mkdtempSync(join(MEMORY_DIR, "baton-ram-"));
  const machine: VmmOptions = { ...options, ramPath: join(ram, RAM_NAME) };
  const uri = `file:${join(state, "vm.state")}`;
  try {
    const saveMs = await withVmm(machine, async (qmp) => {
      await sleep(SETTLE_MS);
      await choose(qmp);
      const startMs = performance.now();
      await qmp.call("migrate", { uri });
      await untilCompleted(qmp);
      return performance.now() - startMs;
    });
    const resumeMs = await withVmm({ ...machine, incoming: uri }, async (qmp, vmm) => {
      while (!((await qmp.call("query-status")) as { running: boolean }).running) {
        if (performance.now() - vmm.startedMs > TIMEOUT_MS)
          throw new VmmError("vmm-timeout", "The guest does not go on");
        await sleep(POLL_MS);
      }
      return performance.now() - vmm.startedMs;
    });
    const idleMs = await withVmm({ ...machine, incoming: "defer" }, async (qmp, vmm) => {
      await qmp.call("query-status");
      return performance.now() - vmm.startedMs;
    });
    return { saveMs, resumeMs, idleMs };
  } finally {
    for (const path of [state, ram]) rmSync(path, { recursive: true, force: true });
  }
}

async function choose(qmp: QmpClient): Promise<void> {
  await qmp.call("migrate-set-parameters", { mode: "cpr-reboot" });
  await qmp.call("migrate-set-capabilities", { capabilities: [{ capability: "x-ignore-shared", state: true }] });
}

async function untilCompleted(qmp: QmpClient): Promise<void> {
  for (const end = performance.now() + TIMEOUT_MS; ; await sleep(POLL_MS)) {
    const info = (await qmp.call("query-migrate")) as MigrationInfo;
    if (info.status === "completed") return;
    if (info.status === "failed") throw new VmmError("update-failed", `Saving failed: ${info["error-desc"]}`);
    if (performance.now() > end) throw new VmmError("vmm-timeout", "Saving does not end");
  }
}

async function withVmm(
  options: VmmOptions,
  action: (qmp: QmpClient, vmm: VmmProcess) => Promise<number>,
): Promise<number> {
  const vmm = new VmmProcess(options);
  try {
    const qmp = await vmm.connectQmp();
    const result = await action(qmp, vmm);
    await qmp.execute("quit").catch(() => vmm.kill());
    qmp.destroy();
    return result;
  } catch (error) {
    vmm.kill();
    throw error;
  } finally {
    await vmm.close();
  }
}
