// SPDX-License-Identifier: Apache-2.0
// Threads of a small machine: two vCPUs that do nothing but serve interrupts, and devices that make them.
import { parentPort, workerData } from "node:worker_threads";
import { CPU_LAPIC, CPU_PENDING } from "../../../assembly/cpu/layout.ts";
import { APIC_IRR } from "../../../assembly/irqchip/layout.ts";
import { CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES } from "../../../assembly/layout.ts";
import { instantiateIrqchip } from "../../../src/accel/wasm/irqchip-state.ts";
import { sleepWhilePending } from "../../../src/accel/wasm/sleep.ts";
import { instantiateApic } from "./apic-instance.ts";

export const COUNTERS = 0x3_0000;
/** Edges that were made, and how many of them the vCPU knew of when it served the last. */
export const EDGES_SENT = 0;
export const EDGES_SEEN = 1;
/** Levels that were served. */
export const LEVELS_SERVED = 2;
export const PINGS_SERVED = 3;
export const PONGS_SERVED = 4;
/** 1 when there will be no more edges. */
export const EDGES_END = 5;
/** Times that a vCPU was not woken. */
export const LOST = 6;
/** Threads that are about to begin. */
export const READY = 7;

export const EDGE_PIN = 16;
export const LEVEL_PIN = 17;
// All in one word of IRR.
export const EDGE_VECTOR = 0x41;
export const LEVEL_VECTOR = 0x52;
export const PING_VECTOR = 0x53;
export const PONG_VECTOR = 0x54;

const ICR = 0x300;
const ICR2 = 0x310;
const EOI = 0xb0;
/** Longer than any thread of a machine with much to do has to wait. */
const LOST_MS = 20_000;

export interface DeliveryWorkerData {
  memory: WebAssembly.Memory;
  apicBytes: Uint8Array<ArrayBuffer>;
  role: "first" | "second" | "edges" | "levels" | "flood-40" | "flood-41";
  rounds: number;
}

/** A main thread imports the constants above. */
if (workerData !== null && workerData?.role !== undefined) {
  const { memory, apicBytes, role, rounds } = workerData as DeliveryWorkerData;
  const clocks = { hostTsc: () => 0n, monotonicNs: () => 0n };
  const counters = new Int32Array(memory.buffer, COUNTERS, 16);
  const count = (counter: number): number => Atomics.load(counters, counter);
  const chip = instantiateIrqchip(memory, clocks.monotonicNs);

  /** Waits until a counter is no longer what it was. */
  const await_ = (counter: number, old: number): void => {
    if (Atomics.wait(counters, counter, old, LOST_MS) === "timed-out") Atomics.add(counters, LOST, 1);
  };
  const bump = (counter: number): void => {
    Atomics.add(counters, counter, 1);
    Atomics.notify(counters, counter);
  };

  const areOthersDone = (): boolean => count(LEVELS_SERVED) === rounds && count(PINGS_SERVED) === rounds;

  const runVcpu = (
    index: number,
    serve: (vector: number, send: (vector: number) => void) => void,
    isOver: () => boolean,
  ) => {
    const apic = instantiateApic(new WebAssembly.Module(apicBytes), memory, index, clocks);
    const words = new Int32Array(memory.buffer);
    const pending = (CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES + CPU_PENDING) >> 2;
    const send = (vector: number): void => {
      apic.writeApic(ICR2, 4, (1 - index) << 24);
      apic.writeApic(ICR, 4, vector);
    };
    if (index === 1) send(PING_VECTOR);
    while (!isOver()) {
      if (apic.highestInterrupt() >= 0) {
        serve(apic.acknowledge(), send);
        apic.writeApic(EOI, 4, 0);
        continue;
      }
      const startMs = performance.now();
      sleepWhilePending(words, pending, 0, LOST_MS);
      if (performance.now() - startMs >= LOST_MS) {
        Atomics.add(counters, LOST, 1);
        return;
      }
    }
  };

  switch (role) {
    case "first":
      runVcpu(
        0,
        (vector, send) => {
          if (vector === EDGE_VECTOR) {
            Atomics.store(counters, EDGES_SEEN, count(EDGES_SENT));
          } else if (vector === LEVEL_VECTOR) {
            chip.setIrq(LEVEL_PIN, 0);
            // The device may raise its line again before the EOI.
            bump(LEVELS_SERVED);
          } else if (vector === PING_VECTOR) {
            Atomics.add(counters, PINGS_SERVED, 1);
            send(PONG_VECTOR);
          }
        },
        () => areOthersDone() && count(EDGES_END) === 1 && count(EDGES_SEEN) === count(EDGES_SENT),
      );
      break;
    case "second":
      runVcpu(
        1,
        (_, send) => {
          Atomics.add(counters, PONGS_SERVED, 1);
          if (count(PONGS_SERVED) < rounds) send(PING_VECTOR);
        },
        () => count(PONGS_SERVED) === rounds,
      );
      break;
    case "edges":
      // As many as there can be while the others are at work, and one more.
      for (let isLast = false; !isLast; ) {
        isLast = areOthersDone() || count(LOST) > 0;
        Atomics.add(counters, EDGES_SENT, 1);
        if (isLast) Atomics.store(counters, EDGES_END, 1);
        chip.setIrq(EDGE_PIN, 1);
        chip.setIrq(EDGE_PIN, 0);
      }
      break;
    // Each has a bit of the first vCPU's IRR for itself, beside the other's.
    case "flood-40":
    case "flood-41": {
      const vector = Number.parseInt(role.slice(-2), 16);
      const apic = instantiateApic(new WebAssembly.Module(apicBytes), memory, vector - 0x3f, clocks);
      const words = new Int32Array(memory.buffer);
      const irr = (CPU_STATE_BASE + CPU_LAPIC + APIC_IRR + (vector >> 5) * 16) >> 2;
      const bit = 1 << (vector & 31);
      bump(READY);
      for (let ready = count(READY); ready < 2; ready = count(READY)) await_(READY, ready);
      for (let round = 0; round < rounds; round++) {
        apic.writeApic(ICR, 4, vector);
        if ((Atomics.and(words, irr, ~bit) & bit) === 0) Atomics.add(counters, LOST, 1);
      }
      break;
    }
    case "levels":
      for (let round = 0; round < rounds; round++) {
        chip.setIrq(LEVEL_PIN, 1);
        while (count(LEVELS_SERVED) === round && count(LOST) === 0) await_(LEVELS_SERVED, round);
      }
      break;
  }
  parentPort!.postMessage(role);
}
