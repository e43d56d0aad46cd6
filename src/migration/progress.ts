// SPDX-License-Identifier: Apache-2.0
// How far a migration has come, in either direction: what `query-migrate` tells and MIGRATION events announce.
import { monotonicMs } from "../../ffi/clock.ts";
import type { QmpEventSource } from "../qmp/events.ts";
import type { MigrationInfo, MigrationStats, MigrationStatus, SocketAddress } from "../qmp/schema/migration.ts";
import type { Timeline } from "./timeline.ts";

export class MigrationProgress {
  readonly #events: QmpEventSource;
  #status: MigrationStatus = "none";
  #errorDescription: string | undefined;
  #startedMs = 0;
  #setupMs = 0;
  #endedMs = 0;
  #timeline: Timeline | undefined;
  /** Where RAM stands, while there is something to tell. */
  ram: (() => MigrationStats) | undefined;
  /** Estimate of the pause that is to come, in ms. */
  expectedDowntimeMs: number | undefined;
  /** Of an update, before it. */
  predictedUs: number | undefined;
  /** By how many percent the guest is slowed down, 0 when it is not. */
  throttlePercent = 0;
  /** Where an incoming migration is waited for. */
  socketAddress: SocketAddress | undefined;

  constructor(events: QmpEventSource) {
    this.#events = events;
  }

  get status(): MigrationStatus {
    return this.#status;
  }

  get startedMs(): number {
    return this.#startedMs;
  }

  get setupMs(): number {
    return this.#setupMs;
  }

  get isBusy(): boolean {
    return !["none", "completed", "failed", "cancelled"].includes(this.#status);
  }

  /** A new migration begins; `startedMs` on CLOCK_MONOTONIC. */
  start(startedMs = monotonicMs()): void {
    this.#startedMs = startedMs;
    this.#setupMs = 0;
    this.#errorDescription = undefined;
    this.#timeline = undefined;
    this.ram = undefined;
    this.expectedDowntimeMs = undefined;
    this.predictedUs = undefined;
    this.throttlePercent = 0;
    this.socketAddress = undefined;
  }

  /** All that can be done while the guest runs has been done. */
  setupDone(setupMs = monotonicMs() - this.#startedMs): void {
    this.#setupMs = setupMs;
  }

  enter(status: MigrationStatus): void {
    this.#status = status;
    if (!this.isBusy) this.#endedMs = monotonicMs();
    this.#events.emit("MIGRATION", { status });
  }

  /** Goes on where another program has been, which has told of it. */
  resume(status: MigrationStatus): void {
    this.#status = status;
  }

  pass(pass: number): void {
    this.#events.emit("MIGRATION_PASS", { pass });
  }

  setTimeline(timeline: Timeline): void {
    this.#timeline = timeline;
  }

  fail(description: string): void {
    this.#errorDescription = description;
    this.enter("failed");
  }

  /** Without blockers. Empty when there never was a migration. */
  info(): MigrationInfo {
    if (this.#status === "none") return {};
    const socketAddress = this.socketAddress === undefined ? {} : { "socket-address": [this.socketAddress] };
    // As in QEMU: an estimate while it is to come, the figure when it is over.
    const expectedMs = this.#status === "completed" ? undefined : this.expectedDowntimeMs;
    return {
      status: this.#status,
      ...(this.#errorDescription === undefined ? {} : { "error-desc": this.#errorDescription }),
      "total-time": Math.round((this.isBusy ? monotonicMs() : this.#endedMs) - this.#startedMs),
      "setup-time": Math.round(this.#setupMs),
      ...(expectedMs === undefined ? {} : { "expected-downtime": Math.round(expectedMs) }),
      ...(this.predictedUs === undefined ? {} : { "predicted-downtime-us": this.predictedUs }),
      ...(this.throttlePercent === 0 ? {} : { "cpu-throttle-percentage": this.throttlePercent }),
      ...(this.ram === undefined ? {} : { ram: this.ram() }),
      ...(this.#timeline === undefined ? {} : describeTimeline(this.#timeline)),
      ...socketAddress,
    };
  }
}

function describeTimeline(timeline: Timeline): MigrationInfo {
  return {
    downtime: Math.round(timeline.downtimeMs),
    "downtime-us": Math.round(timeline.downtimeMs * 1000),
    "pause-start-us": Math.round(timeline.stamps[0]! * 1000),
    phases: timeline.phases().map(({ phase, durationMs }) => ({
      phase,
      "duration-us": Math.round(durationMs * 1000),
    })),
  };
}
