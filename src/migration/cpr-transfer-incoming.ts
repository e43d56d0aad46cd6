// SPDX-License-Identifier: Apache-2.0
// cpr-transfer, the new side: builds the VM around the RAM of a guest that still runs elsewhere, and takes it over.
//
//   cpr channel    hello: machine, RAM, fence ──▶ the VM is built, its page tables are filled, its threads wait
//   main channel   begin ──▶ rehearsals ──▶ state ──▶ restored ──▶ take ── point of no return ──▶ the guest runs here
//
// Everything before `take` may fail: then the guest runs on over there, here nothing is left of it, and the next hello is
// waited for. Nothing after it may.
import { monotonicMs } from "../../ffi/clock.ts";
import { close, status } from "../../ffi/fd.ts";
import { isOfOrigin } from "../accel/state/tsc.ts";
import type { Rehearsal } from "../accel/types.ts";
import type { MachineSpec, MigrationAddress } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import type { Inherited } from "../machine/build.ts";
import { pidNamespace } from "../machine/lifeline.ts";
import type { Vm } from "../machine/vm.ts";
import { populateExisting } from "../memory/ram.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { SocketAddress } from "../qmp/schema/migration.ts";
import { GuestFirst } from "../runtime/guest-first.ts";
import { Reactor } from "../runtime/reactor.ts";
import { StateReader } from "../state/reader.ts";
import { PRODUCER } from "../version.ts";
import { awaitCaller, type Caller } from "./callers.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";
import { TransportListener } from "./channel/transport-listener.ts";
import { type ReceivedConnections, receiveConnections } from "./connection-handover.ts";
import { Fence } from "./fence.ts";
import { GUEST_SECTIONS, readCpuids, readMachine } from "./guest-image.ts";
import {
  discardFds,
  encodeStamps,
  expectOneOf,
  FRAME_ACCEPTED,
  FRAME_BEGIN,
  FRAME_BURST,
  FRAME_HANDOVER,
  FRAME_HELLO,
  FRAME_LISTENING,
  FRAME_REHEARSE,
  FRAME_RUNNING,
  FRAME_STATE,
  MAX_STATE_FRAME_BYTES,
  refusePeer,
  subjectOf,
} from "./messages.ts";
import { type GuestPast, isDuration } from "./pause-history.ts";
import { type Burst, burstOf, type RestoredTo, restoreFrame, serveRehearsal } from "./rehearse.ts";
import { Timeline, TRANSFER_PHASES } from "./timeline.ts";
import {
  CPR_TRANSFER_VERSION,
  readStamps,
  readTransferInfo,
  TRANSFER_SECTION,
  type TransferInfo,
} from "./transfer-section.ts";

const SECTIONS: Readonly<Record<string, number>> = { ...GUEST_SECTIONS, [TRANSFER_SECTION]: CPR_TRANSFER_VERSION };

const SAME_BOOT = { isSameBoot: true };

/** Within a burst the other side sends one frame after the other; parking the guest is the longest of what it does. */
const FRAME_TIMEOUT_MS = 10_000;

export interface TransferHost {
  vm: Vm;
  /** Builds the machine. @throws VmmError when the command line contradicts it */
  build(spec: MachineSpec, inherited: Inherited): Promise<void>;
}

/** A guest that has come, and how. */
export interface Arrival extends GuestPast {
  runState: RunState;
  /** It runs already. */
  isRunning: boolean;
  /** Who was connected to the other side, to be taken over. */
  connections: ReceivedConnections | undefined;
}

/** What a hello has brought about. */
interface Expected {
  readonly cpr: FrameChannel;
  readonly fence: Fence;
  readonly rehearsal: Rehearsal;
  readonly info: TransferInfo;
  readonly guestFirst: GuestFirst;
  isClosed: boolean;
  connections?: ReceivedConnections;
  /** See machine/lifeline.ts. */
  lifelineFd?: number;
}

export class IncomingTransfer {
  readonly #host: TransferHost;
  readonly #address: MigrationAddress;
  readonly #reactor = new Reactor();
  readonly #closed = new AbortController();
  #expected = promised<Expected>();
  /** Resolved when the guest of the latest hello does not come any more, and the next hello may. */
  #isFree = Promise.withResolvers<void>();
  #listener: TransportListener | undefined;
  #serving: Promise<void> | undefined;
  /** Why nothing shall come of the hello that is being prepared for. */
  #givenUp: unknown;

  /** Listens on the cpr channel from now on. */
  constructor(address: MigrationAddress, host: TransferHost) {
    this.#address = address;
    this.#host = host;
  }

  /** Waits for the other side's hello. One that comes to nothing is reported, and the next one waited for. */
  async listen(): Promise<void> {
    this.#listener = await this.#listenAt(this.#address);
    this.#serving = this.#serveHellos(this.#listener);
  }

  async close(): Promise<void> {
    this.#closed.abort(new VmmError("closed", "This VM waits for no guest any more"));
    this.#listener?.close();
    this.#expected.promise.then(closeExpected).catch(() => {});
    this.#isFree.resolve();
    await this.#serving;
    await this.#reactor.close();
  }

  async #serveHellos(listener: TransportListener): Promise<void> {
    const { signal } = this.#closed;
    try {
      for (;;) {
        const caller = await awaitCaller(listener, this.#reactor, {
          type: FRAME_HELLO,
          limitBytes: MAX_STATE_FRAME_BYTES,
          signal,
          onRefused: (message) => this.#report(message),
        });
        const expected = await this.#greet(caller);
        if (expected === undefined) continue;
        this.#expected.resolve(expected);
        expected.cpr.onHangup(() => void this.#forget(expected));
        await this.#isFree.promise;
        this.#isFree = Promise.withResolvers();
      }
    } catch (error) {
      // Of an fd that cannot bring another connection.
      this.#expected.reject(new VmmError("no-guest", "No guest can come any more", { cause: error }));
    }
  }

  /** Builds what the hello asks for; undefined when that cannot be. */
  async #greet({ channel: cpr, first: hello }: Caller): Promise<Expected | undefined> {
    let expected: Expected | undefined;
    this.#givenUp = undefined;
    try {
      expected = await this.#prepare(cpr, hello);
      await cpr.send(FRAME_ACCEPTED, NOTHING);
      this.#closed.signal.throwIfAborted();
      if (this.#givenUp !== undefined) throw this.#givenUp;
      return expected;
    } catch (error) {
      if (!this.#closed.signal.aborted) this.#report(describeError(error));
      await refusePeer(cpr, error);
      if (expected !== undefined) closeExpected(expected);
      await this.#host.vm.disassemble();
      cpr.close();
      return undefined;
    }
  }

  /** Builds everything that the guest will need. */
  async #prepare(cpr: FrameChannel, hello: Frame): Promise<Expected> {
    const [ramFd, fenceFd, lifelineFd, ...others] = hello.fds;
    if (ramFd === undefined || fenceFd === undefined || others.length > 0) {
      const count = hello.fds.length;
      discardFds(hello);
      throw new VmmError("stream", `The hello has ${count} file descriptors instead of 2 or 3`);
    }
    const { vm, build } = this.#host;
    let fence: Fence | undefined;
    let guestFirst: GuestFirst | undefined;
    try {
      const reader = new StateReader(hello.payload, SECTIONS);
      refuseOtherVersion(reader);
      const info = readTransferInfo(reader);
      const { spec } = readMachine(reader);
      guestFirst = GuestFirst.begin(info.guestCpus ?? []);
      checkRam(ramFd, spec.memorySizeBytes);
      // On this host, but perhaps with another accelerator's CPU.
      const isFromElsewhere = !isOfOrigin(reader, "host");
      await build(spec, { cpuids: readCpuids(reader, spec.cpuCount), ramFd, isFromElsewhere });
      fence = Fence.join(vm.memory, fenceFd);
      await populateExisting(vm.memory, vm.ram);
      await guestFirst.startThreads(() => vm.accel.prepareToRun());
      const rehearsal = vm.accel.rehearse();
      const lifeline = lifelineFd === undefined ? {} : { lifelineFd };
      return { cpr, fence, info, rehearsal, guestFirst, isClosed: false, ...lifeline };
    } catch (error) {
      if (lifelineFd !== undefined) close(lifelineFd);
      guestFirst?.end();
      if (!vm.isBuilt) close(ramFd);
      if (fence === undefined) close(fenceFd);
      else fence.close();
      throw error;
    }
  }

  /** The other side has gone before its guest was waited for. */
  async #forget(expected: Expected): Promise<void> {
    this.#report("the other side gave up");
    await this.#discard(expected);
  }

  /** Takes back all that a hello has brought about, and lets the next one come. */
  async #discard(expected: Expected): Promise<void> {
    this.#expected = promised();
    closeExpected(expected);
    await this.#host.vm.disassemble();
    this.#isFree.resolve();
  }

  #report(message: string): void {
    process.stderr.write(`baton: cpr channel of -incoming: ${message}\n`);
  }

  #listenAt(address: MigrationAddress): Promise<TransportListener> {
    const findFd = (name: string): number | undefined => this.#host.vm.fds.take(name);
    return TransportListener.listen(address, this.#reactor, { findFd, takesMany: true });
  }

  /**
   * Waits for the guest on the main channel and takes it over; `onListening` hears where that is.
   * @throws VmmError when it does not come: nothing is left of it then, and this can be called again
   */
  async receive(
    main: MigrationAddress,
    signal: AbortSignal,
    onListening: (address: SocketAddress | undefined) => void,
  ): Promise<Arrival> {
    // Ends all waiting: `migrate_cancel` does, and the other side's end.
    const ended = new AbortController();
    const abort = (): void => ended.abort(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
    try {
      const expected = await this.#awaitExpected(ended.signal);
      const { name } = expected.cpr.transport;
      expected.cpr.onHangup(() => ended.abort(new VmmError("peer-gone", `${name}: the other side gave up`)));
      return await this.#receiveExpected(expected, main, ended.signal, onListening);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  async #awaitExpected(signal: AbortSignal): Promise<Expected> {
    const aborted = promised<never>();
    const abort = (): void => aborted.reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
    try {
      for (;;) {
        const expected = await Promise.race([this.#expected.promise, aborted.promise]);
        if (!expected.isClosed) return expected;
      }
    } catch (error) {
      this.#givenUp = error;
      throw error;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  async #receiveExpected(
    expected: Expected,
    main: MigrationAddress,
    signal: AbortSignal,
    onListening: (address: SocketAddress | undefined) => void,
  ): Promise<Arrival> {
    let listener: TransportListener | undefined;
    let channel: FrameChannel | undefined;
    try {
      listener = await this.#listenAt(main);
      onListening(listener.address);
      await expected.cpr.send(FRAME_LISTENING, NOTHING);
      const caller = await awaitCaller(listener, this.#reactor, {
        type: FRAME_BEGIN,
        signal,
        check: ({ payload }) => checkToken(payload, expected.info.token),
        onRefused: (message) => this.#report(message),
      });
      listener.close();
      channel = caller.channel;
      signal.addEventListener("abort", () => caller.channel.close(), { once: true });
      signal.throwIfAborted();
      await channel.send(FRAME_ACCEPTED, NOTHING);
      const arrival = await this.#takeOver(channel, expected);
      // They are the arrival's now.
      delete expected.connections;
      this.#holdLifeline(expected);
      closeExpected(expected);
      this.#listener?.close();
      return arrival;
    } catch (error) {
      const reason = signal.aborted ? signal.reason : error;
      // The other side hears it where it listens: in the pause and the rehearsals that is the main channel.
      if (channel !== undefined) await refusePeer(channel, reason);
      await refusePeer(expected.cpr, reason);
      await this.#discard(expected);
      throw reason;
    } finally {
      listener?.close();
      channel?.close();
    }
  }

  #holdLifeline(expected: Expected): void {
    const { lifelineFd, info } = expected;
    if (lifelineFd === undefined || info.pidNamespace !== pidNamespace()) return;
    delete expected.lifelineFd;
    this.#host.vm.holdLifeline(lifelineFd);
  }

  async #takeOver(main: FrameChannel, expected: Expected): Promise<Arrival> {
    for (;;) {
      const frame = await expectOneOf(main, [FRAME_BURST, FRAME_HANDOVER]);
      let arrival: Arrival | "handover" | undefined = "handover";
      if (frame.type === FRAME_BURST) arrival = this.#serveBurst(main, expected, burstOf(frame));
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
  #serveBurst(main: FrameChannel, expected: Expected, announced: Burst): Arrival | "handover" | undefined {
    const rehearsed = this.#restoredTo(expected.rehearsal, expected.fence);
    if (announced.isLast) expected.guestFirst.hurry({ off: expected.info.mainCpu });
    for (let left = announced.frameCount; left > 0; left--) {
      const frame = main.receiveNow(MAX_STATE_FRAME_BYTES, FRAME_TIMEOUT_MS);
      switch (subjectOf(frame)) {
        case FRAME_REHEARSE:
          serveRehearsal(main, frame, rehearsed);
          break;
        case FRAME_STATE:
          return this.#take(main, expected, frame);
        case FRAME_BURST:
          left = burstOf(frame).frameCount + 1;
          break;
        case FRAME_HANDOVER:
          return "handover";
        default:
          throw new VmmError("stream", `${main.transport.name} sent a frame of type ${frame.type} within a burst`);
      }
    }
    return undefined;
  }

  #restoredTo(accel: RestoredTo["accel"], { image }: Fence): RestoredTo {
    return { accel, devices: this.#host.vm.devices, sections: SECTIONS, options: SAME_BOOT, shared: image };
  }

  #take(main: FrameChannel, { fence, info, connections }: Expected, state: Frame): Arrival {
    const { vm } = this.#host;
    const { reader, runState, receivedMs } = restoreFrame(main, state, this.#restoredTo(vm.accel, fence));
    const restoredMs = monotonicMs();
    if (!fence.take()) throw new VmmError("taken-back", "The other side has taken its guest back");
    const isRunning = runState === "running" && vm.startsWhenComplete;
    const stamps = [receivedMs, restoredMs, monotonicMs()];
    if (isRunning) vm.runArrived();
    try {
      main.sendNow(FRAME_RUNNING, encodeStamps(stamps), [], FRAME_TIMEOUT_MS);
    } catch (error) {
      process.stderr.write(`baton: the guest runs here, but the other side was not told: ${describeError(error)}\n`);
    }
    const { generation, history } = info;
    return { runState, isRunning, generation, history, ...pauseOf(reader, stamps), connections };
  }
}

const NOTHING = new Uint8Array(0);

/** A promise that may be rejected before anybody waits for it. */
function promised<T>(): PromiseWithResolvers<T> {
  const withResolvers = Promise.withResolvers<T>();
  withResolvers.promise.catch(() => {});
  return withResolvers;
}

function closeExpected(expected: Expected): void {
  if (expected.isClosed) return;
  expected.isClosed = true;
  expected.connections?.discard();
  if (expected.lifelineFd !== undefined) close(expected.lifelineFd);
  expected.guestFirst.end();
  expected.rehearsal.close();
  expected.fence.close();
  expected.cpr.close();
}

/** Sections may be older than what is known, but what both have mapped must look the same to both. */
function refuseOtherVersion(reader: StateReader): void {
  const { version } = reader.section(TRANSFER_SECTION);
  if (version === CPR_TRANSFER_VERSION) return;
  throw new VmmError(
    "state-refused",
    `${reader.producer} hands guests over by version ${version} of cpr-transfer, and this is ${PRODUCER}, which takes version ` +
      `${CPR_TRANSFER_VERSION}: update by cpr-exec`,
  );
}

/** Memory beyond the end of a file would be found out by the guest, and end this process. */
function checkRam(fd: number, memorySizeBytes: number): void {
  const { kind, sizeBytes } = status(fd);
  // A DAX device does not tell its size; mapping it fails when it is too small.
  if (kind === "character" || (kind === "file" && sizeBytes >= memorySizeBytes)) return;
  const what = kind === "file" ? `${sizeBytes} bytes` : `a ${kind}`;
  throw new VmmError("state-refused", `The RAM of the other side is ${what} instead of ${memorySizeBytes} bytes`);
}

function checkToken(payload: Uint8Array, token: string): void {
  if (new TextDecoder().decode(payload) === token) return;
  throw new VmmError("stream", "Who connected to the main channel is not who said hello on the cpr channel");
}

/** The guest runs by now, so nothing that is wrong with these numbers may be more than a missing figure. */
function pauseOf(reader: StateReader, stamps: readonly number[]): Omit<GuestPast, "generation" | "history"> {
  try {
    const timeline = new Timeline([...readStamps(reader), ...stamps], TRANSFER_PHASES);
    if (!isDuration(Math.round(timeline.downtimeMs * 1000))) {
      throw new VmmError("stream", `The other side's times are ${timeline.stamps.join(", ")}`);
    }
    const { predictedUs, estimateUs } = readTransferInfo(reader);
    return { timeline, predictedUs, estimateUs };
  } catch (error) {
    process.stderr.write(`baton: it is not known how long the guest stood: ${describeError(error)}\n`);
    return {};
  }
}
