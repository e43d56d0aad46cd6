// SPDX-License-Identifier: Apache-2.0
// A 16550A UART between the guest, an output ring and a host that offers input.
// National Semiconductor PC16550D: https://www.ti.com/lit/ds/symlink/pc16550d.pdf
//
// The line is infinitely fast: a written byte leaves at once, and the four character times after which a FIFO below its
// trigger level interrupts have always passed. OUT2 does not gate the interrupt: on a PC that is the board's doing, and
// payloads written for other VMMs rely on getting interrupts without it.
import { acquire, release } from "../../lock.ts";
import { EVENT_CHARDEV } from "../../layout.ts";
import { notifyRoom, push, ringAddress, roomBytes, waitForRoom } from "../../ring.ts";
import { openBus, setIrq, signal, takeOutput } from "../host.ts";
import {
  FIELD_DIVISOR_U16,
  FIELD_IRQ_LEVEL_U8,
  FIELD_RX_COUNT_U8,
  FIELD_RX_FIFO_U8X16,
  HOST_DROPPED_BYTES,
  HOST_FROZEN,
  HOST_RING_INDEX,
  RING_RESERVE_BYTES,
} from "./layout.ts";
import * as reg from "./registers.ts";

/** The state page, field by field as in layout.ts. */
@unmanaged
class Uart {
  ier: u8;
  fcr: u8;
  lcr: u8;
  mcr: u8;
  lsr: u8;
  msr: u8;
  scr: u8;
  threPending: bool;
  divisor: u16;
  irqLevel: u8;
  rxHead: u8;
  rxCount: u8;
  private gap: u8;
  private gap2: u16;
  private rxFifo: v128;
  ringIndex: u32;
  frozen: u32;
  droppedBytes: u32;

  get address(): usize {
    return changetype<usize>(this);
  }

  get fifosEnabled(): bool {
    return (this.fcr & reg.FCR_ENABLE) != 0;
  }

  get looped(): bool {
    return (this.mcr & reg.MCR_LOOP) != 0;
  }

  /** Without FIFOs the receiver buffer register is a FIFO of one. */
  get rxCapacity(): u32 {
    return this.fifosEnabled ? reg.FIFO_SIZE_BYTES : 1;
  }

  get rxTrigger(): u32 {
    switch (this.fcr >> reg.FCR_TRIGGER_SHIFT) {
      case 0:
        return 1;
      case 1:
        return 4;
      case 2:
        return 8;
      default:
        return 14;
    }
  }
}

/** Power-on values. The host has stored HOST_RING_INDEX before the first call. */
export function reset(uart: Uart): void {
  if (
    offsetof<Uart>("divisor") != FIELD_DIVISOR_U16 ||
    offsetof<Uart>("irqLevel") != FIELD_IRQ_LEVEL_U8 ||
    offsetof<Uart>("rxCount") != FIELD_RX_COUNT_U8 ||
    offsetof<Uart>("rxFifo") != FIELD_RX_FIFO_U8X16 ||
    offsetof<Uart>("ringIndex") != HOST_RING_INDEX ||
    offsetof<Uart>("frozen") != HOST_FROZEN ||
    offsetof<Uart>("droppedBytes") != HOST_DROPPED_BYTES
  ) {
    ERROR("class Uart and layout.ts disagree");
  }
  acquire(uart.address);
  uart.ier = 0;
  uart.fcr = 0;
  uart.lcr = 0;
  uart.mcr = 0;
  uart.msr = reg.LINES_CONNECTED;
  uart.scr = 0;
  uart.divisor = reg.DEFAULT_DIVISOR;
  uart.threPending = false;
  uart.lsr = transmitterStatus(uart);
  uart.rxHead = 0;
  uart.rxCount = 0;
  memory.fill(uart.address + FIELD_RX_FIFO_U8X16, 0, reg.FIFO_SIZE_BYTES);
  updateIrq(uart);
  release(uart.address);
  signal(EVENT_CHARDEV);
}

export function read(uart: Uart, offset: u32, sizeBytes: u32): u32 {
  if (sizeBytes != 1) return openBus(sizeBytes);
  acquire(uart.address);
  const value = readRegister(uart, offset);
  release(uart.address);
  return value;
}

/**
 * A write to THR returns when the byte is in the ring. Only a guest that ignores THRE can find the ring full; its vCPU
 * then waits inside for the host to take bytes or to freeze the UART, because a serial line loses nothing.
 */
export function write(uart: Uart, offset: u32, sizeBytes: u32, value: u32): void {
  if (sizeBytes != 1) return;
  acquire(uart.address);
  writeRegister(uart, offset, <u8>value);
  release(uart.address);
}

/** How many bytes `receive` would take now. When 0 or used up, EVENT_CHARDEV says when to ask again. */
export function receiveSpace(uart: Uart): u32 {
  acquire(uart.address);
  const space = uart.looped ? 0 : uart.rxCapacity - uart.rxCount;
  release(uart.address);
  return space;
}

/** A byte from the line. Returns 1, or 0 when there was no space: the byte stays the host's. */
export function receive(uart: Uart, byte: u32): u32 {
  acquire(uart.address);
  const accepted = !uart.looped && uart.rxCount < uart.rxCapacity;
  if (accepted) {
    pushReceived(uart, <u8>byte);
    updateIrq(uart);
  }
  release(uart.address);
  return u32(accepted);
}

/** To be called after every taking of bytes from the ring, and after a restore: reports THR empty if it is. */
export function outputDrained(uart: Uart): void {
  acquire(uart.address);
  notifyRoom(ringAddress(uart.ringIndex));
  const status = transmitterStatus(uart);
  if (status != 0 && (uart.lsr & reg.LSR_THRE) == 0) {
    uart.lsr |= status;
    uart.threPending = true;
    updateIrq(uart);
  }
  release(uart.address);
}

/**
 * The vCPUs were asked to park: a write that waits for the host, or would, ends at once with its byte in the ring's
 * reserve, because the host may take nothing until they have parked. When even that is full, the byte is dropped and
 * counted: a vCPU that does not park would cost the guest. To be called after the request, so that no vCPU writes twice.
 */
export function freeze(uart: Uart): void {
  atomic.store<u32>(uart.address, 1, HOST_FROZEN);
  notifyRoom(ringAddress(uart.ringIndex));
}

/** The vCPUs are about to run again. */
export function thaw(uart: Uart): void {
  atomic.store<u32>(uart.address, 0, HOST_FROZEN);
}

function readRegister(uart: Uart, offset: u32): u8 {
  switch (offset) {
    case reg.RBR_THR_DLL:
      return uart.lcr & reg.LCR_DLAB ? <u8>uart.divisor : popReceived(uart);
    case reg.IER_DLM:
      return uart.lcr & reg.LCR_DLAB ? <u8>(uart.divisor >> 8) : uart.ier;
    case reg.IIR_FCR: {
      const cause = interruptCause(uart);
      if (cause == reg.IIR_THR_EMPTY) {
        uart.threPending = false;
        updateIrq(uart);
      }
      return cause | (uart.fifosEnabled ? reg.IIR_FIFOS_ENABLED : 0);
    }
    case reg.LCR:
      return uart.lcr;
    case reg.MCR:
      return uart.mcr;
    case reg.LSR: {
      const status = uart.lsr | (uart.rxCount > 0 ? reg.LSR_DR : 0);
      uart.lsr &= ~reg.LSR_OE;
      updateIrq(uart);
      return status;
    }
    case reg.MSR: {
      const status = uart.msr;
      uart.msr &= ~reg.MSR_DELTAS;
      updateIrq(uart);
      return status;
    }
    case reg.SCR:
      return uart.scr;
    default:
      return 0xff;
  }
}

function writeRegister(uart: Uart, offset: u32, value: u8): void {
  switch (offset) {
    case reg.RBR_THR_DLL:
      if (uart.lcr & reg.LCR_DLAB) uart.divisor = (uart.divisor & 0xff00) | value;
      else transmit(uart, value);
      break;
    case reg.IER_DLM:
      if (uart.lcr & reg.LCR_DLAB) uart.divisor = (uart.divisor & 0x00ff) | (<u16>value << 8);
      else writeIer(uart, value & reg.IER_MASK);
      break;
    case reg.IIR_FCR:
      writeFcr(uart, value);
      break;
    case reg.LCR:
      // Break is not passed on: no back end can express it.
      uart.lcr = value;
      break;
    case reg.MCR:
      writeMcr(uart, value & reg.MCR_MASK);
      break;
    case reg.SCR:
      uart.scr = value;
      break;
    // LSR and MSR are written in factory tests only.
  }
}

/** Drivers start output by enabling ETBEI, and some by disabling and enabling it again: each rising edge interrupts. */
function writeIer(uart: Uart, value: u8): void {
  if ((uart.ier ^ value) & reg.IER_ETBEI) {
    uart.threPending = (value & reg.IER_ETBEI) != 0 && (uart.lsr & reg.LSR_THRE) != 0;
  }
  uart.ier = value;
  updateIrq(uart);
}

function writeFcr(uart: Uart, value: u8): void {
  const toggled = ((uart.fcr ^ value) & reg.FCR_ENABLE) != 0;
  // The other bits are only programmed together with the enable bit.
  uart.fcr = value & reg.FCR_ENABLE ? value & (reg.FCR_ENABLE | reg.FCR_DMA_MODE | reg.FCR_TRIGGER) : 0;
  if (toggled || (value & (reg.FCR_ENABLE | reg.FCR_RECEIVER_RESET)) == (reg.FCR_ENABLE | reg.FCR_RECEIVER_RESET)) {
    uart.rxHead = 0;
    uart.rxCount = 0;
    signal(EVENT_CHARDEV);
  }
  // Resetting the transmitter's FIFO changes nothing: what is in the ring has left the UART.
  updateIrq(uart);
}

function writeMcr(uart: Uart, value: u8): void {
  const wasLooped = uart.looped;
  uart.mcr = value;
  updateModemLines(uart);
  updateIrq(uart);
  if (wasLooped && !uart.looped) signal(EVENT_CHARDEV);
}

/** In loopback the four outputs are wired to the four inputs, and changes interrupt as if they came from outside. */
function updateModemLines(uart: Uart): void {
  let lines = reg.LINES_CONNECTED;
  if (uart.looped) {
    lines =
      (uart.mcr & reg.MCR_RTS ? reg.MSR_CTS : 0) |
      (uart.mcr & reg.MCR_DTR ? reg.MSR_DSR : 0) |
      (uart.mcr & reg.MCR_OUT1 ? reg.MSR_RI : 0) |
      (uart.mcr & reg.MCR_OUT2 ? reg.MSR_DCD : 0);
  }
  const before = uart.msr;
  const changed = (before ^ lines) & ~reg.MSR_DELTAS;
  // RI counts when it ends, the others when they change.
  const deltas = (changed >> 4) & ~(lines & reg.MSR_RI ? reg.MSR_TERI : 0);
  uart.msr = lines | (before & reg.MSR_DELTAS) | deltas;
}

function transmit(uart: Uart, byte: u8): void {
  if (uart.looped) {
    pushReceived(uart, byte);
  } else {
    send(uart, byte);
    signal(EVENT_CHARDEV);
  }
  // THRE falls and rises within this write. An edge-triggered interrupt controller must see the line do so too, or a
  // driver that answers the interrupt by writing, without reading IIR, waits for ever.
  uart.threPending = false;
  updateIrq(uart);
  const status = transmitterStatus(uart);
  uart.lsr = (uart.lsr & ~(reg.LSR_THRE | reg.LSR_TEMT)) | status;
  uart.threPending = status != 0;
  updateIrq(uart);
}

/** Puts a byte into the ring. Gives the lock away while the ring is full. */
function send(uart: Uart, byte: u8): void {
  const ring = ringAddress(uart.ringIndex);
  for (;;) {
    const frozen = atomic.load<u32>(uart.address, HOST_FROZEN) != 0;
    if (push(ring, byte, frozen ? 0 : RING_RESERVE_BYTES)) return;
    if (frozen) {
      uart.droppedBytes++;
      return;
    }
    release(uart.address);
    signal(EVENT_CHARDEV);
    if (!takeOutput(uart.address)) waitForRoom(ring, RING_RESERVE_BYTES);
    acquire(uart.address);
  }
}

/** THRE and TEMT while the ring takes what a driver may write on seeing THRE: a whole FIFO. */
function transmitterStatus(uart: Uart): u8 {
  const room = roomBytes(ringAddress(uart.ringIndex));
  return room >= reg.FIFO_SIZE_BYTES + RING_RESERVE_BYTES ? reg.LSR_THRE | reg.LSR_TEMT : 0;
}

/** A full FIFO keeps what it has; a full receiver buffer register is overwritten. Both report an overrun. */
function pushReceived(uart: Uart, byte: u8): void {
  const capacity = uart.rxCapacity;
  if (uart.rxCount == capacity) {
    uart.lsr |= reg.LSR_OE;
    if (uart.fifosEnabled) return;
    uart.rxCount = 0;
  }
  const index = (uart.rxHead + uart.rxCount) % capacity;
  store<u8>(uart.address + index, byte, FIELD_RX_FIFO_U8X16);
  uart.rxCount++;
}

function popReceived(uart: Uart): u8 {
  if (uart.rxCount == 0) return 0;
  const byte = load<u8>(uart.address + uart.rxHead, FIELD_RX_FIFO_U8X16);
  uart.rxHead = <u8>((uart.rxHead + 1) % uart.rxCapacity);
  uart.rxCount--;
  if (uart.rxCount == 0) {
    signal(EVENT_CHARDEV);
  } else if (uart.fifosEnabled && uart.rxCount < uart.rxTrigger) {
    // Reading ends the character timeout, which then comes anew: an edge for drivers that read byte by byte.
    setLine(uart, 0);
  }
  updateIrq(uart);
  return byte;
}

function interruptCause(uart: Uart): u8 {
  const ier = uart.ier;
  if (ier & reg.IER_ELSI && uart.lsr & reg.LSR_OE) return reg.IIR_LINE_STATUS;
  if (ier & reg.IER_ERBFI && uart.rxCount > 0) {
    return uart.fifosEnabled && uart.rxCount < uart.rxTrigger ? reg.IIR_CHARACTER_TIMEOUT : reg.IIR_DATA_AVAILABLE;
  }
  if (ier & reg.IER_ETBEI && uart.threPending) return reg.IIR_THR_EMPTY;
  if (ier & reg.IER_EDSSI && uart.msr & reg.MSR_DELTAS) return reg.IIR_MODEM_STATUS;
  return reg.IIR_NONE;
}

function updateIrq(uart: Uart): void {
  setLine(uart, interruptCause(uart) == reg.IIR_NONE ? 0 : 1);
}

function setLine(uart: Uart, level: u8): void {
  if (uart.irqLevel == level) return;
  uart.irqLevel = level;
  setIrq(uart.address, level);
}
