// SPDX-License-Identifier: Apache-2.0
// System control port A: fast reset, and an A20 gate that is for show.
// Intel 82371AB (PIIX4), port 92 register: https://www.intel.com/Assets/PDF/datasheet/290562.pdf
import { acquire, release } from "../../lock.ts";
import { EVENT_RESET } from "../../layout.ts";
import { openBus, signal } from "../host.ts";
import { FIELD_CONTROL_U8 } from "./layout.ts";
import { CONTROL, FAST_A20, FAST_INIT } from "./registers.ts";

/** Power-on values. A20 is on from the start: nothing that KVM runs needs it off. */
export function reset(state: usize): void {
  acquire(state);
  store<u8>(state, FAST_A20, FIELD_CONTROL_U8);
  release(state);
}

export function read(state: usize, offset: u32, sizeBytes: u32): u32 {
  if (sizeBytes != 1 || offset != CONTROL) return openBus(sizeBytes);
  acquire(state);
  const control = load<u8>(state, FIELD_CONTROL_U8);
  release(state);
  return control;
}

/** The A20 bit reads as written, because guests wait for it to change; A20 itself stays on. */
export function write(state: usize, offset: u32, sizeBytes: u32, value: u32): void {
  if (sizeBytes != 1 || offset != CONTROL) return;
  acquire(state);
  const before = load<u8>(state, FIELD_CONTROL_U8);
  const control = <u8>value & (FAST_INIT | FAST_A20);
  store<u8>(state, control, FIELD_CONTROL_U8);
  if (control & ~before & FAST_INIT) signal(EVENT_RESET);
  release(state);
}
