// SPDX-License-Identifier: Apache-2.0
// What uops an instruction becomes. One that is common in 64-bit code, with operands of 32 or 64 bits, gets a uop of its own
// (emit-hot.ts); any other an OP_COLD with what was decoded, which one of the exec… functions looks at when it is run (emit-cold.ts,
// emit-cold-0f.ts). What no rule is for is #UD.
import * as d from "./decode.ts";
import { emitBranch } from "./emit-branches.ts";
import { emitCold0f } from "./emit-cold-0f.ts";
import { emitCold } from "./emit-cold.ts";
import { emitHot } from "./emit-hot.ts";
import { group, putRaise } from "./emit.ts";
import { CMP } from "./integer-arithmetic.ts";
import { MODE_64 } from "./modes.ts";
import { FORM_LOCK, MAP_0F } from "./uop.ts";
import { UD } from "./vcpu.ts";

/** The instruction at hand. */
export function emit(): void {
  const isLocked = (d.form & FORM_LOCK) != 0;
  if (isLocked && !mayLock()) {
    putRaise(UD);
    return;
  }
  if (emitBranch()) return;
  if (d.codeSize == MODE_64 && !isLocked && emitHot()) return;
  if (d.code >= MAP_0F) emitCold0f();
  else emitCold();
}

/** SDM volume 2, LOCK. */
function mayLock(): bool {
  if (!d.hasMemory) return false;
  const code = d.code;
  if (code < 0x40) return (code & 7) < 2 && code >> 3 != CMP;
  switch (code) {
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
      return group() != CMP;
    case 0x86:
    case 0x87:
    case MAP_0F | 0xab:
    case MAP_0F | 0xb0:
    case MAP_0F | 0xb1:
    case MAP_0F | 0xb3:
    case MAP_0F | 0xbb:
    case MAP_0F | 0xc0:
    case MAP_0F | 0xc1:
      return true;
    case 0xf6:
    case 0xf7:
      return group() == 2 || group() == 3;
    case 0xfe:
    case 0xff:
      return group() < 2;
    case MAP_0F | 0xba:
      return group() > 4;
    case MAP_0F | 0xc7:
      return group() == 1;
    default:
      return false;
  }
}
