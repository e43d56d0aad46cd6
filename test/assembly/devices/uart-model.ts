// SPDX-License-Identifier: Apache-2.0
// The 16550A in the words of its data sheet, as slow and as plain as can be: what the device is compared with.

const TRIGGERS = [1, 4, 8, 14];

export class UartModel {
  ier = 0;
  fcr = 0;
  lcr = 0;
  mcr = 0;
  scr = 0;
  divisor = 12;
  overrun = false;
  transmitterEmpty = true;
  transmitterEmptyUnacknowledged = false;
  lines = 0xb0;
  deltas = 0;
  received: number[] = [];
  sent: number[] = [];
  /** Bytes the line takes until the host drains it. */
  room: number;

  constructor(room: number) {
    this.room = room;
  }

  get hasFifos(): boolean {
    return (this.fcr & 1) === 1;
  }

  get capacity(): number {
    return this.hasFifos ? 16 : 1;
  }

  get isLooped(): boolean {
    return (this.mcr & 0x10) !== 0;
  }

  get cause(): number {
    const enabled = (bit: number) => (this.ier & bit) !== 0;
    if (enabled(4) && this.overrun) return 6;
    const isBelowTrigger = this.hasFifos && this.received.length < TRIGGERS[this.fcr >> 6]!;
    if (enabled(1) && this.received.length > 0) return isBelowTrigger ? 12 : 4;
    if (enabled(2) && this.transmitterEmptyUnacknowledged) return 2;
    if (enabled(8) && this.deltas !== 0) return 0;
    return 1;
  }

  get irqLevel(): number {
    return this.cause === 1 ? 0 : 1;
  }

  get receiveSpace(): number {
    return this.isLooped ? 0 : this.capacity - this.received.length;
  }

  receive(byte: number): number {
    if (this.receiveSpace === 0) return 0;
    this.received.push(byte);
    return 1;
  }

  drain(count: number): void {
    this.room += count;
    if (this.room < 16 || this.transmitterEmpty) return;
    this.transmitterEmpty = true;
    this.transmitterEmptyUnacknowledged = true;
  }

  read(offset: number): number {
    const isLatch = (this.lcr & 0x80) !== 0;
    switch (offset) {
      case 0:
        return isLatch ? this.divisor & 0xff : (this.received.shift() ?? 0);
      case 1:
        return isLatch ? this.divisor >> 8 : this.ier;
      case 2: {
        const cause = this.cause;
        if (cause === 2) this.transmitterEmptyUnacknowledged = false;
        return cause | (this.hasFifos ? 0xc0 : 0);
      }
      case 3:
        return this.lcr;
      case 4:
        return this.mcr;
      case 5: {
        const status = (this.received.length > 0 ? 1 : 0) | (this.overrun ? 2 : 0) | (this.transmitterEmpty ? 0x60 : 0);
        this.overrun = false;
        return status;
      }
      case 6: {
        const status = this.lines | this.deltas;
        this.deltas = 0;
        return status;
      }
      default:
        return this.scr;
    }
  }

  write(offset: number, value: number): void {
    const isLatch = (this.lcr & 0x80) !== 0;
    if (offset === 0 && isLatch) this.divisor = (this.divisor & 0xff00) | value;
    else if (offset === 1 && isLatch) this.divisor = (this.divisor & 0xff) | (value << 8);
    else if (offset === 0) this.#transmit(value);
    else if (offset === 1) {
      const rises = (value & ~this.ier & 2) !== 0;
      const falls = (~value & this.ier & 2) !== 0;
      if (rises) this.transmitterEmptyUnacknowledged = this.transmitterEmpty;
      if (falls) this.transmitterEmptyUnacknowledged = false;
      this.ier = value & 0xf;
    } else if (offset === 2) {
      if (((this.fcr ^ value) & 1) !== 0 || (value & 3) === 3) this.received = [];
      this.fcr = (value & 1) === 1 ? value & 0xc9 : 0;
    } else if (offset === 3) this.lcr = value;
    else if (offset === 4) {
      this.mcr = value & 0x1f;
      const outputs = ((value & 2) << 3) | ((value & 1) << 5) | ((value & 0xc) << 4);
      const lines = this.isLooped ? outputs : 0xb0;
      for (const [line, delta] of [
        [0x10, 1],
        [0x20, 2],
        [0x80, 8],
      ] as const) {
        if (((this.lines ^ lines) & line) !== 0) this.deltas |= delta;
      }
      if ((this.lines & ~lines & 0x40) !== 0) this.deltas |= 4;
      this.lines = lines;
    } else if (offset === 7) this.scr = value;
  }

  #transmit(byte: number): void {
    if (!this.isLooped) {
      this.sent.push(byte);
      this.room--;
    } else if (this.received.length < this.capacity) {
      this.received.push(byte);
    } else {
      this.overrun = true;
      if (!this.hasFifos) this.received = [byte];
    }
    this.transmitterEmpty = this.room >= 16;
    this.transmitterEmptyUnacknowledged = this.transmitterEmpty;
  }
}
