// SPDX-License-Identifier: Apache-2.0
// What follows which opcode: ModRM, immediates, displacements. SDM volume 2, appendix A.
import { MAP_0F, MAP_0F38, MAP_0F3A } from "./uop.ts";

export const HAS_MODRM: u32 = 1;
export const IMMEDIATE_8: u32 = 2;
/** 16 or 32 bits, sign-extended to 64. */
export const IMMEDIATE_Z: u32 = 4;
/** As wide as the operand. */
export const IMMEDIATE_V: u32 = 8;
export const IMMEDIATE_16: u32 = 16;
/** Displacement of a near jump or call. */
export const IMMEDIATE_NEAR: u32 = 32;
export const IMMEDIATE_MOFFS: u32 = 64;
export const IMMEDIATE_FAR: u32 = 128;
/** After another: ENTER. */
export const IMMEDIATE_8_MORE: u32 = 256;

/** What follows MAP_* | opcode. Of F6 and F7, two of whose forms have an immediate, that is not told. */
export function operandsOf(opcode: u32): u32 {
  if (opcode >= MAP_0F3A) return HAS_MODRM | IMMEDIATE_8;
  if (opcode >= MAP_0F38) return HAS_MODRM;
  if (opcode >= MAP_0F) return operandsOf0f(opcode & 0xff);
  if (opcode < 0x40) {
    switch (opcode & 7) {
      case 4:
        return IMMEDIATE_8;
      case 5:
        return IMMEDIATE_Z;
      case 6:
      case 7:
        return 0;
      default:
        return HAS_MODRM;
    }
  }
  switch (opcode >> 4) {
    case 6:
      switch (opcode) {
        case 0x62:
        case 0x63:
          return HAS_MODRM;
        case 0x68:
          return IMMEDIATE_Z;
        case 0x69:
          return HAS_MODRM | IMMEDIATE_Z;
        case 0x6a:
          return IMMEDIATE_8;
        case 0x6b:
          return HAS_MODRM | IMMEDIATE_8;
        default:
          return 0;
      }
    case 7:
      return IMMEDIATE_8;
    case 8:
      if (opcode == 0x81) return HAS_MODRM | IMMEDIATE_Z;
      return opcode == 0x80 || opcode == 0x82 || opcode == 0x83 ? HAS_MODRM | IMMEDIATE_8 : HAS_MODRM;
    case 9:
      return opcode == 0x9a ? IMMEDIATE_FAR : 0;
    case 10:
      if (opcode < 0xa4) return IMMEDIATE_MOFFS;
      return opcode == 0xa8 ? IMMEDIATE_8 : opcode == 0xa9 ? IMMEDIATE_Z : 0;
    case 11:
      return opcode < 0xb8 ? IMMEDIATE_8 : IMMEDIATE_V;
    case 12:
      switch (opcode) {
        case 0xc0:
        case 0xc1:
        case 0xc6:
          return HAS_MODRM | IMMEDIATE_8;
        case 0xc2:
        case 0xca:
          return IMMEDIATE_16;
        case 0xc4:
        case 0xc5:
          return HAS_MODRM;
        case 0xc7:
          return HAS_MODRM | IMMEDIATE_Z;
        case 0xc8:
          return IMMEDIATE_16 | IMMEDIATE_8_MORE;
        case 0xcd:
          return IMMEDIATE_8;
        default:
          return 0;
      }
    case 13:
      if (opcode < 0xd4 || opcode >= 0xd8) return HAS_MODRM;
      return opcode < 0xd6 ? IMMEDIATE_8 : 0;
    case 14:
      if (opcode < 0xe8 || opcode == 0xeb) return IMMEDIATE_8;
      return opcode < 0xea ? IMMEDIATE_NEAR : opcode == 0xea ? IMMEDIATE_FAR : 0;
    default:
      return (opcode & 0xf6) == 0xf6 ? HAS_MODRM : 0;
  }
}

function operandsOf0f(opcode: u32): u32 {
  switch (opcode >> 4) {
    case 0:
      switch (opcode) {
        case 0x05:
        case 0x06:
        case 0x07:
        case 0x08:
        case 0x09:
        case 0x0b:
        case 0x0e:
          return 0;
        case 0x0f:
          return HAS_MODRM | IMMEDIATE_8;
        default:
          return HAS_MODRM;
      }
    case 3:
      return 0;
    case 7:
      if (opcode < 0x74) return HAS_MODRM | IMMEDIATE_8;
      return opcode == 0x77 ? 0 : HAS_MODRM;
    case 8:
      return IMMEDIATE_NEAR;
    case 10:
      switch (opcode) {
        case 0xa0:
        case 0xa1:
        case 0xa2:
        case 0xa8:
        case 0xa9:
        case 0xaa:
          return 0;
        case 0xa4:
        case 0xac:
          return HAS_MODRM | IMMEDIATE_8;
        default:
          return HAS_MODRM;
      }
    case 11:
      return opcode == 0xba ? HAS_MODRM | IMMEDIATE_8 : HAS_MODRM;
    case 12:
      switch (opcode) {
        case 0xc2:
        case 0xc4:
        case 0xc5:
        case 0xc6:
          return HAS_MODRM | IMMEDIATE_8;
        default:
          return opcode >= 0xc8 ? 0 : HAS_MODRM;
      }
    default:
      return HAS_MODRM;
  }
}
