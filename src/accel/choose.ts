// SPDX-License-Identifier: Apache-2.0
// Which of the wanted accelerators a new VM gets, and why. A guest that an update brings has one already: nothing is chosen
// then, and nothing measured.
import type { AcceleratorName } from "../config/types.ts";
import { describeError } from "../errors.ts";
import { type KvmFitness, probeKvm } from "./kvm/probe.ts";

export interface AcceleratorChoice {
  name: AcceleratorName;
  /** Why this one, for a person: a sentence without a trailing period. */
  reason: string;
  /** What is wrong with KVM, which was wanted more. */
  passedOver?: "unusable" | "interprets";
}

/**
 * The first of `wanted` that is good for something. KVM is put to the test only where the engine may take its place:
 * who wants nothing else gets it, or hears why not.
 */
export function chooseAccelerator(
  wanted: readonly AcceleratorName[],
  probe: () => KvmFitness = probeKvm,
): AcceleratorChoice {
  const name = wanted[0]!;
  if (name !== "kvm" || !wanted.includes("wasm")) return { name, reason: "asked for by name" };
  const fitness = probe();
  if (fitness.verdict === "good") return { name, reason: "KVM runs guests on the CPU here" };
  return {
    name: "wasm",
    reason: `${whyNot(fitness)}: guests run on Baton's own CPU engine here`,
    passedOver: fitness.verdict,
  };
}

function whyNot(fitness: Exclude<KvmFitness, { verdict: "good" }>): string {
  if (fitness.verdict === "unusable") return `KVM cannot be used (${describeError(fitness.error)})`;
  const speed = (fitness.loopsPerSecond / 1e6).toPrecision(2);
  return `KVM interprets guests (${speed} million loops in a second, where CPUs do a thousand million)`;
}

/** How to have what was passed over, if it can be had; `option` is how to ask for it. */
export function hintAt({ passedOver }: AcceleratorChoice, option: string): string {
  return passedOver === "interprets" ? ` (${option} takes KVM all the same)` : "";
}

/** The machine with the accelerator that it will have. Who has not got the one that he wanted most hears of it on stderr. */
export function withChosenAccelerator<S extends { accelerators: AcceleratorName[] }>(spec: S): S {
  const choice = chooseAccelerator(spec.accelerators);
  if (choice.passedOver !== undefined) process.stderr.write(`baton: ${choice.reason}${hintAt(choice, "-accel kvm")}\n`);
  return { ...spec, accelerators: [choice.name] };
}
