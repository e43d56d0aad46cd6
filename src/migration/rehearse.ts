// SPDX-License-Identifier: Apache-2.0
// Rehearsals: both sides save, carry and restore a VM that never runs, until the code of the guest's pause is compiled and
// koffi has looked up what it calls. Without them the pause is three times as long.
import { monotonicMs } from "../../ffi/clock.ts";
import type { AcceleratedVm, Rehearsal } from "../accel/types.ts";
import { VmmError } from "../errors.ts";
import type { RestoreOptions } from "../machine/clock-origin.ts";
import type { DeviceSet } from "../machine/device-set.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import { StateReader } from "../state/reader.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";
import { type PlannedGuest, readRunState } from "./guest-image.ts";
import {
  expectType,
  FRAME_BURST,
  FRAME_FILLING,
  FRAME_REHEARSE,
  FRAME_REHEARSED,
  MAX_ANSWER_BYTES,
  MAX_STATE_FRAME_BYTES,
} from "./messages.ts";
import type { SharedImage } from "./shared-image.ts";

/** After these the code of the pause is compiled as well as it ever will be. */
const BURSTS = 10;
/** Between bursts both main threads do what else there is to do. */
export const ROUNDS_PER_BURST = 4;
const WARM_ROUNDS = 9;
/** More frames at a time would keep everybody else on the new side waiting. */
const MAX_BURST = 64;
/** A round takes a millisecond or two; the first ones compile code, on a busy machine for long. The guest runs meanwhile. */
const TIMEOUT_MS = 5000;

/** Old side: what is rehearsed. */
export interface Rehearsed {
  rehearsal: Rehearsal;
  /** Called for each round. */
  plan(): PlannedGuest;
  /** What images go through; absent: the channel itself. */
  shared?: SharedImage;
}

/** Old side. Returns how long a round takes that is warm, in ms: the median of the last ones. */
export async function rehearse(channel: FrameChannel, signal: AbortSignal, what: Rehearsed): Promise<number> {
  const roundsMs: number[] = [];
  for (let burst = 0; burst < BURSTS; burst++) {
    await announceBurst(channel, { frameCount: ROUNDS_PER_BURST, isLast: false });
    for (let round = 0; round < ROUNDS_PER_BURST; round++) roundsMs.push(rehearseOnce(channel, what));
    signal.throwIfAborted();
  }
  return roundsMs.slice(-WARM_ROUNDS).sort((a, b) => a - b)[WARM_ROUNDS >> 1]!;
}

/** What comes at once, so that nobody needs to look at anything else until then. */
export interface Burst {
  frameCount: number;
  /** The guest stands at the end of it. */
  isLast: boolean;
}

/** Old side. */
export async function announceBurst(channel: FrameChannel, { frameCount, isLast }: Burst): Promise<void> {
  await channel.send(FRAME_BURST, new Uint8Array(Uint32Array.of(frameCount, isLast ? 1 : 0).buffer));
}

/** Old side: one round of an announced burst. Returns what of it would be the guest's pause, in ms. */
export function rehearseOnce(channel: FrameChannel, { rehearsal, plan, shared }: Rehearsed): number {
  const planned = plan();
  const startMs = monotonicMs();
  rehearsal.park();
  if (shared === undefined) channel.sendNow(FRAME_REHEARSE, planned.take(), [], TIMEOUT_MS);
  else shared.send(channel, planned, { type: FRAME_REHEARSE, timeoutMs: TIMEOUT_MS });
  expectType(channel.receiveNow(MAX_ANSWER_BYTES, TIMEOUT_MS), FRAME_REHEARSED);
  return monotonicMs() - startMs;
}

const NOTHING = new Uint8Array(0);

export interface RestoredTo {
  accel: Pick<AcceleratedVm, "restoreState">;
  devices: DeviceSet;
  /** See `StateReader`. */
  sections: Readonly<Record<string, number>>;
  options?: RestoreOptions;
  /** What images come through whose frames are empty. */
  shared?: SharedImage;
}

/** New side: serves the burst that `frame` announces. @param buffer for the images */
export function serveBurst(channel: FrameChannel, frame: Frame, to: RestoredTo, buffer: Uint8Array): void {
  for (let left = burstOf(frame).frameCount; left > 0; left--) {
    const frame = expectType(channel.receiveNow(MAX_STATE_FRAME_BYTES, TIMEOUT_MS, buffer), FRAME_REHEARSE);
    serveRehearsal(channel, frame, to);
  }
}

/** New side: one round. */
export function serveRehearsal(channel: FrameChannel, frame: Frame, to: RestoredTo): void {
  restoreFrame(channel, frame, to);
  channel.sendNow(FRAME_REHEARSED, NOTHING, [], TIMEOUT_MS);
}

export interface Restored {
  reader: StateReader;
  runState: RunState;
  /** When all of the image was here: ms on CLOCK_MONOTONIC. */
  receivedMs: number;
}

/** New side: takes over what is in the image of a frame. @throws VmmError "state-refused", "stream", "peer-silent", "peer-gone" */
export function restoreFrame(channel: FrameChannel, frame: Frame, to: RestoredTo): Restored {
  const { type, payload } = frame;
  if (type !== FRAME_FILLING || to.shared === undefined) {
    const receivedMs = monotonicMs();
    const bytes = payload.length === 0 && to.shared !== undefined ? to.shared.receive() : payload;
    const reader = new StateReader(bytes, to.sections);
    return { reader, runState: restore(reader, to, to.options), receivedMs };
  }
  const image = to.shared.arrive(channel, frame, TIMEOUT_MS);
  const reader = image.read(to.sections);
  const runState = restore(reader, to, { ...to.options, awaitVcpu: ({ endOffset }) => image.await(endOffset) });
  image.finish();
  return { reader, runState, receivedMs: image.completeMs };
}

function restore(reader: StateReader, { accel, devices }: RestoredTo, options: RestoreOptions | undefined): RunState {
  const runState = readRunState(reader);
  devices.restoreState(reader, options);
  accel.restoreState(reader, options);
  return runState;
}

/** What is announced. @throws VmmError "stream" */
export function burstOf({ payload }: Frame): Burst {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const [frameCount, last] = payload.length === 8 ? [view.getUint32(0, true), view.getUint32(4, true)] : [0, 0];
  if (frameCount >= 1 && frameCount <= MAX_BURST && last <= 1) return { frameCount, isLast: last === 1 };
  throw new VmmError("stream", `A burst of 1 to ${MAX_BURST} frames is announced in 8 bytes, not as [${payload}]`);
}
