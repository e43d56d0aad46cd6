// SPDX-License-Identifier: Apache-2.0
// What has been measured of one configuration, over all of its VMs.
import type { ObservedPause } from "../../src/meter/watched-guest.ts";
import type { MigrationInfo } from "../../src/qmp/schema/migration.ts";
import type { Configuration } from "./plan.ts";

/** One update, as the guest and as the VMM saw it. */
export interface Sample extends ObservedPause {
  /** A QEMU has neither `downtime-us` nor `phases`. */
  info: MigrationInfo;
}

export interface Series {
  configuration: Configuration;
  /** First updates: of VMs whose RAM was just touched, every page of it through the VMM that is left. */
  fresh: Sample[];
  /** Further updates. */
  updates: Sample[];
  /** Pauses of `stop` and `cont` over QMP. */
  stopCont: ObservedPause[];
}

/**
 * The samples to use: those that were not disturbed, and if these are fewer than `wanted`, the best of the others. A
 * disturbed sample's figure is proven too; it is only known less exactly.
 */
export function select<T extends ObservedPause>(samples: readonly T[], wanted: number): T[] {
  const rank = ({ isDisturbed, pauseMs, atMostMs }: T): number => (isDisturbed ? atMostMs - pauseMs : 0);
  const ranked = samples.map((sample, index) => ({ sample, index }));
  ranked.sort((a, b) => rank(a.sample) - rank(b.sample) || a.index - b.index);
  return ranked
    .slice(0, wanted)
    .sort((a, b) => a.index - b.index)
    .map(({ sample }) => sample);
}

/** Durations of each phase in ms, in the order in which the VMM tells them. Empty for a VMM that tells none. */
export function phasesOf(samples: readonly Sample[]): { phase: string; samplesMs: number[] }[] {
  const phases = new Map<string, number[]>();
  for (const { info } of samples) {
    for (const { phase, "duration-us": us } of info.phases ?? []) {
      const list = phases.get(phase) ?? [];
      list.push(us / 1000);
      phases.set(phase, list);
    }
  }
  return [...phases].map(([phase, samplesMs]) => ({ phase, samplesMs }));
}

/** The pause in the VMM's own words, in ms; QEMU's in whole ones. */
export function downtimeMs({ info }: Sample): number | undefined {
  const us = info["downtime-us"];
  return us === undefined ? info.downtime : us / 1000;
}
