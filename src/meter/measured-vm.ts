// SPDX-License-Identifier: Apache-2.0
// A VM whose VMM is replaced while the guest's pauses are measured from outside, over one QMP connection.
import { VmmError } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { MigrationInfo } from "../qmp/schema/migration.ts";
import { ConsoleLog } from "./console-log.ts";
import { sleep, type VmmOptions, VmmProcess } from "./vmm-process.ts";
import { type ObservedPause, WatchedGuest } from "./watched-guest.ts";

export type { ObservedPause } from "./watched-guest.ts";

export interface MeasuredUpdate extends ObservedPause {
  /** The VMM's own view of it. */
  info: MigrationInfo;
}

const REPLY_TIMEOUT_MS = 30_000;
const POLL_MS = 5;
const DEATH_MS = 200;

/**
 * @example
 * await using vm = await MeasuredVm.start({ command: ["dist/baton"], ramSizeBytes: 128 << 20, cpuCount: 1 });
 * const { pauseMs, info } = await vm.update();
 * console.log(pauseMs, info["downtime-us"], vm.faults());
 */
export class MeasuredVm implements AsyncDisposable {
  readonly process: VmmProcess;
  readonly guest: WatchedGuest;
  readonly console: ConsoleLog;
  /** Commands answered on the one connection. */
  replies = 0;

  readonly #qmp: QmpClient;
  #isQmpOpen = true;
  #closed: Promise<void> | undefined;

  private constructor(process: VmmProcess, qmp: QmpClient, console: ConsoleLog, guest: WatchedGuest) {
    this.process = process;
    this.guest = guest;
    this.console = console;
    this.#qmp = qmp;
    void qmp.closed.then(() => {
      this.#isQmpOpen = false;
    });
  }

  /** Resolves when the guest has touched all of its RAM and counts. `onTouched` hears how far that is, in pages. */
  static async start(options: VmmOptions, onTouched?: (pages: number) => void): Promise<MeasuredVm> {
    const vmm = new VmmProcess(options);
    try {
      const qmp = await vmm.connectQmp();
      const console = new ConsoleLog({ awaitsReady: options.linux !== undefined });
      console.connect(vmm.serialPath);
      const guest =
        options.linux === undefined
          ? await WatchedGuest.attach(vmm, options.cpuCount, onTouched)
          : await WatchedGuest.attachLinux(vmm, options.cpuCount, () => console.lines > 0);
      return new MeasuredVm(vmm, qmp, console, guest);
    } catch (error) {
      vmm.kill();
      await vmm.close();
      throw error;
    }
  }

  /** @throws VmmError when the update fails or the VMM dies of it */
  async update(): Promise<MeasuredUpdate> {
    const { value: info, ...pause } = await this.guest.measure(async () => {
      await this.call("migrate-set-parameters", { mode: "cpr-exec" });
      await this.call("migrate");
      return await this.#untilUpdated();
    });
    return { ...pause, info };
  }

  /** The shortest pause that the VMM can make without being replaced: stop and cont over QMP. */
  async stopAndContinue(): Promise<ObservedPause> {
    // Sent together: the second does not wait for the reply to the first.
    const { value: _, ...pause } = await this.guest.measure(() => Promise.all([this.call("stop"), this.call("cont")]));
    return pause;
  }

  /** Runs `action` as it is inside a pause: the guest stands still, and the meter is at work. */
  async whileStopped<T>(action: () => Promise<T>): Promise<T> {
    await this.call("stop");
    const { value } = await this.guest.measure(action);
    await this.call("cont");
    return value;
  }

  /** @throws QmpError, or VmmError "vmm-ended" when the VMM has died */
  async call(command: string, args?: object): Promise<unknown> {
    try {
      const value = await this.#qmp.call(command, args, { signal: AbortSignal.timeout(REPLY_TIMEOUT_MS) });
      this.replies++;
      return value;
    } catch (error) {
      // A VMM that dies hangs up first.
      await sleep(DEATH_MS);
      this.process.check();
      throw error;
    }
  }

  /** Everything that is not as it was before the updates, as sentences; empty when the guest noticed nothing. */
  faults(): string[] {
    const faults = this.guest.faults();
    if (!this.#isQmpOpen) faults.push("The QMP connection was dropped");
    if (!this.console.isConnected) faults.push("The serial console's connection was dropped");
    for (const line of this.console.faults) faults.push(`The serial console skips to ${JSON.stringify(line)}`);
    return faults;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.guest.close();
    this.console.close();
    // A VMM that has died does not reply.
    await this.#qmp.execute("quit").catch(() => this.process.kill());
    this.#qmp.destroy();
    await this.process.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #untilUpdated(): Promise<MigrationInfo> {
    for (;;) {
      await sleep(POLL_MS);
      const info = (await this.call("query-migrate")) as MigrationInfo;
      if (info.status === "completed") return info;
      if (info.status === "failed") throw new VmmError("update-failed", `The update failed: ${info["error-desc"]}`);
    }
  }
}
