// SPDX-License-Identifier: Apache-2.0
// A guest that goes from process to process, and how long it stood still on the way: from the last step of its counter in the
// RAM that it left to the first one in the RAM that it came to. Both meters read CLOCK_MONOTONIC.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VmmError } from "../../src/errors.ts";
import { findMemoryFile, GuestRam } from "../../src/meter/guest-ram.ts";
import { type MeterWindow, PauseMeter } from "../../src/meter/pause-meter.ts";
import { RAM_NAME, sleep, type VmmOptions, VmmProcess } from "../../src/meter/vmm-process.ts";
import { counterGpa } from "../../src/payload/report.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { MigrationInfo } from "../../src/qmp/schema/migration.ts";

const TIMEOUT_MS = 120_000;
const POLL_MS = 5;
/** What the guest suffers right after its arrival is seen, too, and that it steps no more where it was. */
const AFTERMATH_MS = 300;
/** The guest's last page is there for longer than this before the guest is. */
const THRESHOLD_NS = 50_000;
const NS_PER_MS = 1e6;

export interface Hop {
  /** Proven; undefined when a meter was not ready in time, or the machine too busy to tell. */
  pauseMs: number | undefined;
  atMostMs: number;
  /** From `migrate` to "completed", on the side that is left. */
  totalMs: number;
  info: MigrationInfo;
}

export interface HopOptions {
  /** Of `migrate`, for the side that is left; "unix" or "tcp". */
  transport: "unix" | "tcp";
  capabilities?: readonly string[];
  parameters?: object;
}

/** A guest and the process that it is in. */
export class Traveller implements AsyncDisposable {
  readonly #options: VmmOptions;
  readonly #dir = mkdtempSync(join(tmpdir(), "baton-hop-"));
  #hops = 0;
  #vmm: VmmProcess;
  #qmp: QmpClient;
  #ram: GuestRam;

  private constructor(options: VmmOptions, vmm: VmmProcess, qmp: QmpClient, ram: GuestRam) {
    this.#options = options;
    this.#vmm = vmm;
    this.#qmp = qmp;
    this.#ram = ram;
  }

  /** Resolves when the guest has touched all of its RAM and checks itself. */
  static async start(options: VmmOptions): Promise<Traveller> {
    const vmm = new VmmProcess(options);
    try {
      const qmp = await vmm.connectQmp();
      const ram = new GuestRam(await vmm.until("RAM", TIMEOUT_MS, () => findMemoryFile(vmm.pid, [RAM_NAME])));
      const isReady = (): true | undefined => {
        const report = ram.report();
        return (report?.ready && report.vcpus.every(({ checksRun }) => checksRun > 0n)) || undefined;
      };
      await vmm.until("sign of the guest being ready", TIMEOUT_MS, isReady);
      return new Traveller(options, vmm, qmp, ram);
    } catch (error) {
      vmm.kill();
      await vmm.close();
      throw error;
    }
  }

  /** Steps of the first vCPU's counter, for a look at how fast the guest runs. */
  get ram(): GuestRam {
    return this.#ram;
  }

  /** Sends the guest to a new process, and ends the old one. @throws VmmError when the guest stayed or was harmed */
  async hop({ transport, capabilities = [], parameters = {} }: HopOptions): Promise<Hop> {
    const path = join(this.#dir, String(this.#hops++));
    const incoming = transport === "unix" ? `unix:${path}` : "tcp:127.0.0.1:0";
    const next = new VmmProcess({ ...this.#options, incoming });
    let nextQmp: QmpClient | undefined;
    try {
      nextQmp = await next.connectQmp();
      const uri = transport === "unix" ? incoming : await listeningPort(nextQmp);
      const enabled = capabilities.map((capability) => ({ capability, state: true }));
      for (const qmp of [this.#qmp, nextQmp]) {
        if (enabled.length > 0) await qmp.call("migrate-set-capabilities", { capabilities: enabled });
      }
      await this.#qmp.call("migrate-set-parameters", { mode: "normal", ...parameters });
      const hop = await this.#measure(next, uri);
      await this.#moveTo(next, nextQmp);
      return hop;
    } catch (error) {
      nextQmp?.destroy();
      next.kill();
      await next.close();
      throw error;
    }
  }

  async #measure(next: VmmProcess, uri: string): Promise<Hop> {
    const counterOffsets = [counterGpa(0)];
    const options = { counterOffsets, thresholdNs: THRESHOLD_NS };
    await using here = await PauseMeter.open({ ...options, path: this.#ram.path });
    await here.arm();
    const startMs = performance.now();
    await this.#qmp.call("migrate", { uri });
    const arriving = next.until("RAM of the new side", TIMEOUT_MS, () => findMemoryFile(next.pid, [RAM_NAME]));
    await using there = await PauseMeter.open({ ...options, path: await arriving });
    await there.arm();
    const info = await this.#untilOver(next);
    const totalMs = performance.now() - startMs;
    await sleep(AFTERMATH_MS);
    const left = await here.disarm();
    const found = await there.disarm();
    return { ...pauseBetween(left, found), totalMs, info };
  }

  async #untilOver(next: VmmProcess): Promise<MigrationInfo> {
    for (const end = performance.now() + TIMEOUT_MS; ; await sleep(POLL_MS)) {
      next.check();
      const info = (await this.#qmp.call("query-migrate")) as MigrationInfo;
      if (info.status === "completed") return info;
      if (info.status === "failed") throw new VmmError("update-failed", `The migration failed: ${info["error-desc"]}`);
      if (performance.now() > end) {
        throw new VmmError("update-failed", `The migration is not over: ${JSON.stringify(info)}`);
      }
    }
  }

  async #moveTo(next: VmmProcess, qmp: QmpClient): Promise<void> {
    const ram = new GuestRam(findMemoryFile(next.pid, [RAM_NAME])!);
    const before = ram.report()!;
    await next.until("checks of the guest in its new place", TIMEOUT_MS, () => {
      return ram.report()!.vcpus[0]!.checksRun > before.vcpus[0]!.checksRun || undefined;
    });
    const { errorCount, errors } = ram.report()!;
    if (errorCount > 0) throw new VmmError("guest-harmed", `The guest found ${errorCount} errors: ${errors[0]?.text}`);
    await this.#end();
    this.#vmm = next;
    this.#qmp = qmp;
    this.#ram = ram;
  }

  async #end(): Promise<void> {
    this.#ram.close();
    await this.#qmp.execute("quit").catch(() => this.#vmm.kill());
    this.#qmp.destroy();
    await this.#vmm.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

async function listeningPort(qmp: QmpClient): Promise<string> {
  for (const end = performance.now() + TIMEOUT_MS; performance.now() < end; await sleep(POLL_MS)) {
    const info = (await qmp.call("query-migrate")) as MigrationInfo;
    const address = info["socket-address"]?.[0] as { host?: string; port?: string } | undefined;
    if (address?.port !== undefined) return `tcp:${address.host}:${address.port}`;
  }
  throw new VmmError("vmm-timeout", "The new side does not listen");
}

/**
 * In the RAM that is left the pause begins with the last step of the counter. In the other one the counter comes with the
 * last round, stands still until the guest is there, and then steps.
 */
export function pauseBetween(left: MeterWindow, found: MeterWindow): Pick<Hop, "pauseMs" | "atMostMs"> {
  const before = left.perCounter[0]!.last;
  const after = found.perCounter[0]!.standstills.find(({ startNs }) => startNs > before.startNs);
  if (after === undefined || found.startNs > before.startNs) return { pauseMs: undefined, atMostMs: Infinity };
  const slackNs = left.meterGapNs + (after.atMostNs - after.atLeastNs);
  const pauseNs = after.endNs - before.startNs;
  return { pauseMs: pauseNs / NS_PER_MS, atMostMs: (pauseNs + slackNs) / NS_PER_MS };
}
