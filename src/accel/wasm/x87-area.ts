// SPDX-License-Identifier: Apache-2.0
// x87 and SSE registers between the engine's state page and the legacy area of struct kvm_xsave, which is that of FXSAVE.
// SDM volume 1, 10.5.1 (layout) and 13.4 (XSAVE area).
import * as layout from "../../../assembly/cpu/layout.ts";
import { VmmError } from "../../errors.ts";

const CONTROL_U16 = 0;
const STATUS_U16 = 2;
const TAG_U8 = 4;
const OPCODE_U16 = 6;
const IP_U64 = 8;
const DP_U64 = 16;
const MXCSR_U32 = 24;
const MXCSR_MASK_U32 = 28;
const REGISTERS = 32;
const REGISTER_STRIDE = 16;
const REGISTER_SIZE_BYTES = 10;
const XMMS = 160;
const XMMS_SIZE_BYTES = 256;
const LEGACY_SIZE_BYTES = 512;
/** XSTATE_BV, u64: components that are not as after reset. */
const HEADER_COMPONENTS_U64 = 512;
const HEADER_SIZE_BYTES = 64;
const COMPONENT_X87 = 1n;
const COMPONENT_SSE = 2n;

const MXCSR_BITS = 0xffff;
const MXCSR_DEFAULT = 0x1f80;
const CONTROL_DEFAULT = 0x37f;
const STATUS_TOP_SHIFT = 11;
const STATUS_TOP = 7 << STATUS_TOP_SHIFT;

/** A copy of the state page's registers in struct kvm_xsave. */
export function saveXsave(page: DataView, xsave: Uint8Array): void {
  const area = viewOf(xsave);
  xsave.fill(0);
  const top = page.getUint8(layout.CPU_X87_TOP);
  area.setUint16(CONTROL_U16, page.getUint16(layout.CPU_X87_CONTROL, true), true);
  area.setUint16(STATUS_U16, page.getUint16(layout.CPU_X87_STATUS, true) | (top << STATUS_TOP_SHIFT), true);
  area.setUint8(TAG_U8, page.getUint8(layout.CPU_X87_VALID));
  area.setUint16(OPCODE_U16, page.getUint16(layout.CPU_X87_OPCODE, true), true);
  area.setBigUint64(IP_U64, page.getBigUint64(layout.CPU_X87_IP, true), true);
  area.setBigUint64(DP_U64, page.getBigUint64(layout.CPU_X87_DP, true), true);
  area.setUint32(MXCSR_U32, page.getUint32(layout.CPU_MXCSR, true), true);
  area.setUint32(MXCSR_MASK_U32, MXCSR_BITS, true);
  for (let index = 0; index < 8; index++) {
    const register = bytesOf(page, layout.CPU_X87_REGISTERS + ((top + index) & 7) * 16, REGISTER_SIZE_BYTES);
    xsave.set(register, REGISTERS + index * REGISTER_STRIDE);
  }
  xsave.set(bytesOf(page, layout.CPU_XMMS, XMMS_SIZE_BYTES), XMMS);
  area.setBigUint64(HEADER_COMPONENTS_U64, COMPONENT_X87 | COMPONENT_SSE, true);
}

/** @throws VmmError "state-refused" for registers that the engine does not have */
export function restoreXsave(page: DataView, xsave: Uint8Array): void {
  const area = viewOf(xsave);
  const components = area.getBigUint64(HEADER_COMPONENTS_U64, true);
  if (components & ~(COMPONENT_X87 | COMPONENT_SSE) && hasMore(xsave)) {
    throw new VmmError(
      "state-refused",
      `The guest uses registers beyond SSE (XSAVE components 0x${components.toString(16)}), which the accelerator wasm ` +
        "does not have: start it with -cpu baton64 for a move to wasm",
    );
  }
  const hasX87 = (components & COMPONENT_X87) !== 0n;
  const status = hasX87 ? area.getUint16(STATUS_U16, true) : 0;
  const top = (status & STATUS_TOP) >> STATUS_TOP_SHIFT;
  page.setUint16(layout.CPU_X87_CONTROL, hasX87 ? area.getUint16(CONTROL_U16, true) : CONTROL_DEFAULT, true);
  page.setUint16(layout.CPU_X87_STATUS, status & ~STATUS_TOP, true);
  page.setUint8(layout.CPU_X87_TOP, top);
  page.setUint8(layout.CPU_X87_VALID, hasX87 ? area.getUint8(TAG_U8) : 0);
  page.setUint16(layout.CPU_X87_OPCODE, hasX87 ? area.getUint16(OPCODE_U16, true) : 0, true);
  page.setBigUint64(layout.CPU_X87_IP, hasX87 ? area.getBigUint64(IP_U64, true) : 0n, true);
  page.setBigUint64(layout.CPU_X87_DP, hasX87 ? area.getBigUint64(DP_U64, true) : 0n, true);
  for (let index = 0; index < 8; index++) {
    const from = REGISTERS + index * REGISTER_STRIDE;
    const register = bytesOf(page, layout.CPU_X87_REGISTERS + ((top + index) & 7) * 16, REGISTER_SIZE_BYTES);
    if (hasX87) register.set(xsave.subarray(from, from + REGISTER_SIZE_BYTES));
    else register.fill(0);
  }
  const xmms = bytesOf(page, layout.CPU_XMMS, XMMS_SIZE_BYTES);
  const hasSse = (components & COMPONENT_SSE) !== 0n;
  if (hasSse) xmms.set(xsave.subarray(XMMS, XMMS + XMMS_SIZE_BYTES));
  else xmms.fill(0);
  page.setUint32(layout.CPU_MXCSR, hasSse ? area.getUint32(MXCSR_U32, true) & MXCSR_BITS : MXCSR_DEFAULT, true);
}

/** Anything but zeros beyond x87 and SSE. */
function hasMore(xsave: Uint8Array): boolean {
  return xsave.subarray(LEGACY_SIZE_BYTES + HEADER_SIZE_BYTES).some((byte) => byte !== 0);
}

function bytesOf(page: DataView, offset: number, sizeBytes: number): Uint8Array {
  return new Uint8Array(page.buffer, page.byteOffset + offset, sizeBytes);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
