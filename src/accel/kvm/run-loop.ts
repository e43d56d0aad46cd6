// SPDX-License-Identifier: Apache-2.0
// One vCPU's life on KVM: enter the guest, serve the exit, park when asked. Runs in the vCPU's worker, and for a moment
// on the main thread after an update (see `lend`).
import {
  EVENT_RESET,
  EVENT_VCPU_ERROR,
  KVM_RUN_BASE,
  KVM_RUN_STRIDE_BYTES,
  VCPU_REQUEST_EXIT,
  VCPU_REQUEST_HANDOVER,
  VCPU_REQUEST_PARK,
  VCPU_REQUEST_RUN,
  VCPU_STATE_ABSENT,
  VCPU_STATE_GONE,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
} from "../../../assembly/layout.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import type { KvmVcpu } from "../../../ffi/kvm/kvm.ts";
import { getTid } from "../../../ffi/process.ts";
import { consumeKickSignal, KickTimer, kickThread } from "../../../ffi/signal.ts";
import { signalMain } from "../../machine/doorbell.ts";
import type { IoBus } from "../../machine/io-bus.ts";
import { sleepAfterSlice, THROTTLE_SLICE_MS } from "../throttle.ts";
import type { VcpuControl } from "../vcpu-control.ts";

const WARM_UP_ROUNDS = 20;
/** No warming up takes so long. */
const WARM_UP_MS = 60_000;

export class VcpuRunner {
  readonly #vcpu: KvmVcpu;
  readonly #control: VcpuControl;
  readonly #bus: () => IoBus;
  readonly #emptyRing: (() => void) | undefined;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  /** KVM has let the guest out for an access to a device, and completes that when the guest goes on. */
  #isInAccess = false;
  #timer: KickTimer | undefined;

  /**
   * `bus` is asked for at the first exit: after an update the guest runs before any device module is compiled. `emptyRing`
   * makes room in the vCPU's dirty ring; without it nobody may track dirty pages while this runs.
   */
  constructor(
    vcpu: KvmVcpu,
    index: number,
    memory: WebAssembly.Memory,
    control: VcpuControl,
    bus: () => IoBus,
    emptyRing?: () => void,
  ) {
    const base = KVM_RUN_BASE + index * KVM_RUN_STRIDE_BYTES;
    this.#vcpu = vcpu;
    this.#control = control;
    this.#bus = bus;
    this.#emptyRing = emptyRing;
    this.#words = new Int32Array(memory.buffer);
    this.#bytes = new Uint8Array(memory.buffer, base, KVM_RUN_STRIDE_BYTES);
    this.#view = new DataView(memory.buffer, base, KVM_RUN_STRIDE_BYTES);
  }

  /** Of the thread that runs the vCPU. */
  get #kickTimer(): KickTimer {
    this.#timer ??= new KickTimer();
    return this.#timer;
  }

  /** Serves the vCPU until the request is EXIT, waiting here while it is PARK. */
  serve(): void {
    this.#control.tid = getTid();
    this.#unpark();
    for (;;) {
      const request = this.#control.request;
      if (request === VCPU_REQUEST_EXIT) break;
      if (request === VCPU_REQUEST_PARK) {
        this.#park();
        this.#control.waitWhileRequest(VCPU_REQUEST_PARK);
        this.#unpark();
      } else if (this.#control.throttlePercent !== 0) {
        this.#runThrottled();
      } else if (!this.#runOnce() && this.#control.request === VCPU_REQUEST_RUN) {
        // A kick for a request that was taken back: it would end every KVM_RUN from now on.
        this.#unpark();
      }
    }
    this.close();
    consumeKickSignal();
    this.#control.state = VCPU_STATE_GONE;
  }

  /** A slice and the sleep after it. A request ends either. */
  #runThrottled(): void {
    const endMs = performance.now() + THROTTLE_SLICE_MS;
    this.#kickTimer.arm(THROTTLE_SLICE_MS);
    while (this.#control.request === VCPU_REQUEST_RUN && performance.now() < endMs) this.#runOnce();
    this.#kickTimer.disarm();
    // Takes back the timer's kick, which may have come between two runs.
    this.#unpark();
    sleepAfterSlice(this.#control);
  }

  /**
   * Runs the vCPU on the main thread until its worker takes over: after an update the guest need not wait for a worker
   * to start. After `sliceMs` calls `onReady`, from when on a worker may come; that is where it can be started, which takes
   * longer than the guest should have to wait for its first steps. When none has come within `timeoutMs` the vCPU is parked,
   * for a worker that comes later. Kicks of former times must have been consumed.
   */
  lend(sliceMs: number, timeoutMs: number, onReady: () => void): void {
    const startMs = performance.now();
    this.#kickTimer.arm(sliceMs);
    this.#enter();
    let isReady = false;
    while (this.#control.request === VCPU_REQUEST_RUN) {
      const elapsedMs = performance.now() - startMs;
      if (!isReady && elapsedMs >= sliceMs) {
        isReady = true;
        // Before anybody else may kick.
        consumeKickSignal();
        this.#kickTimer.arm(timeoutMs);
        onReady();
      }
      if (elapsedMs >= timeoutMs && this.#control.exchangeState(VCPU_STATE_RUNNING, VCPU_STATE_ABSENT)) break;
      this.#runOnce();
    }
    this.#kickTimer.disarm();
    this.#finishAccess();
    // Bun unblocks signals on its main thread when it waits for events: a pending kick would kill the process there.
    consumeKickSignal();
    this.#control.exchangeRequest(VCPU_REQUEST_HANDOVER, VCPU_REQUEST_RUN);
    this.#control.state = VCPU_STATE_PARKED;
    if (!isReady) onReady();
  }

  /**
   * Does what `lend` does before the guest runs, some times over, without running it: what is done for the first time takes
   * long. To be called on the thread that will lend itself, before anybody can kick it.
   */
  warmUp(): void {
    for (let round = 0; round < WARM_UP_ROUNDS; round++) {
      this.#kickTimer.arm(WARM_UP_MS);
      this.#bytes[abi.KVM_RUN_IMMEDIATE_EXIT_U8] = 1;
      this.#runOnce();
      this.#kickTimer.disarm();
      consumeKickSignal();
    }
  }

  /** Lets go of what the thread has for `lend`. */
  close(): void {
    this.#timer?.close();
    this.#timer = undefined;
  }

  /** The worker's side of `lend`: gets the vCPU from the main thread when that offers it. */
  takeOver(): void {
    this.#control.waitForOffer();
    // Whoever changes the state first decides: a kick after the main thread has given up would kill the process.
    const isLent = this.#control.exchangeState(VCPU_STATE_RUNNING, VCPU_STATE_ABSENT);
    if (isLent) {
      this.#bytes[abi.KVM_RUN_IMMEDIATE_EXIT_U8] = 1;
      // Before the request: when the main thread sees that, no kick is still on its way.
      kickThread(this.#control.tid);
      // Unless the guest has stopped itself meanwhile: that request stays.
      this.#control.exchangeRequest(VCPU_REQUEST_RUN, VCPU_REQUEST_HANDOVER);
    }
    this.#control.awaitState(VCPU_STATE_PARKED);
  }

  #unpark(): void {
    consumeKickSignal();
    this.#enter();
  }

  #enter(): void {
    this.#bytes[abi.KVM_RUN_IMMEDIATE_EXIT_U8] = 0;
    // The request may have changed back before immediate_exit was cleared; look again, now that it can be set for good.
    if (this.#control.request === VCPU_REQUEST_RUN) this.#control.state = VCPU_STATE_RUNNING;
  }

  /**
   * KVM completes a port or MMIO access only at the next KVM_RUN: do that before anybody reads the registers. One that
   * has several parts comes back with the next of them.
   */
  #finishAccess(): void {
    if (!this.#isInAccess) return;
    this.#bytes[abi.KVM_RUN_IMMEDIATE_EXIT_U8] = 1;
    while (this.#runOnce());
  }

  #park(): void {
    this.#finishAccess();
    this.#control.state = VCPU_STATE_PARKED;
  }

  /** False when the guest was interrupted rather than left by itself. */
  #runOnce(): boolean {
    // Interrupted, KVM has completed what there was.
    this.#isInAccess = this.#vcpu.run() === 0;
    if (this.#isInAccess) this.#serveExit();
    return this.#isInAccess;
  }

  #serveExit(): void {
    this.#control.countExit();
    const reason = this.#view.getUint32(abi.KVM_RUN_EXIT_REASON_U32, true);
    switch (reason) {
      case abi.KVM_EXIT_IO:
        this.#serveIo();
        return;
      case abi.KVM_EXIT_MMIO:
        // Nothing is mapped outside RAM and the in-kernel interrupt controllers.
        if (this.#view.getUint8(abi.KVM_RUN_MMIO_IS_WRITE_U8) === 0) {
          this.#bytes.fill(0xff, abi.KVM_RUN_MMIO_DATA_U8X8, abi.KVM_RUN_MMIO_DATA_U8X8 + 8);
        }
        return;
      case abi.KVM_EXIT_INTR:
      case abi.KVM_EXIT_IRQ_WINDOW_OPEN:
      case abi.KVM_EXIT_HLT:
        return;
      case abi.KVM_EXIT_DIRTY_RING_FULL:
        if (this.#emptyRing !== undefined) this.#emptyRing();
        else this.#fail(reason);
        return;
      case abi.KVM_EXIT_SHUTDOWN:
        // A triple fault is how guests without ACPI reboot.
        this.#stop(EVENT_RESET);
        return;
      default:
        this.#fail(reason);
    }
  }

  #fail(reason: number): void {
    this.#control.failure = reason;
    this.#control.failureDetail = this.#view.getUint32(abi.KVM_RUN_INTERNAL_SUBERROR_U32, true);
    this.#stop(EVENT_VCPU_ERROR);
  }

  /** Asks the main thread to act and waits parked until it does. */
  #stop(event: number): void {
    this.#control.request = VCPU_REQUEST_PARK;
    signalMain(this.#words, event);
  }

  #serveIo(): void {
    const sizeBytes = this.#view.getUint8(abi.KVM_RUN_IO_SIZE_U8);
    const port = this.#view.getUint16(abi.KVM_RUN_IO_PORT_U16, true);
    const count = this.#view.getUint32(abi.KVM_RUN_IO_COUNT_U32, true);
    let offset = Number(this.#view.getBigUint64(abi.KVM_RUN_IO_DATA_OFFSET_U64, true));
    const isRead = this.#view.getUint8(abi.KVM_RUN_IO_DIRECTION_U8) === abi.KVM_EXIT_IO_IN;
    const bus = this.#bus();
    for (let repeat = 0; repeat < count; repeat++, offset += sizeBytes) {
      if (isRead) this.#store(offset, sizeBytes, bus.read(port, sizeBytes));
      else bus.write(port, sizeBytes, this.#load(offset, sizeBytes));
    }
  }

  #load(offset: number, sizeBytes: number): number {
    if (sizeBytes === 1) return this.#view.getUint8(offset);
    return sizeBytes === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint32(offset, true);
  }

  #store(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes === 1) this.#view.setUint8(offset, value);
    else if (sizeBytes === 2) this.#view.setUint16(offset, value, true);
    else this.#view.setUint32(offset, value, true);
  }
}
