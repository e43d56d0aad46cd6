// SPDX-License-Identifier: Apache-2.0
// The engine's clocks: a TSC that is CLOCK_MONOTONIC at some frequency, and kvmclock (https://docs.kernel.org/virt/kvm/x86/msr.html).

import { IRQCHIP_TSC_KHZ_U32 } from "../../../assembly/irqchip/layout.ts";
import { CONTROL_KVMCLOCK_OFFSET, IRQCHIP_BASE } from "../../../assembly/layout.ts";
import { monotonicNs, readMonotonic, realtimeNs } from "../../../ffi/clock.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import { elapsedRealNs, readHostTime } from "../../machine/clock-origin.ts";

/** Of a guest that comes from nowhere else: a tick is a nanosecond. */
export const ENGINE_TSC_KHZ = 1_000_000;

export function tscKhzOf(memory: WebAssembly.Memory): Uint32Array {
  return new Uint32Array(memory.buffer, IRQCHIP_BASE + IRQCHIP_TSC_KHZ_U32, 1);
}

/** What the guest's TSC is without its offset. */
export function engineTsc(memory: WebAssembly.Memory): () => bigint {
  const khz = tscKhzOf(memory);
  return () => {
    const now = monotonicNs();
    return khz[0] === ENGINE_TSC_KHZ ? now : (now * BigInt(khz[0]!)) / 1_000_000n;
  };
}

/** The same, stored at an address: for who asks all the time. */
export function tscReader(memory: WebAssembly.Memory): (place: number) => void {
  const khz = tscKhzOf(memory);
  const words = new Uint32Array(memory.buffer);
  const timespec = new Uint32Array(4);
  return (place) => {
    readMonotonic(timespec);
    // Seconds × ticks each + those of the nanoseconds, in three parts that are exact as numbers.
    const ticks = khz[0]! * 1000;
    const low = (timespec[0]! & 0xffff) * ticks + Math.floor((timespec[2]! * khz[0]!) / 1e6);
    const high = (timespec[0]! >>> 16) * ticks;
    const sum = (high % 0x1_0000) * 0x1_0000 + low;
    words[place >> 2] = sum % 2 ** 32;
    words[(place >> 2) + 1] = Math.floor(high / 0x1_0000) + Math.floor(sum / 2 ** 32);
  };
}

/** How a guest makes nanoseconds of ticks: (ticks << shift) * multiplier >> 32. A negative shift is one to the right. */
export function tscScale(khz: number): { multiplier: number; shift: number } {
  let shift = 0;
  let nsPerTick = 1e6 / khz;
  for (; nsPerTick >= 1; nsPerTick /= 2) shift++;
  for (; nsPerTick < 0.5; nsPerTick *= 2) shift--;
  return { multiplier: Math.min(Math.round(nsPerTick * 2 ** 32), 0xffff_ffff), shift };
}

/** kvmclock, as KVM_GET_CLOCK and KVM_SET_CLOCK have it. */
export class Kvmclock {
  readonly #offset: BigInt64Array;
  readonly #khz: Uint32Array;

  constructor(memory: WebAssembly.Memory) {
    this.#khz = tscKhzOf(memory);
    this.#offset = new BigInt64Array(memory.buffer, CONTROL_KVMCLOCK_OFFSET, 1);
  }

  nowNs(): bigint {
    return monotonicNs() + this.#offset[0]!;
  }

  /** What it shows when `engineTsc` is that. */
  atTsc(tsc: bigint): bigint {
    return (tsc * 1_000_000n) / BigInt(this.#khz[0]!) + this.#offset[0]!;
  }

  set(ns: bigint): void {
    this.#offset[0] = ns - monotonicNs();
  }

  /** struct kvm_clock_data. */
  save(data: Uint8Array): void {
    const view = viewOf(data);
    data.fill(0);
    view.setBigUint64(0, this.nowNs(), true);
    view.setUint32(abi.KVM_CLOCK_FLAGS_U32, abi.KVM_CLOCK_REALTIME, true);
    view.setBigUint64(abi.KVM_CLOCK_REALTIME_U64, realtimeNs(), true);
  }

  restore(data: Uint8Array): void {
    const view = viewOf(data);
    const hasRealtime = (view.getUint32(abi.KVM_CLOCK_FLAGS_U32, true) & abi.KVM_CLOCK_REALTIME) !== 0;
    const now = readHostTime();
    const passedNs = hasRealtime
      ? elapsedRealNs(view.getBigUint64(abi.KVM_CLOCK_REALTIME_U64, true), now.realtimeNs)
      : 0n;
    this.#offset[0] = view.getBigUint64(0, true) + passedNs - now.monotonicNs;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
