// SPDX-License-Identifier: Apache-2.0
// The one thing guests without a keyboard need of a keyboard controller: reset by command 0xfe to port 0x64.
// IBM PC/AT Technical Reference (6280070), "Keyboard controller"
import { EVENT_RESET } from "../../layout.ts";
import { openBus, signal } from "../host.ts";
import { COMMAND_PULSE, DATA, PULSE_NOT_RESET, STATUS } from "./registers.ts";

export function reset(_state: usize): void {}

export function read(_state: usize, offset: u32, sizeBytes: u32): u32 {
  return sizeBytes == 1 && (offset == STATUS || offset == DATA) ? 0 : openBus(sizeBytes);
}

export function write(_state: usize, offset: u32, sizeBytes: u32, value: u32): void {
  if (sizeBytes != 1 || offset != STATUS) return;
  if ((<u8>value & (COMMAND_PULSE | PULSE_NOT_RESET)) == COMMAND_PULSE) signal(EVENT_RESET);
}
