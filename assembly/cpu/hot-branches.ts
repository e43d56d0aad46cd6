// SPDX-License-Identifier: Apache-2.0
// Where the branches of hot.ts go. A direct one has two links, the second for when it is not taken: `offset` says which, from UOP_LINK.
import { isPlain } from "./access.ts";
import { findCode, follow, jumpEntry } from "./blocks.ts";
import { FLAGS_LOGIC, FLAGS_SUB } from "./flags.ts";
import { lazy } from "./hot-arithmetic.ts";
import { CPU_GLOBAL_EPOCH, CPU_LINK_EPOCH } from "./layout.ts";
import { RSP } from "./registers.ts";
import { finishWrite } from "./slow-access.ts";
import { UOP_INDEX, UOP_LINK, UOP_LINK_EPOCH, UOP_NEXT, UOP_NEXT_LINK, UOP_TARGET } from "./uop.ts";
import { cpu } from "./vcpu.ts";

@inline
export function linkIf(isTaken: bool): u32 {
  return isTaken ? 0 : UOP_NEXT_LINK - UOP_LINK;
}

/** The address to which a link leads. */
@inline
export function targetOf(pc: usize, offset: u32): u64 {
  return load<u64>(pc + offset, UOP_TARGET);
}

/** The next uop by a link, if that is good. 0: an exception was raised. */
@inline
export function link(c: usize, pc: usize, offset: u32): usize {
  const epoch = load<u32>(pc + offset, UOP_LINK_EPOCH);
  if (epoch == 0 || epoch == load<u32>(c, CPU_GLOBAL_EPOCH) || epoch == load<u32>(c, CPU_LINK_EPOCH)) {
    return load<u32>(pc + offset, UOP_LINK);
  }
  return follow(pc, offset);
}

/** The next uop of a branch that has no links, 0 as of `link`. `mode` is `jumpKey(0)`. */
@inline
export function jump(rip: u64, mode: u64): usize {
  const entry = jumpEntry(rip);
  const epoch = load<u32>(entry, 12);
  const isGood = epoch == load<u32>(cpu, CPU_GLOBAL_EPOCH) || epoch == load<u32>(cpu, CPU_LINK_EPOCH);
  if (load<u64>(entry) == (rip ^ mode) && isGood) {
    return load<u32>(entry, 8);
  }
  return findCode(rip);
}

/** A call's return address to `p`, where RSP is to point to. */
@inline
export function pushNext(c: usize, pc: usize, p: usize, sp: u64): void {
  store<u64>(p, load<u64>(pc, UOP_NEXT));
  if (!isPlain(p)) finishWrite();
  store<u64>(c, sp, RSP);
}

@inline
function isLess<T>(first: T, second: T): bool {
  return sizeof<T>() == 8 ? <i64>first < <i64>second : <i32>first < <i32>second;
}

/** `relation` has bits for below, equal, less and negative. The branch has those of which it asks for one, and whether for none instead. */
@inline
function linkBy(pc: usize, relation: u32): u32 {
  return linkIf(((relation & load<u8>(pc, UOP_INDEX)) != 0) != (load<u8>(pc, UOP_INDEX + 1) != 0));
}

/** CMP with a Jcc. */
@inline
export function cmpj<T>(c: usize, pc: usize, first: T, second: T): u32 {
  const result: T = first - second;
  lazy<T>(c, FLAGS_SUB, result, first);
  const isBelow = <u32>(first < second);
  const isEqual = <u32>(result == 0);
  return linkBy(pc, isBelow | (isEqual << 1) | (<u32>isLess<T>(first, second) << 2) | (<u32>isLess<T>(result, 0) << 3));
}

/** TEST with a Jcc: never below, and less if negative, as there is no overflow. */
@inline
export function testj<T>(c: usize, pc: usize, first: T, second: T): u32 {
  const result: T = first & second;
  lazy<T>(c, FLAGS_LOGIC, result, 0);
  const isNegative = <u32>isLess<T>(result, 0);
  return linkBy(pc, (<u32>(result == 0) << 1) | (isNegative << 2) | (isNegative << 3));
}
