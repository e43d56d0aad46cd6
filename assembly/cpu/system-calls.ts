// SPDX-License-Identifier: Apache-2.0
// SYSCALL, SYSRET and SWAPGS. SDM volume 2; for what AMD does otherwise, APM volume 3.
import { isCanonical } from "./access.ts";
import { EFER_SCE } from "./control-bits.ts";
import { RF, rflags, setRflags } from "./flags.ts";
import {
  CPU_CSTAR,
  CPU_EFER,
  CPU_FMASK,
  CPU_KERNEL_GS_BASE,
  CPU_LSTAR,
  CPU_MODE,
  CPU_RIP,
  CPU_STAR,
  SEGMENT_BASE_U64,
  SEGMENT_CS,
  SEGMENT_GS,
  SEGMENT_SS,
} from "./layout.ts";
import { MODE_64, segment } from "./modes.ts";
import { R11, RCX } from "./registers.ts";
import { isLongMode, setSegment } from "./segments.ts";
import { trapAsNow } from "./single-step.ts";
import { isSupervisor } from "./system-operands.ts";
import { cpu, GP, raise, raiseWith, UD, unsupported } from "./vcpu.ts";

const FLAT_LIMIT: u32 = 0xffff_ffff;
const CODE_64: u32 = 0xa09b;
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
const LEVEL_3: u32 = 0x60;

export function systemCall(): bool {
  if (!(load<u64>(cpu, CPU_EFER) & EFER_SCE)) return raise(UD);
  const star = load<u64>(cpu, CPU_STAR);
  const selector = <u32>(star >> 32) & 0xfffc;
  if (!isLongMode()) return unsupported();
  const is64 = (load<u32>(cpu, CPU_MODE) & MODE_64) != 0;
  store<u64>(cpu, load<u64>(cpu, CPU_RIP), RCX);
  const flags = rflags() & ~(<u64>RF);
  store<u64>(cpu, flags, R11);
  setRflags(flags & ~load<u64>(cpu, CPU_FMASK));
  store<u64>(cpu, load<u64>(cpu + (is64 ? CPU_LSTAR : CPU_CSTAR)), CPU_RIP);
  setSegment(SEGMENT_CS, selector, 0, FLAT_LIMIT, CODE_64);
  setSegment(SEGMENT_SS, selector + 8, 0, FLAT_LIMIT, DATA);
  trapAsNow();
  return true;
}

export function systemReturn(is64: bool): bool {
  if (!(load<u64>(cpu, CPU_EFER) & EFER_SCE)) return raise(UD);
  if (!isSupervisor()) return false;
  const target = load<u64>(cpu, RCX);
  // Here, with the privileges of the kernel, as on Intel's: AMD's finds that out in user mode.
  if (is64 && !isCanonical(target)) return raiseWith(GP, 0);
  const base = <u32>(load<u64>(cpu, CPU_STAR) >> 48);
  const selector = ((is64 ? base + 16 : base) & 0xffff) | 3;
  setSegment(SEGMENT_CS, selector, 0, FLAT_LIMIT, (is64 ? CODE_64 : CODE_32) | LEVEL_3);
  setSegment(SEGMENT_SS, ((base + 8) & 0xffff) | 3, 0, FLAT_LIMIT, DATA | LEVEL_3);
  setRflags(load<u64>(cpu, R11) & 0x3c_7fd7);
  trapAsNow();
  store<u64>(cpu, is64 ? target : target & 0xffff_ffff, CPU_RIP);
  return true;
}

export function swapGs(): bool {
  if (!(load<u32>(cpu, CPU_MODE) & MODE_64)) return raise(UD);
  if (!isSupervisor()) return false;
  const place = segment(SEGMENT_GS);
  const base = load<u64>(place, SEGMENT_BASE_U64);
  store<u64>(place, load<u64>(cpu, CPU_KERNEL_GS_BASE), SEGMENT_BASE_U64);
  store<u64>(cpu, base, CPU_KERNEL_GS_BASE);
  return true;
}
