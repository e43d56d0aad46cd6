// SPDX-License-Identifier: Apache-2.0
// The self-checking guest of a VMM process, or a Linux that counts, watched from outside: through its RAM, and nothing else.
import { VmmError } from "../errors.ts";
import { counterGpa, type Report } from "../payload/report.ts";
import { findMemoryFile, GuestRam } from "./guest-ram.ts";
import { PauseMeter } from "./pause-meter.ts";
import { RAM_NAME, sleep, type VmmProcess } from "./vmm-process.ts";

/** What the guest observed of something that was done to it. */
export interface ObservedPause {
  /** Proven: the guest stood still for at least this long. */
  pauseMs: number;
  /** It did not stand still for longer than this. */
  atMostMs: number;
  /** The two are too far apart for a figure: the meter had no core of its own. */
  isDisturbed: boolean;
}

/** QEMU calls all its memory files the same. */
const MEMORY_FILE_NAMES = [RAM_NAME, "memory-backend-memfd"];
/** Time for the guest to start and to write to 3 GiB of RAM where every instruction of it is interpreted. */
const READY_TIMEOUT_MS = 120_000;
/** How long the meter goes on after what it measures: what the guest suffers from it later belongs to it. */
const AFTERMATH_MS = 30;
const COUNTERS_TIMEOUT_MS = 10_000;
const NS_PER_MS = 1e6;

async function openRam(vmm: VmmProcess): Promise<GuestRam> {
  return new GuestRam(await vmm.until("RAM", READY_TIMEOUT_MS, () => findMemoryFile(vmm.pid, MEMORY_FILE_NAMES)));
}

export class WatchedGuest implements AsyncDisposable {
  readonly ram: GuestRam;
  /** It has a report: Linux has none. */
  readonly checksItself: boolean;
  readonly #meter: PauseMeter;

  private constructor(ram: GuestRam, meter: PauseMeter, checksItself: boolean) {
    this.ram = ram;
    this.#meter = meter;
    this.checksItself = checksItself;
  }

  /** Resolves when the guest has touched all of its RAM and counts. `onTouched` hears how far that is, in pages. */
  static async attach(vmm: VmmProcess, cpuCount: number, onTouched?: (pages: number) => void): Promise<WatchedGuest> {
    const ram = await openRam(vmm);
    try {
      await vmm.until("sign of the guest being ready", READY_TIMEOUT_MS, () => {
        const report = ram.report();
        onTouched?.(report?.touchedPages ?? 0);
        const isReady = report?.ready && report.vcpus.every(({ checksRun }) => checksRun > 0n);
        return isReady || undefined;
      });
      const counterOffsets = Array.from({ length: cpuCount }, (_, vcpu) => counterGpa(vcpu));
      return new WatchedGuest(ram, await PauseMeter.open({ path: ram.path, counterOffsets }), true);
    } catch (error) {
      ram.close();
      throw error;
    }
  }

  /** Resolves when the Linux in it counts on all CPUs; `hasSpoken` says that it has come that far that it may. */
  static async attachLinux(vmm: VmmProcess, cpuCount: number, hasSpoken: () => boolean): Promise<WatchedGuest> {
    const ram = await openRam(vmm);
    try {
      await vmm.until("line of the guest's", READY_TIMEOUT_MS, () => hasSpoken() || undefined);
      const counterOffsets = await vmm.until("counter on each CPU", COUNTERS_TIMEOUT_MS, () => {
        const found = ram.linuxCounters();
        return found.length === cpuCount ? found : undefined;
      });
      return new WatchedGuest(ram, await PauseMeter.open({ path: ram.path, counterOffsets }), false);
    } catch (error) {
      ram.close();
      throw error;
    }
  }

  /** The longest standstill of any vCPU while `action` runs and shortly after. */
  async measure<T>(action: () => Promise<T>): Promise<ObservedPause & { value: T }> {
    await this.#meter.arm();
    let value: T;
    try {
      value = await action();
      await sleep(AFTERMATH_MS);
    } catch (error) {
      await this.#meter.disarm();
      throw error;
    }
    const { longestStandstillNs, longestPossibleNs, isDisturbed } = await this.#meter.disarm();
    return { value, pauseMs: longestStandstillNs / NS_PER_MS, atMostMs: longestPossibleNs / NS_PER_MS, isDisturbed };
  }

  report(): Report {
    const report = this.ram.report();
    if (report === undefined) throw new VmmError("guest-lost", "The guest's report is gone from its RAM");
    return report;
  }

  /** What the guest's own checks have found, as sentences. */
  faults(): string[] {
    if (!this.checksItself) return [];
    const { errors, errorCount, vcpus } = this.report();
    const faults = errors.map(({ vcpu, text, expected, found }) => {
      return `vCPU ${vcpu}: ${text} (expected 0x${expected.toString(16)}, found 0x${found.toString(16)})`;
    });
    if (errorCount > errors.length) faults.push(`${errorCount - errors.length} more errors`);
    for (const [index, { checksRun }] of vcpus.entries()) {
      if (checksRun === 0n) faults.push(`vCPU ${index} has not checked anything`);
    }
    return faults;
  }

  async close(): Promise<void> {
    await this.#meter.close();
    this.ram.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
