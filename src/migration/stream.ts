// SPDX-License-Identifier: Apache-2.0
// Migration over a stream (tcp:, unix:, fd:, exec:), the old side: RAM is copied while the guest runs (mode normal) or
// stands (mode cpr-reboot), then its state.
//
//   guest runs    hello     the machine, and every section that will come; the other side builds the VM
//                 rounds    RAM, then what the guest wrote meanwhile, until the rest fits into a pause
//                 rehearse  see rehearse.ts; then a round of what the guest wrote meanwhile
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
import { isGuestRequest } from "../machine/guest-request.ts";
import { formatMigrationUri } from "../qmp/migration-address.ts";
import { Reactor } from "../runtime/reactor.ts";
import { bindAll } from "../state/writer.ts";
import { FrameChannel } from "./channel/frames.ts";
import type { TlsTunnels } from "./channel/tls.ts";
import { connectTransport, isInetOrUnix } from "./channel/transport.ts";
import { type PlannedGuest, planGuest } from "./guest-image.ts";
import {
  decodeDuration,
  expectFrame,
  expectType,
  explainHangup,
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
  MAX_ANSWER_BYTES,
} from "./messages.ts";
import type { Outgoing } from "./outgoing.ts";
import { PostcopySource } from "./postcopy.ts";
import { Precopy, SPARE_BITMAP } from "./precopy.ts";
import { RamSender } from "./ram/ram-sender.ts";
import { answered, canGiveRam, giveRam } from "./ram-by-reference.ts";
import { locateRam, planRam } from "./ram-section.ts";
import { rehearse } from "./rehearse.ts";
import { STREAM_PHASES, Timeline } from "./timeline.ts";
import { planTransfer, type TransferInfo } from "./transfer-section.ts";

/** What the other side has not done after this it will not do; the guest stands for that long at most. */
const ANSWER_TIMEOUT_MS = 5000;
/** In post-copy the guest may wait for pages before the other side says that it runs. */
const POSTCOPY_ANSWER_TIMEOUT_MS = 30_000;
const MAX_ATTEMPTS = 3;
const NOTHING = new Uint8Array(0);
const REHEARSAL = Uint8Array.of(1);

export interface StreamOptions {
  /** How many updates the guest has lived through. */
  generation: number;
  /** The guest is stopped before its RAM is moved. */
  stopFirst: boolean;
  /** What every connection is secured with. */
  tls: TlsTunnels | undefined;
}

/** Moves the guest. @throws VmmError; unless `run` is committed the guest is here then, stopped if `run` has noted that */
export async function migrateStream(run: Outgoing, address: MigrationAddress, options: StreamOptions): Promise<void> {
  const withPostcopy = run.capabilities["postcopy-ram"] && !options.stopFirst;
  if (withPostcopy) refusePostcopy(run, address, options.tls);
  const reactor = new Reactor();
  run.atEnd(() => void reactor.close());
  const connect = (): Promise<FrameChannel> => open(run, address, reactor, options.tls);
  const main = await connect();
  if (!isStreamSocket(main.transport.fd)) {
    throw new VmmError("channel", `${formatMigrationUri(address)} is no socket: RAM cannot be sent on it`);
  }
  try {
    await migrateOver(run, main, connect, { ...options, withPostcopy });
  } catch (error) {
    throw run.isCommitted || run.signal.aborted ? error : await explainHangup(main, error);
  }
  if (!main.transport.isDuplex) await finishOneWay(run, main, address);
}

async function migrateOver(
  run: Outgoing,
  main: FrameChannel,
  openFurther: () => Promise<FrameChannel>,
  { generation, stopFirst, withPostcopy }: StreamOptions & { withPostcopy: boolean },
): Promise<void> {
  const { vm, progress, parameters, capabilities } = run;
  const { isDuplex } = main.transport;
  const info: TransferInfo = {
    token: randomUUID(),
    generation,
    streams: capabilities.multifd ? parameters["multifd-channels"] : 0,
    ...(withPostcopy ? { postcopy: true } : {}),
  };
  const location = locateRam(vm, capabilities["x-ignore-shared"], { where: "in-stream" });
  // Post-copy has connections of its own, on which pages are asked for one by one.
  if (!isCompressed(run) && !withPostcopy && canGiveRam(vm, main, location)) info.ramFile = true;
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
    fds: await ramFds(main, openFurther, info),
    bandwidth: parameters["max-bandwidth"],
    zstdLevel: isCompressed(run) ? parameters["multifd-zstd-level"] : 0,
    isByReference,
  });
  run.onParameters(() => {
    sender.bandwidth = run.parameters["max-bandwidth"];
  });
  await using postcopy = withPostcopy ? await openPostcopy(run, openFurther, info) : undefined;
  const sink = isByReference ? answered(sender, main) : sender;
  const precopy = new Precopy(run, sink, await vm.accel.dirtyTracker(), () => main.send(FRAME_ROUND, NOTHING));
  run.onFailure(() => precopy.end());
  progress.setupDone();
  if (stopFirst) await run.stopGuest();
  progress.enter("active");
  const moveRam = async (): Promise<void> => {
    if (location.where === "in-stream") await (stopFirst ? precopy.runStopped() : precopy.run());
  };
  if (withPostcopy) run.allowPostcopy(() => precopy.cut());
  await moveRam();
  if (isDuplex) {
    await rehearse(main, run.signal, { rehearsal, plan: () => plan(rehearsal) });
    // The guest has written on meanwhile.
    if (!stopFirst) await moveRam();
  }
  const rest = run.decidePostcopy() ? postcopy : undefined;
  if (rest === undefined) {
    sender.prepareNow();
    if (isDuplex && location.where === "in-stream") {
      await rehearseLastRound(main, vm.memory, sender, isByReference);
    }
  }
  if (rest !== undefined) await rest.announce(main, precopy.collectRest());
  const moveLast = (): void => {
    if (rest !== undefined) rest.begin(main, precopy.collectRest());
    else if (location.where === "in-stream") {
      precopy.finish((bitmap) => sender.sendRoundNow(bitmap, lastRoundTimeoutMs(run)));
    }
  };
  for (let attempt = 1; ; attempt++) {
    await vm.whenSettled();
    run.refuseToGoOn();
    if (rest === undefined) await main.send(FRAME_FINAL, NOTHING);
    run.refuseToGoOn();
    try {
      progress.setTimeline(handOver(run, main, plan, moveLast, rest));
      break;
    } catch (error) {
      const isRequest = isGuestRequest(error);
      // By post-copy the other side has begun to drop pages: it cannot begin anew.
      if (!isRequest || stopFirst || rest !== undefined || attempt === MAX_ATTEMPTS) throw error;
      run.resumeGuest();
      // After a reset that is all of RAM.
      await moveRam();
    }
  }
  precopy.end();
  if (rest === undefined) return;
  const before = precopy.stats();
  progress.ram = () => rest.stats(before);
  await rest.finish(main);
}

async function open(
  run: Outgoing,
  address: MigrationAddress,
  reactor: Reactor,
  tls: TlsTunnels | undefined,
): Promise<FrameChannel> {
  const { signal, vm } = run;
  const findFd = (name: string): number | undefined => vm.fds.take(name);
  const connected = await connectTransport(address, reactor, { signal, findFd });
  const channel = new FrameChannel((await tls?.secure(connected, signal)) ?? connected, reactor);
  run.onFailure(() => channel.transport.abandon());
  run.atEnd(() => channel.close());
  signal.addEventListener("abort", () => channel.interrupt(signal.reason), { once: true });
  signal.throwIfAborted();
  return channel;
}

/** As long as the pause was meant to be, several times over, and time for the other side to wake up. */
function lastRoundTimeoutMs({ parameters }: Outgoing): number {
  return ANSWER_TIMEOUT_MS + 4 * parameters["downtime-limit"];
}

/** The connections that RAM goes on: the main one, or those of `multifd`. */
async function ramFds(
  main: FrameChannel,
  openFurther: () => Promise<FrameChannel>,
  { token, streams = 0 }: TransferInfo,
): Promise<number[]> {
  if (streams === 0) return [main.transport.fd];
  const fds: number[] = [];
  for (let index = 0; index < streams; index++) fds.push(await join(openFurther, token, index));
  return fds;
}

/** The fd of a further connection. */
async function join(connect: () => Promise<FrameChannel>, token: string, index: number): Promise<number> {
  const channel = await connect();
  await channel.send(FRAME_JOIN, new TextEncoder().encode(`${token} ${index}`));
  return channel.transport.fd;
}

/** @throws VmmError when post-copy could not be done, whatever the other side can do */
function refusePostcopy({ capabilities }: Outgoing, address: MigrationAddress, tls: TlsTunnels | undefined): void {
  if (tls !== undefined) {
    throw new VmmError("postcopy", "Post-copy over TLS is not in this version of Baton: use one of the two");
  }
  if (capabilities["x-ignore-shared"]) {
    throw new VmmError(
      "postcopy",
      "Post-copy is not compatible with x-ignore-shared: RAM that is not copied cannot be late",
    );
  }
  if (!isInetOrUnix(address)) {
    throw new VmmError(
      "channel",
      `Post-copy needs connections of its own, which ${formatMigrationUri(address)} cannot give: use tcp or unix`,
    );
  }
}

/** Connections and thread of post-copy, which wait for their time. */
async function openPostcopy(
  run: Outgoing,
  connect: () => Promise<FrameChannel>,
  { token, streams = 0 }: TransferInfo,
): Promise<PostcopySource> {
  const urgentFd = await join(connect, token, streams);
  const backgroundFd = await join(connect, token, streams + 1);
  return new PostcopySource(run.vm, { urgentFd, backgroundFd }, run.parameters["max-postcopy-bandwidth"]);
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
 * @param rest of RAM, which goes later
 * @throws VmmError: the guest is here, unless `run` is committed
 */
function handOver(
  run: Outgoing,
  main: FrameChannel,
  plan: (accel: AcceleratedVm, stamps: readonly number[]) => PlannedGuest,
  moveRam: () => void,
  rest: PostcopySource | undefined,
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
    stamps.push(monotonicMs());
    // Even if the guest has to go on: the other side waits for this round.
    moveRam();
    vm.refuseRequested();
    stamps.push(monotonicMs());
    const image = planned.take();
    stamps.push(monotonicMs());
    main.sendNow(FRAME_STATE, image, [], ANSWER_TIMEOUT_MS);
    if (main.transport.isDuplex) {
      expectType(main.receiveNow(MAX_ANSWER_BYTES, ANSWER_TIMEOUT_MS), FRAME_READY);
      stamps.push(monotonicMs());
      const runsForMs = commit(run, main, rest);
      stamps.push(Math.max(stamps.at(-1)!, monotonicMs() - runsForMs));
    }
  } finally {
    // Told earlier, this would have lengthened the pause.
    if (isRunning && !isStopped) vm.events.emit("STOP");
  }
  if (!run.isCommitted) vm.assumeState("finish-migrate");
  progress.enter(rest === undefined ? "device" : "postcopy-active");
  return new Timeline(stamps, STREAM_PHASES);
}

/** The point of no return, when the other side is ready. Returns for how long the guest has been running there, in ms. */
function commit(run: Outgoing, main: FrameChannel, rest: PostcopySource | undefined): number {
  // A peer that has gone has not been told: it will not run the guest.
  main.sendNow(FRAME_COMMIT, NOTHING, [], ANSWER_TIMEOUT_MS);
  run.commit("The guest has moved to another VMM and may not run here again");
  rest?.commit();
  const timeoutMs = rest === undefined ? ANSWER_TIMEOUT_MS : POSTCOPY_ANSWER_TIMEOUT_MS;
  try {
    const { payload } = expectType(main.receiveNow(MAX_ANSWER_BYTES, timeoutMs), FRAME_RUNNING);
    return decodeDuration(payload);
  } catch (error) {
    throw new VmmError(
      "unconfirmed",
      `The other side had the whole guest and was told to run it, but did not confirm that it does (${describeError(error)}): ` +
        "look there; here the guest stays stopped, so that it cannot run twice",
    );
  }
}

/**
 * Nothing comes back: when whoever reads has all of it, the guest is theirs. A command that fails has not kept it, and one
 * that never ends can be given up by `migrate_cancel`.
 */
async function finishOneWay(run: Outgoing, main: FrameChannel, address: MigrationAddress): Promise<void> {
  const { promise: cancelled, reject } = Promise.withResolvers<never>();
  cancelled.catch(() => {});
  const cancel = (): void => reject(run.signal.reason);
  run.signal.throwIfAborted();
  run.signal.addEventListener("abort", cancel, { once: true });
  try {
    await main.send(FRAME_END, NOTHING);
    shutdown(main.transport.fd, SHUT_WR);
    await Promise.race([main.transport.finished(), cancelled]);
  } finally {
    run.signal.removeEventListener("abort", cancel);
  }
  run.commit(`The guest is in what ${formatMigrationUri(address)} has taken: it goes on where that is read`);
}
