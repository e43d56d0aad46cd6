// SPDX-License-Identifier: Apache-2.0
// The sections of a state image that an accelerator owns, and the versions that this Baton reads.
import { TSC_SECTION, TSC_SECTION_VERSION } from "./tsc.ts";
import { VCPU_SECTION, VCPU_SECTION_VERSION } from "./vcpu-state.ts";
import { IRQCHIP_SECTION, KVMCLOCK_SECTION, PIT_SECTION, VM_SECTION_VERSION } from "./vm-state.ts";

export const ACCELERATOR_SECTIONS: Readonly<Record<string, number>> = {
  [VCPU_SECTION]: VCPU_SECTION_VERSION,
  [IRQCHIP_SECTION]: VM_SECTION_VERSION,
  [PIT_SECTION]: VM_SECTION_VERSION,
  [KVMCLOCK_SECTION]: VM_SECTION_VERSION,
  [TSC_SECTION]: TSC_SECTION_VERSION,
};
