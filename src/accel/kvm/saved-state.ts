// SPDX-License-Identifier: Apache-2.0
// A VM of KVM as saving and restoring see it: the VM, its vCPUs and their CPUIDs. Whether they ever run makes no difference.
import type { KvmSystem, KvmVcpu, KvmVm } from "../../../ffi/kvm/kvm.ts";
import { isOfThisBoot, type RestoreOptions } from "../../machine/clock-origin.ts";
import type { StateReader } from "../../state/reader.ts";
import { type BindSection, bindAll, type StateWriter } from "../../state/writer.ts";
import { planTsc, planTscMove, type TscMove, tscKhzToSet } from "./tsc.ts";
import { planVcpu, restoreVcpu, savedTscOffset, VCPU_SECTION, type VcpuProfile } from "./vcpu-state.ts";
import { planVm, restoreVm } from "./vm-state.ts";

export class VmState {
  readonly #system: KvmSystem;
  readonly #vm: KvmVm;
  readonly #vcpus: readonly KvmVcpu[];
  readonly #cpuids: readonly Uint8Array[];
  /** Frequency of the guest's TSC when it comes from a host with another one. */
  scaledTscKhz: number | undefined;

  constructor(system: KvmSystem, vm: KvmVm, vcpus: readonly KvmVcpu[], cpuids: readonly Uint8Array[]) {
    this.#system = system;
    this.#vm = vm;
    this.#vcpus = vcpus;
    this.#cpuids = cpuids;
  }

  /** Adds the sections to a state image. */
  plan(writer: StateWriter, profile: VcpuProfile): BindSection {
    // An edge that comes in between is in neither the I/O APIC nor a local APIC that was read before it: the local ones
    // are read last.
    const sections = [planVm(writer, this.#vm), writer.planProgress()];
    // Filled in with the first vCPU.
    const tsc = planTsc(writer, this.scaledTscKhz ?? profile.tscKhz, this.scaledTscKhz !== undefined);
    for (const [index, vcpu] of this.#vcpus.entries()) {
      if (index > 0) sections.push(writer.planProgress());
      sections.push(planVcpu(writer, vcpu, index, profile, this.#cpuids[index]!, index === 0 ? tsc : undefined));
    }
    return bindAll(sections);
  }

  /**
   * Takes over saved state; the vCPUs are not in the guest. `powerOn` is the state they have when they have had no other.
   * @throws VmmError "state-refused"
   */
  restore(
    reader: StateReader,
    { isSameBoot = isOfThisBoot(reader), awaitVcpu }: RestoreOptions = {},
    powerOn?: StateReader,
  ): void {
    const first = this.#vcpus[0]!;
    awaitVcpu?.(reader.section(VCPU_SECTION));
    this.scaledTscKhz = tscKhzToSet(reader, this.#system, first, isSameBoot);
    if (this.scaledTscKhz !== undefined) for (const vcpu of this.#vcpus) vcpu.setTscKhz(this.scaledTscKhz);
    let move: TscMove | undefined;
    if (!isSameBoot) {
      const savedOffset = savedTscOffset(reader.section(VCPU_SECTION)) ?? 0n;
      move = planTscMove(reader, first, savedOffset);
    }
    for (let index = 0; index < this.#vcpus.length; index++) {
      const section = reader.section(VCPU_SECTION, index);
      if (index > 0) awaitVcpu?.(section);
      restoreVcpu(this.#vcpus[index]!, section, move, powerOn?.section(VCPU_SECTION, index));
    }
    restoreVm(reader, this.#vm, isSameBoot);
    // The guest's watchdogs are told that it stood still, perhaps for longer than they would take: in a file, or until a guard
    // took it back.
    for (const vcpu of this.#vcpus) vcpu.notePause();
  }
}
