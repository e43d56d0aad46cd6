// SPDX-License-Identifier: Apache-2.0
// Interprocessor interrupts: what a write to ICR or SELF IPI sends. SDM volume 3, 11.6.
import {
  accept,
  cpuCount,
  deliver,
  ERROR_SEND_ILLEGAL,
  FIRST_VECTOR,
  MODE_FIXED,
  MODE_INIT,
  MODE_LOWEST,
  MODE_MASK,
  MODE_SHIFT,
  noteError,
  stateOf,
} from "../irqchip/lapic.ts";
import { cpu } from "./vcpu.ts";

// ICR.
const ICR_LOGICAL: u32 = 0x800;
const ICR_ASSERT: u32 = 0x4000;
const ICR_LEVEL: u32 = 0x8000;
const ICR_SHORTHAND_SHIFT: u32 = 18;
const SHORTHAND_SELF: u32 = 1;
const SHORTHAND_ALL: u32 = 2;
const SHORTHAND_OTHERS: u32 = 3;

/** The lower half of ICR, and the APIC or APICs that it names. */
export function send(command: u32, destination: u32): void {
  const mode = (command >> MODE_SHIFT) & MODE_MASK;
  const vector = command & 0xff;
  // INIT level de-assert: nothing that CPUs of today know.
  if (mode == MODE_INIT && (command & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL) return;
  if ((mode == MODE_FIXED || mode == MODE_LOWEST) && vector < FIRST_VECTOR) {
    noteError(cpu, ERROR_SEND_ILLEGAL);
    return;
  }
  switch ((command >> ICR_SHORTHAND_SHIFT) & 3) {
    case SHORTHAND_SELF:
      accept(cpu, mode, vector, false);
      break;
    case SHORTHAND_ALL:
      sendToAll(mode, vector, true);
      break;
    case SHORTHAND_OTHERS:
      sendToAll(mode, vector, false);
      break;
    default:
      deliver(destination, (command & ICR_LOGICAL) != 0, mode, vector, false);
      break;
  }
}

function sendToAll(mode: u32, vector: u32, toSelf: bool): void {
  for (let index: u32 = 0; index < cpuCount(); index++) {
    const page = stateOf(index);
    if (toSelf || page != cpu) accept(page, mode, vector, false);
  }
}

/** SELF IPI. */
export function sendFixed(page: usize, vector: u32): void {
  if (vector < FIRST_VECTOR) noteError(cpu, ERROR_SEND_ILLEGAL);
  else accept(page, MODE_FIXED, vector, false);
}
