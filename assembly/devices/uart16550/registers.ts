// SPDX-License-Identifier: Apache-2.0
// Registers of the 16550A, with the names of its data sheet.
// National Semiconductor PC16550D: https://www.ti.com/lit/ds/symlink/pc16550d.pdf

/** Receiver buffer (read) and transmitter holding register (write); divisor latch, low byte, with DLAB. */
export const RBR_THR_DLL = 0;
/** Interrupt enable; divisor latch, high byte, with DLAB. */
export const IER_DLM = 1;
/** Interrupt identification (read) and FIFO control (write). */
export const IIR_FCR = 2;
export const LCR = 3;
export const MCR = 4;
export const LSR = 5;
export const MSR = 6;
export const SCR = 7;

export const IER_ERBFI: u8 = 0x01;
export const IER_ETBEI: u8 = 0x02;
export const IER_ELSI: u8 = 0x04;
export const IER_EDSSI: u8 = 0x08;
export const IER_MASK: u8 = 0x0f;

/** Causes in IIR bits 0 to 3, by priority. */
export const IIR_LINE_STATUS: u8 = 0x06;
export const IIR_DATA_AVAILABLE: u8 = 0x04;
export const IIR_CHARACTER_TIMEOUT: u8 = 0x0c;
export const IIR_THR_EMPTY: u8 = 0x02;
export const IIR_MODEM_STATUS: u8 = 0x00;
export const IIR_NONE: u8 = 0x01;
export const IIR_FIFOS_ENABLED: u8 = 0xc0;

export const FCR_ENABLE: u8 = 0x01;
export const FCR_RECEIVER_RESET: u8 = 0x02;
export const FCR_DMA_MODE: u8 = 0x08;
export const FCR_TRIGGER_SHIFT: u8 = 6;
export const FCR_TRIGGER: u8 = 0xc0;

export const LCR_DLAB: u8 = 0x80;

export const MCR_DTR: u8 = 0x01;
export const MCR_RTS: u8 = 0x02;
export const MCR_OUT1: u8 = 0x04;
export const MCR_OUT2: u8 = 0x08;
export const MCR_LOOP: u8 = 0x10;
export const MCR_MASK: u8 = 0x1f;

export const LSR_DR: u8 = 0x01;
export const LSR_OE: u8 = 0x02;
export const LSR_THRE: u8 = 0x20;
export const LSR_TEMT: u8 = 0x40;

export const MSR_DCTS: u8 = 0x01;
export const MSR_DDSR: u8 = 0x02;
export const MSR_TERI: u8 = 0x04;
export const MSR_DDCD: u8 = 0x08;
export const MSR_DELTAS: u8 = 0x0f;
export const MSR_CTS: u8 = 0x10;
export const MSR_DSR: u8 = 0x20;
export const MSR_RI: u8 = 0x40;
export const MSR_DCD: u8 = 0x80;

export const FIFO_SIZE_BYTES: u32 = 16;

/** The divisor after power-on is undefined; this is what firmware would have left: 9600 baud. */
export const DEFAULT_DIVISOR: u16 = 12;
/** A peer is plugged in and ready, for as long as the machine runs. */
export const LINES_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;
