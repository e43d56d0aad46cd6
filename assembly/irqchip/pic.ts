// SPDX-License-Identifier: Apache-2.0
// Two 8259A interrupt controllers, as in a PC: the slave's INT is the master's line 2. Everything here is called with the lock.
// Intel 8259A data sheet (order number 231468); ELCR: 82371AB (PIIX4) data sheet, 4.3.
//
// As with KVM, whose state form this is, an edge stays in IRR when its line falls before the acknowledge, and the slave's INT is a short
// pulse each time something changes, so that LAST_IRR has no bit for line 2.
import { IRQCHIP_BASE } from "../layout.ts";
import { raiseLint0 } from "./lapic.ts";
import {
  IRQCHIP_PIC_OUTPUT_I32,
  IRQCHIP_PICS,
  PIC_AUTO_EOI_U8,
  PIC_ELCR_MASK_U8,
  PIC_ELCR_U8,
  PIC_IMR_U8,
  PIC_INIT4_U8,
  PIC_INIT_STATE_U8,
  PIC_IRQ_BASE_U8,
  PIC_IRR_U8,
  PIC_ISR_U8,
  PIC_LAST_IRR_U8,
  PIC_POLL_U8,
  PIC_PRIORITY_ADD_U8,
  PIC_READ_REG_SELECT_U8,
  PIC_ROTATE_ON_AUTO_EOI_U8,
  PIC_SIZE_BYTES,
  PIC_SLAVE,
  PIC_SPECIAL_FULLY_NESTED_MODE_U8,
  PIC_SPECIAL_MASK_U8,
} from "./layout.ts";

const MASTER: usize = IRQCHIP_BASE + IRQCHIP_PICS;
const SLAVE: usize = MASTER + PIC_SLAVE;
/** The master's line that the slave is on. */
const CASCADE: u32 = 2;
/** What an acknowledge gives when there is nothing to acknowledge. */
const SPURIOUS: u32 = 7;
const NONE: u32 = 8;

/** Lines that a PC has as edges whatever the guest says: timer, keyboard, cascade; RTC, coprocessor. */
const MASTER_ELCR_MASK: u8 = 0xf8;
const SLAVE_ELCR_MASK: u8 = 0xde;

const ICW1: u32 = 0x10;
const ICW1_IC4: u32 = 0x01;
const ICW4_AEOI: u32 = 0x02;
const ICW4_SFNM: u32 = 0x10;
const OCW3: u32 = 0x08;
const OCW3_POLL: u32 = 0x04;
const OCW3_RR: u32 = 0x02;
const OCW3_RIS: u32 = 0x01;
const OCW3_ESMM: u32 = 0x40;
const OCW3_SMM: u32 = 0x20;
/** In the byte that a poll reads. */
const POLL_PENDING: u32 = 0x80;

const EXPECTS_OCW1: u32 = 0;
const EXPECTS_ICW2: u32 = 1;
const EXPECTS_ICW3: u32 = 2;
const EXPECTS_ICW4: u32 = 3;

@inline
function get(pic: usize, field: usize): u32 {
  return load<u8>(pic + field);
}

@inline
function set(pic: usize, field: usize, value: u32): void {
  store<u8>(pic + field, <u8>value);
}

export function resetPics(): void {
  memory.fill(MASTER, 0, 2 * PIC_SIZE_BYTES);
  set(MASTER, PIC_ELCR_MASK_U8, MASTER_ELCR_MASK);
  set(SLAVE, PIC_ELCR_MASK_U8, SLAVE_ELCR_MASK);
  update();
}

/** Line 0 to 15. */
export function setPicLine(line: u32, level: bool): void {
  drive(line < 8 ? MASTER : SLAVE, 1 << (line & 7), level);
  update();
}

function drive(pic: usize, bit: u32, level: bool): void {
  const irr = get(pic, PIC_IRR_U8);
  const last = get(pic, PIC_LAST_IRR_U8);
  const isLevel = (get(pic, PIC_ELCR_U8) & bit) != 0;
  if (level && (isLevel || !(last & bit))) set(pic, PIC_IRR_U8, irr | bit);
  if (!level && isLevel) set(pic, PIC_IRR_U8, irr & ~bit);
  set(pic, PIC_LAST_IRR_U8, level ? last | bit : last & ~bit);
}

/** How far the most important of `lines` is from the most important of all; NONE for no lines. */
function priorityOf(pic: usize, lines: u32): u32 {
  if (lines == 0) return NONE;
  const first = get(pic, PIC_PRIORITY_ADD_U8);
  return ctz<u32>(((lines >> first) | (lines << (8 - first))) & 0xff);
}

@inline
function lineOf(pic: usize, priority: u32): u32 {
  return (priority + get(pic, PIC_PRIORITY_ADD_U8)) & 7;
}

/** In special mask mode, levels in service that are masked keep nobody out. */
function inService(pic: usize): u32 {
  const isr = get(pic, PIC_ISR_U8);
  return get(pic, PIC_SPECIAL_MASK_U8) ? isr & ~get(pic, PIC_IMR_U8) : isr;
}

/** The line to be served next, or NONE. */
function pending(pic: usize): u32 {
  const priority = priorityOf(pic, get(pic, PIC_IRR_U8) & ~get(pic, PIC_IMR_U8));
  let served = inService(pic);
  // The slave's lines have priorities among themselves: another one may come while one is in service.
  if (pic == MASTER && get(pic, PIC_SPECIAL_FULLY_NESTED_MODE_U8)) served &= ~(1 << CASCADE);
  return priority < priorityOf(pic, served) ? lineOf(pic, priority) : NONE;
}

/** The outputs follow from all else. */
function update(): void {
  if (pending(SLAVE) != NONE) {
    drive(MASTER, 1 << CASCADE, true);
    drive(MASTER, 1 << CASCADE, false);
  }
  updateOutput();
}

function updateOutput(): void {
  const output = i32(pending(MASTER) != NONE);
  if (atomic.xchg<i32>(IRQCHIP_BASE, output, IRQCHIP_PIC_OUTPUT_I32) < output) raiseLint0();
}

/** After the state was set from outside. */
export function restorePics(): void {
  atomic.store<i32>(IRQCHIP_BASE, 0, IRQCHIP_PIC_OUTPUT_I32);
  update();
}

/** INTA: the vector. Nobody asks in vain: if there is nothing, it is the spurious one. */
export function acknowledgePics(): u32 {
  let vector: u32;
  const line = pending(MASTER);
  if (line == NONE) vector = get(MASTER, PIC_IRQ_BASE_U8) + SPURIOUS;
  else {
    serve(MASTER, line);
    vector = get(MASTER, PIC_IRQ_BASE_U8) + line;
    if (line == CASCADE) {
      const slaveLine = pending(SLAVE);
      if (slaveLine != NONE) serve(SLAVE, slaveLine);
      vector = get(SLAVE, PIC_IRQ_BASE_U8) + (slaveLine == NONE ? SPURIOUS : slaveLine);
    }
  }
  update();
  return vector;
}

/** From requested to in service. A level stays requested as long as the line is up. */
function serve(pic: usize, line: u32): void {
  const bit: u32 = 1 << line;
  if (!(get(pic, PIC_ELCR_U8) & bit)) set(pic, PIC_IRR_U8, get(pic, PIC_IRR_U8) & ~bit);
  if (!get(pic, PIC_AUTO_EOI_U8)) set(pic, PIC_ISR_U8, get(pic, PIC_ISR_U8) | bit);
  else if (get(pic, PIC_ROTATE_ON_AUTO_EOI_U8)) set(pic, PIC_PRIORITY_ADD_U8, (line + 1) & 7);
}

/** Ports 20, 21, A0, A1, 4D0 and 4D1. */
export function readPic(port: u32): u32 {
  if (port >= 0x4d0) return get(port & 1 ? SLAVE : MASTER, PIC_ELCR_U8);
  const pic = port & 0x80 ? SLAVE : MASTER;
  if (get(pic, PIC_POLL_U8)) return poll(pic);
  if (port & 1) return get(pic, PIC_IMR_U8);
  return get(pic, get(pic, PIC_READ_REG_SELECT_U8) ? PIC_ISR_U8 : PIC_IRR_U8);
}

/** The read after a poll command is an acknowledge. */
function poll(pic: usize): u32 {
  set(pic, PIC_POLL_U8, 0);
  const line = pending(pic);
  if (line == NONE) return SPURIOUS;
  serve(pic, line);
  // The slave's INT falls; if it has more, it rises again.
  if (pic == SLAVE) set(MASTER, PIC_IRR_U8, get(MASTER, PIC_IRR_U8) & ~(1 << CASCADE));
  update();
  return POLL_PENDING | line;
}

export function writePic(port: u32, value: u32): void {
  const pic = port >= 0x4d0 ? (port & 1 ? SLAVE : MASTER) : port & 0x80 ? SLAVE : MASTER;
  if (port < 0x4d0 && (port & 1 ? get(pic, PIC_INIT_STATE_U8) != EXPECTS_OCW1 : (value & ICW1) != 0)) {
    if (port & 1) continueInitialization(pic, value);
    else initialize(pic, value);
    // To the master, the slave's request of before is no edge.
    updateOutput();
    return;
  }
  if (port >= 0x4d0) set(pic, PIC_ELCR_U8, value & get(pic, PIC_ELCR_MASK_U8));
  else if (port & 1) set(pic, PIC_IMR_U8, value);
  else if (value & OCW3) writeOcw3(pic, value);
  else writeOcw2(pic, value);
  update();
}

/** ICW1. Edges have to come anew; levels, and which lines are levels, stay. */
function initialize(pic: usize, value: u32): void {
  set(pic, PIC_LAST_IRR_U8, 0);
  set(pic, PIC_IRR_U8, get(pic, PIC_IRR_U8) & get(pic, PIC_ELCR_U8));
  set(pic, PIC_IMR_U8, 0);
  set(pic, PIC_ISR_U8, 0);
  set(pic, PIC_PRIORITY_ADD_U8, 0);
  set(pic, PIC_SPECIAL_MASK_U8, 0);
  set(pic, PIC_READ_REG_SELECT_U8, 0);
  set(pic, PIC_POLL_U8, 0);
  set(pic, PIC_ROTATE_ON_AUTO_EOI_U8, 0);
  set(pic, PIC_INIT4_U8, value & ICW1_IC4);
  if (!(value & ICW1_IC4)) {
    set(pic, PIC_SPECIAL_FULLY_NESTED_MODE_U8, 0);
    set(pic, PIC_AUTO_EOI_U8, 0);
  }
  set(pic, PIC_INIT_STATE_U8, EXPECTS_ICW2);
}

function writeOcw2(pic: usize, value: u32): void {
  const line = value & 7;
  const isr = get(pic, PIC_ISR_U8);
  switch (value >> 5) {
    case 0:
    case 4:
      set(pic, PIC_ROTATE_ON_AUTO_EOI_U8, value >> 7);
      break;
    // Non-specific EOI, and with rotation.
    case 1:
    case 5: {
      const priority = priorityOf(pic, inService(pic));
      if (priority == NONE) break;
      const served = lineOf(pic, priority);
      set(pic, PIC_ISR_U8, isr & ~(1 << served));
      if (value >> 7) set(pic, PIC_PRIORITY_ADD_U8, (served + 1) & 7);
      break;
    }
    // Specific EOI, and with rotation.
    case 3:
    case 7:
      set(pic, PIC_ISR_U8, isr & ~(1 << line));
      if (value >> 7) set(pic, PIC_PRIORITY_ADD_U8, (line + 1) & 7);
      break;
    case 6:
      set(pic, PIC_PRIORITY_ADD_U8, (line + 1) & 7);
      break;
    default:
      break;
  }
}

function writeOcw3(pic: usize, value: u32): void {
  if (value & OCW3_POLL) set(pic, PIC_POLL_U8, 1);
  if (value & OCW3_RR) set(pic, PIC_READ_REG_SELECT_U8, value & OCW3_RIS);
  if (value & OCW3_ESMM) set(pic, PIC_SPECIAL_MASK_U8, u32((value & OCW3_SMM) != 0));
}

function continueInitialization(pic: usize, value: u32): void {
  switch (get(pic, PIC_INIT_STATE_U8)) {
    case EXPECTS_ICW2:
      set(pic, PIC_IRQ_BASE_U8, value & 0xf8);
      set(pic, PIC_INIT_STATE_U8, EXPECTS_ICW3);
      break;
    // Where the slave is, is wired.
    case EXPECTS_ICW3:
      set(pic, PIC_INIT_STATE_U8, get(pic, PIC_INIT4_U8) ? EXPECTS_ICW4 : EXPECTS_OCW1);
      break;
    default:
      set(pic, PIC_SPECIAL_FULLY_NESTED_MODE_U8, u32((value & ICW4_SFNM) != 0));
      set(pic, PIC_AUTO_EOI_U8, u32((value & ICW4_AEOI) != 0));
      set(pic, PIC_INIT_STATE_U8, EXPECTS_OCW1);
      break;
  }
}
