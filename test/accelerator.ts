// SPDX-License-Identifier: Apache-2.0
// Which accelerator the guests of tests run on: BATON_TEST_ACCELERATOR says so, else it is KVM where there is one. The same tests hold
// for each; those of one alone ask by `skipUnless`.
import type { AcceleratorName } from "../src/config/types.ts";
import { kvmMissing } from "./kvm.ts";

const ACCELERATORS: readonly string[] = ["kvm", "wasm"] satisfies AcceleratorName[];

function choose(): AcceleratorName {
  const wanted = process.env.BATON_TEST_ACCELERATOR;
  if (wanted === undefined) return kvmMissing() === undefined ? "kvm" : "wasm";
  if (!ACCELERATORS.includes(wanted)) throw new Error(`BATON_TEST_ACCELERATOR=${wanted}: neither kvm nor wasm`);
  return wanted as AcceleratorName;
}

export const accelerator = choose();

/** Options that start a VM on it. Of the default the tests of that speak. */
export const accelOptions: readonly string[] = ["-accel", accelerator];

/** Why a test of what only one accelerator has cannot be run, for `skipIf`. */
export function skipUnless(name: AcceleratorName): string | undefined {
  return accelerator === name ? undefined : `it is about the accelerator ${name}`;
}
