// SPDX-License-Identifier: Apache-2.0
// Code of a guest that has lost its way: some of it is noise, some are instructions of every kind with operands of every kind.
import type { Chance } from "./chance.ts";

// biome-ignore format: a table
const PREFIXES = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65];

/** What a processor does with its system, which noise alone would rarely hit: bytes before the operands. */
// biome-ignore format: a table
const SYSTEM: readonly number[][] = [
  [0x0f, 0x00], [0x0f, 0x01], [0x0f, 0x01], [0x0f, 0x05], [0x0f, 0x06], [0x0f, 0x07], [0x0f, 0x20], [0x0f, 0x22], [0x0f, 0x21],
  [0x0f, 0x23], [0x0f, 0x30], [0x0f, 0x32], [0x0f, 0x31], [0x0f, 0x34], [0x0f, 0x35], [0x0f, 0xa2], [0x0f, 0xae], [0x0f, 0xc7],
  [0x0f, 0x01, 0xf8], [0x0f, 0x01, 0xf9], [0x0f, 0x01, 0xe8], [0x0f, 0x02], [0x0f, 0x03], [0x0f, 0xa1], [0x0f, 0xa9], [0x0f, 0xb2],
  [0x8e], [0x8c], [0x9d], [0x9c], [0x9a], [0xea], [0xca], [0xcb], [0xcc], [0xcd], [0xce], [0xcf], [0xf1], [0xf4], [0xfa], [0xfb],
  [0x6c], [0x6d], [0x6e], [0x6f], [0xe4], [0xe6], [0xec], [0xee], [0x07], [0x17], [0x1f], [0xc4], [0xc5], [0x62], [0x63], [0xc8],
  [0xff], [0x0f, 0x0b],
];
/** Strings, REP before them. */
const STRINGS = [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0x6c, 0x6d, 0x6e, 0x6f];
/** Read, change, write. */
// biome-ignore format: a table
const LOCKED: readonly number[][] = [
  [0x01], [0x11], [0x19], [0x29], [0x31], [0x81], [0x83], [0xfe], [0xff], [0xf6], [0xf7], [0x86], [0x87], [0x0f, 0xb0], [0x0f, 0xb1],
  [0x0f, 0xc0], [0x0f, 0xc1], [0x0f, 0xc7], [0x0f, 0xab], [0x0f, 0xb3], [0x0f, 0xbb], [0x0f, 0xba],
];

export function fillWithCode(bytes: Uint8Array, chance: Chance): void {
  for (let at = 0; at < bytes.length; ) {
    for (const byte of instruction(chance)) if (at < bytes.length) bytes[at++] = byte;
  }
}

function instruction(chance: Chance): number[] {
  const bytes: number[] = [];
  while (chance.oneIn(5)) bytes.push(chance.oneOf(PREFIXES));
  if (chance.oneIn(3)) bytes.push(0x40 | chance.below(16));
  switch (chance.below(10)) {
    case 0:
      return operands([...bytes, ...chance.oneOf(SYSTEM)], chance);
    case 1:
      return [...bytes, 0xf2 | chance.below(2), chance.oneOf(STRINGS)];
    case 2:
      return operands([0xf0, ...bytes, ...chance.oneOf(LOCKED)], chance);
    case 3:
      return operands([...bytes, 0x0f, chance.below(256)], chance);
    case 4:
      return operands([...bytes, 0x0f, chance.oneOf([0x38, 0x3a]), chance.below(256)], chance);
    case 5:
      return operands([...bytes, 0xd8 | chance.below(8)], chance);
    case 6:
      // A short branch, mostly back.
      return [...bytes, chance.oneOf([0xeb, 0x70 | chance.below(16), 0xe2]), 0x80 | chance.below(160)];
    case 7:
      return [chance.word() & 0xff, chance.word() & 0xff, chance.word() & 0xff];
    default:
      return operands([...bytes, chance.below(256)], chance);
  }
}

/** ModRM and all that may come behind it. */
function operands(bytes: number[], chance: Chance): number[] {
  bytes.push(chance.word() & 0xff);
  if (chance.oneIn(2)) bytes.push(chance.word() & 0xff);
  // Displacements and immediates are small, mostly.
  const count = chance.oneOf([0, 1, 1, 2, 4, 4, 5, 8]);
  for (let index = 0; index < count; index++)
    bytes.push(index === 0 || chance.oneIn(6) ? chance.word() & 0xff : chance.oneOf([0, 0, 0xff]));
  return bytes;
}
