// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import * as layout from "../../../assembly/devices/mc146818/layout.ts";
import { EVENT_TIMER } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import { DeviceRig } from "./rig.ts";
import { RtcModel } from "./rtc-model.ts";

const test = describe("mc146818");

const [A, B, C, D, CENTURY] = [0x0a, 0x0b, 0x0c, 0x0d, 0x32];
const [SET, PIE, AIE, UIE, BINARY, H24] = [0x80, 0x40, 0x20, 0x10, 0x04, 0x02];
const [IRQF, PF, AF, UF] = [0x80, 0x40, 0x20, 0x10];
const SECOND = 1_000_000_000n;
const DIVIDER_HELD = 0x70;

/** A clock at `time`, 0 ns into the second. */
function createRtc(time = "2024-02-29T23:59:58Z") {
  const rig = new DeviceRig("mc146818", deviceFields(layout));
  const realtimeNs = BigInt(Date.parse(time)) * 1_000_000n;
  rig.realtimeNs = realtimeNs;
  rig.device.tick(rig.state);
  const read = (index: number): number => {
    rig.write(0, index);
    return rig.read(1);
  };
  read(C);
  rig.takeEvents();
  return {
    rig,
    read,
    write: (index: number, value: number) => {
      rig.write(0, index);
      rig.write(1, value);
    },
    readTime: () => [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(read),
    deadlineNs: () => rig.device.nextDeadlineNs(rig.state),
    /** Lets time pass up to the deadline and one nanosecond short of it. */
    toDeadline: () => {
      const deadlineNs = rig.device.nextDeadlineNs(rig.state);
      assert.ok(deadlineNs > rig.monotonicNs);
      rig.advance(deadlineNs - 1n - rig.monotonicNs);
      rig.device.tick(rig.state);
      assert.is(rig.irqLevel, 0, "not yet");
      rig.advance(1n);
      rig.device.tick(rig.state);
      assert.is(rig.irqLevel, 1);
    },
  };
}

/** Index, value after power-on, bits that keep what is written (with the clock stopped). */
const REGISTERS: [string, number, number, number][] = [
  ["seconds alarm", 1, 0x00, 0xff],
  ["minutes alarm", 3, 0x00, 0xff],
  ["hours alarm", 5, 0x00, 0xff],
  ["A", A, 0x26, 0x7f],
  ["B", B, 0x02, 0xff & ~UIE],
  ["C", C, 0x00, 0x00],
  ["D", D, 0x80, 0x00],
  ["RAM", 0x0e, 0x00, 0xff],
  ["RAM", 0x7f, 0x00, 0xff],
];

test("registers have their power-on values and masks", () => {
  for (const [name, index, value, mask] of REGISTERS) {
    const { read, write } = createRtc();
    assert.is(read(index), value, `${name} after power-on`);
    write(index, 0xff);
    assert.is(read(index), mask === 0 ? value : mask, `${name} with all bits set`);
    write(index, 0x00);
    assert.is(read(index), mask === 0 ? value : 0, `${name} with all bits clear`);
  }
});

test("index port: seven bits, bit 7 is the NMI mask, and it does not read back", () => {
  const { rig, read, write } = createRtc();
  write(0x0e | 0x80, 0x55);
  assert.is(read(0x0e), 0x55);
  assert.is(rig.read(0), 0xff);
});

test("accesses wider than a byte read as all ones and write nothing", () => {
  const { rig, read } = createRtc();
  rig.write(0, 0x0e);
  rig.write(1, 0x5555, 2);
  assert.is(rig.read(1, 2), 0xffff);
  assert.is(read(0x0e), 0);
});

test("time formats: BCD and binary, 24 and 12 hours", () => {
  for (const [time, bcd24, binary24, bcd12, binary12] of [
    ["1999-12-31T00:05:59Z", 0x00, 0, 0x12, 12],
    ["1999-12-31T11:05:59Z", 0x11, 11, 0x11, 11],
    ["1999-12-31T12:05:59Z", 0x12, 12, 0x92, 0x8c],
    ["1999-12-31T23:05:59Z", 0x23, 23, 0x91, 0x8b],
  ] as const) {
    const { readTime, write } = createRtc(time);
    assert.equal(readTime(), [0x19, 0x99, 0x12, 0x31, 6, bcd24, 0x05, 0x59]);
    write(B, H24 | BINARY);
    assert.equal(readTime(), [19, 99, 12, 31, 6, binary24, 5, 59]);
    write(B, 0);
    assert.equal(readTime(), [0x19, 0x99, 0x12, 0x31, 6, bcd12, 0x05, 0x59]);
    write(B, BINARY);
    assert.equal(readTime(), [19, 99, 12, 31, 6, binary12, 5, 59]);
  }
});

test("calendar: carries through leap days, months and centuries", () => {
  for (const [time, expected] of [
    ["2024-02-28T23:59:59Z", [0x20, 0x24, 0x02, 0x29, 5, 0, 0, 0]],
    ["2023-02-28T23:59:59Z", [0x20, 0x23, 0x03, 0x01, 4, 0, 0, 0]],
    ["2000-02-28T23:59:59Z", [0x20, 0x00, 0x02, 0x29, 3, 0, 0, 0]],
    ["2100-02-28T23:59:59Z", [0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0]],
    ["1999-12-31T23:59:59Z", [0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0]],
  ] as const) {
    const { rig, readTime } = createRtc(time);
    rig.advance(SECOND);
    assert.equal(readTime(), expected);
  }
});

test("calendar: agrees with Date at any time", () => {
  const { rig, readTime, write } = createRtc();
  write(B, H24 | BINARY);
  fc.assert(
    fc.property(fc.date({ min: new Date(0), max: new Date("2262-01-01"), noInvalidDate: true }), (date) => {
      rig.realtimeNs = BigInt(date.getTime()) * 1_000_000n;
      const year = date.getUTCFullYear();
      assert.equal(readTime(), [
        Math.floor(year / 100),
        year % 100,
        date.getUTCMonth() + 1,
        date.getUTCDate(),
        date.getUTCDay() + 1,
        date.getUTCHours(),
        date.getUTCMinutes(),
        date.getUTCSeconds(),
      ]);
    }),
  );
});

test("SET: stops the time, keeps what is written, and goes on from there", () => {
  const { rig, readTime, write } = createRtc();
  rig.advance(SECOND / 4n);
  write(B, SET | H24);
  rig.advance(10n * SECOND);
  assert.equal(readTime(), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
  const time = [0x20, 0x30, 0x06, 0x15, 7, 0x12, 0x34, 0x56];
  for (const [at, index] of [CENTURY, 9, 8, 7, 6, 4, 2, 0].entries()) write(index, time[at]!);
  assert.equal(readTime(), time);
  write(B, H24);
  assert.equal(readTime(), time);
  rig.advance((SECOND * 3n) / 4n - 1n);
  assert.equal(readTime(), time);
  rig.advance(1n);
  assert.is(readTime().at(-1), 0x57);
});

test("SET: going high clears UIE, and there are no updates", () => {
  const { rig, read, write, deadlineNs } = createRtc();
  write(B, UIE | H24);
  write(B, SET | UIE | H24);
  assert.is(read(B), SET | H24);
  assert.is(deadlineNs(), -1n);
  rig.advance(5n * SECOND);
  assert.is(read(C), PF, "periods go on");
});

test("time can be set in years that nanoseconds do not reach", () => {
  for (const [century, year] of [
    [0x99, 0x99],
    [0x00, 0x00],
  ] as const) {
    const { rig, read, readTime, write } = createRtc();
    write(B, SET | H24);
    write(CENTURY, century);
    write(9, year);
    write(B, H24);
    rig.advance(2n * SECOND);
    // Year 0 has a 29 February; in 9999 that day is 1 March.
    const expected = year === 0 ? [0x00, 0x00, 0x03, 0x01] : [0x99, 0x99, 0x03, 0x02];
    assert.equal(readTime().slice(0, 4), expected);
    assert.is(read(C) & UF, UF);
  }
});

test("set without SET, the time goes on from the byte written", () => {
  const { rig, read, readTime, write } = createRtc();
  write(4, 0x07);
  rig.advance(SECOND);
  assert.equal(readTime(), [0x20, 0x24, 0x02, 0x29, 5, 0x07, 0x59, 0x59]);
  rig.realtimeNs += 3600n * SECOND;
  assert.is(read(4), 0x08, "it stays an offset to the host's time");
});

test("divider reset: stops time and periods, and the first update comes half a second after", () => {
  const { rig, read, readTime, write, deadlineNs, toDeadline } = createRtc();
  write(B, UIE | PIE | H24);
  rig.advance(SECOND / 10n);
  read(C);
  write(A, DIVIDER_HELD | 0x06);
  assert.is(deadlineNs(), -1n);
  rig.advance(10n * SECOND);
  assert.is(read(C), 0);
  assert.is(readTime().at(-1), 0x58);
  write(B, UIE | H24);
  write(A, 0x26);
  assert.is(deadlineNs(), rig.monotonicNs + SECOND / 2n);
  toDeadline();
  assert.is(readTime().at(-1), 0x59);
});

test("UIP: rises 244 us before an update, while the clock runs", () => {
  const { rig, read, write } = createRtc();
  rig.advance(SECOND - 244_001n);
  assert.is(read(A), 0x26);
  rig.advance(1n);
  assert.is(read(A), 0xa6);
  write(B, SET | H24);
  assert.is(read(A), 0x26);
  write(B, H24);
  rig.advance(244_000n);
  assert.is(read(A), 0x26);
});

test("update-ended interrupt: every second", () => {
  const { rig, read, write, toDeadline } = createRtc();
  rig.advance(SECOND / 3n);
  write(B, UIE | H24);
  assert.is(rig.takeEvents(), EVENT_TIMER);
  for (let second = 0; second < 3; second++) {
    toDeadline();
    assert.is(rig.realtimeNs % SECOND, 0n);
    assert.is(read(C) & (IRQF | UF), IRQF | UF);
    assert.is(rig.irqLevel, 0);
    assert.is(rig.takeEvents(), EVENT_TIMER, "acknowledged, the next one has a deadline");
  }
});

test("periodic interrupt: every rate, on the crystal's grid", () => {
  for (let rate = 1; rate < 16; rate++) {
    const { rig, read, write, deadlineNs, toDeadline } = createRtc();
    const cycles = 1n << BigInt(rate <= 2 ? rate + 6 : rate - 1);
    write(A, 0x20 | rate);
    write(B, PIE | H24);
    const startNs = rig.realtimeNs;
    for (let count = 1n; count <= 40n; count++) {
      toDeadline();
      const exactNs = count * cycles * SECOND;
      assert.is(rig.realtimeNs - startNs, (exactNs + 32767n) / 32768n, `rate ${rate}, interrupt ${count}`);
      assert.is(read(C) & (IRQF | PF), IRQF | PF);
    }
    write(A, 0x20);
    assert.is(deadlineNs(), -1n, "rate 0 is off");
  }
});

test("alarm interrupt: at the time set, with don't-care bytes from 0xc0", () => {
  for (const [alarm, seconds] of [
    [[0x05, 0x30, 0x14], 30n * 60n + 5n],
    [[0x00, 0x00, 0x14], 86400n],
    [[0xff, 0xc0, 0xff], 1n],
    [[0x00, 0xff, 0xff], 60n],
    [[0x30, 0xff, 0xff], 30n],
    [[0x00, 0x00, 0xff], 3600n],
    [[0x00, 0x00, 0x00], 10n * 3600n],
  ] as const) {
    const { rig, read, write, toDeadline } = createRtc("2024-05-05T14:00:00Z");
    for (const [at, byte] of alarm.entries()) write(2 * at + 1, byte);
    write(B, AIE | H24);
    read(C);
    const startNs = rig.realtimeNs;
    toDeadline();
    assert.is(rig.realtimeNs - startNs, seconds * SECOND, `alarm ${alarm}`);
    assert.is(read(C) & (IRQF | AF), IRQF | AF);
  }
});

test("alarm interrupt: bytes that no time has never match", () => {
  const valid = [0x00, 0x00, 0x00];
  for (let at = 0; at < 3; at++) {
    const { read, rig, write, deadlineNs } = createRtc();
    for (const [other, byte] of valid.entries()) write(2 * other + 1, other === at ? 0x7a : byte);
    write(B, AIE | H24);
    assert.is(deadlineNs(), -1n);
    rig.advance(2n * 86400n * SECOND);
    assert.is(read(C), PF | UF);
  }
});

test("alarm: in 12 hour mode the PM bit counts", () => {
  const { rig, write, toDeadline } = createRtc("2024-05-05T00:00:00Z");
  for (const [index, byte] of [
    [1, 0x00],
    [3, 0x00],
    [5, 0x92],
  ] as const) {
    write(index, byte);
  }
  write(B, AIE);
  const startNs = rig.realtimeNs;
  toDeadline();
  assert.is(rig.realtimeNs - startNs, 12n * 3600n * SECOND);
});

test("register C: flags are set without their interrupts, IRQF with them, and reading clears all", () => {
  const { rig, read, write } = createRtc();
  rig.advance(SECOND);
  assert.is(rig.irqLevel, 0);
  write(B, UIE | H24);
  assert.is(rig.irqLevel, 1, "the flag was there before the enable bit");
  assert.is(read(C), IRQF | PF | UF);
  assert.is(read(C), 0);
  assert.is(rig.irqLevel, 0);
});

test("RESET pin: stops interrupts, spares time and RAM", () => {
  const { rig, read, readTime, write } = createRtc();
  write(0x40, 0x77);
  write(4, 0x05);
  write(B, PIE | AIE | UIE | 0x08 | BINARY | H24);
  rig.advance(SECOND);
  rig.device.tick(rig.state);
  assert.is(rig.irqLevel, 1);
  rig.device.reset(rig.state);
  assert.is(rig.irqLevel, 0);
  assert.is(read(B), BINARY | H24);
  assert.is(read(C), 0);
  assert.is(read(0x40), 0x77);
  assert.equal(readTime(), [20, 24, 2, 29, 5, 5, 59, 59]);
});

test("deadline: announced when a write changes it, and only then", () => {
  const { rig, write, deadlineNs } = createRtc();
  assert.is(deadlineNs(), -1n);
  write(0x40, 1);
  write(1, 0x10);
  assert.is(rig.takeEvents(), 0);
  write(B, AIE | H24);
  assert.is(rig.takeEvents(), EVENT_TIMER);
  write(1, 0x11);
  assert.is(rig.takeEvents(), EVENT_TIMER);
  write(0, 0x20);
  assert.is(rig.takeEvents(), EVENT_TIMER, "the time was set");
  write(B, H24);
  assert.is(rig.takeEvents(), EVENT_TIMER);
  assert.is(deadlineNs(), -1n);
});

test("a host clock that is set back does not stop the interrupts", () => {
  const { rig, read, write, deadlineNs, toDeadline } = createRtc();
  write(B, UIE | H24);
  rig.realtimeNs -= 3600n * SECOND;
  assert.is(deadlineNs(), rig.monotonicNs, "the tick is due at once");
  rig.device.tick(rig.state);
  assert.is(read(C) & UF, UF);
  toDeadline();
});

const index = fc.oneof(fc.constantFrom(...[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, A, B, C, D, CENTURY]), fc.nat(0x7f));
const value = fc.oneof(
  fc.constantFrom(0, 1, H24, UIE | H24, AIE | H24, PIE | H24, SET, SET | BINARY, BINARY | H24, 0x2a, 0x2f, 0x70, 0xc0),
  fc.nat(0xff),
);
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("read" as const), index }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("write" as const), index, value }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("advance" as const),
      ns: fc.oneof(fc.bigInt(0n, 3n * SECOND), fc.bigInt(0n, 2_000_000n), fc.bigInt(0n, 200n * SECOND)),
    }),
  },
);
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

function perform(rig: DeviceRig<"mc146818">, action: Step): number[] {
  if (action.kind === "advance") {
    rig.advance(action.ns);
    rig.device.tick(rig.state);
    return [];
  }
  rig.write(0, action.index);
  if (action.kind === "read") return [rig.read(1)];
  rig.write(1, action.value);
  return [];
}

test("behaves like the model in any stream of accesses and times", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const { rig } = createRtc();
      const model = new RtcModel(rig.realtimeNs);
      for (const action of steps) {
        const seen = perform(rig, action);
        if (action.kind === "advance") {
          model.advance(action.ns);
        } else {
          model.index = action.index;
          if (action.kind === "read") assert.equal(seen, [model.read()], `index ${action.index}`);
          else model.write(action.value);
        }
        assert.is(rig.irqLevel, model.irqLevel);
      }
    }),
    { numRuns: 500 },
  );
});

test("the line never rises between deadlines", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const { rig, deadlineNs, toDeadline } = createRtc();
      for (const action of steps) perform(rig, action);
      if (deadlineNs() !== -1n) {
        assert.is(rig.irqLevel, 0);
        toDeadline();
      } else {
        const { irqLevel } = rig;
        rig.advance(2n * 86400n * SECOND);
        rig.device.tick(rig.state);
        assert.is(rig.irqLevel, irqLevel);
      }
    }),
    { numRuns: 300 },
  );
});

test("save, restore, save is byte-identical at any point, and the restored device goes on alike", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.array(step, { maxLength: 40 }), (before, after) => {
      const { rig: source } = createRtc();
      for (const action of before) perform(source, action);
      source.takeEvents();
      const { rig: target } = createRtc("2000-01-01T00:00:00Z");
      target.restoreFrom(source);
      assert.equal(target.save(), source.save());
      for (const action of after) {
        assert.equal(perform(target, action), perform(source, action));
        assert.is(target.irqLevel, source.irqLevel);
        assert.is(target.takeEvents(), source.takeEvents());
      }
      assert.equal(target.save(), source.save());
    }),
    { numRuns: 60 },
  );
});

test.run();
