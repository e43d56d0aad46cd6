// SPDX-License-Identifier: Apache-2.0
// System control port A of a PS/2, port 0x92.
// Intel 82371AB (PIIX4), port 92 register: https://www.intel.com/Assets/PDF/datasheet/290562.pdf

export const CONTROL = 0;

/** A rising edge resets the machine. */
export const FAST_INIT: u8 = 0x01;
export const FAST_A20: u8 = 0x02;
