// SPDX-License-Identifier: Apache-2.0
// A VM whose pauses are measured from outside while its VMM is replaced, and whose guest checks itself meanwhile.
import { VmmError } from "../errors.ts";
import { counterGpa, type Report } from "../payload/report.ts";
import { connect, type QmpClient } from "../qmp/client.ts";
import type { MigrationInfo } from "../qmp/schema/migration.ts";
import { ConsoleLog } from "./console-log.ts";
import { findMemoryFile, GuestRam } from "./guest-ram.ts";
import { type MeterWindow, PauseMeter } from "./pause-meter.ts";
import { RAM_NAME, sleep, type VmmOptions, VmmProcess } from "./vmm-process.ts";

/** What the guest observed of something that was done to it. */
export interface ObservedPause {
  /** Proven: the guest stood still for at least this long. */
  pauseMs: number;
  /** It did not stand still for longer than this. */
  atMostMs: number;
  /** The two are too far apart for a figure: the meter had no core of its own. */
  isDisturbed: boolean;
}

export interface MeasuredUpdate extends ObservedPause {
  /** The VMM's own view of it. QEMU has neither `downtime-us` nor `phases`. */
  info: MigrationInfo;
}

/** Time for the guest to start and to write to 3 GiB of RAM where every instruction of it is interpreted. */
const READY_TIMEOUT_MS = 120_000;
const UPDATE_TIMEOUT_MS = 30_000;
/** How long the meter goes on after an update is reported: what the guest suffers from it later belongs to it. */
const AFTERMATH_MS = 30;
const POLL_MS = 5;
const NS_PER_MS = 1e6;

/**
 * @example
 * await using vm = await MeasuredVm.start({ command: ["dist/baton"], ramSizeBytes: 128 << 20, cpuCount: 1 });
 * const { pauseMs, info } = await vm.update();
 * console.log(pauseMs, info["downtime-us"], vm.faults());
 */
export class MeasuredVm implements AsyncDisposable {
  readonly process: VmmProcess;
  /** The one connection, over all updates. */
  readonly qmp: QmpClient;
  readonly console: ConsoleLog;
  /** Commands answered on it. */
  replies = 0;
  updates = 0;

  readonly #ram: GuestRam;
  readonly #meter: PauseMeter;
  #isQmpOpen = true;

  private constructor(process: VmmProcess, qmp: QmpClient, console: ConsoleLog, ram: GuestRam, meter: PauseMeter) {
    this.process = process;
    this.qmp = qmp;
    this.console = console;
    this.#ram = ram;
    this.#meter = meter;
    void qmp.closed.then(() => {
      this.#isQmpOpen = false;
    });
  }

  /** Resolves when the guest has touched all of its RAM and counts. `onTouched` hears how far that is, in pages. */
  static async start(options: VmmOptions, onTouched?: (pages: number) => void): Promise<MeasuredVm> {
    const vmm = new VmmProcess(options);
    try {
      await vmm.untilSocket(vmm.qmpPath);
      const qmp = await connect({ path: vmm.qmpPath });
      const console = new ConsoleLog();
      console.connect(vmm.serialPath);
      const path = await vmm.until("RAM", READY_TIMEOUT_MS, () => findMemoryFile(vmm.pid, RAM_NAME));
      const ram = new GuestRam(path);
      await vmm.until("sign of the guest being ready", READY_TIMEOUT_MS, () => {
        const report = ram.report();
        onTouched?.(report?.touchedPages ?? 0);
        const isReady = report?.ready && report.vcpus.every(({ checksRun }) => checksRun > 0n);
        return isReady || undefined;
      });
      const counterOffsets = Array.from({ length: options.cpuCount }, (_, vcpu) => counterGpa(vcpu));
      const meter = await PauseMeter.open({ path, counterOffsets });
      return new MeasuredVm(vmm, qmp, console, ram, meter);
    } catch (error) {
      vmm.kill();
      await vmm.close();
      throw error;
    }
  }

  /** @throws VmmError when the update fails or the VMM dies of it */
  async update(): Promise<MeasuredUpdate> {
    const { window, value: info } = await this.#measure(async () => {
      await this.#call("migrate-set-parameters", { mode: "cpr-exec" });
      await this.#call("migrate");
      return await this.#untilUpdated();
    });
    this.updates++;
    return { ...observed(window), info };
  }

  /** The shortest pause that the VMM can make without being replaced: stop and cont over QMP. */
  async stopAndContinue(): Promise<ObservedPause> {
    const { window } = await this.#measure(async () => {
      // Sent together: the second does not wait for the reply to the first.
      await Promise.all([this.#call("stop"), this.#call("cont")]);
    });
    return observed(window);
  }

  report(): Report {
    const report = this.#ram.report();
    if (report === undefined) throw new VmmError("guest-lost", "The guest's report is gone from its RAM");
    return report;
  }

  /** Everything that is not as it was before the updates, as sentences; empty when the guest noticed nothing. */
  faults(): string[] {
    const { errors, errorCount, vcpus } = this.report();
    const faults = errors.map(({ vcpu, text, expected, found }) => {
      return `vCPU ${vcpu}: ${text} (expected 0x${expected.toString(16)}, found 0x${found.toString(16)})`;
    });
    if (errorCount > errors.length) faults.push(`${errorCount - errors.length} more errors`);
    for (const [index, { checksRun }] of vcpus.entries()) {
      if (checksRun === 0n) faults.push(`vCPU ${index} has not checked anything`);
    }
    if (!this.#isQmpOpen) faults.push("The QMP connection was dropped");
    if (!this.console.isConnected) faults.push("The serial console's connection was dropped");
    for (const line of this.console.faults)
      faults.push(`The serial console is not continuous at ${JSON.stringify(line)}`);
    return faults;
  }

  async close(): Promise<void> {
    await this.#meter.close();
    this.console.close();
    this.#ram.close();
    // QEMU hangs up before it replies, and so may a VMM that has died.
    await this.qmp.execute("quit").catch(() => this.process.kill());
    this.qmp.destroy();
    await this.process.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #measure<T>(action: () => Promise<T>): Promise<{ window: MeterWindow; value: T }> {
    await this.#meter.arm();
    try {
      const value = await action();
      await sleep(AFTERMATH_MS);
      const window = await this.#meter.disarm();
      return { window, value };
    } catch (error) {
      await this.#meter.disarm();
      this.process.check();
      throw error;
    }
  }

  async #call(command: string, args?: object): Promise<unknown> {
    const value = await this.qmp.call(command, args, { signal: AbortSignal.timeout(UPDATE_TIMEOUT_MS) });
    this.replies++;
    return value;
  }

  async #untilUpdated(): Promise<MigrationInfo> {
    for (;;) {
      await sleep(POLL_MS);
      const info = (await this.#call("query-migrate")) as MigrationInfo;
      if (info.status === "completed") return info;
      if (info.status === "failed") throw new VmmError("update-failed", `The update failed: ${info["error-desc"]}`);
    }
  }
}

function observed({ longestStandstillNs, longestPossibleNs, isDisturbed }: MeterWindow): ObservedPause {
  return { pauseMs: longestStandstillNs / NS_PER_MS, atMostMs: longestPossibleNs / NS_PER_MS, isDisturbed };
}
