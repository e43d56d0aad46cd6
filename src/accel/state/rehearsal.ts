// SPDX-License-Identifier: Apache-2.0
// A VM like the real one, without memory, that never runs: saving and restoring are tried on it until their code is warm.
import type { BindSection, StateWriter } from "../../state/writer.ts";
import type { Rehearsal } from "../types.ts";
import type { PowerOnState } from "./power-on.ts";
import { VmState } from "./saved-state.ts";
import type { ScratchMachine } from "./types.ts";

/** `park` does all that parking takes, but nobody is stopped. */
export function createRehearsal(
  machine: ScratchMachine,
  { profile, reader: powerOn }: PowerOnState,
  park: () => void,
  scaledTscKhz: number | undefined,
): Rehearsal {
  const state = new VmState(machine);
  // Else the other side would be asked for another frequency than it will be in earnest.
  state.scaleTsc(scaledTscKhz);
  return {
    park,
    planState: (writer: StateWriter): BindSection => state.plan(writer, profile),
    restoreState: (reader, options): void => state.restore(reader, options, powerOn),
    close: () => machine.close(),
  };
}
