// SPDX-License-Identifier: Apache-2.0
// What is to be delivered to a vCPU, between the engine's state page and struct kvm_vcpu_events and kvm_mp_state.
// https://docs.kernel.org/virt/kvm/api.html#kvm-get-vcpu-events
import * as layout from "../../../assembly/cpu/layout.ts";

const EXCEPTION_INJECTED_U8 = 0;
const EXCEPTION_NUMBER_U8 = 1;
const EXCEPTION_HAS_ERROR_CODE_U8 = 2;
const EXCEPTION_PENDING_U8 = 3;
const EXCEPTION_ERROR_CODE_U32 = 4;
const INTERRUPT_INJECTED_U8 = 8;
const INTERRUPT_NUMBER_U8 = 9;
const INTERRUPT_SHADOW_U8 = 11;
const NMI_INJECTED_U8 = 12;
const NMI_PENDING_U8 = 13;
const NMI_MASKED_U8 = 14;
const SIPI_VECTOR_U32 = 16;
const FLAGS_U32 = 20;

const VALID_NMI_PENDING = 1;
const VALID_SHADOW = 4;
/** KVM_X86_SHADOW_INT_STI */
const SHADOW_STI = 2;

/** Vectors from here on are interrupts, not exceptions. */
const FIRST_INTERRUPT = 32;

const MP_STATE_RUNNABLE = 0;
const MP_STATE_UNINITIALIZED = 1;
const MP_STATE_INIT_RECEIVED = 2;
const MP_STATE_HALTED = 3;
const MP_STATE_SIPI_RECEIVED = 4;

export function saveEvents(page: DataView, pending: number, events: Uint8Array): void {
  const view = new DataView(events.buffer, events.byteOffset, events.byteLength);
  events.fill(0);
  const vector = page.getUint32(layout.CPU_EXCEPTION, true);
  if (vector !== layout.NO_EXCEPTION && vector >= FIRST_INTERRUPT) {
    view.setUint8(INTERRUPT_INJECTED_U8, 1);
    view.setUint8(INTERRUPT_NUMBER_U8, vector);
  } else if (vector !== layout.NO_EXCEPTION) {
    view.setUint8(EXCEPTION_INJECTED_U8, 1);
    view.setUint8(EXCEPTION_NUMBER_U8, vector);
    const hasErrorCode = page.getUint32(layout.CPU_HAS_ERROR_CODE, true) !== 0;
    view.setUint8(EXCEPTION_HAS_ERROR_CODE_U8, Number(hasErrorCode));
    if (hasErrorCode) view.setUint32(EXCEPTION_ERROR_CODE_U32, page.getUint32(layout.CPU_ERROR_CODE, true), true);
  }
  if (page.getUint32(layout.CPU_INTERRUPT_SHADOW, true) !== 0) view.setUint8(INTERRUPT_SHADOW_U8, SHADOW_STI);
  if ((pending & layout.CPU_PENDING_NMI) !== 0) view.setUint8(NMI_PENDING_U8, 1);
  view.setUint8(NMI_MASKED_U8, page.getUint32(layout.CPU_NMI_BLOCKED, true));
  view.setUint32(SIPI_VECTOR_U32, page.getUint32(layout.CPU_SIPI_VECTOR, true), true);
  view.setUint32(FLAGS_U32, VALID_NMI_PENDING | VALID_SHADOW, true);
}

/** Returns the bits of CPU_PENDING that are to be set. */
export function restoreEvents(page: DataView, events: Uint8Array): number {
  const view = new DataView(events.buffer, events.byteOffset, events.byteLength);
  const isException = view.getUint8(EXCEPTION_INJECTED_U8) !== 0 || view.getUint8(EXCEPTION_PENDING_U8) !== 0;
  const isInterrupt = view.getUint8(INTERRUPT_INJECTED_U8) !== 0;
  let vector: number = layout.NO_EXCEPTION;
  if (isException) vector = view.getUint8(EXCEPTION_NUMBER_U8);
  else if (isInterrupt) vector = view.getUint8(INTERRUPT_NUMBER_U8);
  page.setUint32(layout.CPU_EXCEPTION, vector, true);
  page.setUint32(layout.CPU_HAS_ERROR_CODE, isException ? view.getUint8(EXCEPTION_HAS_ERROR_CODE_U8) : 0, true);
  page.setUint32(layout.CPU_ERROR_CODE, view.getUint32(EXCEPTION_ERROR_CODE_U32, true), true);
  page.setUint32(layout.CPU_INTERRUPT_SHADOW, view.getUint8(INTERRUPT_SHADOW_U8) === 0 ? 0 : 1, true);
  page.setUint32(layout.CPU_NMI_BLOCKED, view.getUint8(NMI_MASKED_U8), true);
  page.setUint32(layout.CPU_SIPI_VECTOR, view.getUint32(SIPI_VECTOR_U32, true) & 0xff, true);
  const isNmi = view.getUint8(NMI_INJECTED_U8) !== 0 || view.getUint8(NMI_PENDING_U8) !== 0;
  return isNmi ? layout.CPU_PENDING_NMI : 0;
}

export function saveMpState(page: DataView, pending: number): number {
  const activity = page.getUint32(layout.CPU_ACTIVITY, true);
  if (activity === layout.CPU_ACTIVITY_WAITING_FOR_SIPI) {
    return (pending & layout.CPU_PENDING_SIPI) === 0 ? MP_STATE_INIT_RECEIVED : MP_STATE_SIPI_RECEIVED;
  }
  return activity === layout.CPU_ACTIVITY_HALTED ? MP_STATE_HALTED : MP_STATE_RUNNABLE;
}

/** Returns the bits of CPU_PENDING that are to be set. */
export function restoreMpState(page: DataView, state: number): number {
  const isWaiting = state === MP_STATE_UNINITIALIZED || state === MP_STATE_INIT_RECEIVED;
  let activity = layout.CPU_ACTIVITY_RUNNING;
  if (isWaiting || state === MP_STATE_SIPI_RECEIVED) activity = layout.CPU_ACTIVITY_WAITING_FOR_SIPI;
  else if (state === MP_STATE_HALTED) activity = layout.CPU_ACTIVITY_HALTED;
  page.setUint32(layout.CPU_ACTIVITY, activity, true);
  return state === MP_STATE_SIPI_RECEIVED ? layout.CPU_PENDING_SIPI : 0;
}
