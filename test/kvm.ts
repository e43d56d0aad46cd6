// SPDX-License-Identifier: Apache-2.0
// Whether tests can have KVM here.
import { KvmSystem } from "../ffi/kvm/kvm.ts";
import { describeError } from "../src/errors.ts";

let reason: string | undefined | null = null;

/** Why no VM can be made with /dev/kvm, for `skipIf`; undefined when it can. */
export function kvmMissing(): string | undefined {
  if (reason === null) reason = probe();
  return reason;
}

function probe(): string | undefined {
  try {
    const system = new KvmSystem();
    try {
      system.createVm().close();
    } finally {
      system.close();
    }
    return undefined;
  } catch (error) {
    return `KVM cannot be used: ${describeError(error)}`;
  }
}
