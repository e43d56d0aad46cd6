// SPDX-License-Identifier: Apache-2.0
// Saves and restores all that an accelerator has of a VM. Whether its vCPUs ever run makes no difference.
import { isOfThisBoot, type RestoreOptions } from "../../machine/clock-origin.ts";
import type { StateReader } from "../../state/reader.ts";
import { type BindSection, bindAll, type StateWriter } from "../../state/writer.ts";
import { isOfOrigin, planTsc, planTscMove, type TscMove, tscKhzToSet } from "./tsc.ts";
import type { StateMachine } from "./types.ts";
import { planVcpu, restoreVcpu, savedTscOffset, VCPU_SECTION, type VcpuProfile } from "./vcpu-state.ts";
import { planVm, restoreVm } from "./vm-state.ts";

export class VmState {
  readonly #machine: StateMachine;
  #scaledTscKhz: number | undefined;

  constructor(machine: StateMachine) {
    this.#machine = machine;
  }

  /** Frequency of the guest's TSC when it comes from a host with another one. */
  get scaledTscKhz(): number | undefined {
    return this.#scaledTscKhz;
  }

  scaleTsc(khz: number | undefined): void {
    this.#scaledTscKhz = khz;
    if (khz !== undefined) for (const vcpu of this.#machine.vcpus) vcpu.setTscKhz(khz);
  }

  /** Adds the sections to a state image. */
  plan(writer: StateWriter, profile: VcpuProfile): BindSection {
    // An edge that comes in between is in neither the I/O APIC nor a local APIC that was read before it: the local ones
    // are read last.
    const { vm, vcpus, cpuids, tscOrigin } = this.#machine;
    const sections = [planVm(writer, vm), writer.planProgress()];
    // Filled in with the first vCPU.
    const tsc = planTsc(writer, this.#scaledTscKhz ?? profile.tscKhz, this.#scaledTscKhz !== undefined, tscOrigin);
    for (const [index, vcpu] of vcpus.entries()) {
      if (index > 0) sections.push(writer.planProgress());
      sections.push(planVcpu(writer, vcpu, index, profile, cpuids[index]!, index === 0 ? tsc : undefined));
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
    const { system, vm, vcpus, tscOrigin } = this.#machine;
    const first = vcpus[0]!;
    awaitVcpu?.(reader.section(VCPU_SECTION));
    const isSameTsc = isSameBoot && isOfOrigin(reader, tscOrigin);
    this.scaleTsc(tscKhzToSet(reader, system, first, isSameTsc));
    let move: TscMove | undefined;
    if (!isSameTsc) {
      const savedOffset = savedTscOffset(reader.section(VCPU_SECTION)) ?? 0n;
      move = planTscMove(reader, first, savedOffset, isSameBoot);
    }
    for (let index = 0; index < vcpus.length; index++) {
      const section = reader.section(VCPU_SECTION, index);
      if (index > 0) awaitVcpu?.(section);
      restoreVcpu(vcpus[index]!, section, move, powerOn?.section(VCPU_SECTION, index));
    }
    restoreVm(reader, vm, isSameBoot);
    // The guest's watchdogs are told that it stood still, perhaps for longer than they would take: in a file, or until a guard
    // took it back.
    for (const vcpu of vcpus) vcpu.notePause();
  }
}
