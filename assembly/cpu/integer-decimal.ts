// SPDX-License-Identifier: Apache-2.0
// BCD: DAA, DAS, AAA, AAS, AAM and AAD. Not in 64-bit mode.
import { immediate } from "./cold-operands.ts";
import { AF, arithmeticFlags, CF, resultFlags, setFlags } from "./flags.ts";
import { RAX } from "./registers.ts";
import { cpu, DE, raise } from "./vcpu.ts";

/** DAA, DAS, AAA and AAS. */
export function execAdjustDecimal(code: u32): bool {
  const al = <u32>load<u8>(cpu, RAX);
  const before = arithmeticFlags();
  const isLow = (al & 15) > 9 || (before & AF) != 0;
  if (code >= 0x37) {
    const change: u32 = isLow ? 0x106 : 0;
    const ax = <u32>load<u16>(cpu, RAX);
    store<u16>(cpu, <u16>(code == 0x37 ? ax + change : ax - change), RAX);
    store<u8>(cpu, load<u8>(cpu, RAX) & 15, RAX);
    setFlags(isLow ? AF | CF : 0);
    return true;
  }
  const isHigh = al > 0x99 || (before & CF) != 0;
  const change: u32 = (isLow ? 6 : 0) + (isHigh ? 0x60 : 0);
  const result = code == 0x27 ? al + change : al - change;
  store<u8>(cpu, <u8>result, RAX);
  const borrows = code == 0x2f && isLow && al < 6;
  setFlags(resultFlags(result & 0xff, 1) | (isLow ? AF : 0) | (isHigh || borrows ? CF : 0));
  return true;
}

/** AAM and AAD. */
export function execAdjustProduct(pc: usize, isDivision: bool): bool {
  const radix = <u32>immediate(pc) & 0xff;
  const al = <u32>load<u8>(cpu, RAX);
  if (!isDivision) {
    if (radix == 0) return raise(DE);
    store<u8>(cpu, <u8>(al / radix), RAX + 1);
    store<u8>(cpu, <u8>(al % radix), RAX);
  } else {
    store<u16>(cpu, <u16>((al + <u32>load<u8>(cpu, RAX + 1) * radix) & 0xff), RAX);
  }
  setFlags(resultFlags(load<u8>(cpu, RAX), 1));
  return true;
}
