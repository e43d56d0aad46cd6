// SPDX-License-Identifier: Apache-2.0
// Which instructions end a single step. SDM volume 3, 17.3.1.4: whether there is a trap after an instruction is told by TF as it was
// before. Of some it is not.
import { TF } from "./flags.ts";
import { deliver } from "./interrupts.ts";
import { CPU_RFLAGS } from "./layout.ts";
import { shadowInterrupts } from "./segments.ts";
import { cpu } from "./vcpu.ts";

const TRAP_BY_FLAG: u32 = 0;
const TRAP_NONE: u32 = 1;
const TRAP_NOW: u32 = 2;
let trapAfter: u32 = TRAP_BY_FLAG;

/** Whether the instruction that has just been run ends a single step. */
export function endsStep(hadTrapFlag: bool): bool {
  const verdict = trapAfter;
  trapAfter = TRAP_BY_FLAG;
  return verdict == TRAP_BY_FLAG ? hadTrapFlag : verdict == TRAP_NOW;
}

/** INT n and its like: their handlers have TF cleared, and their IRET sets it again. */
export function interruptBy(vector: u32, from: u32): bool {
  trapAfter = TRAP_NONE;
  return deliver(vector, from, false, 0);
}

/** After a load of SS: neither interrupts nor traps until after the next instruction. */
export function shadowStack(): void {
  shadowInterrupts();
  trapAfter = TRAP_NONE;
}

/** SYSCALL and SYSRET look at TF when they are done, so that it can be masked. */
export function trapAsNow(): void {
  trapAfter = load<u64>(cpu, CPU_RFLAGS) & TF ? TRAP_NOW : TRAP_NONE;
}
