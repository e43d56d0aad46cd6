// SPDX-License-Identifier: Apache-2.0
// Ports of the keyboard controller that are there without a keyboard.
// IBM PC/AT Technical Reference (6280070), "Keyboard controller"

/** Read: status, in which 0 says that there is no output and that commands are taken. Write: command. */
export const STATUS = 4;
export const DATA = 0;

/** Commands 0xf0 to 0xff pulse low those of four output lines whose bit is 0. Line 0 is the CPU's reset. */
export const COMMAND_PULSE: u8 = 0xf0;
export const PULSE_NOT_RESET: u8 = 0x01;
