// SPDX-License-Identifier: Apache-2.0
// Migration over a stream, the new side: builds the VM that the hello describes, receives its RAM and its state, and runs
// the guest when the old side has given it up.
//
// Until the commit (or the end of a one-way stream) everything may fail: the guest is the old side's.

import { DIRTY_BITMAP_SIZE_BYTES } from "../../assembly/layout.ts";
import { monotonicMs } from "../../ffi/clock.ts";
import { isStreamSocket } from "../../ffi/socket.ts";
import type { Rehearsal } from "../accel/types.ts";
import type { MachineSpec, MigrationAddress } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import type { Inherited } from "../machine/build.ts";
import type { Vm } from "../machine/vm.ts";
import { clearRam } from "../memory/ram.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { SocketAddress } from "../qmp/schema/migration.ts";
import { Reactor } from "../runtime/reactor.ts";
import { StateReader } from "../state/reader.ts";
import { type Frame, FrameChannel } from "./channel/frames.ts";
import type { TlsTunnels } from "./channel/tls.ts";
import { TransportListener } from "./channel/transport-listener.ts";
import { GUEST_SECTIONS, readCpuids, readMachine, readRunState } from "./guest-image.ts";
import {
  encodeDuration,
  expectFrame,
  expectOneOf,
  expectType,
  FRAME_ACCEPTED,
  FRAME_BURST,
  FRAME_COMMIT,
  FRAME_END,
  FRAME_FINAL,
  FRAME_HELLO,
  FRAME_JOIN,
  FRAME_MISSING,
  FRAME_POSTCOPY,
  FRAME_READY,
  FRAME_ROUND,
  FRAME_ROUND_DONE,
  FRAME_RUNNING,
  FRAME_STATE,
  MAX_STATE_FRAME_BYTES,
  refusePeer,
} from "./messages.ts";
import { POSTCOPY_CONNECTIONS, PostcopyDestination } from "./postcopy-incoming.ts";
import { SPARE_BITMAP } from "./precopy.ts";
import { RamReceiver } from "./ram/ram-receiver.ts";
import { acceptRam } from "./ram-by-reference.ts";
import { checkSamples, type RamLocation, readRamLocation } from "./ram-section.ts";
import { serveBurst } from "./rehearse.ts";
import { readTransferInfo, TRANSFER_SECTION, TRANSFER_SECTION_VERSION, type TransferInfo } from "./transfer-section.ts";

const SECTIONS: Readonly<Record<string, number>> = { ...GUEST_SECTIONS, [TRANSFER_SECTION]: TRANSFER_SECTION_VERSION };
const NOTHING = new Uint8Array(0);
/** The guest stands over there while this side waits for its state, or to be told to run it. */
const PAUSE_TIMEOUT_MS = 30_000;
const BUFFER_SIZE_BYTES = 2 ** 20;
/** Who opens a further connection says at once which one it is. */
const JOIN_TIMEOUT_MS = 5000;
/** In which the receiver notes which pages it has written: all others are zero. */
const WRITTEN_BITMAP = SPARE_BITMAP;

export interface StreamHost {
  vm: Vm;
  /** Builds the machine. @throws VmmError when the command line contradicts it */
  build(spec: MachineSpec, inherited: Inherited): Promise<void>;
  /** Hears where a connection is waited for. */
  onListening(address: SocketAddress | undefined): void;
  /** RAM begins to come. */
  onActive(): void;
  /** Post-copy: the guest is here, and the rest of its RAM is still to come. */
  onRunning(arrival: StreamArrival): void;
  /** What every connection is secured with. */
  tls: TlsTunnels | undefined;
}

export interface StreamArrival {
  runState: RunState;
  /** It runs already. */
  isRunning: boolean;
  generation: number;
}

/** Waits for a guest at `address` and takes it over. @throws VmmError; the old side has it then */
export async function receiveStream(
  host: StreamHost,
  address: MigrationAddress,
  signal: AbortSignal,
): Promise<StreamArrival> {
  const reactor = new Reactor();
  const session: Session = { reactor, signal, open: [], tls: host.tls };
  try {
    const findFd = (name: string): number | undefined => host.vm.fds.take(name);
    const listener = await TransportListener.listen(address, reactor, { findFd, takesMany: true });
    session.open.push(listener);
    host.onListening(listener.address);
    const main = await acceptChannel(listener, session);
    if (!isStreamSocket(main.transport.fd)) {
      throw new VmmError("channel", `${main.transport.name} is no socket: RAM cannot be received on it`);
    }
    try {
      return await receive(host, main, listener, session);
    } catch (error) {
      main.transport.abandon();
      if (main.transport.isDuplex) await refusePeer(main, error);
      throw signal.aborted ? signal.reason : error;
    }
  } finally {
    for (const each of session.open.reverse()) each.close();
    await reactor.close();
  }
}

async function acceptChannel(
  listener: TransportListener,
  { reactor, signal, open, tls }: Session,
  waiting = signal,
): Promise<FrameChannel> {
  const connected = await listener.accept({ signal: waiting });
  const channel = new FrameChannel((await tls?.secure(connected, waiting)) ?? connected, reactor);
  open.push(channel);
  signal.addEventListener("abort", () => channel.interrupt(signal.reason), { once: true });
  signal.throwIfAborted();
  return channel;
}

interface Session {
  reactor: Reactor;
  signal: AbortSignal;
  open: { close(): void }[];
  tls: TlsTunnels | undefined;
}

async function receive(
  host: StreamHost,
  main: FrameChannel,
  listener: TransportListener,
  session: Session,
): Promise<StreamArrival> {
  const { vm } = host;
  const { payload } = await expectFrame(main, FRAME_HELLO, { limitBytes: MAX_STATE_FRAME_BYTES });
  const hello = new StateReader(payload, SECTIONS);
  const info = readTransferInfo(hello);
  const { spec } = readMachine(hello);
  const location = readRamLocation(hello, spec.memorySizeBytes);
  if (location.where !== "in-stream" && location.where !== "in-place") {
    throw new VmmError("state-refused", `The RAM is said to be ${location.where}, and this is a stream`);
  }
  await host.build(spec, {
    cpuids: readCpuids(hello, spec.cpuCount),
    isFromElsewhere: true,
    ramIsInPlace: location.where === "in-place",
  });
  if (location.where === "in-stream") clearRam(vm.memory, vm.ram);
  await using postcopy = info.postcopy === true ? PostcopyDestination.prepare(vm, WRITTEN_BITMAP) : undefined;
  await vm.accel.prepareToRun();
  const rehearsal = vm.accel.rehearse();
  session.open.push(rehearsal);
  const { isDuplex } = main.transport;
  using source = isDuplex ? await acceptRam(main, info, location, vm) : undefined;
  const further = await acceptFurther(main, listener, info, session);
  listener.close();
  const [urgent, background] = further.splice(info.streams ?? 0);
  postcopy?.connect(urgent!.transport.fd, background!.transport.fd);
  new Uint8Array(vm.memory.buffer, WRITTEN_BITMAP, DIRTY_BITMAP_SIZE_BYTES).fill(0);
  await using receiver = new RamReceiver({
    memory: vm.memory,
    ramBase: vm.ram.base,
    ramSizeBytes: vm.ram.backend.sizeBytes,
    fds: (further.length > 0 ? further : [main]).map(({ transport }) => transport.fd),
    freshBitmap: WRITTEN_BITMAP,
    ...(source === undefined ? {} : { source: source.pages }),
  });
  session.signal.addEventListener("abort", () => receiver.cancel(), { once: true });
  host.onActive();
  const receiving: Receiving = {
    main,
    receiver,
    isApart: further.length > 0,
    isByReference: source !== undefined,
    rehearsal,
    location,
    signal: session.signal,
    postcopy,
  };
  for (let round: Frame | undefined; ; ) {
    if ((await receiveRounds(host, receiving, round)) === FRAME_POSTCOPY) {
      return await takeOverBefore(host, receiving, postcopy!, info);
    }
    const state = isDuplex
      ? main.receiveNow(MAX_STATE_FRAME_BYTES, PAUSE_TIMEOUT_MS)
      : await expectOneOf(main, [FRAME_STATE, FRAME_ROUND, FRAME_FINAL], { limitBytes: MAX_STATE_FRAME_BYTES });
    round = expectType(state, FRAME_STATE, FRAME_ROUND, FRAME_FINAL);
    if (round.type !== FRAME_STATE) continue;
    return isDuplex ? takeOver(host, receiving, state, info) : await takeAtEnd(host, receiving, state, info);
  }
}

/** Post-copy: the guest goes on here before all of its RAM has come. */
async function takeOverBefore(
  host: StreamHost,
  receiving: Receiving,
  postcopy: PostcopyDestination,
  info: TransferInfo,
): Promise<StreamArrival> {
  const { main, signal } = receiving;
  postcopy.drop(expectType(main.receiveNow(DIRTY_BITMAP_SIZE_BYTES, PAUSE_TIMEOUT_MS), FRAME_MISSING).payload);
  postcopy.begin();
  const state = expectType(main.receiveNow(MAX_STATE_FRAME_BYTES, PAUSE_TIMEOUT_MS), FRAME_STATE);
  const arrival = takeOver(host, receiving, state, info, postcopy);
  host.onRunning(arrival);
  signal.addEventListener("abort", () => postcopy.cancel(), { once: true });
  await postcopy.finish(main);
  return arrival;
}

/** The connections of `multifd` and those of post-copy, in order. A stranger that connects is sent away. */
async function acceptFurther(
  main: FrameChannel,
  listener: TransportListener,
  { token, streams = 0, postcopy = false }: TransferInfo,
  session: Session,
): Promise<FrameChannel[]> {
  const channels: FrameChannel[] = [];
  const count = streams + (postcopy ? POSTCOPY_CONNECTIONS : 0);
  if (count === 0) return channels;
  const gone = new AbortController();
  main.onHangup(() => gone.abort(peerGone(main)));
  const complete = new AbortController();
  const waiting = AbortSignal.any([session.signal, gone.signal, complete.signal]);
  let missing = count;
  const join = async (channel: FrameChannel): Promise<void> => {
    const position = await readJoin(channel, token);
    if (position === undefined || position >= count || channels[position] !== undefined) {
      channel.close();
      return;
    }
    channels[position] = channel;
    missing--;
    if (missing === 0) complete.abort();
  };
  try {
    // Nobody waits for one that does not say who it is.
    for (;;) {
      const channel = await acceptChannel(listener, session, waiting).catch((error: unknown) => {
        if (waiting.aborted || !(error instanceof VmmError && error.code === "tls")) throw error;
        process.stderr.write(`baton: a connection to -incoming was sent away: ${describeError(error)}\n`);
      });
      if (channel !== undefined) void join(channel);
    }
  } catch (error) {
    if (missing > 0) throw error;
  } finally {
    main.onHangup(undefined);
  }
  return channels;
}

/** Which connection this is; undefined when it is none of this migration's. */
async function readJoin(channel: FrameChannel, token: string): Promise<number | undefined> {
  const isLate = setTimeout(() => {
    channel.interrupt(new VmmError("peer-silent", `${channel.transport.name} did not say who it is`));
  }, JOIN_TIMEOUT_MS);
  try {
    const { payload } = await expectFrame(channel, FRAME_JOIN);
    const [given, position] = new TextDecoder().decode(payload).split(" ");
    return given === token && /^\d{1,2}$/.test(position ?? "") ? Number(position) : undefined;
  } catch (error) {
    process.stderr.write(`baton: a connection to -incoming was sent away: ${describeError(error)}\n`);
    return undefined;
  } finally {
    clearTimeout(isLate);
  }
}

function peerGone({ transport }: FrameChannel): VmmError {
  return new VmmError("peer-gone", `${transport.name}: the other side has gone`);
}

interface Receiving {
  main: FrameChannel;
  receiver: RamReceiver;
  /** RAM has connections of its own. */
  isApart: boolean;
  /** Pages are not sent, but taken out of the other side's RAM. */
  isByReference: boolean;
  rehearsal: Rehearsal;
  location: RamLocation;
  signal: AbortSignal;
  postcopy: PostcopyDestination | undefined;
}

/**
 * From the frame `next`, if it has been read already, until the guest stands over there and the last of its RAM is here
 * (FINAL), or the rest is to come later (POSTCOPY).
 */
async function receiveRounds(
  { vm }: StreamHost,
  receiving: Receiving,
  next: Frame | undefined,
): Promise<typeof FRAME_FINAL | typeof FRAME_POSTCOPY> {
  const { main, rehearsal, location, signal, postcopy } = receiving;
  const buffer = new Uint8Array(BUFFER_SIZE_BYTES);
  const types = [FRAME_ROUND, FRAME_BURST, FRAME_FINAL, ...(postcopy === undefined ? [] : [FRAME_POSTCOPY])];
  for (let frame = next; ; frame = undefined) {
    frame ??= await expectOneOf(main, types, { limitBytes: DIRTY_BITMAP_SIZE_BYTES });
    signal.throwIfAborted();
    if (frame.type === FRAME_POSTCOPY) {
      postcopy!.drop(frame.payload);
      await main.send(FRAME_ACCEPTED, NOTHING);
      return FRAME_POSTCOPY;
    }
    if (frame.type === FRAME_BURST) {
      serveBurst(main, frame, { accel: rehearsal, devices: vm.devices, sections: SECTIONS }, buffer);
      continue;
    }
    const isLast = frame.type === FRAME_FINAL;
    if (location.where === "in-stream") {
      // Of the round within the pause, and its rehearsal, no worker has to be told.
      const isNow = main.transport.isDuplex && (isLast || frame.payload[0] === 1);
      if (isNow) receiving.receiver.receiveRoundNow(PAUSE_TIMEOUT_MS);
      else await receiveRound(receiving);
    }
    signal.throwIfAborted();
    if (isLast) return FRAME_FINAL;
    if (receiving.isByReference) await main.send(FRAME_ROUND_DONE, NOTHING);
  }
}

/** Where RAM has connections of its own, the main one is all that tells of a peer that has gone. */
async function receiveRound({ main, receiver, isApart }: Receiving): Promise<void> {
  if (!isApart) {
    await receiver.receiveRound();
    return;
  }
  let hasGone = false;
  main.onHangup(() => {
    hasGone = true;
    receiver.cancel();
  });
  try {
    await receiver.receiveRound();
  } catch (error) {
    throw hasGone ? peerGone(main) : error;
  } finally {
    main.onHangup(undefined);
  }
}

/** Synchronous, as the guest stands meanwhile. */
function takeOver(
  host: StreamHost,
  { main, location }: Receiving,
  state: Frame,
  info: TransferInfo,
  postcopy?: PostcopyDestination,
): StreamArrival {
  const { vm } = host;
  const runState = restore(vm, state.payload, location);
  main.sendNow(FRAME_READY, NOTHING, [], PAUSE_TIMEOUT_MS);
  expectType(main.receiveNow(0, PAUSE_TIMEOUT_MS), FRAME_COMMIT);
  postcopy?.commit();
  const isRunning = runState === "running" && vm.startsWhenComplete;
  const runsSinceMs = monotonicMs();
  if (isRunning) vm.runArrived();
  try {
    main.sendNow(FRAME_RUNNING, encodeDuration(monotonicMs() - runsSinceMs), [], PAUSE_TIMEOUT_MS);
  } catch (error) {
    process.stderr.write(`baton: the guest is here, but the other side was not told: ${describeError(error)}\n`);
  }
  return { runState, isRunning, generation: info.generation };
}

/** Of a stream that nothing goes back on: it has to be whole. */
async function takeAtEnd(
  { vm }: StreamHost,
  { main, location, signal }: Receiving,
  state: Frame,
  info: TransferInfo,
): Promise<StreamArrival> {
  await expectFrame(main, FRAME_END);
  signal.throwIfAborted();
  return { runState: restore(vm, state.payload, location), isRunning: false, generation: info.generation };
}

function restore(vm: Vm, image: Uint8Array, location: RamLocation): RunState {
  const reader = new StateReader(image, SECTIONS);
  const runState = readRunState(reader);
  if (location.where === "in-place") {
    const sampled = readRamLocation(reader, vm.ram.backend.sizeBytes);
    if (sampled.where !== "in-place") throw new VmmError("state-refused", "The RAM is said to be in two places");
    checkSamples(vm.memory, vm.ram, sampled);
  }
  vm.devices.restoreState(reader);
  vm.accel.restoreState(reader);
  return runState;
}
