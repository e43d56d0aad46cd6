// SPDX-License-Identifier: Apache-2.0
// cpr-transfer, the new side: builds the VM around the RAM of a guest that still runs elsewhere, and takes it over.
//
//   cpr channel    hello: machine, RAM, fence ──▶ the VM is built, its page tables are filled, its threads wait
//   main channel   begin ──▶ rehearsals ──▶ state ──▶ restored ──▶ take ── point of no return ──▶ the guest runs here
//
// Everything before `take` may fail: then the guest runs on over there, and here nothing is left of it.
import { monotonicMs } from "../../ffi/clock.ts";
import { close } from "../../ffi/fd.ts";
import type { Rehearsal } from "../accel/types.ts";
import type { MachineSpec, MigrationAddress } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import type { Inherited } from "../machine/build.ts";
import type { Vm } from "../machine/vm.ts";
import { populateExisting } from "../memory/ram.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { SocketAddress } from "../qmp/schema/migration.ts";
import { Reactor } from "../runtime/reactor.ts";
import { StateReader } from "../state/reader.ts";
import { type Frame, FrameChannel } from "./channel/frames.ts";
import { TransportListener } from "./channel/transport-listener.ts";
import { type ReceivedConnections, receiveConnections } from "./connection-handover.ts";
import { Fence } from "./fence.ts";
import { GUEST_SECTIONS, readCpuids, readMachine, readRunState } from "./guest-image.ts";
import {
  encodeNumbers,
  expectFrame,
  expectType,
  FRAME_ACCEPTED,
  FRAME_BEGIN,
  FRAME_BURST,
  FRAME_HANDOVER,
  FRAME_HELLO,
  FRAME_LISTENING,
  FRAME_REHEARSE,
  FRAME_REHEARSED,
  FRAME_RUNNING,
  FRAME_STATE,
  MAX_STATE_FRAME_BYTES,
  nextFrame,
  refusePeer,
} from "./messages.ts";
import { Timeline, TRANSFER_PHASES } from "./timeline.ts";
import {
  readStamps,
  readTransferInfo,
  TRANSFER_SECTION,
  TRANSFER_SECTION_VERSION,
  type TransferInfo,
} from "./transfer-section.ts";

const SECTIONS: Readonly<Record<string, number>> = { ...GUEST_SECTIONS, [TRANSFER_SECTION]: TRANSFER_SECTION_VERSION };

/** Within a burst the other side sends one frame after the other; parking the guest is the longest of what it does. */
const FRAME_TIMEOUT_MS = 10_000;
/** Enough for the state of any VM but one with a console that was never read. */
const BUFFER_SIZE_BYTES = 2 ** 20;

export interface TransferHost {
  vm: Vm;
  /** Builds the machine. @throws VmmError when the command line contradicts it */
  build(spec: MachineSpec, inherited: Inherited): void;
}

/** A guest that has come, and how. */
export interface Arrival {
  runState: RunState;
  /** It runs already. */
  isRunning: boolean;
  generation: number;
  timeline: Timeline;
  /** Who was connected to the other side, to be taken over. */
  connections: ReceivedConnections | undefined;
}

/** What a hello has brought about. */
interface Expected {
  cpr: FrameChannel;
  fence: Fence;
  rehearsal: Rehearsal;
  info: TransferInfo;
  connections?: ReceivedConnections;
}

export class IncomingTransfer {
  readonly #host: TransferHost;
  readonly #address: MigrationAddress;
  readonly #reactor = new Reactor();
  readonly #buffer = new Uint8Array(BUFFER_SIZE_BYTES);
  #expected = Promise.withResolvers<Expected>();
  #isClosed = false;
  #listener: TransportListener | undefined;

  /** Listens on the cpr channel from now on. */
  constructor(address: MigrationAddress, host: TransferHost) {
    this.#address = address;
    this.#host = host;
  }

  /** Waits for the other side's hello. One that comes to nothing is reported, and the next one waited for. */
  async listen(): Promise<void> {
    this.#listener = await this.#listenAt(this.#address);
    void this.#awaitHello(this.#listener);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#listener?.close();
    await this.#reactor.close();
  }

  async #awaitHello(first: TransportListener): Promise<void> {
    let listener = first;
    for (;;) {
      try {
        const cpr = new FrameChannel(await listener.accept(), this.#reactor);
        await this.#greet(cpr);
        return;
      } catch (error) {
        if (this.#isClosed) return;
        process.stderr.write(`baton: cpr channel of -incoming: ${describeError(error)}\n`);
      }
      listener.close();
      listener = await this.#listenAt(this.#address);
      this.#listener = listener;
    }
  }

  async #greet(cpr: FrameChannel): Promise<void> {
    try {
      const hello = await expectFrame(cpr, FRAME_HELLO, MAX_STATE_FRAME_BYTES);
      const expected = await this.#prepare(cpr, hello);
      await cpr.send(FRAME_ACCEPTED, new Uint8Array(0));
      this.#expected.resolve(expected);
    } catch (error) {
      await this.#host.vm.disassemble();
      await refusePeer(cpr, error);
      cpr.close();
      throw error;
    }
  }

  /** Builds everything that the guest will need. */
  async #prepare(cpr: FrameChannel, { payload, fds }: Frame): Promise<Expected> {
    const [ramFd, fenceFd, ...others] = fds;
    if (ramFd === undefined || fenceFd === undefined || others.length > 0) {
      for (const fd of fds) close(fd);
      throw new VmmError("stream", `The hello has ${fds.length} file descriptors instead of 2`);
    }
    const { vm, build } = this.#host;
    try {
      const reader = new StateReader(payload, SECTIONS);
      const info = readTransferInfo(reader);
      const { spec } = readMachine(reader);
      build(spec, { cpuids: readCpuids(reader, spec.cpuCount), ramFd });
      const fence = Fence.join(vm.memory, fenceFd);
      await populateExisting(vm.memory, vm.ram);
      await vm.accel.prepareToRun();
      return { cpr, fence, info, rehearsal: vm.accel.rehearse() };
    } catch (error) {
      if (!vm.isBuilt) close(ramFd);
      close(fenceFd);
      throw error;
    }
  }

  #listenAt(address: MigrationAddress): Promise<TransportListener> {
    return TransportListener.listen(address, this.#reactor, { findFd: (name) => this.#host.vm.fds.take(name) });
  }

  /** Waits for the guest on the main channel and takes it over; `onListening` hears where that is. */
  async receive(
    main: MigrationAddress,
    signal: AbortSignal,
    onListening: (address: SocketAddress | undefined) => void,
  ): Promise<Arrival> {
    const abandoned = Promise.withResolvers<never>();
    abandoned.promise.catch(() => {});
    const abandon = (): void => abandoned.reject(signal.reason);
    signal.addEventListener("abort", abandon, { once: true });
    const open: { close(): void }[] = [];
    try {
      const expected = await Promise.race([this.#expected.promise, abandoned.promise]);
      const { cpr, info } = expected;
      open.push(cpr, expected.fence, expected.rehearsal);
      cpr.onHangup(() => {
        abandoned.reject(new VmmError("peer-gone", `${cpr.transport.name}: the other side gave up`));
      });
      const listener = await this.#listenAt(main);
      onListening(listener.address);
      open.push(listener);
      await cpr.send(FRAME_LISTENING, new Uint8Array(0));
      const channel = new FrameChannel(await Promise.race([listener.accept(), abandoned.promise]), this.#reactor);
      open.push(channel);
      for (const each of [channel, cpr]) signal.addEventListener("abort", () => each.close(), { once: true });
      try {
        return await this.#takeOver(channel, expected, info);
      } catch (error) {
        expected.connections?.discard();
        await refusePeer(channel, error);
        throw error;
      }
    } finally {
      signal.removeEventListener("abort", abandon);
      for (const each of open.reverse()) each.close();
    }
  }

  async #takeOver(main: FrameChannel, expected: Expected, info: TransferInfo): Promise<Arrival> {
    const begin = await expectFrame(main, FRAME_BEGIN);
    if (new TextDecoder().decode(begin.payload) !== info.token) {
      throw new VmmError("stream", `${main.transport.name} is not who said hello on the cpr channel`);
    }
    for (;;) {
      const frame = await nextFrame(main, FRAME_BURST);
      let arrival: Arrival | "handover" | undefined = "handover";
      if (frame.type !== FRAME_HANDOVER) {
        arrival = this.#serveBurst(main, expected, countOf(expectType(frame, FRAME_BURST)));
      }
      if (arrival === "handover") await this.#receiveConnections(main, expected);
      else if (arrival !== undefined) return arrival;
    }
  }

  /** Those that have come before are void: the other side has more to say of them. */
  async #receiveConnections(main: FrameChannel, expected: Expected): Promise<void> {
    expected.connections?.discard();
    delete expected.connections;
    expected.connections = await receiveConnections(main, expected.cpr);
    for (const port of this.#host.vm.devices.serialPorts) port.hold();
  }

  /** Synchronous, as the guest's pause is in it: nothing else of this process runs meanwhile. */
  #serveBurst(main: FrameChannel, expected: Expected, announced: number): Arrival | "handover" | undefined {
    for (let left = announced; left > 0; left--) {
      const frame = main.receiveNow(MAX_STATE_FRAME_BYTES, FRAME_TIMEOUT_MS, this.#buffer);
      switch (frame.type) {
        case FRAME_REHEARSE:
          this.#rehearse(expected.rehearsal, frame.payload);
          main.sendNow(FRAME_REHEARSED, NOTHING, [], FRAME_TIMEOUT_MS);
          break;
        case FRAME_STATE:
          return this.#take(main, expected, frame.payload);
        case FRAME_BURST:
          left = countOf(frame) + 1;
          break;
        case FRAME_HANDOVER:
          return "handover";
        default:
          throw new VmmError("stream", `${main.transport.name} sent a frame of type ${frame.type} within a burst`);
      }
    }
    return undefined;
  }

  #rehearse(rehearsal: Rehearsal, image: Uint8Array): void {
    const reader = new StateReader(image, SECTIONS);
    readRunState(reader);
    this.#host.vm.devices.restoreState(reader);
    rehearsal.restoreState(reader);
  }

  #take(main: FrameChannel, { fence, info, connections }: Expected, image: Uint8Array): Arrival {
    const { vm } = this.#host;
    const receivedMs = monotonicMs();
    const reader = new StateReader(image, SECTIONS);
    const runState = readRunState(reader);
    vm.devices.restoreState(reader);
    vm.accel.restoreState(reader, { isSameBoot: true });
    const restoredMs = monotonicMs();
    if (!fence.take()) throw new VmmError("taken-back", "The other side has taken its guest back");
    const isRunning = runState === "running" && vm.startsWhenComplete;
    const stamps = [receivedMs, restoredMs, monotonicMs()];
    if (isRunning) vm.runArrived();
    try {
      main.sendNow(FRAME_RUNNING, encodeNumbers(stamps), [], FRAME_TIMEOUT_MS);
    } catch (error) {
      process.stderr.write(`baton: the guest runs here, but the other side was not told: ${describeError(error)}\n`);
    }
    const timeline = new Timeline([...readStamps(reader), ...stamps], TRANSFER_PHASES);
    return { runState, isRunning, generation: info.generation, timeline, connections };
  }
}

const NOTHING = new Uint8Array(0);

function countOf({ payload }: Frame): number {
  if (payload.length !== 4)
    throw new VmmError("stream", `A burst is announced in ${payload.length} bytes instead of 4`);
  return new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true);
}
