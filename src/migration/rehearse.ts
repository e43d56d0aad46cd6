// SPDX-License-Identifier: Apache-2.0
// Rehearsals: both sides save, carry and restore a VM that never runs, until the code of the guest's pause is compiled and
// koffi has looked up what it calls. Without them the pause is three times as long.
import type { Rehearsal } from "../accel/types.ts";
import { VmmError } from "../errors.ts";
import type { DeviceSet } from "../machine/device-set.ts";
import { StateReader } from "../state/reader.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";
import { type PlannedGuest, readRunState } from "./guest-image.ts";
import {
  expectType,
  FRAME_BURST,
  FRAME_REHEARSE,
  FRAME_REHEARSED,
  MAX_ANSWER_BYTES,
  MAX_STATE_FRAME_BYTES,
} from "./messages.ts";

/** After these the code of the pause is compiled as well as it ever will be. */
const BURSTS = 10;
/** Between bursts both main threads do what else there is to do. */
export const ROUNDS_PER_BURST = 4;
/** More frames at a time would keep everybody else on the new side waiting. */
const MAX_BURST = 64;
/** A round takes a millisecond or two; the first ones compile code, on a busy machine for long. The guest runs meanwhile. */
const TIMEOUT_MS = 5000;

/** Old side: rehearses on images of `plan`, which is called for each. */
export async function rehearse(channel: FrameChannel, signal: AbortSignal, plan: () => PlannedGuest): Promise<void> {
  for (let burst = 0; burst < BURSTS; burst++) {
    await announceBurst(channel, ROUNDS_PER_BURST);
    for (let round = 0; round < ROUNDS_PER_BURST; round++) rehearseOnce(channel, plan());
    signal.throwIfAborted();
  }
}

/** Old side: `frameCount` frames follow at once, and nobody needs to look at anything else until then. */
export async function announceBurst(channel: FrameChannel, frameCount: number): Promise<void> {
  await channel.send(FRAME_BURST, new Uint8Array(Uint32Array.of(frameCount).buffer));
}

/** Old side: one round of an announced burst. */
export function rehearseOnce(channel: FrameChannel, planned: PlannedGuest): void {
  channel.sendNow(FRAME_REHEARSE, planned.take(), [], TIMEOUT_MS);
  expectType(channel.receiveNow(MAX_ANSWER_BYTES, TIMEOUT_MS), FRAME_REHEARSED);
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
  for (let left = burstOf(frame); left > 0; left--) {
    const { payload } = expectType(channel.receiveNow(MAX_STATE_FRAME_BYTES, TIMEOUT_MS, buffer), FRAME_REHEARSE);
    serveRehearsal(channel, payload, on);
  }
}

/** New side: one round, on `image`. */
export function serveRehearsal(channel: FrameChannel, image: Uint8Array, on: RehearsedOn): void {
  const reader = new StateReader(image, on.sections);
  readRunState(reader);
  on.devices.restoreState(reader);
  on.rehearsal.restoreState(reader);
  channel.sendNow(FRAME_REHEARSED, NOTHING, [], TIMEOUT_MS);
}

/** How many frames are announced. @throws VmmError "stream" */
export function burstOf({ payload }: Frame): number {
  const count = payload.length === 4 ? new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true) : 0;
  if (count >= 1 && count <= MAX_BURST) return count;
  throw new VmmError("stream", `A burst of 1 to ${MAX_BURST} frames is announced in 4 bytes, not as [${payload}]`);
}
