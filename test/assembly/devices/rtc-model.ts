// SPDX-License-Identifier: Apache-2.0
// The MC146818 in the words of its data sheet, every second and every period walked through, with Date as its calendar.

const NS = 1_000_000_000n;
const TIME_INDICES = [0, 2, 4, 6, 7, 8, 9, 0x32];

function floorDiv(dividend: bigint, divisor: bigint): bigint {
  return dividend / divisor - (dividend % divisor < 0n ? 1n : 0n);
}

/** Of years before 0 as well: whatever bytes a guest writes, they are some year. */
function lastTwoDigits(value: number): number {
  return ((value % 100) + 100) % 100;
}

export class RtcModel {
  readonly cmos = new Array<number>(128).fill(0);
  index = 0;
  /** The guest's time, in nanoseconds since 1970. While stopped only the phase within the second counts. */
  clockNs: bigint;

  get #second(): bigint {
    return floorDiv(this.clockNs, NS);
  }

  get #phaseNs(): bigint {
    return this.clockNs - this.#second * NS;
  }

  constructor(realtimeNs: bigint) {
    this.clockNs = realtimeNs;
    this.cmos[0x0a] = 0x26;
    this.cmos[0x0b] = 0x02;
    this.cmos[0x0d] = 0x80;
  }

  get #isHeld(): boolean {
    return ((this.cmos[0x0a]! >> 4) & 7) > 2;
  }

  get isStopped(): boolean {
    return (this.cmos[0x0b]! & 0x80) !== 0 || this.#isHeld;
  }

  get irqLevel(): number {
    return (this.cmos[0x0b]! & this.cmos[0x0c]! & 0x70) !== 0 ? 1 : 0;
  }

  advance(ns: bigint): void {
    const before = this.clockNs;
    if (this.#isHeld) return;
    this.clockNs += ns;
    const rate = this.cmos[0x0a]! & 0xf;
    if (rate !== 0) {
      const cycles = 1n << BigInt(rate <= 2 ? rate + 6 : rate - 1);
      const periods = (clockNs: bigint) => floorDiv(clockNs * 32768n, NS * cycles);
      if (periods(before) !== periods(this.clockNs)) this.cmos[0x0c]! |= 0x40;
    }
    if (this.isStopped) return;
    for (let second = floorDiv(before, NS) + 1n; second <= this.#second; second++) {
      this.cmos[0x0c]! |= 0x10;
      const time = this.#timeBytes(second);
      const isAlarm = [0, 2, 4].every((at) => this.cmos[at + 1]! >= 0xc0 || this.cmos[at + 1] === time.get(at));
      if (isAlarm) this.cmos[0x0c]! |= 0x20;
    }
  }

  read(): number {
    const index = this.index;
    if (index === 0x0a) {
      const isUpdating = !this.isStopped && this.#phaseNs >= NS - 244_000n;
      return this.cmos[index]! | (isUpdating ? 0x80 : 0);
    }
    if (index === 0x0c) {
      const flags = this.cmos[index]! | (this.irqLevel << 7);
      this.cmos[index] = 0;
      return flags;
    }
    if (TIME_INDICES.includes(index) && !this.isStopped) return this.#timeBytes(this.#second).get(index)!;
    return this.cmos[index]!;
  }

  write(value: number): void {
    const index = this.index;
    if (index === 0x0c || index === 0x0d) return;
    const wasStopped = this.isStopped;
    const wasHeld = this.#isHeld;
    if (!wasStopped) {
      for (const [at, byte] of this.#timeBytes(this.#second)) this.cmos[at] = byte;
    }
    if (index === 0x0a) this.cmos[index] = value & 0x7f;
    else if (index === 0x0b) this.cmos[index] = (value & 0x80) !== 0 ? value & 0xef : value;
    else this.cmos[index] = value;
    if (wasHeld && !this.#isHeld) this.clockNs = this.#second * NS + NS / 2n;
    const isSet = TIME_INDICES.includes(index) || (wasStopped && (index === 0x0a || index === 0x0b));
    if (isSet && !this.isStopped) this.clockNs = this.#secondOfBytes() * NS + this.#phaseNs;
  }

  #encode(value: number): number {
    return (this.cmos[0x0b]! & 4) !== 0 ? value : Number.parseInt(String(value), 16);
  }

  #decode(byte: number): number {
    return (this.cmos[0x0b]! & 4) !== 0 ? byte : (byte >> 4) * 10 + (byte & 15);
  }

  #timeBytes(second: bigint): Map<number, number> {
    const date = new Date(Number(second) * 1000);
    const hour = date.getUTCHours();
    const hourByte =
      (this.cmos[0x0b]! & 2) !== 0 ? this.#encode(hour) : this.#encode(hour % 12 || 12) | (hour < 12 ? 0 : 0x80);
    return new Map([
      [0, this.#encode(date.getUTCSeconds())],
      [2, this.#encode(date.getUTCMinutes())],
      [4, hourByte],
      [6, this.#encode(date.getUTCDay() + 1)],
      [7, this.#encode(date.getUTCDate())],
      [8, this.#encode(date.getUTCMonth() + 1)],
      [9, this.#encode(lastTwoDigits(date.getUTCFullYear()))],
      [0x32, this.#encode(lastTwoDigits(Math.floor(date.getUTCFullYear() / 100)))],
    ]);
  }

  #secondOfBytes(): bigint {
    const [second, minute, hour, , day, month, year, century] = TIME_INDICES.map((at) => this.cmos[at]!);
    const isTwelveHour = (this.cmos[0x0b]! & 2) === 0;
    const hours = isTwelveHour
      ? (this.#decode(hour! & 0x7f) % 12) + ((hour! & 0x80) !== 0 ? 12 : 0)
      : this.#decode(hour!);
    const date = new Date(0);
    date.setUTCFullYear(this.#decode(century!) * 100 + this.#decode(year!), this.#decode(month!) - 1, 1);
    const ofDay = hours * 3600 + this.#decode(minute!) * 60 + this.#decode(second!);
    return BigInt(date.getTime() / 1000 + (this.#decode(day!) - 1) * 86400 + ofDay);
  }
}
