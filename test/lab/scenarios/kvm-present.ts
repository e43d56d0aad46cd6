// SPDX-License-Identifier: Apache-2.0
// The lab is what the other scenarios count on: hardware virtualisation that runs guest code, an IOMMU, VFIO.
// Capability numbers: https://docs.kernel.org/virt/kvm/api.html, include/uapi/linux/kvm.h.
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import { koffi } from "../../../ffi/native.ts";
import { chooseAccelerator } from "../../../src/accel/choose.ts";
import { check, scenario } from "../scenario.ts";

const KVM_GET_API_VERSION = 0xae00n;
const KVM_CREATE_VM = 0xae01n;
const KVM_CHECK_EXTENSION = 0xae03n;
const KVM_CREATE_VCPU = 0xae41n;
const KVM_GET_TSC_KHZ = 0xaea3n;
const KVM_HAS_DEVICE_ATTR = 0x4018aee3n;

/** `required` are those an update cannot do without; the rest is printed for whoever wonders. */
const CAPABILITIES: [name: string, number: number, required: boolean][] = [
  ["KVM_CAP_IRQCHIP", 0, true],
  ["KVM_CAP_USER_MEMORY", 3, true],
  ["KVM_CAP_NR_VCPUS", 9, true],
  ["KVM_CAP_NR_MEMSLOTS", 10, true],
  ["KVM_CAP_MP_STATE", 14, true],
  ["KVM_CAP_IRQFD", 32, true],
  ["KVM_CAP_PIT2", 33, true],
  ["KVM_CAP_PIT_STATE2", 35, true],
  ["KVM_CAP_IOEVENTFD", 36, true],
  ["KVM_CAP_ADJUST_CLOCK", 39, true],
  ["KVM_CAP_VCPU_EVENTS", 41, true],
  ["KVM_CAP_DEBUGREGS", 50, true],
  ["KVM_CAP_XSAVE", 55, true],
  ["KVM_CAP_XCRS", 56, true],
  ["KVM_CAP_TSC_CONTROL", 60, false],
  ["KVM_CAP_GET_TSC_KHZ", 61, true],
  ["KVM_CAP_MAX_VCPUS", 66, true],
  ["KVM_CAP_TSC_DEADLINE_TIMER", 72, true],
  ["KVM_CAP_KVMCLOCK_CTRL", 76, false],
  ["KVM_CAP_SIGNAL_MSI", 77, true],
  ["KVM_CAP_READONLY_MEM", 81, false],
  ["KVM_CAP_VM_ATTRIBUTES", 101, false],
  ["KVM_CAP_SPLIT_IRQCHIP", 121, false],
  ["KVM_CAP_VCPU_ATTRIBUTES", 127, false],
  ["KVM_CAP_X2APIC_API", 129, true],
  ["KVM_CAP_IMMEDIATE_EXIT", 136, true],
  ["KVM_CAP_GET_MSR_FEATURES", 153, false],
  ["KVM_CAP_NESTED_STATE", 157, false],
  ["KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", 168, true],
  ["KVM_CAP_X86_USER_SPACE_MSR", 188, false],
  ["KVM_CAP_DIRTY_LOG_RING", 192, true],
  ["KVM_CAP_SREGS2", 200, false],
  ["KVM_CAP_XSAVE2", 208, true],
  ["KVM_CAP_SYS_ATTRIBUTES", 209, false],
  ["KVM_CAP_VM_TSC_CONTROL", 214, false],
  ["KVM_CAP_DIRTY_LOG_RING_ACQ_REL", 223, false],
];

const ioctl = koffi.load("libc.so.6").func("int ioctl(int fd, unsigned long request, uintptr_t argument)") as (
  fd: number,
  request: bigint,
  argument: bigint,
) => number;

function checkKvm(): void {
  check(existsSync("/dev/kvm"), "The lab has no /dev/kvm");
  const kvm = openSync("/dev/kvm", "r+");
  check(ioctl(kvm, KVM_GET_API_VERSION, 0n) === 12, "KVM's API version is not 12");
  const vm = ioctl(kvm, KVM_CREATE_VM, 0n);
  check(vm >= 0, `KVM_CREATE_VM failed: errno ${koffi.errno()}`);
  const vcpu = ioctl(vm, KVM_CREATE_VCPU, 0n);
  check(vcpu >= 0, `KVM_CREATE_VCPU failed: errno ${koffi.errno()}`);

  const missing: string[] = [];
  for (const [name, number, required] of CAPABILITIES) {
    const value = ioctl(vm, KVM_CHECK_EXTENSION, BigInt(number));
    console.log(`${name} ${value > 9 ? `0x${value.toString(16)}` : value}`);
    if (required && value <= 0) missing.push(name);
  }
  check(missing.length === 0, `KVM in the lab lacks ${missing.join(", ")}`);

  // struct kvm_device_attr {flags, group, attr, addr}: group and attribute 0 are KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET.
  const attribute = new Uint8Array(24);
  const hasTscOffset = ioctl(vcpu, KVM_HAS_DEVICE_ATTR, BigInt(koffi.address(attribute))) === 0;
  console.log(`KVM_VCPU_TSC_OFFSET ${hasTscOffset ? 1 : 0}`);
  console.log(`KVM_GET_TSC_KHZ ${ioctl(vcpu, KVM_GET_TSC_KHZ, 0n)}`);
  for (const fd of [vcpu, vm, kvm]) closeSync(fd);
}

/** Here guests run on a CPU, if on an emulated one: a VM without `-accel` has KVM. */
function checkProbe(): void {
  const startMs = performance.now();
  const { name, reason } = chooseAccelerator(["kvm", "wasm"]);
  console.log(`accelerator ${name}, chosen in ${(performance.now() - startMs).toFixed(1)} ms: ${reason}`);
  check(name === "kvm", "The lab's KVM is passed over");
}

function checkProcessor(): void {
  const flags = /^flags\s*: (.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
  const wanted = ["svm", "npt", "vmmcall", "tsc_scale", "constant_tsc", "nonstop_tsc", "x2apic", "avx2", "avx512f"];
  console.log(wanted.map((flag) => `${flag}=${flags.includes(flag) ? "yes" : "no"}`).join(" "));
  check(flags.includes("svm") && flags.includes("npt"), "The lab's CPU lacks SVM with nested paging");
  const clocksource = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
  console.log(`clocksource ${readFileSync(clocksource, "utf8").trim()}`);
}

function checkIommu(): void {
  check(existsSync("/dev/vfio/vfio"), "The lab has no /dev/vfio/vfio");
  const groups = readdirSync("/sys/kernel/iommu_groups");
  console.log(`IOMMU groups ${groups.length}, iommufd ${existsSync("/dev/iommu") ? "yes" : "no"}`);
  check(groups.length > 0, "The lab has no IOMMU group");
  const devices = readdirSync("/sys/bus/pci/devices").map((device) => {
    const [vendor, id] = ["vendor", "device"].map((file) =>
      readFileSync(`/sys/bus/pci/devices/${device}/${file}`, "utf8").trim().slice(2),
    );
    return `${vendor}:${id}`;
  });
  check(devices.includes("1234:11e8"), "The lab has no edu device");
}

await scenario(() => {
  checkProcessor();
  checkKvm();
  checkProbe();
  checkIommu();
});
