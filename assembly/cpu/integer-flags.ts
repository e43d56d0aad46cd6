// SPDX-License-Identifier: Apache-2.0
// Instructions whose one operand are flags: CLC, STC, CMC, CLD, STD, CLI, SAHF, LAHF, SALC. Flags themselves are in flags.ts.
import { AF, arithmeticFlags, carry, CF, DF, IF, IOPL, OF, PF, setFlag, setFlags, SF, ZF } from "./flags.ts";
import { CPU_RFLAGS } from "./layout.ts";
import { privilegeLevel } from "./modes.ts";
import { RAX } from "./registers.ts";
import { cpu, GP, raiseWith } from "./vcpu.ts";

const AH = RAX + 1;
const BIT_1: u32 = 2;

/** CLC and STC. */
export function execSetCarry(isSet: bool): bool {
  setFlag(CF, isSet);
  return true;
}

/** CMC. */
export function execComplementCarry(): bool {
  setFlags(arithmeticFlags() ^ CF);
  return true;
}

/** CLD and STD. */
export function execSetDirection(isDown: bool): bool {
  const others = load<u64>(cpu, CPU_RFLAGS) & ~(<u64>DF);
  store<u64>(cpu, isDown ? others | DF : others, CPU_RFLAGS);
  return true;
}

/** CLI. STI is a system instruction: an interrupt may be taken after it. */
export function execClearInterruptFlag(): bool {
  const flags = load<u64>(cpu, CPU_RFLAGS);
  if (privilegeLevel() > (<u32>(flags & IOPL) >> 12)) return raiseWith(GP, 0);
  store<u64>(cpu, flags & ~(<u64>IF), CPU_RFLAGS);
  return true;
}

/** SAHF. */
export function execStoreFlags(): bool {
  setFlags((arithmeticFlags() & OF) | (load<u8>(cpu, AH) & (SF | ZF | AF | PF | CF)));
  return true;
}

/** LAHF. */
export function execLoadFlags(): bool {
  store<u8>(cpu, <u8>((arithmeticFlags() & 0xff) | BIT_1), AH);
  return true;
}

/** SALC, which the SDM does not name: AL is all CF. */
export function execSetByCarry(): bool {
  store<u8>(cpu, carry() ? 0xff : 0, RAX);
  return true;
}
