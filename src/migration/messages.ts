// SPDX-License-Identifier: Apache-2.0
// What the two sides of a migration say to each other, in the frames of channel/frames.ts. docs/migration-protocol.md has
// the conversations.
import { close } from "../../ffi/fd.ts";
import { describeError, VmmError } from "../errors.ts";
import { MAX_IMAGE_SIZE_BYTES } from "../state/format.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";

/** The machine, every section that will come and what the two sides need to know of each other; with fds in cpr-transfer. */
export const FRAME_HELLO = 1;
/** To HELLO: the machine is built. To BEGIN: the token is right. */
export const FRAME_ACCEPTED = 2;
/** The reason, as text: the guest stays where it is. */
export const FRAME_REFUSED = 3;
/** The main channel may be connected. */
export const FRAME_LISTENING = 4;
/** First on the main channel of a transfer: the token of the hello. */
export const FRAME_BEGIN = 5;
/** u32: that many frames follow at once, each answered; u32: 1 when the last of them is the guest, else 0. */
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
/** u8: the type of a frame, REHEARSE or STATE, whose image is being filled in, to be read along; that frame follows when it is. */
export const FRAME_FILLING = 26;
/** On the main channel: the connections follow on the cpr channel. Once more if they have changed since. */
export const FRAME_HANDOVER = 17;
/** On the cpr channel: the connections as JSON, and the first of their fds. */
export const FRAME_CONNECTIONS = 18;
/** On the cpr channel: more of their fds. */
export const FRAME_FDS = 19;
/** The connections are here and make sense. */
export const FRAME_HELD = 20;

/** From a guard: it has started, and can be told. */
export const FRAME_AWAKE = 29;
/** To a guard, as JSON: what it is to guard, and the first of the fds; FDS has more of them. */
export const FRAME_ENTRUST = 27;
/** All of it is there. */
export const FRAME_GUARDING = 28;

/** First on a further connection of a stream: the token of the hello, a space, and the number of the connection. */
export const FRAME_JOIN = 11;
/**
 * A round of RAM follows, in records of ram/record.ts, on this connection or the further ones. With a byte 1: it is empty, and
 * rehearses the last one.
 */
export const FRAME_ROUND = 12;
/** The guest is about to stand: a last round of RAM follows, and then its state; or another ROUND, if it had to go on. */
export const FRAME_FINAL = 13;
/** The guest could run here now. */
export const FRAME_READY = 14;
/** The guest is yours. */
export const FRAME_COMMIT = 15;
/** Of a stream that nothing can come back on: it was all. */
export const FRAME_END = 16;
/** The fd of the RAM, read-only; without it when something between the two sides lost it (ram-by-reference.ts). */
export const FRAME_RAM_FILE = 24;
/** The pages that a round refers to have been taken. */
export const FRAME_ROUND_DONE = 25;

/** The guest goes on before the rest of its RAM is there: bitmap of the pages that are not sent any more, or not as they are now. */
export const FRAME_POSTCOPY = 21;
/** The guest stands: the same bitmap, of this moment. */
export const FRAME_MISSING = 22;
/** All of RAM is here. */
export const FRAME_DONE = 23;

/** All others have no file descriptors. */
const CARRY_FDS: readonly number[] = [FRAME_HELLO, FRAME_CONNECTIONS, FRAME_FDS, FRAME_RAM_FILE, FRAME_ENTRUST];

/** A reason is a sentence or two. */
const MAX_REASON_BYTES = 16 * 1024;
/** The most that an answer has: a reason to refuse. */
export const MAX_ANSWER_BYTES = MAX_REASON_BYTES;
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
  [FRAME_HANDOVER]: "HANDOVER",
  [FRAME_CONNECTIONS]: "CONNECTIONS",
  [FRAME_FDS]: "FDS",
  [FRAME_HELD]: "HELD",
  [FRAME_POSTCOPY]: "POSTCOPY",
  [FRAME_MISSING]: "MISSING",
  [FRAME_DONE]: "DONE",
  [FRAME_RAM_FILE]: "RAM_FILE",
  [FRAME_ROUND_DONE]: "ROUND_DONE",
  [FRAME_FILLING]: "FILLING",
  [FRAME_AWAKE]: "AWAKE",
  [FRAME_ENTRUST]: "ENTRUST",
  [FRAME_GUARDING]: "GUARDING",
};

/**
 * The frame, when it is of one of these types.
 * @throws VmmError "refused" with the peer's reason, "stream" when it is another one; its fds are closed
 */
export function expectType(frame: Frame, ...types: number[]): Frame {
  const isExpected = types.includes(frame.type);
  if (isExpected && (frame.fds.length === 0 || CARRY_FDS.includes(frame.type))) return frame;
  discardFds(frame);
  if (frame.type === FRAME_REFUSED) throw refusal(frame.payload);
  const got = NAMES[frame.type] ?? `type ${frame.type}`;
  const what = isExpected ? `file descriptors with ${got}` : `${got} where ${namesOf(types)} was expected`;
  throw new VmmError("stream", `The other side sent ${what}`);
}

function namesOf(types: readonly number[]): string {
  return types.map((type) => NAMES[type]).join(" or ");
}

/** What a frame is about: of a FILLING, what it announces. */
export function subjectOf({ type, payload }: Frame): number {
  return type === FRAME_FILLING && payload.length === 1 ? payload[0]! : type;
}

/** For a frame that is of no use. */
export function discardFds(frame: Frame): void {
  for (const fd of frame.fds) close(fd);
  frame.fds.length = 0;
}

export interface ExpectOptions {
  /** The most that the payload may have. */
  limitBytes?: number | undefined;
  /** Default: for as long as the peer is there. */
  timeoutMs?: number;
}

/** The next frame, which must be of that type. @throws VmmError as `expectOneOf` */
export function expectFrame(channel: FrameChannel, type: number, options?: ExpectOptions): Promise<Frame> {
  return expectOneOf(channel, [type], options);
}

/**
 * The next frame, which must be of one of those types.
 * @throws VmmError "peer-gone" when the stream ends instead; "peer-silent", and then the channel is to be closed
 */
export async function expectOneOf(
  channel: FrameChannel,
  types: readonly number[],
  { limitBytes = MAX_REASON_BYTES, timeoutMs }: ExpectOptions = {},
): Promise<Frame> {
  const { name } = channel.transport;
  const silence = Promise.withResolvers<never>();
  const complain = (): void =>
    silence.reject(new VmmError("peer-silent", `${name} did not send ${namesOf(types)} within ${timeoutMs} ms`));
  const timer = timeoutMs === undefined ? undefined : setTimeout(complain, timeoutMs);
  try {
    const frame = await Promise.race([channel.receive(limitBytes), silence.promise]);
    if (frame === undefined) throw new VmmError("peer-gone", `${name} ended before it sent ${namesOf(types)}`);
    return expectType(frame, ...types);
  } finally {
    clearTimeout(timer);
  }
}

/** The peer's reason to end the conversation, on a channel on which nothing else is to come. Never resolves. */
export async function untilRefused(channel: FrameChannel): Promise<never> {
  const frame = await channel.receive(MAX_REASON_BYTES);
  if (frame === undefined) throw new VmmError("peer-gone", `${channel.transport.name}: the other side gave up`);
  expectType(frame, FRAME_REFUSED);
  throw new VmmError("refused", `The other side refused: ${new TextDecoder().decode(frame.payload)}`);
}

/** Tells the peer why nothing comes of it, if it still listens. */
export async function refusePeer(channel: FrameChannel, error: unknown): Promise<void> {
  const reason = new TextEncoder().encode(describeError(error)).subarray(0, MAX_REASON_BYTES);
  // Whether the peer hears it makes no difference to what happened here.
  await channel.send(FRAME_REFUSED, reason).catch(() => {});
}

/** How long a peer that has hung up can still be heard, and a command that takes no more may still take to end. */
const LAST_WORD_TIMEOUT_MS = 100;

/** Why the peer hung up, if it said so, or how the command ended: `error`, that it did, tells less. */
export async function explainHangup(channel: FrameChannel, error: unknown): Promise<unknown> {
  const isHangup = error instanceof VmmError && (error.code === "peer-gone" || error.code === "ram-peer");
  if (!isHangup) return error;
  if (!channel.transport.isDuplex) {
    const silence = new Promise<void>((resolve) => setTimeout(resolve, LAST_WORD_TIMEOUT_MS));
    return Promise.race([channel.transport.finished(), silence]).then(
      () => error,
      (failure: unknown) => failure,
    );
  }
  try {
    const { type, payload } = channel.receiveNow(MAX_REASON_BYTES, LAST_WORD_TIMEOUT_MS);
    return type === FRAME_REFUSED ? refusal(payload) : error;
  } catch {
    // It said nothing.
    return error;
  }
}

function refusal(reason: Uint8Array): VmmError {
  return new VmmError("refused", `The other side refused: ${new TextDecoder().decode(reason)}`);
}

/** Of RUNNING on a stream: for how long, in ms. */
export function encodeDuration(durationMs: number): Uint8Array {
  return new Uint8Array(Float64Array.of(durationMs).buffer);
}

/** 0 for what makes no sense, and from a Baton that does not tell. */
export function decodeDuration(payload: Uint8Array): number {
  if (payload.length !== 8) return 0;
  const durationMs = new DataView(payload.buffer, payload.byteOffset, 8).getFloat64(0, true);
  return durationMs > 0 && Number.isFinite(durationMs) ? durationMs : 0;
}

/** Of RUNNING: when the state had come, when it was restored, and when the guest was taken. */
const RUNNING_STAMPS = 3;

export function encodeStamps(stampsMs: readonly number[]): Uint8Array {
  return new Uint8Array(Float64Array.from(stampsMs).buffer);
}

/** @throws VmmError "stream" */
export function decodeStamps(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stamps = Array.from({ length: bytes.length >> 3 }, (_, index) => view.getFloat64(index * 8, true));
  if (stamps.length === RUNNING_STAMPS && stamps.every(Number.isFinite)) return stamps;
  throw new VmmError("stream", `The other side sent ${bytes.length} bytes of times that make no sense`);
}
