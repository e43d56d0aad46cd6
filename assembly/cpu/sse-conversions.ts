// SPDX-License-Identifier: Apache-2.0
// Conversions between floats, doubles and integers. SDM volume 2, CVT….
import {
  beginFloat,
  convert,
  DOUBLE,
  endFloat,
  fromInteger,
  rounding,
  SINGLE,
  toInteger,
  TO_ZERO,
} from "./sse-arithmetic.ts";
import { commit, elementSize, loadElement, storeElement } from "./sse-float.ts";
import {
  draft,
  prefix,
  PREFIX_66,
  PREFIX_F2,
  PREFIX_F3,
  PREFIX_NONE,
  setGeneral,
  setMmx,
  source,
  source128,
  sourceMmx,
  wideSize,
} from "./sse-operands.ts";
import { COLD_CODE, registerA } from "./uop.ts";

/** Opcode 2A: CVTPI2PS, CVTPI2PD, CVTSI2SS, CVTSI2SD. */
export function execFromInteger(pc: usize): bool {
  const kind = prefix(pc);
  const fraction = kind & 1 ? DOUBLE : SINGLE;
  const step = elementSize(fraction);
  beginFloat();
  if (kind <= PREFIX_66) {
    const from = sourceMmx(pc, 8);
    if (from == 0) return false;
    storeElement(draft(), fraction, fromInteger(load<i32>(from), fraction));
    storeElement(draft() + step, fraction, fromInteger(load<i32>(from, 4), fraction));
    return endFloat() && commit(registerA(pc), 2 * step);
  }
  const sizeBytes = wideSize(pc);
  const from = source(pc, sizeBytes);
  if (from == 0) return false;
  const value = sizeBytes == 8 ? load<i64>(from) : <i64>load<i32>(from);
  storeElement(draft(), fraction, fromInteger(value, fraction));
  return endFloat() && commit(registerA(pc), step);
}

/** Opcodes 2C and 2D: CVTTPS2PI, CVTPS2PI, CVTTPD2PI, CVTPD2PI, CVTTSS2SI, CVTSS2SI, CVTTSD2SI, CVTSD2SI. */
export function execToInteger(pc: usize): bool {
  const kind = prefix(pc);
  const fraction = kind & 1 ? DOUBLE : SINGLE;
  const step = elementSize(fraction);
  const isPair = kind <= PREFIX_66;
  const from = kind == PREFIX_66 ? source128(pc) : source(pc, isPair ? 8 : step);
  if (from == 0) return false;
  beginFloat();
  const mode = (load<u16>(pc, COLD_CODE) & 1) == 0 ? TO_ZERO : rounding();
  const sizeBytes: u32 = isPair ? 4 : wideSize(pc);
  const low = toInteger(loadElement(from, fraction), fraction, sizeBytes, mode);
  const high = isPair ? toInteger(loadElement(from + step, fraction), fraction, 4, mode) : 0;
  if (!endFloat()) return false;
  if (isPair) setMmx(registerA(pc), <u64>(<u32>low) | (<u64>high << 32));
  else setGeneral(registerA(pc), low, sizeBytes);
  return true;
}

/** Opcode 5A: CVTPS2PD, CVTPD2PS, CVTSS2SD, CVTSD2SS. */
export function execConvert(pc: usize): bool {
  const kind = prefix(pc);
  const before = kind & 1 ? DOUBLE : SINGLE;
  const after = kind & 1 ? SINGLE : DOUBLE;
  const isScalar = kind > PREFIX_66;
  const from = kind == PREFIX_66 ? source128(pc) : source(pc, kind == PREFIX_F3 ? 4 : 8);
  if (from == 0) return false;
  beginFloat();
  const step = elementSize(after);
  storeElement(draft(), after, convert(loadElement(from, before), before, after));
  if (!isScalar) {
    storeElement(draft() + step, after, convert(loadElement(from + elementSize(before), before), before, after));
    if (kind == PREFIX_66) store<u64>(draft(), 0, 8);
  }
  return endFloat() && commit(registerA(pc), isScalar ? step : 16);
}

/** Opcode 5B: CVTDQ2PS, CVTPS2DQ, CVTTPS2DQ. */
export function execConvertSingles(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const kind = prefix(pc);
  beginFloat();
  const mode = kind == PREFIX_F3 ? TO_ZERO : rounding();
  for (let offset: u32 = 0; offset < 16; offset += 4) {
    const result =
      kind == PREFIX_NONE
        ? <u32>fromInteger(load<i32>(from + offset), SINGLE)
        : <u32>toInteger(load<u32>(from + offset), SINGLE, 4, mode);
    store<u32>(draft() + offset, result);
  }
  return endFloat() && commit(registerA(pc), 16);
}

/** Opcode E6: CVTDQ2PD, CVTPD2DQ, CVTTPD2DQ. */
export function execConvertDoubles(pc: usize): bool {
  const kind = prefix(pc);
  const from = kind == PREFIX_F3 ? source(pc, 8) : source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  if (kind == PREFIX_F3) {
    v128.store(to, f64x2.convert_low_i32x4_s(v128.load64_zero(from)));
    return true;
  }
  beginFloat();
  const mode = kind == PREFIX_F2 ? rounding() : TO_ZERO;
  const low = <u32>toInteger(load<u64>(from), DOUBLE, 4, mode);
  const high = <u32>toInteger(load<u64>(from, 8), DOUBLE, 4, mode);
  if (!endFloat()) return false;
  store<u64>(to, <u64>low | (<u64>high << 32));
  store<u64>(to, 0, 8);
  return true;
}
