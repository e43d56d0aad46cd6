// SPDX-License-Identifier: Apache-2.0
// Saved state of a 16550A UART.

/** I/O ports the UART takes. */
export const UART_SIZE_BYTES = 8;

export const STATE_VERSION = 1;

export const FIELD_IER_U8 = 0;
/** FIFO enable, DMA mode and receiver trigger; the reset bits clear themselves. */
export const FIELD_FCR_U8 = 1;
export const FIELD_LCR_U8 = 2;
export const FIELD_MCR_U8 = 3;
/** Overrun, THRE and TEMT; data ready follows from the FIFO. */
export const FIELD_LSR_U8 = 4;
export const FIELD_MSR_U8 = 5;
export const FIELD_SCR_U8 = 6;
/** 1: "transmitter holding register empty" has not been acknowledged yet. */
export const FIELD_THRE_PENDING_U8 = 7;
export const FIELD_DIVISOR_U16 = 8;
export const FIELD_IRQ_LEVEL_U8 = 10;
/** Index in RX_FIFO of the oldest byte. */
export const FIELD_RX_HEAD_U8 = 11;
export const FIELD_RX_COUNT_U8 = 12;
export const FIELD_RX_FIFO_U8X16 = 16;

export const STATE_SIZE_BYTES = 32;

/** u32 the host stores before the first `reset`: the ring for output. The host's own choice, hence not saved. */
export const HOST_RING_INDEX = 32;
/** u32, not 0 between `freeze` and `thaw`. Of no meaning to the guest, hence not saved. */
export const HOST_FROZEN = 36;
/** u32: bytes that a frozen UART had no room for. For the host to tell, hence not saved. */
export const HOST_DROPPED_BYTES = 40;

/** What a full ring has left for bytes that vCPUs are in the middle of writing when they are parked. */
export const RING_RESERVE_BYTES = 256;
