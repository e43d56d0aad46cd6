// SPDX-License-Identifier: Apache-2.0
// Where descriptor tables are: SGDT, SIDT, LGDT and LIDT; SLDT, STR, LLDT and LTR, and what is asked of descriptors, VERR and VERW.
// SDM volume 3, 2.4. Descriptors themselves: segments.ts.
import { isCanonical, readValue, writeValue } from "./access.ts";
import { group, source } from "./cold-operands.ts";
import {
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_MODE,
  SEGMENT_LDTR,
  SEGMENT_SELECTOR_U16,
  SEGMENT_TR,
} from "./layout.ts";
import { MODE_64, segment } from "./modes.ts";
import { isProtected, loadSystemSegment, verify } from "./segments.ts";
import { isSupervisor, store16 } from "./system-operands.ts";
import { address, COLD_FORM, FORM_66 } from "./uop.ts";
import { cpu, GP, hasFaulted, raise, raiseWith, UD } from "./vcpu.ts";

/** SLDT, STR, LLDT, LTR, VERR, VERW. */
export function group6(pc: usize): bool {
  if (!isProtected()) return raise(UD);
  const operation = group(pc);
  if (operation < 2) {
    return store16(pc, load<u16>(segment(operation == 0 ? SEGMENT_LDTR : SEGMENT_TR), SEGMENT_SELECTOR_U16));
  }
  if (operation > 5) return raise(UD);
  if (operation < 4 && !isSupervisor()) return false;
  const selector = <u32>source(pc, 2);
  if (hasFaulted()) return false;
  if (operation >= 4) return verify(selector, operation == 5);
  return loadSystemSegment(operation == 2 ? SEGMENT_LDTR : SEGMENT_TR, selector);
}

/** SGDT and SIDT. */
export function storeTable(pc: usize): bool {
  const where = address(pc);
  return (
    writeValue(where, 2, load<u32>(cpu + limitPlace(pc))) &&
    writeValue(where + 2, baseSizeBytes(), load<u64>(cpu + basePlace(pc)))
  );
}

/** LGDT and LIDT. */
export function loadTable(pc: usize): bool {
  if (!isSupervisor()) return false;
  const where = address(pc);
  const limit = readValue(where, 2);
  if (hasFaulted()) return false;
  let base = readValue(where + 2, baseSizeBytes());
  if (hasFaulted()) return false;
  // Of 16 bits, the base has 24.
  if (baseSizeBytes() == 4 && load<u8>(pc, COLD_FORM) & FORM_66) base &= 0xff_ffff;
  if (!isCanonical(base)) return raiseWith(GP, 0);
  store<u32>(cpu + limitPlace(pc), <u32>limit);
  store<u64>(cpu + basePlace(pc), base);
  return true;
}

function baseSizeBytes(): u32 {
  return load<u32>(cpu, CPU_MODE) & MODE_64 ? 8 : 4;
}

/** Of an odd ModRM.reg it is the IDT's. */
function limitPlace(pc: usize): usize {
  return group(pc) & 1 ? CPU_IDTR_LIMIT : CPU_GDTR_LIMIT;
}

function basePlace(pc: usize): usize {
  return group(pc) & 1 ? CPU_IDTR_BASE : CPU_GDTR_BASE;
}
