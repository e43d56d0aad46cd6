// SPDX-License-Identifier: Apache-2.0
// Whether this host can run a guest that has seen another host's CPUID: every feature the guest may use must be there.
import { VmmError } from "../errors.ts";
import { CpuidTable, featureName, type Register } from "./cpuid.ts";

type FeatureRegister = readonly [leaf: number, subleaf: number, register: Register, ignored: number];

const bit = (...numbers: number[]): number => numbers.reduce((mask, number) => mask | (1 << number), 0);

/**
 * The registers of CPUID whose bits are features, and the bits of them that are not the host's: topology, what the guest's
 * own CR4 says, and what Baton itself adds. Made when asked for: an update does not ask.
 */
const featureRegisters = (): readonly FeatureRegister[] => [
  // TSC deadline is KVM's, see below; OSXSAVE, hypervisor.
  [1, 0, "ecx", bit(24, 27, 31)],
  // HTT.
  [1, 0, "edx", bit(28)],
  [7, 0, "ebx", 0],
  // OSPKE.
  [7, 0, "ecx", bit(4)],
  [7, 0, "edx", 0],
  [7, 1, "eax", 0],
  [7, 1, "edx", 0],
  // What XSAVE saves, low and high half; how it does so.
  [0xd, 0, "eax", 0],
  [0xd, 0, "edx", 0],
  [0xd, 1, "eax", 0],
  [0x4000_0001, 0, "eax", 0],
  // CMP legacy: there are several cores; TOPOEXT: leaf 0x8000_001e, Baton's, says which.
  [0x8000_0001, 0, "ecx", bit(1, 22)],
  [0x8000_0001, 0, "edx", 0],
  [0x8000_0007, 0, "edx", 0],
  [0x8000_0008, 0, "ebx", 0],
  [0x8000_0021, 0, "eax", 0],
];

const VENDOR_REGISTERS: readonly Register[] = ["ebx", "edx", "ecx"];

function vendorOf(table: CpuidTable): string {
  const words = Uint32Array.from(VENDOR_REGISTERS, (register) => table.find(0, 0, register));
  return new TextDecoder().decode(words);
}

/** What a guest with that CPUID may use and this host lacks; empty when it can run here. */
export function missingFeatures(guest: Uint8Array, supported: Uint8Array, hasTscDeadline: boolean): string[] {
  const wanted = new CpuidTable(guest);
  const had = new CpuidTable(supported);
  const missing: string[] = [];
  const [vendor, hostVendor] = [vendorOf(wanted), vendorOf(had)];
  if (vendor !== hostVendor) missing.push(`a CPU of ${vendor} (this one is of ${hostVendor})`);
  if (!hasTscDeadline && (wanted.find(1, 0, "ecx") & bit(24)) !== 0) missing.push(featureName(1, 0, "ecx", 24));
  for (const [leaf, subleaf, register, ignored] of featureRegisters()) {
    const lacking = wanted.find(leaf, subleaf, register) & ~had.find(leaf, subleaf, register) & ~ignored;
    for (let number = 0; number < 32; number++) {
      if ((lacking & (1 << number)) !== 0) missing.push(featureName(leaf, subleaf, register, number));
    }
  }
  return missing;
}

/** @throws VmmError "cpu-features" with all that this host lacks for a guest whose vCPUs have that CPUID */
export function refuseMissingFeatures(guest: Uint8Array, supported: Uint8Array, hasTscDeadline: boolean): void {
  const missing = missingFeatures(guest, supported, hasTscDeadline);
  if (missing.length === 0) return;
  throw new VmmError(
    "cpu-features",
    `This host cannot run the guest, which may use what its KVM does not have: ${missing.join(", ")}. ` +
      "Move it to a host that has them, or start it with them off: NAME=off behind the model of -cpu",
  );
}
