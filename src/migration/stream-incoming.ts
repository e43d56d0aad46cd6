// SPDX-License-Identifier: Apache-2.0
// Migration over a stream, the new side: builds the VM that the hello describes, receives its RAM and its state, and runs
// the guest when the old side has given it up.
//
// Until the commit (or the end of a one-way stream) everything may fail: the guest is the old side's.

import { DIRTY_BITMAP_SIZE_BYTES } from "../../assembly/layout.ts";
import { monotonicMs } from "../../ffi/clock.ts";
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
import { FrameChannel } from "./channel/frames.ts";
import { TransportListener } from "./channel/transport-listener.ts";
import { GUEST_SECTIONS, readCpuids, readMachine, readRunState } from "./guest-image.ts";
import {
  encodeNumbers,
  expectFrame,
  expectOneOf,
  expectType,
  FRAME_BURST,
  FRAME_COMMIT,
  FRAME_END,
  FRAME_FINAL,
  FRAME_HELLO,
  FRAME_JOIN,
  FRAME_READY,
  FRAME_ROUND,
  FRAME_ROUND_DONE,
  FRAME_RUNNING,
  FRAME_STATE,
  MAX_STATE_FRAME_BYTES,
  refusePeer,
} from "./messages.ts";
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
/** In which the receiver notes which pages it has written: all others are zero. */
const WRITTEN_BITMAP = SPARE_BITMAP;

export interface StreamHost {
  vm: Vm;
  /** Builds the machine. @throws VmmError when the command line contradicts it */
  build(spec: MachineSpec, inherited: Inherited): void;
  /** Hears where a connection is waited for. */
  onListening(address: SocketAddress | undefined): void;
  /** RAM begins to come. */
  onActive(): void;
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
  const open: { close(): void }[] = [];
  const closeAll = (): void => {
    for (const each of open.splice(0).reverse()) each.close();
  };
  signal.addEventListener("abort", closeAll, { once: true });
  try {
    const findFd = (name: string): number | undefined => host.vm.fds.take(name);
    const listener = await TransportListener.listen(address, reactor, { findFd });
    open.push(listener);
    host.onListening(listener.address);
    const main = new FrameChannel(await listener.accept({ signal, isLast: false }), reactor);
    open.push(main);
    try {
      return await receive(host, main, listener, { reactor, signal, open });
    } catch (error) {
      if (main.transport.isDuplex) await refusePeer(main, error);
      throw signal.aborted ? signal.reason : error;
    }
  } finally {
    signal.removeEventListener("abort", closeAll);
    closeAll();
    await reactor.close();
  }
}

interface Session {
  reactor: Reactor;
  signal: AbortSignal;
  open: { close(): void }[];
}

async function receive(
  host: StreamHost,
  main: FrameChannel,
  listener: TransportListener,
  session: Session,
): Promise<StreamArrival> {
  const { vm } = host;
  const hello = new StateReader((await expectFrame(main, FRAME_HELLO, MAX_STATE_FRAME_BYTES)).payload, SECTIONS);
  const info = readTransferInfo(hello);
  const { spec } = readMachine(hello);
  const location = readRamLocation(hello, spec.memorySizeBytes);
  host.build(spec, { cpuids: readCpuids(hello, spec.cpuCount) });
  if (location.where === "in-stream") clearRam(vm.memory, vm.ram);
  await vm.accel.prepareToRun();
  const rehearsal = vm.accel.rehearse();
  session.open.push(rehearsal);
  const { isDuplex } = main.transport;
  using source = isDuplex ? await acceptRam(main, info, location, vm) : undefined;
  const further = await acceptFurther(listener, info, session);
  listener.close();
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
  await receiveRounds(host, main, { receiver, rehearsal, location, isByReference: source !== undefined });
  return isDuplex ? takeOver(host, main, location, info) : await takeAtEnd(host, main, location, info);
}

/** The connections of `multifd`, in order. A stranger that connects is sent away. */
async function acceptFurther(
  listener: TransportListener,
  { token, streams = 0 }: TransferInfo,
  { reactor, signal, open }: Session,
): Promise<FrameChannel[]> {
  const channels: FrameChannel[] = [];
  for (let missing = streams; missing > 0; ) {
    const channel = new FrameChannel(await listener.accept({ signal, isLast: false }), reactor);
    open.push(channel);
    const join = await expectFrame(channel, FRAME_JOIN).catch(() => undefined);
    const [given, index] = new TextDecoder().decode(join?.payload).split(" ");
    const position = Number(index);
    if (given !== token || !(position >= 0 && position < streams) || channels[position] !== undefined) {
      channel.close();
      continue;
    }
    channels[position] = channel;
    missing--;
  }
  return channels;
}

interface Receiving {
  receiver: RamReceiver;
  rehearsal: Rehearsal;
  location: RamLocation;
  isByReference: boolean;
}

/** Until the guest stands over there and the last of its RAM is here. */
async function receiveRounds(
  { vm }: StreamHost,
  main: FrameChannel,
  { receiver, rehearsal, location, isByReference }: Receiving,
): Promise<void> {
  const buffer = new Uint8Array(BUFFER_SIZE_BYTES);
  const { isDuplex } = main.transport;
  for (;;) {
    const frame = await expectOneOf(main, [FRAME_ROUND, FRAME_BURST, FRAME_FINAL]);
    if (frame.type === FRAME_BURST) {
      serveBurst(main, frame, { rehearsal, devices: vm.devices, sections: SECTIONS }, buffer);
      continue;
    }
    const isLast = frame.type === FRAME_FINAL;
    if (location.where === "in-stream") {
      if (isDuplex && (isLast || frame.payload[0] === 1)) receiver.receiveRoundNow(PAUSE_TIMEOUT_MS);
      else await receiver.receiveRound();
    }
    if (isLast) return;
    if (isByReference) await main.send(FRAME_ROUND_DONE, NOTHING);
  }
}

/** Synchronous, as the guest stands meanwhile. */
function takeOver(host: StreamHost, main: FrameChannel, location: RamLocation, info: TransferInfo): StreamArrival {
  const { vm } = host;
  const state = expectType(main.receiveNow(MAX_STATE_FRAME_BYTES, PAUSE_TIMEOUT_MS), FRAME_STATE);
  const runState = restore(vm, state.payload, location);
  main.sendNow(FRAME_READY, NOTHING, [], PAUSE_TIMEOUT_MS);
  expectType(main.receiveNow(0, PAUSE_TIMEOUT_MS), FRAME_COMMIT);
  const isRunning = runState === "running" && vm.startsWhenComplete;
  const runsSinceMs = monotonicMs();
  if (isRunning) vm.runArrived();
  try {
    main.sendNow(FRAME_RUNNING, encodeNumbers([monotonicMs() - runsSinceMs]), [], PAUSE_TIMEOUT_MS);
  } catch (error) {
    process.stderr.write(`baton: the guest is here, but the other side was not told: ${describeError(error)}\n`);
  }
  return { runState, isRunning, generation: info.generation };
}

/** Of a stream that nothing goes back on: it has to be whole. */
async function takeAtEnd(
  { vm }: StreamHost,
  main: FrameChannel,
  location: RamLocation,
  info: TransferInfo,
): Promise<StreamArrival> {
  const state = await expectFrame(main, FRAME_STATE, MAX_STATE_FRAME_BYTES);
  await expectFrame(main, FRAME_END);
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
