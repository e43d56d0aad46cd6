// SPDX-License-Identifier: Apache-2.0
// Rehearsals: both sides save, carry and restore a VM that never runs, until the code of the guest's pause is compiled and
// koffi has looked up what it calls. Without them the pause is three times as long.
import type { Rehearsal } from "../accel/types.ts";
import { VmmError } from "../errors.ts";
import type { DeviceSet } from "../machine/device-set.ts";
import { StateReader } from "../state/reader.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";
import { type PlannedGuest, readRunState } from "./guest-image.ts";
import { expectType, FRAME_BURST, FRAME_REHEARSE, FRAME_REHEARSED, MAX_STATE_FRAME_BYTES } from "./messages.ts";

const BURSTS = 10;
/** Between bursts both main threads do what else there is to do. */
const ROUNDS_PER_BURST = 4;
/** One round takes a millisecond or two. */
const TIMEOUT_MS = 5000;
const MAX_ANSWER_BYTES = 16 * 1024;

/** Old side: rehearses on images of `plan`, which is called for each. */
export async function rehearse(channel: FrameChannel, signal: AbortSignal, plan: () => PlannedGuest): Promise<void> {
  for (let burst = 0; burst < BURSTS; burst++) {
    await channel.send(FRAME_BURST, new Uint8Array(Uint32Array.of(ROUNDS_PER_BURST).buffer));
    for (let round = 0; round < ROUNDS_PER_BURST; round++) {
      channel.sendNow(FRAME_REHEARSE, plan().take(), [], TIMEOUT_MS);
      expectType(channel.receiveNow(MAX_ANSWER_BYTES, TIMEOUT_MS), FRAME_REHEARSED);
    }
    signal.throwIfAborted();
  }
}

const NOTHING = new Uint8Array(0);

export interface RehearsedOn {
  rehearsal: Rehearsal;
  devices: DeviceSet;
  /** See `StateReader`. */
  sections: Readonly<Record<string, number>>;
}

/** New side: serves the burst that `frame` announces. @param buffer for the images */
export function serveBurst(channel: FrameChannel, frame: Frame, on: RehearsedOn, buffer: Uint8Array): void {
  for (let left = countOf(frame); left > 0; left--) {
    const { payload } = expectType(channel.receiveNow(MAX_STATE_FRAME_BYTES, TIMEOUT_MS, buffer), FRAME_REHEARSE);
    const reader = new StateReader(payload, on.sections);
    readRunState(reader);
    on.devices.restoreState(reader);
    on.rehearsal.restoreState(reader);
    channel.sendNow(FRAME_REHEARSED, NOTHING, [], TIMEOUT_MS);
  }
}

/** How many frames a burst has. @throws VmmError "stream" */
export function countOf({ payload }: Frame): number {
  if (payload.length !== 4)
    throw new VmmError("stream", `A burst is announced in ${payload.length} bytes instead of 4`);
  return new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true);
}
