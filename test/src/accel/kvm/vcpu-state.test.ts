// SPDX-License-Identifier: Apache-2.0
// One vCPU's state on real KVM: nothing of it may change on its way through an image.
import * as abi from "../../../../ffi/kvm/abi.ts";
import { KvmSystem, type KvmVcpu, type KvmVm } from "../../../../ffi/kvm/kvm.ts";
import { cpuidsFor, createIrqchips } from "../../../../src/accel/kvm/power-on.ts";
import { ACCELERATOR_SECTIONS } from "../../../../src/accel/state/sections.ts";
import { MSR_IA32_TSC } from "../../../../src/accel/state/tsc.ts";
import {
  msrList,
  planVcpu,
  probeVcpu,
  restoreVcpu,
  VCPU_SECTION,
  type VcpuProfile,
} from "../../../../src/accel/state/vcpu-state.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { StateReader, type StateSection } from "../../../../src/state/reader.ts";
import { StateWriter } from "../../../../src/state/writer.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { kvmMissing, tscOffsetMissing } from "../../../kvm.ts";

const test = describe("vCPU state on KVM");
const skip = kvmMissing();
const skipTsc = skip ?? tscOffsetMissing();

const ONE_CPU = { sockets: 1, cores: 1, threads: 1 };

/** A VM with one vCPU that never runs. */
class Rig implements Disposable {
  readonly system = new KvmSystem();
  readonly vm: KvmVm = this.system.createVm();
  readonly cpuid: Uint8Array = cpuidsFor(this.system, ONE_CPU, {})[0]!;
  readonly vcpu: KvmVcpu;
  readonly profile: VcpuProfile;

  constructor() {
    createIrqchips(this.vm);
    this.vcpu = this.vm.createVcpu(0);
    this.vcpu.setCpuid2(this.cpuid);
    this.profile = probeVcpu(this.system, this.vcpu);
  }

  /** Its state, in an image of its own: changes to the parts change nothing else. */
  save(profile = this.profile): StateSection {
    const writer = new StateWriter();
    const bind = planVcpu(writer, this.vcpu, 0, profile, this.cpuid);
    writer.lay();
    bind()();
    return new StateReader(writer.seal(), ACCELERATOR_SECTIONS).section(VCPU_SECTION);
  }

  [Symbol.dispose](): void {
    this.vcpu.close();
    this.vm.close();
    this.system.close();
  }
}

function viewOf(section: StateSection, part: string): DataView {
  const bytes = section.part(part);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function assertSame(section: StateSection, other: StateSection): void {
  for (const { name } of section.entry.parts) {
    assert.equal([...other.part(name)], [...section.part(name)], name);
  }
}

/** Values of MSRs by index. */
function msrs(section: StateSection): Map<number, { value: bigint; set(value: bigint): void }> {
  const view = viewOf(section, "msrs");
  const found = new Map<number, { value: bigint; set(value: bigint): void }>();
  for (let position = 0; position < view.getUint32(0, true); position++) {
    const entry = abi.KVM_MSRS_HEADER_SIZE_BYTES + position * abi.KVM_MSR_ENTRY_SIZE_BYTES;
    found.set(view.getUint32(entry, true), {
      value: view.getBigUint64(entry + 8, true),
      set: (value) => view.setBigUint64(entry + 8, value, true),
    });
  }
  return found;
}

/** MSRs that take any canonical address, or any value. */
const MSR_VALUES: readonly (readonly [index: number, value: bigint])[] = [
  [0x174, 0x10n], // SYSENTER_CS
  [0x175, 0xffff_8000_1234_5678n], // SYSENTER_ESP
  [0x176, 0xffff_8000_8765_4321n], // SYSENTER_EIP
  [0x277, 0x0007_0406_0007_0406n], // PAT
  [0xc000_0081, 0x0023_0010_0000_0000n], // STAR
  [0xc000_0082, 0xffff_ffff_8100_0000n], // LSTAR
  [0xc000_0084, 0x0004_7700n], // FMASK
  [0xc000_0102, 0xffff_8880_0000_1000n], // KERNEL_GS_BASE
];

// struct kvm_vcpu_events and the memory layout of XSAVE (Intel SDM vol. 1, 13.4).
const EVENTS_INTERRUPT_SHADOW_U8 = 11;
const EVENTS_NMI_MASKED_U8 = 14;
const XSAVE_XMM = 160;
const XSAVE_XSTATE_BV_U64 = 512;
const XSAVE_YMM_HIGH = 576;
const AVX_FEATURES = 7n;
// Local APIC registers, Intel SDM vol. 3, table 12-1.
const LAPIC_TPR = 0x80;
const LAPIC_SPURIOUS = 0xf0;
const LAPIC_ISR = 0x100;
const LAPIC_IRR = 0x200;
const LAPIC_LVT_LINT0 = 0x350;
const LAPIC_TIMER_DIVIDE = 0x3e0;
const MP_STATE_HALTED = 3;

/** Puts a value everywhere that a power-on state has none. */
function disturb(section: StateSection): { hasAvx: boolean } {
  const regs = viewOf(section, "regs");
  for (let index = 0; index < 16; index++) regs.setBigUint64(index * 8, 0x0123_4567_89ab_cde0n + BigInt(index), true);
  regs.setBigUint64(16 * 8, 0x7c00n, true);
  regs.setBigUint64(17 * 8, 0x0ad7n, true);

  const debug = viewOf(section, "debugregs");
  for (let index = 0; index < 4; index++) debug.setBigUint64(index * 8, 0x1000n * BigInt(index + 1) + 1n, true);
  debug.setBigUint64(32, 0xffff_4ff1n, true);
  debug.setBigUint64(40, 0x0000_0455n, true);

  // struct kvm_xcrs: u32 nr_xcrs, u32 flags, then {u32 xcr, u32 reserved, u64 value}.
  const cpuid = viewOf(section, "cpuid");
  let hasAvx = false;
  for (let entry = 8; entry < cpuid.byteLength; entry += abi.KVM_CPUID_ENTRY2_SIZE_BYTES) {
    const isStateLeaf = cpuid.getUint32(entry, true) === 0xd && cpuid.getUint32(entry + 4, true) === 0;
    if (isStateLeaf) hasAvx = (BigInt(cpuid.getUint32(entry + 12, true)) & AVX_FEATURES) === AVX_FEATURES;
  }
  const features = hasAvx ? AVX_FEATURES : 3n;
  if (viewOf(section, "xcrs").getUint32(0, true) > 0) viewOf(section, "xcrs").setBigUint64(16, features, true);
  const xsave = viewOf(section, "xsave");
  for (let index = 0; index < 256; index += 8) {
    xsave.setBigUint64(XSAVE_XMM + index, 0x5858_0000_0000_0000n + BigInt(index), true);
    if (hasAvx) xsave.setBigUint64(XSAVE_YMM_HIGH + index, 0x5959_0000_0000_0000n + BigInt(index), true);
  }
  xsave.setBigUint64(XSAVE_XSTATE_BV_U64, features, true);

  const lapic = viewOf(section, "lapic");
  lapic.setUint32(LAPIC_SPURIOUS, 0x1ff, true);
  lapic.setUint32(LAPIC_TPR, 0x20, true);
  lapic.setUint32(LAPIC_LVT_LINT0, 0x700, true);
  lapic.setUint32(LAPIC_TIMER_DIVIDE, 0xb, true);
  lapic.setUint32(LAPIC_ISR + 0x20, 1 << 1, true);
  lapic.setUint32(LAPIC_IRR + 0x30, 1 << 5, true);

  const values = msrs(section);
  for (const [index, value] of MSR_VALUES) values.get(index)?.set(value);
  section.part("mp_state")[0] = MP_STATE_HALTED;
  section.part("events")[EVENTS_NMI_MASKED_U8] = 1;
  section.part("events")[EVENTS_INTERRUPT_SHADOW_U8] = 1;
  return { hasAvx };
}

test.skipIf(skip, "saving changes nothing", () => {
  using rig = new Rig();
  assertSame(rig.save(), rig.save());
});

test.skipIf(skip, "saved, restored and saved again, every byte of a busy vCPU is the same", () => {
  using rig = new Rig();
  const state = rig.save();
  const { hasAvx } = disturb(state);
  restoreVcpu(rig.vcpu, state);
  const saved = rig.save();

  for (const part of ["regs", "debugregs", "mp_state", "events", "xcrs"]) {
    assert.equal([...saved.part(part)], [...state.part(part)], part);
  }
  for (const [index, value] of MSR_VALUES) {
    const found = msrs(saved).get(index);
    if (found !== undefined) assert.is(found.value, value, `MSR 0x${index.toString(16)}`);
  }
  const [xsave, wanted] = [saved.part("xsave"), state.part("xsave")];
  assert.equal([...xsave.subarray(XSAVE_XMM, XSAVE_XMM + 256)], [...wanted.subarray(XSAVE_XMM, XSAVE_XMM + 256)]);
  if (hasAvx) {
    const end = XSAVE_YMM_HIGH + 256;
    assert.equal([...xsave.subarray(XSAVE_YMM_HIGH, end)], [...wanted.subarray(XSAVE_YMM_HIGH, end)], "YMM");
  }
  for (const register of [LAPIC_TPR, LAPIC_SPURIOUS, LAPIC_ISR + 0x20, LAPIC_IRR + 0x30, LAPIC_LVT_LINT0]) {
    const [found, expected] = [saved, state].map((section) => viewOf(section, "lapic").getUint32(register, true));
    assert.is(found, expected, `local APIC register 0x${register.toString(16)}`);
  }

  using other = new Rig();
  restoreVcpu(other.vcpu, saved);
  assertSame(saved, other.save());
});

test.skipIf(skip, "a power-on state goes back over a busy one", () => {
  using rig = new Rig();
  const fresh = rig.save();
  const busy = rig.save();
  disturb(busy);
  restoreVcpu(rig.vcpu, busy);
  restoreVcpu(rig.vcpu, fresh);
  const again = rig.save();
  // KVM marks components of XSAVE as in use once they have been: their values are what counts.
  for (const { name } of fresh.entry.parts) {
    if (name === "xsave") {
      const values = (section: StateSection): number[] => [...section.part("xsave").subarray(XSAVE_XMM, 416)];
      assert.equal(values(again), values(fresh));
    } else {
      assert.equal([...again.part(name)], [...fresh.part(name)], name);
    }
  }
});

function tsc({ vcpu }: Rig): bigint {
  const list = msrList(Uint32Array.of(MSR_IA32_TSC));
  assert.is(vcpu.getMsrs(list), 1);
  return new DataView(list.buffer).getBigUint64(16, true);
}

test.skipIf(skip, "the guest's TSC goes on as if nothing had happened", () => {
  using rig = new Rig();
  using other = new Rig();
  if (!rig.profile.hasTscOffset) return;
  // Far from what a new vCPU has.
  const state = rig.save();
  const offset = viewOf(state, "tsc-offset");
  offset.setBigUint64(0, offset.getBigUint64(0, true) + (1n << 50n), true);
  restoreVcpu(rig.vcpu, state);
  const before = tsc(rig);
  restoreVcpu(other.vcpu, rig.save());
  const after = tsc(other);
  const later = tsc(rig);
  assert.ok(before <= after && after <= later, `${before} ≤ ${after} ≤ ${later}`);
});

/** The guest's TSC is `expected`, and what passed since that was worked out: a minute at most. */
function assertTsc(rig: Rig, expected: bigint): void {
  const ticks = tsc(rig) - expected;
  assert.ok(ticks >= 0n && ticks < BigInt(rig.profile.tscKhz) * 60_000n, `${ticks} ticks after ${expected}`);
}

test.skipIf(
  skipTsc,
  "a TSC without an offset, moved to another boot, goes on by what passed and is not moved twice",
  () => {
    using rig = new Rig();
    const { msrIndices } = rig.profile;
    const indices = Uint32Array.from(new Set([MSR_IA32_TSC, ...msrIndices]));
    const state = rig.save({ ...rig.profile, hasTscOffset: false, msrIndices: indices });
    const elapsedTicks = 1n << 50n;
    const saved = msrs(state).get(MSR_IA32_TSC)!.value;
    for (let round = 0; round < 2; round++) {
      using other = new Rig();
      restoreVcpu(other.vcpu, state, { elapsedTicks, offsetDelta: 0n, hasOffset: false });
      assertTsc(other, saved + elapsedTicks);
    }
  },
);

test.skipIf(skipTsc, "a saved offset becomes a TSC where offsets cannot be set", () => {
  using rig = new Rig();
  const state = rig.save();
  viewOf(state, "tsc-offset").setBigUint64(0, BigInt.asUintN(64, -1000n), true);
  restoreVcpu(rig.vcpu, state, { elapsedTicks: 0n, offsetDelta: (1n << 50n) + 1000n, hasOffset: false });
  assertTsc(rig, 1n << 50n);
});

test.skipIf(skip, "an MSR that this host does not have is left out when it is 0, and those after it are set", () => {
  using rig = new Rig();
  const state = rig.save();
  disturb(state);
  const view = viewOf(state, "msrs");
  view.setUint32(abi.KVM_MSRS_HEADER_SIZE_BYTES, 0xdead_beef, true);
  view.setBigUint64(abi.KVM_MSRS_HEADER_SIZE_BYTES + 8, 0n, true);
  restoreVcpu(rig.vcpu, state);
  const found = msrs(rig.save());
  for (const [index, value] of MSR_VALUES) {
    if (msrs(state).has(index)) assert.is(found.get(index)!.value, value, `MSR 0x${index.toString(16)}`);
  }
});

test.skipIf(skip, "state that does not fit is refused by name", async () => {
  using rig = new Rig();
  const cases: [change: (section: StateSection) => void, message: RegExp][] = [
    [(section) => viewOf(section, "msrs").setUint32(0, 3, true), /^State part msrs of vcpu 0 has a wrong count$/],
    [
      // An MSR that there is not, and that somebody has used.
      (section) => {
        viewOf(section, "msrs").setUint32(abi.KVM_MSRS_HEADER_SIZE_BYTES, 0xdead_beef, true);
        viewOf(section, "msrs").setBigUint64(abi.KVM_MSRS_HEADER_SIZE_BYTES + 8, 5n, true);
      },
      /^MSRs of vcpu 0 cannot be set on this host: 0xdeadbeef to 0x5$/,
    ],
  ];
  for (const [change, message] of cases) {
    const state = rig.save();
    change(state);
    const error = await rejection(() => restoreVcpu(rig.vcpu, state));
    assert.is((error as VmmError).code, "state-refused");
    assert.match(error.message, message);
  }
  const state = rig.save();
  viewOf(state, "xcrs").setBigUint64(16, 1n << 62n, true);
  assert.match((await rejection(() => restoreVcpu(rig.vcpu, state))).message, /^KVM_SET_XCRS failed: EINVAL/);
});

test.run();
