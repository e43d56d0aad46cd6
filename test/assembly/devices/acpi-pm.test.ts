// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import * as layout from "../../../assembly/devices/acpi-pm/layout.ts";
import { EVENT_RESET, EVENT_SHUTDOWN, EVENT_SUSPEND, EVENT_TIMER } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import { DeviceRig } from "./rig.ts";

const test = describe("acpi-pm");

const { PM1A_CNT_OFFSET: CNT, PM_TMR_OFFSET: TMR, RESET_OFFSET: RESET, RESET_VALUE } = layout;
const [STS, EN] = [layout.PM1A_EVT_OFFSET, layout.PM1A_EVT_OFFSET + 2];
const [GPE_STS, GPE_EN] = [layout.GPE0_OFFSET, layout.GPE0_OFFSET + 2];
const [TMR_STS, PWRBTN, WAK] = [0x0001, 0x0100, 0x8000];
const [SCI_EN, SLP_EN] = [0x0001, 0x2000];
const SECOND = 1_000_000_000n;
const FREQUENCY_HZ = BigInt(layout.PM_TMR_FREQUENCY_HZ);
const HALF_PERIOD_TICKS = 1n << 31n;

function createPm(): DeviceRig<"acpi-pm"> {
  return new DeviceRig("acpi-pm", deviceFields(layout));
}

/** First nanosecond at which the timer has counted `ticks`. */
function nsOfTicks(ticks: bigint): bigint {
  return (ticks * SECOND + FREQUENCY_HZ - 1n) / FREQUENCY_HZ;
}

/** Offset, size, value after reset, bits that keep what is written. */
const REGISTERS: [string, number, number, number, number][] = [
  ["PM1_STS", STS, 2, 0, 0],
  ["PM1_EN", EN, 2, 0, 0x0721],
  ["PM_TMR", TMR, 4, 0, 0],
  ["RESET", RESET, 1, 0, 0x0a],
  ["GPE0_STS", GPE_STS, 2, 0, 0],
  ["GPE0_EN", GPE_EN, 2, 0, 0xffff],
];

test("registers have their reset values and masks", () => {
  for (const [name, offset, sizeBytes, resetValue, mask] of REGISTERS) {
    const pm = createPm();
    assert.is(pm.read(offset, sizeBytes), resetValue, `${name} after reset`);
    pm.write(offset, 0xffff_ffff, sizeBytes);
    assert.is(pm.read(offset, sizeBytes), mask, `${name} with all bits set`);
    pm.write(offset, 0, sizeBytes);
    assert.is(pm.read(offset, sizeBytes), 0, `${name} with all bits clear`);
  }
});

test("PM1 control: SCI_EN is always set, SLP_EN reads as 0", () => {
  const pm = createPm();
  assert.is(pm.read(CNT, 2), SCI_EN);
  pm.write(CNT, 0x0000, 2);
  assert.is(pm.read(CNT, 2), SCI_EN);
  pm.write(CNT, 0x7c06, 2);
  assert.is(pm.read(CNT, 2), 0x1c03);
});

test("the FADT's blocks lie apart and in the block", () => {
  const blocks = [
    [layout.PM1A_EVT_OFFSET, layout.PM1A_EVT_LENGTH_BYTES],
    [layout.PM1A_CNT_OFFSET, layout.PM1A_CNT_LENGTH_BYTES],
    [layout.PM_TMR_OFFSET, layout.PM_TMR_LENGTH_BYTES],
    [layout.RESET_OFFSET, 1],
    [layout.GPE0_OFFSET, layout.GPE0_LENGTH_BYTES],
  ] as const;
  let end = 0;
  for (const [offset, sizeBytes] of blocks) {
    assert.ok(offset >= end);
    end = offset + sizeBytes;
  }
  assert.is(end, layout.PM_BLOCK_SIZE_BYTES);
});

test("accesses: any part of a register, nothing beyond it", () => {
  const pm = createPm();
  pm.write(EN, 0x01);
  pm.write(EN + 1, 0x05);
  assert.is(pm.read(EN, 2), 0x0501);
  assert.is(pm.read(STS, 4), 0x0501_0000);
  pm.write(STS, 0x0100_0000, 4);
  assert.is(pm.read(EN, 2), 0x0100);
  pm.advance(SECOND);
  assert.is(pm.read(TMR + 1, 2), (layout.PM_TMR_FREQUENCY_HZ >> 8) & 0xffff);
  assert.is(pm.read(CNT + 2, 2), 0xffff);
  for (const [offset, sizeBytes, ones] of [
    [STS + 2, 4, 0xffff_ffff],
    [STS + 3, 2, 0xffff],
    [STS, 3, 0xff_ffff],
    [layout.PM_BLOCK_SIZE_BYTES, 1, 0xff],
    [0xffff_fffc, 4, 0xffff_ffff],
  ] as const) {
    const before = pm.save();
    pm.write(offset, 0xffff_ffff, sizeBytes);
    assert.is(pm.read(offset, sizeBytes), ones);
    assert.equal(pm.save(), before);
  }
});

test("sleep: S5 shuts down, S3 suspends, other types and a type without SLP_EN do nothing", () => {
  for (let type = 0; type < 8; type++) {
    const pm = createPm();
    pm.write(CNT, type << 10, 2);
    assert.is(pm.takeEvents(), 0);
    pm.write(CNT, (type << 10) | SLP_EN, 2);
    const expected = type === layout.SLP_TYP_S5 ? EVENT_SHUTDOWN : type === layout.SLP_TYP_S3 ? EVENT_SUSPEND : 0;
    assert.is(pm.takeEvents(), expected);
    pm.write(CNT, (type << 2) | (SLP_EN >> 8), 1);
    assert.is(pm.takeEvents(), 0, "the low byte has no sleep bits");
    pm.write(CNT + 1, (type << 2) | (SLP_EN >> 8), 1);
    assert.is(pm.takeEvents(), expected);
  }
});

test("sleep: QEMU's power-off value works", () => {
  const pm = createPm();
  pm.write(CNT, 0x2000, 2);
  assert.is(pm.takeEvents(), EVENT_SHUTDOWN);
});

test("power button: sets a status that is cleared by writing 1, and the SCI while enabled", () => {
  const pm = createPm();
  pm.device.powerButton(pm.state);
  assert.is(pm.read(STS, 2), PWRBTN);
  assert.is(pm.irqLevel, 0);
  pm.write(EN, PWRBTN, 2);
  assert.is(pm.irqLevel, 1);
  pm.write(STS, WAK | TMR_STS, 2);
  assert.is(pm.irqLevel, 1, "other bits were cleared");
  pm.write(STS, PWRBTN, 2);
  assert.is(pm.irqLevel, 0);
  assert.is(pm.read(STS, 2), 0);
  pm.device.powerButton(pm.state);
  pm.write(EN, 0, 2);
  assert.equal(pm.takeIrqHistory(), [1, 0, 1, 0]);
});

test("wake-up: sets the wake status, which never interrupts", () => {
  const pm = createPm();
  pm.write(EN, 0xffff, 2);
  pm.device.wakeUp(pm.state);
  assert.is(pm.read(STS, 2), WAK);
  assert.is(pm.irqLevel, 0);
  pm.write(STS, WAK, 2);
  assert.is(pm.read(STS, 2), 0);
});

test("GPE0: 16 events with status and enable", () => {
  const pm = createPm();
  pm.device.raiseGpe(pm.state, 16);
  assert.is(pm.read(GPE_STS, 2), 0);
  for (let gpe = 0; gpe < 16; gpe++) {
    pm.device.raiseGpe(pm.state, gpe);
    assert.is(pm.read(GPE_STS, 2), 1 << gpe);
    assert.is(pm.irqLevel, 0);
    pm.write(GPE_EN, 1 << gpe, 2);
    assert.is(pm.irqLevel, 1);
    pm.write(GPE_STS, 1 << gpe, 2);
    assert.is(pm.irqLevel, 0);
  }
});

test("reset register: resets with RST_CPU", () => {
  const pm = createPm();
  pm.write(RESET, 0x02);
  assert.is(pm.takeEvents(), 0);
  pm.write(RESET, RESET_VALUE);
  assert.is(pm.takeEvents(), EVENT_RESET);
  assert.is(pm.read(RESET), 0x02);
  pm.write(RESET + 1, RESET_VALUE);
  assert.is(pm.takeEvents(), 0);
});

test("PM timer: counts 3.579545 MHz from reset in 32 bits", () => {
  const pm = createPm();
  fc.assert(
    fc.property(fc.bigInt(0n, 1n << 60n), (ns) => {
      pm.device.reset(pm.state);
      pm.advance(ns);
      assert.is(pm.read(TMR, 4), Number(((ns * FREQUENCY_HZ) / SECOND) & 0xffff_ffffn));
      pm.monotonicNs -= ns;
    }),
  );
});

test("PM timer: TMR_STS is set each time the top bit changes", () => {
  const pm = createPm();
  for (let toggles = 1n; toggles <= 4n; toggles++) {
    pm.advance(nsOfTicks(toggles * HALF_PERIOD_TICKS) - nsOfTicks((toggles - 1n) * HALF_PERIOD_TICKS) - 1n);
    assert.is(pm.read(STS, 2), 0);
    pm.advance(1n);
    assert.is(pm.read(STS, 2), TMR_STS);
    assert.is(pm.read(TMR, 4), Number((toggles * HALF_PERIOD_TICKS) & 0xffff_ffffn));
    pm.write(STS, TMR_STS, 2);
    assert.is(pm.read(STS, 2), 0);
  }
});

test("PM timer: TMR_EN has a deadline, which is announced", () => {
  const pm = createPm();
  const deadlineNs = () => pm.device.nextDeadlineNs(pm.state);
  const startNs = pm.monotonicNs;
  assert.is(deadlineNs(), -1n);
  pm.write(EN, TMR_STS, 2);
  assert.is(pm.takeEvents(), EVENT_TIMER);
  assert.is(deadlineNs(), startNs + nsOfTicks(HALF_PERIOD_TICKS));
  pm.monotonicNs = deadlineNs() - 1n;
  pm.device.tick(pm.state);
  assert.is(pm.irqLevel, 0);
  pm.monotonicNs += 1n;
  pm.device.tick(pm.state);
  assert.is(pm.irqLevel, 1);
  assert.is(deadlineNs(), -1n);
  pm.write(STS, TMR_STS, 2);
  assert.is(pm.irqLevel, 0);
  assert.is(pm.takeEvents(), EVENT_TIMER);
  assert.is(deadlineNs(), startNs + nsOfTicks(2n * HALF_PERIOD_TICKS));
});

test("PM timer: goes on over a restore", () => {
  const source = createPm();
  source.advance(12_345n * SECOND);
  const target = createPm();
  target.restoreFrom(source);
  source.advance(SECOND);
  target.advance(SECOND);
  assert.is(target.read(TMR, 4), source.read(TMR, 4));
});

/** The block as the specification's tables have it. */
class PmModel {
  sts = 0;
  en = 0;
  cnt = SCI_EN;
  gpeSts = 0;
  gpeEn = 0;
  resetControl = 0;
  ageNs = 0n;

  get ticks(): bigint {
    return (this.ageNs * FREQUENCY_HZ) / SECOND;
  }

  get irqLevel(): number {
    return (this.sts & this.en) !== 0 || (this.gpeSts & this.gpeEn) !== 0 ? 1 : 0;
  }

  advance(ns: bigint): void {
    const before = this.ticks;
    this.ageNs += ns;
    if (before >> 31n !== this.ticks >> 31n) this.sts |= TMR_STS;
  }

  #words(): number[] {
    const timer = Number(this.ticks & 0xffff_ffffn);
    return [this.sts, this.en, this.cnt, 0xffff, timer & 0xffff, timer >>> 16, 0xff00 | this.resetControl, 0xffff];
  }

  read(offset: number): number {
    return [...this.#words(), this.gpeSts, this.gpeEn][offset >> 1]!;
  }

  /** Returns the events. */
  write(offset: number, value: number): number {
    switch (offset) {
      case 0x00:
        this.sts &= ~value;
        return 0;
      case 0x02:
        this.en = value & 0x0721;
        return 0;
      case 0x04: {
        this.cnt = (value & 0x1c02) | SCI_EN;
        const type = (value >> 10) & 7;
        return (value & SLP_EN) === 0 ? 0 : type === 0 ? EVENT_SHUTDOWN : type === 1 ? EVENT_SUSPEND : 0;
      }
      case 0x0c:
        this.resetControl = value & 0x0a;
        return (value & 4) !== 0 ? EVENT_RESET : 0;
      case 0x10:
        this.gpeSts &= ~value;
        return 0;
      case 0x12:
        this.gpeEn = value;
        return 0;
      default:
        return 0;
    }
  }
}

const offset = fc.nat(layout.PM_BLOCK_SIZE_BYTES / 2 - 1).map((word) => word * 2);
const step = fc.oneof(
  fc.record({ kind: fc.constant("read" as const), offset }),
  fc.record({ kind: fc.constant("write" as const), offset, value: fc.nat(0xffff) }),
  fc.record({ kind: fc.constant("button" as const) }),
  fc.record({ kind: fc.constant("wake" as const) }),
  fc.record({ kind: fc.constant("gpe" as const), gpe: fc.nat(15) }),
  fc.record({ kind: fc.constant("advance" as const), ns: fc.bigInt(0n, 900n * SECOND) }),
);
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

function perform(pm: DeviceRig<"acpi-pm">, action: Step): number {
  switch (action.kind) {
    case "read":
      return pm.read(action.offset, 2);
    case "write":
      pm.write(action.offset, action.value, 2);
      break;
    case "button":
      pm.device.powerButton(pm.state);
      break;
    case "wake":
      pm.device.wakeUp(pm.state);
      break;
    case "gpe":
      pm.device.raiseGpe(pm.state, action.gpe);
      break;
    case "advance":
      pm.advance(action.ns);
      pm.device.tick(pm.state);
      break;
  }
  return pm.takeEvents() & ~EVENT_TIMER;
}

test("behaves like the model in any stream of accesses, events and times", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const pm = createPm();
      const model = new PmModel();
      for (const action of steps) {
        const seen = perform(pm, action);
        if (action.kind === "read") assert.is(seen, model.read(action.offset));
        else if (action.kind === "write") assert.is(seen, model.write(action.offset, action.value));
        else if (action.kind === "button") model.sts |= PWRBTN;
        else if (action.kind === "wake") model.sts |= WAK;
        else if (action.kind === "gpe") model.gpeSts |= 1 << action.gpe;
        else model.advance(action.ns);
        assert.is(pm.irqLevel, model.irqLevel);
      }
    }),
    { numRuns: 300 },
  );
});

test("save, restore, save is byte-identical at any point, and the restored device goes on alike", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.array(step, { maxLength: 40 }), (before, after) => {
      const source = createPm();
      for (const action of before) perform(source, action);
      const target = createPm();
      target.restoreFrom(source);
      assert.equal(target.save(), source.save());
      for (const action of after) {
        assert.is(perform(target, action), perform(source, action));
        assert.is(target.irqLevel, source.irqLevel);
        assert.is(target.device.nextDeadlineNs(target.state), source.device.nextDeadlineNs(source.state));
      }
      assert.equal(target.save(), source.save());
    }),
    { numRuns: 60 },
  );
});

test.run();
