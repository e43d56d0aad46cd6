// SPDX-License-Identifier: Apache-2.0
// Whether tests can have KVM here.
import { spawnSync } from "node:child_process";
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

/** Starts the program behind it with something else in the place of /dev/kvm. */
export const WITHOUT_KVM: readonly string[] = [
  ...["unshare", "--map-root-user", "--mount"],
  ...["sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "sh"],
];

/** Why that cannot be done here. */
export function hidingKvmMissing(): string | undefined {
  const { status } = spawnSync(WITHOUT_KVM[0]!, [...WITHOUT_KVM.slice(1), "true"]);
  return status === 0 ? undefined : "/dev/kvm cannot be hidden here: that takes namespaces, and a /dev/kvm";
}

/** Why tests cannot give a guest another TSC than the host's: a KVM that interprets guest code has no offset to set. */
export function tscOffsetMissing(): string | undefined {
  const system = new KvmSystem();
  try {
    const vm = system.createVm();
    const vcpu = vm.createVcpu(0);
    try {
      if (!vcpu.hasTscOffset()) return "KVM has no attribute for the TSC offset";
      const offset = BigUint64Array.of(1n << 50n);
      const bytes = new Uint8Array(offset.buffer);
      vcpu.setTscOffset(bytes);
      offset[0] = 0n;
      vcpu.getTscOffset(bytes);
      return offset[0] === 1n << 50n ? undefined : "KVM takes TSC offsets and ignores them";
    } finally {
      vcpu.close();
      vm.close();
    }
  } finally {
    system.close();
  }
}
