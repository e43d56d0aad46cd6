// SPDX-License-Identifier: Apache-2.0
// What two looks at a vCPU tell, from images made up for it.
import * as abi from "../../../../ffi/kvm/abi.ts";
import { REGISTER_ORDER } from "../../../../src/accel/state/boot-state.ts";
import { findStandstills, type VcpuLook } from "../../../../src/accel/state/vcpu-health.ts";
import { StateReader } from "../../../../src/state/reader.ts";
import { StateWriter } from "../../../../src/state/writer.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("vcpu-health");

const KHZ = 2_000_000;
const HALTED = 3;

interface Made {
  atMs?: number;
  cpuNs?: number;
  mpState?: number;
  isInterruptible?: boolean;
  /** Guest time in ms; default: that of the look. */
  tscMs?: number;
  /** An interrupt that was asked for. */
  vector?: number;
  ppr?: number;
  lvtt?: number;
  periodicCount?: number;
  deadlineMs?: number;
  isStart?: boolean;
}

function look(made: Made): VcpuLook {
  const { atMs = 1000, cpuNs = atMs, mpState = 0, isInterruptible = true, tscMs = atMs, isStart = false } = made;
  const writer = new StateWriter();
  const tsc = writer.plan({ id: "tsc", version: 1 }, [
    { name: "msr", type: "struct kvm_msrs", sizeBytes: abi.KVM_MSRS_HEADER_SIZE_BYTES + abi.KVM_MSR_ENTRY_SIZE_BYTES },
    { name: "frequency", type: "u32 kHz", sizeBytes: 4 },
  ]);
  const vcpu = writer.plan({ id: "vcpu", version: 1 }, [
    { name: "mp_state", type: "struct kvm_mp_state", sizeBytes: abi.KVM_MP_STATE_SIZE_BYTES },
    { name: "regs", type: "struct kvm_regs", sizeBytes: abi.KVM_REGS_SIZE_BYTES },
    { name: "lapic", type: "struct kvm_lapic_state", sizeBytes: abi.KVM_LAPIC_STATE_SIZE_BYTES },
    { name: "msrs", type: "struct kvm_msrs", sizeBytes: abi.KVM_MSRS_HEADER_SIZE_BYTES + abi.KVM_MSR_ENTRY_SIZE_BYTES },
  ]);
  writer.lay();
  const view = (section: typeof vcpu, part: string): DataView => {
    const bytes = writer.view(section, part);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
  const ticks = (ms: number): bigint => BigInt(Math.round(ms)) * BigInt(KHZ);
  view(tsc, "msr").setBigUint64(abi.KVM_MSRS_HEADER_SIZE_BYTES + 8, ticks(tscMs), true);
  view(tsc, "frequency").setUint32(0, KHZ, true);
  view(vcpu, "mp_state").setUint32(0, mpState, true);
  view(vcpu, "regs").setBigUint64(REGISTER_ORDER.indexOf("rflags") * 8, isInterruptible ? 0x202n : 2n, true);
  const lapic = view(vcpu, "lapic");
  lapic.setUint32(0xf0, 0x1ff, true);
  lapic.setUint32(0xa0, made.ppr ?? 0, true);
  lapic.setUint32(0x320, made.lvtt ?? 0x1_0000, true);
  lapic.setUint32(0x380, made.periodicCount === undefined ? 0 : 1000, true);
  lapic.setUint32(0x390, made.periodicCount ?? 0, true);
  if (made.vector !== undefined) lapic.setUint32(0x200 + (made.vector >> 5) * 0x10, 1 << (made.vector & 31), true);
  const msrs = view(vcpu, "msrs");
  msrs.setUint32(abi.KVM_MSRS_HEADER_SIZE_BYTES, 0x6e0, true);
  msrs.setBigUint64(abi.KVM_MSRS_HEADER_SIZE_BYTES + 8, ticks(made.deadlineMs ?? 0), true);
  return { state: new StateReader(writer.seal(), { tsc: 1, vcpu: 1 }), atMs, cpuNs: [cpuNs], isStart };
}

const found = (before: Made, after: Made): string[] =>
  findStandstills(look({ atMs: 1000, ...before }), look({ atMs: 1300, ...after }), 1);

test("a vCPU that runs, or sleeps, is well", () => {
  assert.equal(found({}, {}), []);
  assert.equal(found({ mpState: HALTED, cpuNs: 5 }, { mpState: HALTED, cpuNs: 5 }), []);
});

test("a vCPU that could run and does not is not", () => {
  assert.equal(found({ cpuNs: 5 }, { cpuNs: 5 }), ["vCPU 0 does not run"]);
  assert.equal(found({ cpuNs: 5, isStart: true }, { cpuNs: 5 }), [], "it may not have started yet");
});

test("an interrupt that does not wake a vCPU up is noticed, one that it would not take is not", () => {
  const asleep = { mpState: HALTED, vector: 0x31 };
  assert.equal(found(asleep, asleep), ["vCPU 0 sleeps, and interrupt 0x31 does not wake it up"]);
  for (const other of [{ vector: 0x41 }, { ppr: 0x30 }, { isInterruptible: false }, { mpState: 0 }]) {
    assert.equal(found(asleep, { ...asleep, ...other }), [], JSON.stringify(other));
  }
  assert.equal(found({ ...asleep, isStart: true }, asleep), [], "what was saved may have been about to happen");
});

test("timers that have stopped are noticed", () => {
  const deadline = { lvtt: 0x4_0000, deadlineMs: 900 };
  assert.equal(found(deadline, deadline), ["The timer of vCPU 0 is overdue"]);
  assert.equal(found(deadline, { ...deadline, deadlineMs: 1250 }), []);
  const far = { lvtt: 0x4_0000, deadlineMs: 90_000 };
  assert.equal(found(far, far), []);
  const periodic = { lvtt: 0x2_0000, periodicCount: 17 };
  assert.equal(found(periodic, periodic), ["The timer of vCPU 0 stands still"]);
  assert.equal(found(periodic, { ...periodic, periodicCount: 18 }), []);
  assert.equal(found({ ...periodic, lvtt: 0x3_0000 }, { ...periodic, lvtt: 0x3_0000 }), [], "a masked one");
});

test("time that jumps is noticed", () => {
  assert.equal(found({ tscMs: 90_000, isStart: true }, {}), ["The guest's TSC went on by -88700 ms in 300 ms"]);
  assert.equal(found({}, { tscMs: 1000 + 1300 }), ["The guest's TSC went on by 1300 ms in 300 ms"]);
});

test.run();
