// SPDX-License-Identifier: Apache-2.0
// A guest that goes from one VMM process to the next by cpr-transfer, again and again, while it is watched from outside.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMemoryFile } from "../../src/meter/guest-ram.ts";
import { MeasuredVm } from "../../src/meter/measured-vm.ts";
import { type MeterWindow, PauseMeter } from "../../src/meter/pause-meter.ts";
import { RAM_NAME, sleep } from "../../src/meter/vmm-process.ts";
import { counterGpa } from "../../src/payload/report.ts";
import { connect, type QmpClient } from "../../src/qmp/client.ts";
import type { MigrationInfo } from "../../src/qmp/schema/migration.ts";
import { type Interval, longestOverlap, standstillsOfAll } from "./standstills.ts";

/** What the guest does after the switch belongs to it: page tables that are filled again, say. */
const AFTERMATH_MS = 30;
/** Standstills from this length on are looked at: the meter keeps 64, and vCPUs that share a CPU have many short ones. */
const THRESHOLD_NS = 50_000;
const CROWDED_THRESHOLD_NS = 300_000;
const SETTLE_MS = 100;
const CONNECT_TIMEOUT_MS = 20_000;
const NS_PER_MS = 1e6;

export interface TransferSample {
  /** No vCPU ran for at least so long, at the switch; undefined when the meter did not see it. */
  pauseMs: number | undefined;
  /** The same for any moment of the whole transfer, its preparation and what comes after it. */
  longestMs: number;
  /** The new VMM's own view. */
  info: MigrationInfo;
}

export interface ChainOptions {
  command: readonly string[];
  ramSizeBytes: number;
  cpuCount: number;
}

export class TransferChain implements AsyncDisposable {
  readonly #options: ChainOptions;
  readonly #first: MeasuredVm;
  readonly #meter: PauseMeter;
  #qmp: QmpClient;
  #child: ChildProcess | undefined;

  private constructor(options: ChainOptions, first: MeasuredVm, meter: PauseMeter, qmp: QmpClient) {
    this.#options = options;
    this.#first = first;
    this.#meter = meter;
    this.#qmp = qmp;
  }

  /** Resolves when the guest has touched all of its RAM and counts. */
  static async start(options: ChainOptions): Promise<TransferChain> {
    const first = await MeasuredVm.start(options);
    const { pid, qmpPath } = first.process;
    const meter = await PauseMeter.open({
      path: findMemoryFile(pid, [RAM_NAME])!,
      counterOffsets: Array.from({ length: options.cpuCount }, (_, vcpu) => counterGpa(vcpu)),
      thresholdNs: options.cpuCount === 1 ? THRESHOLD_NS : CROWDED_THRESHOLD_NS,
    });
    return new TransferChain(options, first, meter, await connect({ path: qmpPath }));
  }

  /** Hands the guest to a new process. @throws Error when that fails */
  async transfer(): Promise<TransferSample> {
    const dir = mkdtempSync(join(tmpdir(), "baton-transfer-"));
    const address = (name: string) => ({ transport: "socket" as const, type: "unix" as const, path: join(dir, name) });
    const [program, ...args] = this.#options.command;
    const cpr = JSON.stringify({ "channel-type": "cpr", addr: address("cpr") });
    const incoming = ["-incoming", `unix:${join(dir, "main")}`, "-incoming", cpr];
    const monitor = ["-nodefaults", "-qmp", `unix:${join(dir, "qmp")},server=on,wait=off`];
    const child = spawn(program!, [...args, ...monitor, ...incoming], { stdio: "ignore" });
    try {
      const next = await connectSoon(join(dir, "qmp"));
      await sleep(SETTLE_MS);
      const window = await this.#measure(async () => {
        await this.#qmp.execute("migrate-set-parameters", { mode: "cpr-transfer" });
        await this.#qmp.execute("migrate", {
          channels: [
            { "channel-type": "main", addr: address("main") },
            { "channel-type": "cpr", addr: address("cpr") },
          ],
        });
        await over(this.#qmp);
        await over(next);
      });
      const info = await next.execute("query-migrate");
      await this.#leave();
      this.#qmp = next;
      this.#child = child;
      return sampleOf(window, info);
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }

  /** The shortest pause that the VMM can make without being replaced. */
  async stopAndContinue(): Promise<number> {
    const window = await this.#measure(() => Promise.all([this.#qmp.execute("stop"), this.#qmp.execute("cont")]));
    return Math.max(0, ...standstillsOfAll(window).map(lengthMs));
  }

  /** What the guest's own checks have found; empty when it noticed nothing. */
  faults(): string[] {
    return this.#first.guest.faults();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#meter.close();
    await this.#leave();
    await this.#first.close();
  }

  /** Ends the process that has given the guest away. */
  async #leave(): Promise<void> {
    await this.#qmp.execute("quit").catch(() => {});
    this.#qmp.destroy();
    this.#child?.kill("SIGKILL");
    this.#child = undefined;
  }

  async #measure(action: () => Promise<unknown>): Promise<MeterWindow> {
    await this.#meter.arm();
    try {
      await action();
      await sleep(AFTERMATH_MS);
    } catch (error) {
      await this.#meter.disarm();
      throw error;
    }
    return await this.#meter.disarm();
  }
}

const lengthMs = ({ startNs, endNs }: Interval): number => (endNs - startNs) / NS_PER_MS;

function sampleOf(window: MeterWindow, info: MigrationInfo): TransferSample {
  const standstills = standstillsOfAll(window);
  const startNs = info["pause-start-us"]! * 1000;
  const pause = longestOverlap(standstills, { startNs, endNs: startNs + info["downtime-us"]! * 1000 });
  return {
    pauseMs: pause === undefined ? undefined : lengthMs(pause),
    longestMs: Math.max(0, ...standstills.map(lengthMs)),
    info,
  };
}

async function connectSoon(path: string): Promise<QmpClient> {
  for (const end = performance.now() + CONNECT_TIMEOUT_MS; ; await sleep(5)) {
    try {
      return await connect({ path });
    } catch (error) {
      if (performance.now() > end) throw error;
    }
  }
}

async function over(qmp: QmpClient): Promise<void> {
  for (;;) {
    const { status, "error-desc": error } = await qmp.execute("query-migrate");
    if (status === "completed") return;
    if (status === "failed" || status === "cancelled") throw new Error(`The transfer ${status}: ${error}`);
    await sleep(5);
  }
}
