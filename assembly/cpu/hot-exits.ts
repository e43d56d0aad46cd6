// SPDX-License-Identifier: Apache-2.0
// How the loop in hot.ts ends: CPU_RIP and CPU_INSTRUCTIONS become right.
import { ripOf } from "./blocks.ts";
import { CPU_INSTRUCTIONS, CPU_RIP } from "./layout.ts";
import { correctSegment } from "./stack-faults.ts";
import { UOP_COUNT } from "./uop.ts";
import { cpu, GP, raiseWith } from "./vcpu.ts";

/** The instruction at RIP is next. */
export function stop(rip: u64, left: i32): void {
  store<u64>(cpu, rip, CPU_RIP);
  store<u64>(cpu, load<u64>(cpu, CPU_INSTRUCTIONS) - <i64>left, CPU_INSTRUCTIONS);
}

/** The instruction of this uop has raised an exception. */
export function leave(pc: usize, left: i32): void {
  correctSegment(pc);
  stop(ripOf(pc), left - (<i32>load<u8>(pc, UOP_COUNT) - 1));
}

/** The instruction of this uop is #GP(0). */
export function refuse(pc: usize, left: i32): void {
  raiseWith(GP, 0);
  leave(pc, left);
}
