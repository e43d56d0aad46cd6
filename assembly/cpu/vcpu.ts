// SPDX-License-Identifier: Apache-2.0
// The vCPU that this instance of the engine is, its host, and how instructions raise exceptions.
//
// Every vCPU has an instance in a worker of its own, so these globals are the vCPU's. What outlives the instance is in the
// state page.
import { CPU_CACHES_BASE, CPU_CACHES_STRIDE_BYTES, CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES } from "../layout.ts";
import {
  CPU_CR2,
  CPU_ERROR_CODE,
  CPU_EXCEPTION,
  CPU_HAS_ERROR_CODE,
  CPU_HOST_TSC,
  CPU_INDEX,
  CPU_UNSUPPORTED,
  NO_EXCEPTION,
} from "./layout.ts";

/** State page. */
export let cpu: usize = 0;
/** Caches. */
export let caches: usize = 0;
/** Guest physical 0. */
export let ramBase: usize = 0;
export let ramSizeBytes: u64 = 0;

export function select(index: u32, base: usize, sizeBytes: u64): void {
  cpu = CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES;
  caches = CPU_CACHES_BASE + index * CPU_CACHES_STRIDE_BYTES;
  ramBase = base;
  ramSizeBytes = sizeBytes;
  store<u32>(cpu, index, CPU_INDEX);
}

// The host.

/** A port is read; the answer has `sizeBytes` bytes. May be called once more for the same instruction only if it is a string's. */
@external("host", "readPort")
export declare function readPort(port: u32, sizeBytes: u32): u32;
@external("host", "writePort")
export declare function writePort(port: u32, sizeBytes: u32, value: u32): void;
/** Guest physical memory that is no RAM and no local APIC. */
@external("host", "readMmio")
export declare function readMmio(gpa: u64, sizeBytes: u32): u64;
@external("host", "writeMmio")
export declare function writeMmio(gpa: u64, sizeBytes: u32, value: u64): void;
/**
 * Stores the host's TSC, whose frequency the guest is told, at an address. A 64-bit result would be garbage at every turn, and JavaScriptCore, which
 * takes this memory for a part of its heap, collects that after gigabytes.
 */
@external("host", "readTsc")
declare function readTsc(place: u32): void;

export function hostTsc(): u64 {
  readTsc(<u32>cpu + CPU_HOST_TSC);
  return load<u64>(cpu, CPU_HOST_TSC);
}
/** What kvmclock shows when the host's TSC is that. */
@external("host", "kvmclockNs")
export declare function kvmclockNs(tsc: u64): u64;
/** CLOCK_REALTIME. */
@external("host", "wallClockNs")
export declare function wallClockNs(): u64;
/** ns = (tsc << shift) * multiplier >> 32; a negative shift is one to the right. */
@external("host", "tscMultiplier")
export declare function tscMultiplier(): u32;
@external("host", "tscShift")
export declare function tscShift(): i32;

// Exceptions: SDM volume 3, chapter 6.

export const DE: u32 = 0;
export const DB: u32 = 1;
export const NMI: u32 = 2;
export const BP: u32 = 3;
export const OF: u32 = 4;
export const BR: u32 = 5;
export const UD: u32 = 6;
export const NM: u32 = 7;
export const DF: u32 = 8;
export const TS: u32 = 10;
export const NP: u32 = 11;
export const SS: u32 = 12;
export const GP: u32 = 13;
export const PF: u32 = 14;
export const MF: u32 = 16;
export const AC: u32 = 17;
export const XM: u32 = 19;

/** The instruction at hand has raised an exception: whoever called what did so returns. */
@inline
export function hasFaulted(): bool {
  return load<u32>(cpu, CPU_EXCEPTION) != NO_EXCEPTION;
}

/** Raises an exception without an error code. False, for `return raise(UD)`. */
export function raise(vector: u32): bool {
  store<u32>(cpu, vector, CPU_EXCEPTION);
  store<u32>(cpu, 0, CPU_HAS_ERROR_CODE);
  return false;
}

export function raiseWith(vector: u32, errorCode: u32): bool {
  store<u32>(cpu, vector, CPU_EXCEPTION);
  store<u32>(cpu, errorCode, CPU_ERROR_CODE);
  store<u32>(cpu, 1, CPU_HAS_ERROR_CODE);
  return false;
}

export function raisePageFault(address: u64, errorCode: u32): bool {
  store<u64>(cpu, address, CPU_CR2);
  return raiseWith(PF, errorCode);
}

/** #UD for what a CPU with these features might have and this one does not; it is counted. */
export function unsupported(): bool {
  store<u64>(cpu, load<u64>(cpu, CPU_UNSUPPORTED) + 1, CPU_UNSUPPORTED);
  return raise(UD);
}
