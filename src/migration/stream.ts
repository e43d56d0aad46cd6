// SPDX-License-Identifier: Apache-2.0
// Migration over a stream (tcp:, unix:, fd:, exec:), the old side: RAM is copied while the guest runs (mode normal) or
// stands (mode cpr-reboot), then its state.
//
//   guest runs    hello     the machine, and every section that will come; the other side builds the VM
//                 rounds    RAM, then what the guest wrote meanwhile, until the rest fits into a pause
//                 rehearse  see rehearse.ts
//   ┌ pause       park      vCPUs leave the guest                  quiesce
//   │             last      the pages that are left                ram
//   │             state                                            save
//   │             ◀── ready                                        restore
//   └             commit    ── point of no return ──  ◀── running  resume
//
// Between two processes of one host RAM is not sent: ram-by-reference.ts.
//
// On a stream that nothing comes back on (a pipe, exec:) there is no ready: whoever reads it later has the guest.
import { randomUUID } from "node:crypto";
import { DIRTY_BITMAP_SIZE_BYTES } from "../../assembly/layout.ts";
import { monotonicMs } from "../../ffi/clock.ts";
import { isStreamSocket, SHUT_WR, shutdown } from "../../ffi/socket.ts";
import type { AcceleratedVm } from "../accel/types.ts";
import type { MigrationAddress } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { formatMigrationUri } from "../qmp/migration-address.ts";
import { Reactor } from "../runtime/reactor.ts";
import { bindAll } from "../state/writer.ts";
import { FrameChannel } from "./channel/frames.ts";
import { connectTransport, isInetOrUnix } from "./channel/transport.ts";
import { type PlannedGuest, planGuest } from "./guest-image.ts";
import {
  decodeNumbers,
  expectFrame,
  expectType,
  FRAME_ACCEPTED,
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
} from "./messages.ts";
import type { Outgoing } from "./outgoing.ts";
import { Precopy, precopyOptions, SPARE_BITMAP } from "./precopy.ts";
import { RamSender } from "./ram/ram-sender.ts";
import { answered, canGiveRam, giveRam } from "./ram-by-reference.ts";
import { locateRam, planRam } from "./ram-section.ts";
import { rehearse } from "./rehearse.ts";
import { STREAM_PHASES, Timeline } from "./timeline.ts";
import { planTransfer, type TransferInfo } from "./transfer-section.ts";

/** What the other side has not done after this it will not do; the guest stands for that long at most. */
const ANSWER_TIMEOUT_MS = 5000;
/** The last pages may be as many as `downtime-limit` allows, on a connection that has become slow. */
const LAST_ROUND_TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 16 * 1024;
const MAX_ATTEMPTS = 3;
const NOTHING = new Uint8Array(0);
const REHEARSAL = Uint8Array.of(1);

export interface StreamOptions {
  /** How many updates the guest has lived through. */
  generation: number;
  /** The guest is stopped before its RAM is moved. */
  stopFirst: boolean;
}

/** Moves the guest. @throws VmmError; unless `run` is committed the guest is here then, stopped if `run` has noted that */
export async function migrateStream(run: Outgoing, address: MigrationAddress, options: StreamOptions): Promise<void> {
  const { vm, progress, parameters, capabilities } = run;
  if (capabilities.multifd && !isInetOrUnix(address)) {
    throw new VmmError("channel", "Migration requires multi-channel URIs (e.g. tcp)");
  }
  const reactor = new Reactor();
  run.atEnd(() => void reactor.close());
  const main = await open(run, address, reactor);
  if (!isStreamSocket(main.transport.fd)) {
    throw new VmmError("channel", `${formatMigrationUri(address)} is no socket: RAM cannot be sent on it`);
  }
  const { isDuplex } = main.transport;
  const info: TransferInfo = {
    token: randomUUID(),
    generation: options.generation,
    streams: capabilities.multifd ? parameters["multifd-channels"] : 0,
  };
  const location = locateRam(vm, capabilities["x-ignore-shared"], { where: "in-stream" });
  if (!isCompressed(run) && canGiveRam(vm, main, location)) info.ramFile = true;
  const plan = (accel: Pick<AcceleratedVm, "planState">, stamps: readonly number[] = []): PlannedGuest =>
    planGuest(vm, run.guestState, accel, (writer) =>
      bindAll([planRam(writer, vm, location), planTransfer(writer, info, stamps)]),
    );
  const rehearsal = vm.accel.rehearse();
  run.atEnd(() => rehearsal.close());
  await main.send(FRAME_HELLO, plan(rehearsal).take());
  const isByReference = isDuplex && (await giveRam(vm, main, await expectFrame(main, FRAME_ACCEPTED)));
  await using sender = new RamSender({
    memory: vm.memory,
    ramBase: vm.ram.base,
    ramSizeBytes: vm.ram.backend.sizeBytes,
    fds: await ramFds(run, address, reactor, main, info),
    bandwidth: parameters["max-bandwidth"],
    zstdLevel: isCompressed(run) ? parameters["multifd-zstd-level"] : 0,
    isByReference,
  });
  const precopy = new Precopy({
    ...precopyOptions(run, isByReference ? answered(sender, main) : sender, await vm.accel.dirtyTracker()),
    beforeRound: () => main.send(FRAME_ROUND, NOTHING),
  });
  run.onFailure(() => precopy.end());
  progress.setupDone();
  if (options.stopFirst) await run.stopGuest();
  progress.enter("active");
  if (location.where === "in-stream") await (options.stopFirst ? precopy.runStopped() : precopy.run());
  if (isDuplex) await rehearse(main, run.signal, () => plan(rehearsal));
  if (isDuplex && location.where === "in-stream") {
    await rehearseLastRound(main, vm.memory, sender, isByReference);
  }
  sender.prepareNow();
  await main.send(FRAME_FINAL, NOTHING);
  for (let attempt = 1; ; attempt++) {
    await vm.whenSettled();
    run.refuseToGoOn();
    try {
      progress.setTimeline(
        handOver(run, main, plan, () => {
          if (location.where === "in-stream") {
            precopy.finish((bitmap) => sender.sendRoundNow(bitmap, LAST_ROUND_TIMEOUT_MS));
          }
        }),
      );
      break;
    } catch (error) {
      if (!(error instanceof VmmError && error.code === "guest-request") || attempt === MAX_ATTEMPTS) throw error;
      run.resumeGuest();
    }
  }
  precopy.end();
  if (!isDuplex) await finishOneWay(run, main, address);
}

async function open(run: Outgoing, address: MigrationAddress, reactor: Reactor): Promise<FrameChannel> {
  const { signal, vm } = run;
  const findFd = (name: string): number | undefined => vm.fds.take(name);
  const channel = new FrameChannel(await connectTransport(address, reactor, { signal, findFd }), reactor);
  run.atEnd(() => channel.close());
  signal.addEventListener("abort", () => channel.close(), { once: true });
  signal.throwIfAborted();
  return channel;
}

/** The connections that RAM goes on: the main one, or those of `multifd`. */
async function ramFds(
  run: Outgoing,
  address: MigrationAddress,
  reactor: Reactor,
  main: FrameChannel,
  { token, streams = 0 }: TransferInfo,
): Promise<number[]> {
  if (streams === 0) return [main.transport.fd];
  const fds: number[] = [];
  for (let index = 0; index < streams; index++) {
    const channel = await open(run, address, reactor);
    await channel.send(FRAME_JOIN, new TextEncoder().encode(`${token} ${index}`));
    fds.push(channel.transport.fd);
  }
  return fds;
}

/** An empty round, sent and received as the one within the pause is: a cold one takes several times as long. */
async function rehearseLastRound(
  main: FrameChannel,
  memory: WebAssembly.Memory,
  sender: RamSender,
  isByReference: boolean,
): Promise<void> {
  new Uint8Array(memory.buffer, SPARE_BITMAP, DIRTY_BITMAP_SIZE_BYTES).fill(0);
  await main.send(FRAME_ROUND, REHEARSAL);
  sender.sendRoundNow(SPARE_BITMAP, ANSWER_TIMEOUT_MS);
  if (isByReference) await expectFrame(main, FRAME_ROUND_DONE);
}

function isCompressed({ capabilities, parameters }: Outgoing): boolean {
  return capabilities.multifd && parameters["multifd-compression"] === "zstd";
}

/**
 * The pause. Synchronous on purpose: nothing else of this process runs in between.
 * @param moveRam moves the pages that are left
 * @throws VmmError: the guest is here, unless `run` is committed
 */
function handOver(
  run: Outgoing,
  main: FrameChannel,
  plan: (accel: AcceleratedVm, stamps: readonly number[]) => PlannedGuest,
  moveRam: () => void,
): Timeline {
  const { vm, progress } = run;
  const stamps: number[] = [];
  const planned = plan(vm.accel, stamps);
  const isStopped = run.hasStopped;
  const isRunning = vm.isRunning;
  stamps.push(monotonicMs());
  try {
    if (!isStopped) {
      run.noteStop();
      vm.park();
    }
    if (vm.hasGuestRequest) {
      throw new VmmError("guest-request", "The guest is about to end, reset or suspend itself: try again after that");
    }
    stamps.push(monotonicMs());
    moveRam();
    stamps.push(monotonicMs());
    const image = planned.take();
    stamps.push(monotonicMs());
    main.sendNow(FRAME_STATE, image, [], ANSWER_TIMEOUT_MS);
    if (main.transport.isDuplex) {
      expectType(main.receiveNow(MAX_ANSWER_BYTES, ANSWER_TIMEOUT_MS), FRAME_READY);
      stamps.push(monotonicMs());
      const runsForMs = commit(run, main);
      stamps.push(Math.max(stamps.at(-1)!, monotonicMs() - runsForMs));
    }
  } finally {
    // Told earlier, this would have lengthened the pause.
    if (isRunning && !isStopped) vm.events.emit("STOP");
  }
  progress.enter("device");
  return new Timeline(stamps, STREAM_PHASES);
}

/** The point of no return, when the other side is ready. Returns for how long the guest has been running there, in ms. */
function commit(run: Outgoing, main: FrameChannel): number {
  // A peer that has gone has not been told: it will not run the guest.
  main.sendNow(FRAME_COMMIT, NOTHING, [], ANSWER_TIMEOUT_MS);
  run.commit("The guest has moved to another VMM and may not run here again");
  try {
    const { payload } = expectType(main.receiveNow(MAX_ANSWER_BYTES, ANSWER_TIMEOUT_MS), FRAME_RUNNING);
    const [runsForMs = 0] = decodeNumbers(payload);
    return Math.max(0, runsForMs || 0);
  } catch (error) {
    throw new VmmError(
      "unconfirmed",
      `The other side had the whole guest and was told to run it, but did not confirm that it does (${describeError(error)}): ` +
        "look there; here the guest stays stopped, so that it cannot run twice",
    );
  }
}

/** Nothing comes back: when whoever reads has all of it, the guest is theirs. */
async function finishOneWay(run: Outgoing, main: FrameChannel, address: MigrationAddress): Promise<void> {
  await main.send(FRAME_END, NOTHING);
  shutdown(main.transport.fd, SHUT_WR);
  await main.transport.finished();
  run.commit(`The guest is in what ${formatMigrationUri(address)} has taken: it goes on where that is read`);
}
