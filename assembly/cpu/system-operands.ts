// SPDX-License-Identifier: Apache-2.0
// What several kinds of system instructions share: a result of 16 bits, and who may use them.
import { writeValue } from "./access.ts";
import { size } from "./cold-operands.ts";
import { privilegeLevel } from "./modes.ts";
import { setRegister } from "./registers.ts";
import { address, isMemory, registerB } from "./uop.ts";
import { GP, raiseWith } from "./vcpu.ts";

export function store16(pc: usize, value: u64): bool {
  if (isMemory(pc)) return writeValue(address(pc), 2, value);
  setRegister(registerB(pc), size(pc), value);
  return true;
}

/** Only at privilege level 0. False: #GP was raised. */
export function isSupervisor(): bool {
  return privilegeLevel() == 0 || raiseWith(GP, 0);
}
