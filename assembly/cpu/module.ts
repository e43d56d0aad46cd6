// SPDX-License-Identifier: Apache-2.0
// The CPU engine: one vCPU of x86-64. What its host calls.
import { acknowledge, highestInterrupt, runTimers } from "./apic.ts";
export { sleepNs } from "./apic";
import { clearStale, findCode, forgetCode, jumpKey, touchCode } from "./blocks.ts";
import { beginTurn, endTurn, takeCodeWrites } from "./coherence.ts";
import { IF, rflags, setRflags, TF } from "./flags.ts";
import { runHot } from "./hot.ts";
import { deliverException, deliverInterrupt } from "./interrupts.ts";
import {
  CPU_ACTIVITY,
  CPU_ACTIVITY_RUNNING,
  CPU_ACTIVITY_SHUTDOWN,
  CPU_DRS,
  CPU_EXCEPTION,
  CPU_INSTRUCTIONS,
  CPU_INTERRUPT_SHADOW,
  CPU_LAST_EPOCH,
  CPU_MODE,
  CPU_NMI_BLOCKED,
  CPU_PENDING,
  CPU_PENDING_CODE,
  CPU_PENDING_FLUSH,
  CPU_PENDING_INIT,
  CPU_PENDING_INTERRUPT,
  CPU_PENDING_NMI,
  CPU_PENDING_PROTECT,
  CPU_PENDING_REQUEST,
  CPU_PENDING_SIPI,
  CPU_RFLAGS,
  CPU_RIP,
  NO_EXCEPTION,
} from "./layout.ts";
import { MODE_STEP, updateMode } from "./modes.ts";
import { endsStep } from "./single-step.ts";
import { takeRepetitions } from "./strings.ts";
import { updateTime } from "./kvmclock.ts";
import { flushTlb, selectTlb } from "./tlb.ts";
import { cpu, DB, NMI, raise, select as selectVcpu } from "./vcpu.ts";
import { protectPages } from "./write-tracking.ts";

/** Why `run` has returned. */
export const RAN: u32 = 0;
/** HLT, or it waits for a startup IPI: until something of CPU_PENDING is set, or a timer is due. */
export const RAN_IDLE: u32 = 1;
/** Triple fault. */
export const RAN_SHUTDOWN: u32 = 2;
/** CPU_PENDING_REQUEST, CPU_PENDING_INIT or CPU_PENDING_SIPI is set: the host's business. */
export const RAN_REQUESTED: u32 = 3;

/** About as many instructions are run before anybody looks at CPU_PENDING. */
const SLICE: i32 = 8192;
/** DR6.BS: single step. */
const DR6_BS: u64 = 0x4000;

const HOST_EVENTS: u32 = CPU_PENDING_REQUEST | CPU_PENDING_INIT | CPU_PENDING_SIPI;

const EVENTS: u32 = CPU_PENDING_INTERRUPT | CPU_PENDING_NMI;

/** Makes this instance vCPU `index` of a VM whose RAM is at `ramBase`. */
export function select(index: u32, ramBase: usize, ramSizeBytes: u64): void {
  selectVcpu(index, ramBase, ramSizeBytes);
}

/** Before the vCPU has a state: does what `stateChanged` would else do while the guest stands. */
export function prepare(): void {
  touchCode();
  flushTlb(false);
}

/** After the state page was written by somebody else: nothing that was made of it is true any more. */
export function stateChanged(): void {
  // 0 and 0xffff_ffff are no epochs.
  if (load<u32>(cpu, CPU_LAST_EPOCH) == 0) store<u32>(cpu, 1, CPU_LAST_EPOCH);
  updateMode();
  forgetCode();
  flushTlb(false);
  selectTlb();
  updateTime();
}

/** Before somebody else looks at the state page, or takes the flags of pages for the last time. */
export function settle(): void {
  setRflags(rflags());
  protectPages();
}

/** Runs about `budget` instructions, less when there is a reason. */
export function run(budget: i32): u32 {
  let untilTimers: i32 = 0;
  for (let left = budget; left > 0; ) {
    // Each turn costs something, or a guest whose handlers raise exceptions would never let the host have its say.
    left--;
    untilTimers--;
    if (load<u32>(cpu, CPU_EXCEPTION) != NO_EXCEPTION) deliverException();
    // Not each time: a clock costs as much as some hundred instructions.
    if (untilTimers <= 0) {
      runTimers();
      untilTimers = SLICE;
    }
    const reason = attend();
    if (reason != RAN) return reason;
    // What is held off until after the next instruction waits no longer.
    const isHeldOff = load<u32>(cpu, CPU_INTERRUPT_SHADOW) != 0 && (load<u32>(cpu, CPU_PENDING) & EVENTS) != 0;
    if (isHeldOff) store<u32>(cpu, load<u32>(cpu, CPU_MODE) | MODE_STEP, CPU_MODE);
    const start = findCode(load<u64>(cpu, CPU_RIP));
    if (start == 0) continue;
    const slice = max<i32>(1, min<i32>(left, untilTimers));
    const before = load<u64>(cpu, CPU_INSTRUCTIONS);
    const isStep = (load<u64>(cpu, CPU_RFLAGS) & TF) != 0;
    store<u32>(cpu, 0, CPU_INTERRUPT_SHADOW);
    clearStale();
    beginTurn();
    runHot(start, isStep || isHeldOff ? 1 : slice, jumpKey(0));
    endTurn();
    if (isHeldOff) updateMode();
    if (endsStep(isStep)) trap();
    const done = <i32>(load<u64>(cpu, CPU_INSTRUCTIONS) - before) + takeRepetitions();
    left -= done;
    untilTimers -= done;
  }
  return RAN;
}

/** Runs one instruction. What it raises is left in CPU_EXCEPTION. */
export function step(): void {
  store<u32>(cpu, load<u32>(cpu, CPU_MODE) | MODE_STEP, CPU_MODE);
  const start = findCode(load<u64>(cpu, CPU_RIP));
  if (start != 0) runHot(start, 1, jumpKey(0));
  clearStale();
  updateMode();
  // They count against no budget.
  takeRepetitions();
}

/** The trap after a single step, unless the instruction has raised something itself. */
function trap(): void {
  if (load<u32>(cpu, CPU_EXCEPTION) != NO_EXCEPTION) return;
  store<u64>(cpu, load<u64>(cpu, CPU_DRS + 48) | DR6_BS, CPU_DRS + 48);
  raise(DB);
}

/** What has come from outside. RAN: the guest goes on. */
function attend(): u32 {
  const pending = load<u32>(cpu, CPU_PENDING);
  if (pending & CPU_PENDING_PROTECT) {
    atomic.and<u32>(cpu + CPU_PENDING, ~CPU_PENDING_PROTECT);
    protectPages();
  }
  if (pending & HOST_EVENTS) return RAN_REQUESTED;
  if (pending & CPU_PENDING_CODE) takeCodeWrites();
  if (pending & CPU_PENDING_FLUSH) {
    atomic.and<u32>(cpu + CPU_PENDING, ~CPU_PENDING_FLUSH);
    forgetCode();
    flushTlb(false);
  }
  const activity = load<u32>(cpu, CPU_ACTIVITY);
  if (activity == CPU_ACTIVITY_SHUTDOWN) return RAN_SHUTDOWN;
  const isNmi = pending & CPU_PENDING_NMI && !load<u32>(cpu, CPU_NMI_BLOCKED) && !load<u32>(cpu, CPU_INTERRUPT_SHADOW);
  if (isNmi) {
    atomic.and<u32>(cpu + CPU_PENDING, ~CPU_PENDING_NMI);
    store<u32>(cpu, 1, CPU_NMI_BLOCKED);
    deliverInterrupt(NMI);
  } else if (pending & CPU_PENDING_INTERRUPT) interrupt();
  return load<u32>(cpu, CPU_ACTIVITY) == CPU_ACTIVITY_RUNNING ? RAN : RAN_IDLE;
}

function interrupt(): void {
  if (!(load<u64>(cpu, CPU_RFLAGS) & IF) || load<u32>(cpu, CPU_INTERRUPT_SHADOW)) return;
  // Before the look: what comes later sets it again.
  atomic.and<u32>(cpu + CPU_PENDING, ~CPU_PENDING_INTERRUPT);
  if (highestInterrupt() < 0) return;
  const vector = acknowledge();
  // There may be more.
  atomic.or<u32>(cpu + CPU_PENDING, CPU_PENDING_INTERRUPT);
  deliverInterrupt(vector);
}
