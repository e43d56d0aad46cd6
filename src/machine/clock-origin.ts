// SPDX-License-Identifier: Apache-2.0
// Where the clocks of a saved guest come from, and the clock that its devices go by.
//
// Within one boot of one host, CLOCK_MONOTONIC and the TSC go on by themselves. In any other boot they began at another
// time: then everything that the guest can tell the time by goes on by the CLOCK_REALTIME that passed since the save.
import { CONTROL_MONOTONIC_OFFSET } from "../../assembly/layout.ts";
import { BOOT_ID_SIZE_BYTES, bootId } from "../../ffi/boot-id.ts";
import { monotonicNs, realtimeNs } from "../../ffi/clock.ts";
import type { StateReader, StateSection } from "../state/reader.ts";
import type { BindSection, StateWriter } from "../state/writer.ts";

export const CLOCK_ORIGIN_SECTION = "clock-origin";
export const CLOCK_ORIGIN_SECTION_VERSION = 1;

/** Both clocks of the host at one moment. */
export interface HostTime {
  monotonicNs: bigint;
  realtimeNs: bigint;
}

/** What restoring needs to know that is not in the state. */
export interface RestoreOptions {
  /** The state was saved in this boot of this host. Found out from the state, at the price of some system calls. */
  isSameBoot?: boolean;
  /** Blocks until a vCPU's section is there: those of an image that is still being filled in come one after the other. */
  awaitVcpu?: (section: StateSection) => void;
}

export const HOST_TIME_SIZE_BYTES = 16;
export const HOST_TIME_TYPE = "u64 monotonic_ns, u64 realtime_ns";

/** Readings of one moment that took longer than this were interrupted, and are made again. */
const READING_NS = 50_000n;
const MAX_READINGS = 8;

/** Both clocks of the host right after `action`, as near as this thread gets without being interrupted. */
export function readHostTime(action?: () => void): HostTime {
  for (let reading = 1; ; reading++) {
    const before = monotonicNs();
    action?.();
    const time = { realtimeNs: realtimeNs(), monotonicNs: monotonicNs() };
    if (time.monotonicNs - before < READING_NS || reading === MAX_READINGS) return time;
  }
}

export function encodeHostTime(time: HostTime, into: DataView): void {
  into.setBigUint64(0, time.monotonicNs, true);
  into.setBigUint64(8, time.realtimeNs, true);
}

export function decodeHostTime(bytes: Uint8Array): HostTime {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { monotonicNs: view.getBigUint64(0, true), realtimeNs: view.getBigUint64(8, true) };
}

/** What passed in the world. A clock that was set back in between stands for no time at all: a guest's never goes back. */
export function elapsedRealNs(savedRealtimeNs: bigint, nowRealtimeNs: bigint): bigint {
  return nowRealtimeNs > savedRealtimeNs ? nowRealtimeNs - savedRealtimeNs : 0n;
}

/**
 * What passed since the state's reading of CLOCK_REALTIME `savedRealtimeNs`. Within a boot by CLOCK_MONOTONIC, which nobody
 * steps.
 */
export function elapsedSinceSaveNs(
  reader: StateReader,
  savedRealtimeNs: bigint,
  now: HostTime,
  isSameBoot: boolean,
): bigint {
  const section = reader.find(CLOCK_ORIGIN_SECTION);
  if (!isSameBoot || section === undefined) return elapsedRealNs(savedRealtimeNs, now.realtimeNs);
  const host = decodeHostTime(section.part("host", HOST_TIME_SIZE_BYTES));
  return now.monotonicNs - (host.monotonicNs + savedRealtimeNs - host.realtimeNs);
}

/** The offset with which the devices' clock, saved under `offsetNs` in another boot, has gone on by what passed since. */
export function movedMonotonicOffset(offsetNs: bigint, saved: HostTime, now: HostTime): bigint {
  return saved.monotonicNs + offsetNs + elapsedRealNs(saved.realtimeNs, now.realtimeNs) - now.monotonicNs;
}

function monotonicOffset(memory: WebAssembly.Memory): BigInt64Array {
  return new BigInt64Array(memory.buffer, CONTROL_MONOTONIC_OFFSET, 1);
}

/** The devices' monotonic clock, in nanoseconds: it never goes back, not even from one host to another. */
export function deviceClock(memory: WebAssembly.Memory): () => bigint {
  const offset = monotonicOffset(memory);
  return () => monotonicNs() + offset[0]!;
}

/** Whether the state was saved in this boot of this host. State that does not say so has never left it. */
export function isOfThisBoot(reader: StateReader): boolean {
  const saved = reader.find(CLOCK_ORIGIN_SECTION)?.part("boot-id", BOOT_ID_SIZE_BYTES);
  if (saved === undefined) return true;
  const own = bootId();
  for (let index = 0; index < own.length; index++) if (own[index] !== saved[index]) return false;
  return true;
}

/** Plans the section of the devices' clock. A reader that does not know it may take an offset of 0 for granted. */
export function planClockOrigin(writer: StateWriter, memory: WebAssembly.Memory): BindSection {
  const offsetNs = monotonicOffset(memory)[0]!;
  const head = { id: CLOCK_ORIGIN_SECTION, version: CLOCK_ORIGIN_SECTION_VERSION, required: offsetNs !== 0n };
  const section = writer.plan(head, [
    { name: "boot-id", type: "UUID as text", sizeBytes: BOOT_ID_SIZE_BYTES },
    { name: "monotonic-offset", type: "i64 ns", sizeBytes: 8 },
    { name: "host", type: HOST_TIME_TYPE, sizeBytes: HOST_TIME_SIZE_BYTES },
  ]);
  const id = bootId();
  return () => {
    writer.view(section, "boot-id").set(id);
    viewOf(writer.view(section, "monotonic-offset")).setBigInt64(0, offsetNs, true);
    const host = viewOf(writer.view(section, "host"));
    const fill = (): void => encodeHostTime(readHostTime(), host);
    // Its first run takes 50 µs longer than all others: not in the pause.
    fill();
    return fill;
  };
}

/** What the devices' clock showed more than CLOCK_MONOTONIC when the state was saved. */
export function savedMonotonicOffset(reader: StateReader): bigint {
  const section = reader.find(CLOCK_ORIGIN_SECTION);
  return section === undefined ? 0n : viewOf(section.part("monotonic-offset", 8)).getBigInt64(0, true);
}

/** Sets the devices' clock. Before anything of them is restored. */
export function restoreClockOrigin(reader: StateReader, memory: WebAssembly.Memory, isSameBoot: boolean): void {
  const section = reader.find(CLOCK_ORIGIN_SECTION);
  if (section === undefined) return;
  const offsetNs = viewOf(section.part("monotonic-offset", 8)).getBigInt64(0, true);
  monotonicOffset(memory)[0] = isSameBoot
    ? offsetNs
    : movedMonotonicOffset(offsetNs, decodeHostTime(section.part("host", HOST_TIME_SIZE_BYTES)), readHostTime());
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
