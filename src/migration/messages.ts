// SPDX-License-Identifier: Apache-2.0
// What the two sides of a migration say to each other, in the frames of channel/frames.ts. docs/migration-protocol.md has
// the conversations.
import { describeError, VmmError } from "../errors.ts";
import { MAX_IMAGE_SIZE_BYTES } from "../state/format.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";

/** The machine, every section that will come and what the two sides need to know of each other; with fds in cpr-transfer. */
export const FRAME_HELLO = 1;
/** The machine is built. */
export const FRAME_ACCEPTED = 2;
/** The reason, as text: the guest stays where it is. */
export const FRAME_REFUSED = 3;
/** The main channel may be connected. */
export const FRAME_LISTENING = 4;
/** First on the main channel of a transfer: the token of the hello. */
export const FRAME_BEGIN = 5;
/** That many frames follow at once, each answered: u32. */
export const FRAME_BURST = 6;
/** A state image to try saving, carrying and restoring on; nobody keeps it. */
export const FRAME_REHEARSE = 7;
export const FRAME_REHEARSED = 8;
/** The state image of the guest. */
export const FRAME_STATE = 9;
/**
 * The guest runs. Transfers: when which phase was over, f64 ms each on CLOCK_MONOTONIC. Streams: for how long by now, one f64 in
 * ms, as the two sides may have different clocks.
 */
export const FRAME_RUNNING = 10;

/** First on a further connection of a stream: the token of the hello, a space, and the number of the connection. */
export const FRAME_JOIN = 11;
/**
 * A round of RAM follows, in records of ram/record.ts, on this connection or the further ones. With a byte 1: it is empty, and
 * rehearses the last one.
 */
export const FRAME_ROUND = 12;
/** The guest stands: its last round of RAM follows, and then its state. */
export const FRAME_FINAL = 13;
/** The guest could run here now. */
export const FRAME_READY = 14;
/** The guest is yours. */
export const FRAME_COMMIT = 15;
/** Of a stream that nothing can come back on: it was all. */
export const FRAME_END = 16;
/** The fd of the RAM, read-only; without it when something between the two sides lost it (ram-by-reference.ts). */
export const FRAME_RAM_FILE = 20;
/** The pages that a round refers to have been taken. */
export const FRAME_ROUND_DONE = 21;

/** A reason is a sentence or two. */
const MAX_REASON_BYTES = 16 * 1024;
export const MAX_STATE_FRAME_BYTES = MAX_IMAGE_SIZE_BYTES;

const NAMES: Readonly<Record<number, string>> = {
  [FRAME_HELLO]: "HELLO",
  [FRAME_ACCEPTED]: "ACCEPTED",
  [FRAME_REFUSED]: "REFUSED",
  [FRAME_LISTENING]: "LISTENING",
  [FRAME_BEGIN]: "BEGIN",
  [FRAME_BURST]: "BURST",
  [FRAME_REHEARSE]: "REHEARSE",
  [FRAME_REHEARSED]: "REHEARSED",
  [FRAME_STATE]: "STATE",
  [FRAME_RUNNING]: "RUNNING",
  [FRAME_JOIN]: "JOIN",
  [FRAME_ROUND]: "ROUND",
  [FRAME_FINAL]: "FINAL",
  [FRAME_READY]: "READY",
  [FRAME_COMMIT]: "COMMIT",
  [FRAME_END]: "END",
  [FRAME_RAM_FILE]: "RAM_FILE",
  [FRAME_ROUND_DONE]: "ROUND_DONE",
};

/**
 * The frame, when it is of one of these types.
 * @throws VmmError "refused" with the peer's reason, "stream" when it is another one
 */
export function expectType(frame: Frame, ...types: number[]): Frame {
  if (types.includes(frame.type)) return frame;
  if (frame.type === FRAME_REFUSED) {
    throw new VmmError("refused", `The other side refused: ${new TextDecoder().decode(frame.payload)}`);
  }
  const got = NAMES[frame.type] ?? `type ${frame.type}`;
  throw new VmmError("stream", `The other side sent ${got} where ${namesOf(types)} was expected`);
}

function namesOf(types: readonly number[]): string {
  return types.map((type) => NAMES[type]).join(" or ");
}

/** The next frame, which must be of that type. @throws VmmError "peer-gone" when the stream ends instead */
export function expectFrame(channel: FrameChannel, type: number, limitBytes = MAX_REASON_BYTES): Promise<Frame> {
  return expectOneOf(channel, [type], limitBytes);
}

/** The next frame, which must be of one of those types. @throws VmmError "peer-gone" when the stream ends instead */
export async function expectOneOf(
  channel: FrameChannel,
  types: readonly number[],
  limitBytes = MAX_REASON_BYTES,
): Promise<Frame> {
  const frame = await channel.receive(limitBytes);
  if (frame === undefined) {
    throw new VmmError("peer-gone", `${channel.transport.name} ended before it sent ${namesOf(types)}`);
  }
  return expectType(frame, ...types);
}

/** Tells the peer why nothing comes of it, if it still listens. */
export async function refusePeer(channel: FrameChannel, error: unknown): Promise<void> {
  const reason = new TextEncoder().encode(describeError(error)).subarray(0, MAX_REASON_BYTES);
  // Whether the peer hears it makes no difference to what happened here.
  await channel.send(FRAME_REFUSED, reason).catch(() => {});
}

export function encodeNumbers(numbers: readonly number[]): Uint8Array {
  return new Uint8Array(Float64Array.from(numbers).buffer);
}

export function decodeNumbers(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length >> 3 }, (_, index) => view.getFloat64(index * 8, true));
}
