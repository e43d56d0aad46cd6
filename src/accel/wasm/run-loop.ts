// SPDX-License-Identifier: Apache-2.0
// One vCPU's life on the engine: run it, sleep while it is idle, serve what comes from outside, park when asked. In the vCPU's
// worker.
import * as layout from "../../../assembly/cpu/layout.ts";
import {
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  EVENT_RESET,
  VCPU_REQUEST_EXIT,
  VCPU_REQUEST_PARK,
  VCPU_REQUEST_RUN,
  VCPU_STATE_GONE,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
} from "../../../assembly/layout.ts";
import { getTid } from "../../../ffi/process.ts";
import { signalMain } from "../../machine/doorbell.ts";
import { sleepAfterSlice, THROTTLE_SLICE_MS } from "../throttle.ts";
import type { VcpuControl } from "../vcpu-control.ts";
import type { CpuExports } from "./cpu-module.ts";
import type { IrqchipExports } from "./irqchip-state.ts";
import { sleepWhilePending } from "./sleep.ts";
import { writeInitState, writeSegment } from "./vcpu.ts";

/** Why `run` has returned: assembly/cpu/module.ts. */
const RAN_IDLE = 1;
const RAN_SHUTDOWN = 2;
const RAN_REQUESTED = 3;

/** Instructions: some milliseconds. */
const BUDGET = 1 << 22;
/** Instructions of a throttled vCPU between two looks at the clock. */
const THROTTLED_BUDGET = 1 << 16;
/** An idle vCPU looks up now and then: a clock may have been stepped. */
const LONGEST_SLEEP_MS = 1000;

export class EngineRunner {
  readonly #cpu: CpuExports;
  readonly #irqchip: IrqchipExports;
  readonly #control: VcpuControl;
  readonly #index: number;
  readonly #words: Int32Array;
  readonly #page: DataView;
  readonly #pendingWord: number;

  constructor(
    memory: WebAssembly.Memory,
    index: number,
    { cpu, irqchip, control }: { cpu: CpuExports; irqchip: IrqchipExports; control: VcpuControl },
  ) {
    const base = CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES;
    this.#cpu = cpu;
    this.#irqchip = irqchip;
    this.#control = control;
    this.#index = index;
    this.#words = new Int32Array(memory.buffer);
    this.#page = new DataView(memory.buffer, base, CPU_STATE_STRIDE_BYTES);
    this.#pendingWord = (base + layout.CPU_PENDING) >> 2;
  }

  get #pending(): number {
    return Atomics.load(this.#words, this.#pendingWord);
  }

  /** Serves the vCPU until the request is EXIT, waiting here while it is PARK. */
  serve(): void {
    this.#control.tid = getTid();
    // The main thread may be restoring the state at this moment.
    this.#stand();
    for (;;) {
      Atomics.and(this.#words, this.#pendingWord, ~layout.CPU_PENDING_REQUEST);
      const request = this.#control.request;
      if (request === VCPU_REQUEST_EXIT) break;
      if (request === VCPU_REQUEST_PARK) this.#park();
      else if (this.#control.throttlePercent !== 0) this.#runThrottled();
      else this.#runOnce(BUDGET);
    }
    this.#control.state = VCPU_STATE_GONE;
  }

  /** All that there is between two stands, at once and without a wait: until the code of it is warm. */
  rehearse(budget: number): void {
    this.#control.request = VCPU_REQUEST_RUN;
    this.#page.setUint32(layout.CPU_IS_CHANGED, 1, true);
    this.#stand();
    this.#runOnce(budget);
    this.#cpu.settle();
  }

  #park(): void {
    this.#cpu.settle();
    this.#stand();
  }

  /** Stands while the request is PARK. */
  #stand(): void {
    this.#control.state = VCPU_STATE_PARKED;
    this.#control.waitWhileRequest(VCPU_REQUEST_PARK);
    if (this.#control.request !== VCPU_REQUEST_RUN) return;
    this.#control.state = VCPU_STATE_RUNNING;
    if (this.#page.getUint32(layout.CPU_IS_CHANGED, true) === 0) return;
    this.#page.setUint32(layout.CPU_IS_CHANGED, 0, true);
    this.#cpu.stateChanged();
  }

  #runOnce(budget: number): void {
    // Whatever comes from now on ends the sleep.
    const seen = this.#pending;
    switch (this.#cpu.run(budget)) {
      case RAN_IDLE:
        this.#sleep(seen);
        return;
      case RAN_SHUTDOWN:
        // A triple fault is how guests without ACPI reboot.
        this.#stop(EVENT_RESET);
        return;
      case RAN_REQUESTED:
        this.#serveInit();
        return;
    }
  }

  #sleep(seen: number): void {
    const ns = this.#cpu.sleepNs();
    if (ns === 0n) return;
    const ms = ns < 0n ? LONGEST_SLEEP_MS : Math.min(Number(ns) / 1e6, LONGEST_SLEEP_MS);
    sleepWhilePending(this.#words, this.#pendingWord, seen, ms);
  }

  /** INIT and startup IPI: SDM volume 3, 9.4. */
  #serveInit(): void {
    const taken = Atomics.and(this.#words, this.#pendingWord, ~(layout.CPU_PENDING_INIT | layout.CPU_PENDING_SIPI));
    const isInit = (taken & layout.CPU_PENDING_INIT) !== 0;
    if (isInit) {
      writeInitState(this.#page, this.#index);
      this.#irqchip.initLapicOf(this.#index);
    }
    const isWaiting = this.#page.getUint32(layout.CPU_ACTIVITY, true) === layout.CPU_ACTIVITY_WAITING_FOR_SIPI;
    const isSipi = (taken & layout.CPU_PENDING_SIPI) !== 0 && isWaiting;
    if (isSipi) {
      const vector = this.#page.getUint32(layout.CPU_SIPI_VECTOR, true) & 0xff;
      writeSegment(this.#page, layout.SEGMENT_CS, vector << 8, BigInt(vector << 12), 0x9b);
      this.#page.setBigUint64(layout.CPU_RIP, 0n, true);
      this.#page.setUint32(layout.CPU_ACTIVITY, layout.CPU_ACTIVITY_RUNNING, true);
    }
    if (isInit || isSipi) this.#cpu.stateChanged();
  }

  /** A slice and the sleep after it. A request ends either. */
  #runThrottled(): void {
    const endMs = performance.now() + THROTTLE_SLICE_MS;
    while (this.#control.request === VCPU_REQUEST_RUN && performance.now() < endMs) {
      this.#runOnce(THROTTLED_BUDGET);
      Atomics.and(this.#words, this.#pendingWord, ~layout.CPU_PENDING_REQUEST);
    }
    sleepAfterSlice(this.#control);
  }

  /** Asks the main thread to act; the request has this vCPU park. */
  #stop(event: number): void {
    this.#control.request = VCPU_REQUEST_PARK;
    signalMain(this.#words, event);
  }
}
