// SPDX-License-Identifier: Apache-2.0
// All clocks of a guest on real KVM, from one boot of the host to another: they go on together, by what passed in the world.
import {
  PM_BLOCK_SIZE_BYTES,
  PM_TMR_FREQUENCY_HZ,
  PM_TMR_OFFSET,
} from "../../../../assembly/devices/acpi-pm/layout.ts";
import { DEVICE_BASE, RAM_ALIGNMENT_BYTES, RAM_MIN_BASE } from "../../../../assembly/layout.ts";
import { monotonicNs } from "../../../../ffi/clock.ts";
import * as abi from "../../../../ffi/kvm/abi.ts";
import { KvmSystem } from "../../../../ffi/kvm/kvm.ts";
import { alignOffset } from "../../../../ffi/mmap.ts";
import { KvmAcceleratedVm } from "../../../../src/accel/kvm/vm.ts";
import { ACCELERATOR_SECTIONS } from "../../../../src/accel/state/sections.ts";
import { TSC_SECTION, ticksOfNs } from "../../../../src/accel/state/tsc.ts";
import { VCPU_SECTION } from "../../../../src/accel/state/vcpu-state.ts";
import { KVMCLOCK_SECTION } from "../../../../src/accel/state/vm-state.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { ACPI_PM_IO_BASE } from "../../../../src/machine/board.ts";
import {
  CLOCK_ORIGIN_SECTION,
  decodeHostTime,
  encodeHostTime,
  type HostTime,
} from "../../../../src/machine/clock-origin.ts";
import { DEVICE_SECTIONS, DeviceSet } from "../../../../src/machine/device-set.ts";
import type { DeviceInstance } from "../../../../src/machine/device-table.ts";
import { IoBus } from "../../../../src/machine/io-bus.ts";
import { createMemory } from "../../../../src/memory/ram.ts";
import { StateReader } from "../../../../src/state/reader.ts";
import { bindAll, StateWriter } from "../../../../src/state/writer.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { kvmMissing, tscOffsetMissing } from "../../../kvm.ts";

const test = describe("clocks on KVM");
const skip = kvmMissing();
const skipTsc = skip ?? tscOffsetMissing();

const KNOWN = { ...ACCELERATOR_SECTIONS, ...DEVICE_SECTIONS };
const SECOND = 1_000_000_000n;
/** How exact the clocks are to each other while a test runs. */
const TOLERANCE_NS = 5_000_000n;

const RAM_SIZE_BYTES = 1 << 20;
const PM: DeviceInstance = {
  module: "acpi-pm",
  instance: 0,
  state: DEVICE_BASE,
  ioBase: ACPI_PM_IO_BASE,
  ioSizeBytes: PM_BLOCK_SIZE_BYTES,
};

/** A VM of two vCPUs and a PM timer that never runs. */
class Rig implements AsyncDisposable {
  readonly memory = createMemory(RAM_SIZE_BYTES);
  readonly accel = new KvmAcceleratedVm({
    memory: this.memory,
    ramBase: alignOffset(new Uint8Array(this.memory.buffer), RAM_MIN_BASE, RAM_ALIGNMENT_BYTES),
    ramSizeBytes: RAM_SIZE_BYTES,
    cpuCount: 2,
    cpu: { topology: { sockets: 1, cores: 2, threads: 1 }, features: {} },
    devices: [PM],
    onVcpuError: (_, message) => assert.unreachable(message),
  });
  readonly devices = new DeviceSet(this.memory, [PM], () => {});
  readonly #bus = new IoBus(this.memory, [PM], () => {});

  saveImage(): Uint8Array {
    const writer = new StateWriter();
    const bind = bindAll([this.accel.planState(writer), this.devices.planState(writer)]);
    writer.lay();
    bind()();
    return writer.seal();
  }

  save(): StateReader {
    return new StateReader(this.saveImage(), KNOWN);
  }

  restore(reader: StateReader): void {
    this.devices.restoreState(reader);
    this.accel.restoreState(reader);
  }

  pmTicks(): number {
    return this.#bus.read(ACPI_PM_IO_BASE + PM_TMR_OFFSET, 4) >>> 0;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.accel.close();
  }
}

function viewOf(reader: StateReader, section: string, part: string, instance = 0): DataView {
  const bytes = reader.section(section, instance).part(part);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const kvmclock = (reader: StateReader): bigint => viewOf(reader, KVMCLOCK_SECTION, "clock").getBigUint64(0, true);
const frequency = (reader: StateReader): DataView => viewOf(reader, TSC_SECTION, "frequency");
const TSC_VALUE = abi.KVM_MSRS_HEADER_SIZE_BYTES + 8;
const tsc = (reader: StateReader): bigint => viewOf(reader, TSC_SECTION, "msr").getBigUint64(TSC_VALUE, true);
const offset = (reader: StateReader, vcpu: number): bigint =>
  viewOf(reader, VCPU_SECTION, "tsc-offset", vcpu).getBigUint64(0, true);

/** As if saved in another boot, 100 s ago and 7 s after that boot's start. What the guest sees is what it was. */
function moveToOtherBoot(reader: StateReader): void {
  reader.section(CLOCK_ORIGIN_SECTION).part("boot-id")[0]! ^= 1;
  const uptimeNs = decodeHostTime(reader.section(CLOCK_ORIGIN_SECTION).part("host")).monotonicNs - 7n * SECOND;
  const offsetNs = viewOf(reader, CLOCK_ORIGIN_SECTION, "monotonic-offset");
  offsetNs.setBigInt64(0, offsetNs.getBigInt64(0, true) + uptimeNs, true);
  changeHostTime(reader, (time) => ({
    monotonicNs: time.monotonicNs - uptimeNs,
    realtimeNs: time.realtimeNs - 100n * SECOND,
  }));
}

function changeHostTime(reader: StateReader, change: (time: HostTime) => HostTime): void {
  for (const section of [CLOCK_ORIGIN_SECTION, KVMCLOCK_SECTION]) {
    const saved = decodeHostTime(reader.section(section).part("host"));
    encodeHostTime(change(saved), viewOf(reader, section, "host"));
  }
  const tscHost = viewOf(reader, TSC_SECTION, "host");
  const { realtimeNs } = change({ monotonicNs: 0n, realtimeNs: tscHost.getBigUint64(0, true) });
  tscHost.setBigUint64(0, realtimeNs, true);
}

/** `passedNs` is that time, and at most what passed since `startNs` more. */
function assertPassed(name: string, passedNs: bigint, expectedNs: bigint, startNs: bigint): void {
  const lateNs = passedNs - expectedNs;
  assert.ok(lateNs >= -TOLERANCE_NS, `${name} lags behind by ${-lateNs} ns`);
  assert.ok(lateNs <= monotonicNs() - startNs + TOLERANCE_NS, `${name} is ahead by ${lateNs} ns`);
}

const nsOfPmTicks = (ticks: number): bigint => (BigInt(ticks >>> 0) * SECOND) / BigInt(PM_TMR_FREQUENCY_HZ);

test.skipIf(skip, "kvmclock and PM timer go on from another boot by what passed in the world", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  const startNs = monotonicNs();
  const ticks = first.pmTicks();
  const reader = first.save();
  moveToOtherBoot(reader);
  second.restore(reader);
  assertPassed("PM timer", nsOfPmTicks(second.pmTicks() - ticks), 100n * SECOND, startNs);
  assertPassed("kvmclock", kvmclock(second.save()) - kvmclock(reader), 100n * SECOND, startNs);

  // Once more, now within this boot: the devices' clock has an offset, which must not be lost.
  await using third = new Rig();
  const again = second.save();
  third.restore(again);
  assertPassed("PM timer", nsOfPmTicks(third.pmTicks() - ticks), 100n * SECOND, startNs);
  assertPassed("kvmclock", kvmclock(third.save()) - kvmclock(reader), 100n * SECOND, startNs);
  const error = await rejection(() => new StateReader(second.saveImage(), { ...KNOWN, [CLOCK_ORIGIN_SECTION]: 0 }));
  assert.is((error as VmmError).code, "state-refused", "a reader that would lose it may not take the guest");
});

test.skipIf(skip, "clocks that were set back in between stand still, and do not go back", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  const startNs = monotonicNs();
  const ticks = first.pmTicks();
  const reader = first.save();
  moveToOtherBoot(reader);
  changeHostTime(reader, (time) => ({ ...time, realtimeNs: time.realtimeNs + 3600n * SECOND }));
  second.restore(reader);
  assertPassed("PM timer", nsOfPmTicks(second.pmTicks() - ticks), 0n, startNs);
  assertPassed("kvmclock", kvmclock(second.save()) - kvmclock(reader), 0n, startNs);
});

test.skipIf(skip, "state without a word on its boot is taken as of this one", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  const startNs = monotonicNs();
  const ticks = first.pmTicks();
  // A reader of the version before skips what it does not know.
  const reader = new StateReader(first.saveImage(), { ...KNOWN, [CLOCK_ORIGIN_SECTION]: 0, [TSC_SECTION]: 0 });
  assert.is(reader.find(CLOCK_ORIGIN_SECTION) ?? reader.find(TSC_SECTION), undefined);
  second.restore(reader);
  assertPassed("PM timer", nsOfPmTicks(second.pmTicks() - ticks), 0n, startNs);
  assertPassed("kvmclock", kvmclock(second.save()) - kvmclock(reader), 0n, startNs);
});

test.skipIf(skipTsc, "TSCs go on from another boot, and keep their distance to each other", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  const startNs = monotonicNs();
  const reader = first.save();
  moveToOtherBoot(reader);
  // A host whose TSC was at 2^55, and a guest whose second TSC is behind the first.
  const [savedTsc, hostTsc, distance] = [5_000_000_000n, 1n << 55n, 12_345n];
  viewOf(reader, TSC_SECTION, "msr").setBigUint64(TSC_VALUE, savedTsc, true);
  for (const [vcpu, value] of [savedTsc - hostTsc, savedTsc - hostTsc - distance].entries()) {
    viewOf(reader, VCPU_SECTION, "tsc-offset", vcpu).setBigUint64(0, BigInt.asUintN(64, value), true);
  }
  second.restore(reader);
  const moved = second.save();
  const khz = frequency(reader).getUint32(0, true);
  const passed = tsc(moved) - savedTsc;
  assertPassed("TSC", (passed * 1_000_000n) / BigInt(khz), 100n * SECOND, startNs);
  assert.ok(passed >= ticksOfNs(100n * SECOND, khz), "and not a tick less");
  assert.is(offset(moved, 0) - offset(moved, 1), distance);

  // Within this boot the offsets stay what they are.
  await using third = new Rig();
  third.restore(moved);
  const again = third.save();
  for (const vcpu of [0, 1]) assert.is(offset(again, vcpu), offset(moved, vcpu));
});

/** The image of `rig`, with another frequency in it. */
function withFrequency(rig: Rig, khz: (hostKhz: number) => number, isOtherBoot: boolean): StateReader {
  const reader = rig.save();
  const view = frequency(reader);
  view.setUint32(0, khz(view.getUint32(0, true)), true);
  if (isOtherBoot) moveToOtherBoot(reader);
  return reader;
}

test.skipIf(skip, "a TSC of another frequency is scaled, or refused where that cannot be", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  const hostKhz = frequency(first.save()).getUint32(0, true);
  const reader = withFrequency(first, () => hostKhz + 100_000, true);
  const system = new KvmSystem();
  const canScale = system.checkExtension(abi.KVM_CAP_TSC_CONTROL) > 0;
  system.close();
  if (canScale) {
    second.restore(reader);
    assert.is(frequency(second.save()).getUint32(0, true), hostKhz + 100_000);
    // A reader that would run it at the host's frequency may not take it.
    const error = await rejection(() => new StateReader(second.saveImage(), { ...KNOWN, [TSC_SECTION]: 0 }));
    assert.is((error as VmmError).code, "state-refused");
    await using third = new Rig();
    third.restore(second.save());
    assert.is(frequency(third.save()).getUint32(0, true), hostKhz + 100_000, "within the boot, too");
  } else {
    const error = await rejection(() => second.restore(reader));
    assert.is((error as VmmError).code, "state-refused");
    assert.match(error.message, `TSC runs at ${hostKhz + 100_000} kHz, this host's at ${hostKhz} kHz`);
    assert.match(error.message, "restore on a host with TSC scaling");
  }
});

test.skipIf(skip, "a frequency that is as good as the same is no reason to scale or refuse", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  second.restore(withFrequency(first, (hostKhz) => hostKhz + Math.floor(hostKhz / 10_000), true));
  second.saveImage();
});

test.skipIf(skip, "a TSC of unknown frequency cannot leave its boot", async () => {
  await using first = new Rig();
  await using second = new Rig();
  first.devices.reset();
  const unknown = () => 0;
  const error = await rejection(() => second.restore(withFrequency(first, unknown, true)));
  assert.is((error as VmmError).code, "state-refused");
  assert.match(error.message, "only in the boot that it was saved in");
  second.restore(withFrequency(first, unknown, false));
});

test.run();
