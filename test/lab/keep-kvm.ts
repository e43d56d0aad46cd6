// SPDX-License-Identifier: Apache-2.0
// Runs in the lab for as long as the lab does, holding VMs that nobody uses.
//
// KVM patches its own code when the first vCPU of a kind appears and when the last one goes: no APIC, APIC switched off
// by its base register, APIC switched off by software; so does the scheduler for the first VM. A kernel patches code by
// way of an INT3. Under QEMU's TCG with several threads another CPU may meet a stale INT3 after the patch is done, and
// the lab's kernel dies of it ("Oops: int3"). An update creates and destroys vCPUs, so it is rare nowhere but here. One
// of each kind that stays keeps KVM's counters off zero, and the code as it is.
import { openSync } from "node:fs";
import { koffi } from "../../ffi/native.ts";

const KVM_CREATE_VM = 0xae01n;
const KVM_CREATE_VCPU = 0xae41n;
const KVM_CREATE_IRQCHIP = 0xae60n;
const KVM_GET_SREGS = 0x8138ae83n;
const KVM_SET_SREGS = 0x4138ae84n;
/** struct kvm_sregs and its member apic_base. */
const SREGS_SIZE_BYTES = 312;
const SREGS_APIC_BASE = 272;

const nativeIoctl = koffi.load("libc.so.6").func("int ioctl(int fd, unsigned long request, uintptr_t argument)");

function ioctl(fd: number, request: bigint, argument: bigint): number {
  const result = nativeIoctl(fd, request, argument) as number;
  if (result < 0) throw new Error(`ioctl 0x${request.toString(16)} failed: errno ${koffi.errno()}`);
  return result;
}

const kvm = openSync("/dev/kvm", "r+");

const plainVm = ioctl(kvm, KVM_CREATE_VM, 0n);
ioctl(plainVm, KVM_CREATE_VCPU, 0n);

const vm = ioctl(kvm, KVM_CREATE_VM, 0n);
ioctl(vm, KVM_CREATE_IRQCHIP, 0n);
// A new vCPU's APIC is switched off by software.
ioctl(vm, KVM_CREATE_VCPU, 0n);
const vcpu = ioctl(vm, KVM_CREATE_VCPU, 1n);
const sregs = new Uint8Array(SREGS_SIZE_BYTES);
const sregsAddress = BigInt(koffi.address(sregs));
ioctl(vcpu, KVM_GET_SREGS, sregsAddress);
new DataView(sregs.buffer).setBigUint64(SREGS_APIC_BASE, 0n, true);
ioctl(vcpu, KVM_SET_SREGS, sregsAddress);

console.log("held");
setInterval(() => {}, 2 ** 30);
