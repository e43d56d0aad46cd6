// SPDX-License-Identifier: Apache-2.0
// Instructions that control the x87: FWAIT, FNINIT, FNCLEX, FNSTSW, FLDCW, FFREE, FINCSTP, FNOP and their like. SDM volume 1, 8.3.11 and
// 8.3.12. Those that keep its whole state: x87-environment.ts.
import { readValue } from "./access.ts";
import { CR0_MP, CR0_TS } from "./control-bits.ts";
import { CPU_CR0, CPU_GPRS, CPU_X87_STATUS } from "./layout.ts";
import { cpu, hasFaulted, NM, raise } from "./vcpu.ts";
import { finish } from "./x87-operands.ts";
import {
  hasNothingPending,
  moveTop,
  notePointers,
  pop,
  reset,
  setControlWord,
  setEmpty,
  setStatus,
  STATUS_EXCEPTIONS,
  STATUS_SF,
  statusWord,
} from "./x87-state.ts";

/** FWAIT */
export function wait(): bool {
  if ((load<u64>(cpu, CPU_CR0) & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)) return raise(NM);
  return hasNothingPending();
}

/** DB E0 to DB E4, none of which waits. */
export function controlForm(index: u32): bool {
  switch (index) {
    case 2:
      setStatus(load<u16>(cpu, CPU_X87_STATUS) & ~(STATUS_EXCEPTIONS | STATUS_SF));
      return true;
    case 3:
      reset();
      return true;
    default:
      // FNENI, FNDISI and FNSETPM, which did something in the 8087 and 80287.
      return true;
  }
}

/** FNSTSW AX */
export function storeStatusInAx(): bool {
  store<u16>(cpu, <u16>statusWord(), CPU_GPRS);
  return true;
}

/** FLDCW */
export function loadControl(at: u64): bool {
  const value = <u32>readValue(at, 2);
  if (hasFaulted()) return false;
  setControlWord(value);
  return true;
}

/** FFREE, and FFREEP, which only old manuals have. */
export function free(pc: usize, index: u32, pops: bool): bool {
  setEmpty(index);
  if (pops) pop();
  return finish(pc, 0, 0);
}

/** FINCSTP and FDECSTP */
export function turn(pc: usize, by: u32): bool {
  moveTop(by);
  return finish(pc, 0, 0);
}

/** FNOP */
export function noOperation(pc: usize): bool {
  notePointers(pc);
  return true;
}
