// SPDX-License-Identifier: Apache-2.0
// The port through which a test payload ends the VMM with an exit code: QEMU's isa-debug-exit.
// https://gitlab.com/qemu-project/qemu/-/blob/master/hw/misc/debugexit.c
import { EVENT_DEBUG_EXIT } from "../../layout.ts";
import { openBus, signal } from "../host.ts";
import { FIELD_EXIT_CODE_U32 } from "./layout.ts";
import { EXIT_FROM_GUEST, EXIT_SHIFT } from "./registers.ts";

// No lock: the state is one word, and the last of several exits at once may win.

export function reset(state: usize): void {
  atomic.store<u32>(state, 0, FIELD_EXIT_CODE_U32);
}

export function read(_state: usize, _offset: u32, _sizeBytes: u32): u32 {
  return 0;
}

export function write(state: usize, _offset: u32, sizeBytes: u32, value: u32): void {
  atomic.store<u32>(state, ((value & openBus(sizeBytes)) << EXIT_SHIFT) | EXIT_FROM_GUEST, FIELD_EXIT_CODE_U32);
  signal(EVENT_DEBUG_EXIT);
}
