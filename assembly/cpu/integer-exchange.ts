// SPDX-License-Identifier: Apache-2.0
// What vCPUs talk to each other by: XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B and the fences.
import { isPlain, readValue, toWrite } from "./access.ts";
import { change, destination, size } from "./cold-operands.ts";
import { FLAGS_ADD, FLAGS_SUB, setFlag, setLazyFlags, ZF } from "./flags.ts";
import { CPU_TEMPORARY } from "./layout.ts";
import { exchangeLocked, exchangePair, foundHigh, foundLow } from "./locked.ts";
import { loadAt, maskOf, RAX, RBX, RCX, RDX, setRegister } from "./registers.ts";
import { finishWrite } from "./slow-access.ts";
import { address, COLD_FORM, FORM_LOCK, isMemory, registerA } from "./uop.ts";
import { cpu, GP, hasFaulted, raiseWith } from "./vcpu.ts";

/** XCHG. */
export function execExchange(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const register = registerA(pc);
  while (true) {
    const old = loadAt(place, sizeBytes);
    const value = loadAt(register, sizeBytes);
    // Of memory it is always locked.
    if (!isMemory(pc)) setRegister(place, sizeBytes, value);
    else if (!exchangeLocked(place, sizeBytes, old, value)) continue;
    setRegister(register, sizeBytes, old);
    return true;
  }
}

/** XADD. */
export function execExchangeAdd(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const register = registerA(pc);
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = (old + loadAt(register, sizeBytes)) & maskOf(sizeBytes);
    if (isMemory(pc)) {
      if (!change(pc, place, sizeBytes, old, result)) continue;
      setRegister(register, sizeBytes, old);
    } else {
      // The sum wins when both are the same.
      setRegister(register, sizeBytes, old);
      setRegister(place, sizeBytes, result);
    }
    setLazyFlags(FLAGS_ADD, sizeBytes, result, old);
    return true;
  }
}

/** CMPXCHG. */
export function execCompareExchange(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const expected = loadAt(cpu + RAX, sizeBytes);
  while (true) {
    const old = loadAt(place, sizeBytes);
    const isEqual = old == expected;
    // AMD: a register that is not equal keeps its upper half.
    if ((isEqual || isMemory(pc)) && !change(pc, place, sizeBytes, old, isEqual ? loadAt(registerA(pc), sizeBytes) : old)) {
      continue;
    }
    if (!isEqual) setRegister(cpu + RAX, sizeBytes, old);
    setLazyFlags(FLAGS_SUB, sizeBytes, (expected - old) & maskOf(sizeBytes), expected);
    return true;
  }
}

/** Group 9: CMPXCHG8B and CMPXCHG16B. */
export function execCompareExchangeWide(pc: usize): bool {
  return size(pc) == 8 ? compareExchange16(pc) : compareExchange8(pc);
}

function compareExchange8(pc: usize): bool {
  const place = toWrite(address(pc), 8);
  if (place == 0) return false;
  const expected = <u64>load<u32>(cpu, RAX) | (<u64>load<u32>(cpu, RDX) << 32);
  const wanted = <u64>load<u32>(cpu, RBX) | (<u64>load<u32>(cpu, RCX) << 32);
  while (true) {
    const old = load<u64>(place);
    const isEqual = old == expected;
    if (!change(pc, place, 8, old, isEqual ? wanted : old)) continue;
    tellEqual(isEqual, <u32>old, old >> 32);
    return true;
  }
}

function compareExchange16(pc: usize): bool {
  const where = address(pc);
  if (where & 15) return raiseWith(GP, 0);
  const place = toWrite(where, 16);
  if (place == 0) return false;
  const low = load<u64>(cpu, RAX);
  const high = load<u64>(cpu, RDX);
  if (load<u8>(pc, COLD_FORM) & FORM_LOCK && isPlain(place)) {
    tellEqual(exchangePair(place, low, high, load<u64>(cpu, RBX), load<u64>(cpu, RCX)), foundLow, foundHigh);
    return true;
  }
  const oldLow = load<u64>(place);
  const oldHigh = load<u64>(place, 8);
  const isEqual = oldLow == low && oldHigh == high;
  if (isEqual) {
    store<u64>(place, load<u64>(cpu, RBX));
    store<u64>(place, load<u64>(cpu, RCX), 8);
  }
  if (!isPlain(place)) finishWrite();
  tellEqual(isEqual, oldLow, oldHigh);
  return true;
}

/** ZF, and what was found if it is not what was expected. */
function tellEqual(isEqual: bool, low: u64, high: u64): void {
  if (!isEqual) {
    store<u64>(cpu, low, RAX);
    store<u64>(cpu, high, RDX);
  }
  setFlag(ZF, isEqual);
}

/** LFENCE, MFENCE, SFENCE, CLFLUSH. Wasm has no fence of its own here; any atomic access is one. */
export function execFence(pc: usize): bool {
  if (isMemory(pc)) {
    readValue(address(pc), 1);
    return !hasFaulted();
  }
  atomic.or<u32>(cpu + CPU_TEMPORARY, 0);
  return true;
}
