// SPDX-License-Identifier: Apache-2.0
// What the meaning of code depends on beside its bytes. Code that was translated in one mode is not run in another.
import { CR0_EM, CR0_TS, CR4_OSFXSR, EFER_LMA } from "./control-bits.ts";
import { newEpoch } from "./epochs.ts";
import {
  CPU_CODE_BASE,
  CPU_CR0,
  CPU_CR4,
  CPU_EFER,
  CPU_MODE,
  CPU_RFLAGS,
  CPU_SEGMENTS,
  SEGMENT_ATTRIBUTES_U32,
  SEGMENT_BASE_U64,
  SEGMENT_CS,
  SEGMENT_SIZE_BYTES,
  SEGMENT_SS,
} from "./layout.ts";
import { TF } from "./flags.ts";
import { cpu } from "./vcpu.ts";

/** Default size of operands and addresses: none of these is 16 bits. */
export const MODE_32: u32 = 1;
export const MODE_64: u32 = 2;
/** Privilege level 3. */
export const MODE_USER: u32 = 4;
/** The stack pointer is ESP, not SP. Always with MODE_64, where it is RSP. */
export const MODE_STACK_32: u32 = 8;
/** RFLAGS.TF: every block has one instruction. */
export const MODE_STEP: u32 = 16;

/** SSE instructions do not raise #UD or #NM: uops of their own need not ask. */
export const MODE_SSE: u32 = 32;

// Of SEGMENT_ATTRIBUTES_U32.
export const ATTRIBUTE_S: u32 = 1 << 4;
export const ATTRIBUTE_DPL_SHIFT: u32 = 5;
export const ATTRIBUTE_PRESENT: u32 = 1 << 7;
export const ATTRIBUTE_L: u32 = 1 << 13;
export const ATTRIBUTE_DB: u32 = 1 << 14;
export const ATTRIBUTE_G: u32 = 1 << 15;
export const ATTRIBUTE_UNUSABLE: u32 = 1 << 16;

@inline
export function segment(number: u32): usize {
  return cpu + CPU_SEGMENTS + number * SEGMENT_SIZE_BYTES;
}

/** Current privilege level: the DPL of SS. */
@inline
export function privilegeLevel(): u32 {
  return (load<u32>(segment(SEGMENT_SS), SEGMENT_ATTRIBUTES_U32) >> ATTRIBUTE_DPL_SHIFT) & 3;
}

@inline
export function isUser(): bool {
  return (load<u32>(cpu, CPU_MODE) & MODE_USER) != 0;
}

/** After CS, SS, EFER, CR0, CR4 or TF has changed. */
export function updateMode(): void {
  const code = load<u32>(segment(SEGMENT_CS), SEGMENT_ATTRIBUTES_U32);
  let mode: u32 = 0;
  if (load<u64>(cpu, CPU_EFER) & EFER_LMA && code & ATTRIBUTE_L) mode = MODE_64 | MODE_STACK_32;
  else {
    if (code & ATTRIBUTE_DB) mode |= MODE_32;
    if (load<u32>(segment(SEGMENT_SS), SEGMENT_ATTRIBUTES_U32) & ATTRIBUTE_DB) mode |= MODE_STACK_32;
  }
  if (privilegeLevel() == 3) mode |= MODE_USER;
  if (load<u64>(cpu, CPU_RFLAGS) & TF) mode |= MODE_STEP;
  if (!(load<u64>(cpu, CPU_CR0) & (CR0_EM | CR0_TS)) && load<u64>(cpu, CPU_CR4) & CR4_OSFXSR) mode |= MODE_SSE;
  store<u32>(cpu, mode, CPU_MODE);
  const base = mode & MODE_64 ? 0 : load<u64>(segment(SEGMENT_CS), SEGMENT_BASE_U64);
  if (base == load<u64>(cpu, CPU_CODE_BASE)) return;
  store<u64>(cpu, base, CPU_CODE_BASE);
  // The jump cache knows no bases.
  newEpoch();
}
