// SPDX-License-Identifier: Apache-2.0
// cpr-transfer, the old side: the guest goes to another process of this host, which has everything ready when it stops.
//
//   guest runs    share      RAM that is anonymous moves to a memfd: see share-ram.ts
//                 hello      over the cpr channel: the machine, and the fds of RAM, fence and lifeline
//                 wait       the other side builds the VM and fills its page tables; then its main channel listens
//                 begin      on the main channel: both sides know that they talk to the right one
//                 rehearse   both sides save, carry and restore a scratch VM until their code is warm
//                 hand over  consoles and monitors, if they go along: see connection-handover.ts
//   ┌ pause       park       vCPUs leave the guest                                   quiesce
//   │             fill       the state image; the other side restores what is there  save
//   │             send       it is offered, and the last of it on its way            carry
//   └             (other side: cpr-transfer-incoming.ts) restore, take ── point of no return ── resume
//
// Until the other side takes the guest, it can be taken back: see fence.ts for why it is never run twice.

import { randomUUID } from "node:crypto";
import { monotonicMs } from "../../ffi/clock.ts";
import { currentCpu } from "../../ffi/process.ts";
import type { AcceleratedVm } from "../accel/types.ts";
import type { MigrationAddress } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { isGuestRequest } from "../machine/guest-request.ts";
import { pidNamespace } from "../machine/lifeline.ts";
import { cpusOf, GuestFirst } from "../runtime/guest-first.ts";
import type { Reactor } from "../runtime/reactor.ts";
import { FrameChannel } from "./channel/frames.ts";
import { connectTransport } from "./channel/transport.ts";
import { ConnectionHandover } from "./connection-handover.ts";
import { Fence } from "./fence.ts";
import { type PlannedGuest, planGuest } from "./guest-image.ts";
import {
  decodeStamps,
  expectFrame,
  expectType,
  FRAME_ACCEPTED,
  FRAME_BEGIN,
  FRAME_HELLO,
  FRAME_LISTENING,
  FRAME_RUNNING,
  FRAME_STATE,
  MAX_ANSWER_BYTES,
  untilRefused,
} from "./messages.ts";
import type { Outgoing } from "./outgoing.ts";
import { correct, type PauseHistory } from "./pause-history.ts";
import { explainTimeout, refuseLatePause, refuseLongPause } from "./pause-limit.ts";
import { announceBurst, type Rehearsed, ROUNDS_PER_BURST, rehearse, rehearseOnce } from "./rehearse.ts";
import { shareRam } from "./share-ram.ts";
import { Timeline, TRANSFER_PHASES } from "./timeline.ts";
import { CPR_TRANSFER_VERSION, planTransfer, type TransferInfo } from "./transfer-section.ts";

/** The other side builds a VM and fills page tables for at most 3 GiB: seconds, on a machine that swaps perhaps more. */
const BUILD_TIMEOUT_MS = 120_000;
const BEGIN_TIMEOUT_MS = 5000;
/**
 * How long a guest stands, in the worst case, because the other side hangs within the pause. What it has to do there it has
 * just done many times, in a millisecond or two each. Giving up too early costs no more than another attempt, because the
 * fence decides who has the guest; giving up late would cost the guest its connections and wake its watchdogs (10 s of
 * Linux's soft lockup detector).
 */
const PAUSE_TIMEOUT_MS = 1000;
const MAX_ATTEMPTS = 3;

export interface TransferChannels {
  main: MigrationAddress;
  cpr: MigrationAddress;
}

export interface TransferOptions {
  /** How many updates the guest has lived through, this one included. */
  generation: number;
  /** The pauses of the updates before this one. */
  history: PauseHistory;
  /** How long the other side may take to build its VM, and then to listen, where no operator has a hand in it. */
  buildTimeoutMs?: number;
  /** For the channels. One for all transfers of a VM: not every runtime gives back all that an ended worker had. */
  reactor: Reactor;
}

/** Hands the guest over. @throws VmmError; the guest is here then, stopped if `run` has noted that */
export async function transfer(run: Outgoing, channels: TransferChannels, options: TransferOptions): Promise<void> {
  const { signal } = run;
  // Ends all waiting: `migrate_cancel` does, and the last word of the other side.
  const ended = new AbortController();
  signal.addEventListener("abort", () => ended.abort(signal.reason), { once: true });
  try {
    await converse(run, channels, options, ended);
  } catch (error) {
    // Of a wait that was ended, the error is only that its channel was closed.
    throw ended.signal.aborted ? ended.signal.reason : error;
  }
}

async function converse(
  run: Outgoing,
  channels: TransferChannels,
  { generation, history, reactor, buildTimeoutMs }: TransferOptions,
  ended: AbortController,
): Promise<void> {
  const { vm, progress } = run;
  const vcpuTids = vm.isRunning ? vm.accel.vcpuThreadIds() : [];
  const guestFirst = GuestFirst.begin(cpusOf(vcpuTids), vcpuTids);
  run.atEnd(() => guestFirst.end());
  const { signal } = ended;
  const findFd = (name: string): number | undefined => vm.fds.take(name);
  const open = async (address: MigrationAddress): Promise<FrameChannel> => {
    const channel = new FrameChannel(await connectTransport(address, reactor, { signal, findFd }), reactor);
    run.atEnd(() => channel.close());
    signal.addEventListener("abort", () => channel.close(), { once: true });
    signal.throwIfAborted();
    return channel;
  };
  // Before anybody is connected who would wait for the hello meanwhile.
  await shareRam(run);
  const cpr = await open(channels.cpr);
  const fence = Fence.create(vm.memory);
  run.atEnd(() => fence.close());
  const rehearsal = vm.accel.rehearse();
  run.atEnd(() => rehearsal.close());
  const info: TransferInfo = {
    token: randomUUID(),
    generation,
    history,
    guestCpus: guestFirst.cpus,
    // Both sides work at the same time. Where the guest leaves them no CPUs to choose from they would do it on one, because
    // the kernel takes the frame that wakes the other side for a reason to have it here.
    ...(guestFirst.isEverywhere ? { mainCpu: currentCpu() } : {}),
    ...(vm.lifelineFd === undefined ? {} : { pidNamespace: pidNamespace() }),
  };
  const lifeline = vm.lifelineFd === undefined ? [] : [vm.lifelineFd];
  await cpr.send(FRAME_HELLO, plan(run, info, rehearsal).take(), [vm.ram.fd!, fence.fd, ...lifeline]);
  await expectFrame(cpr, FRAME_ACCEPTED, { timeoutMs: buildTimeoutMs ?? BUILD_TIMEOUT_MS });
  // For as long as an operator takes to say migrate-incoming over there, if there is one.
  await expectFrame(cpr, FRAME_LISTENING, buildTimeoutMs === undefined ? {} : { timeoutMs: buildTimeoutMs });
  untilRefused(cpr).catch((error) => ended.abort(error));
  const main = await open(channels.main);
  await main.send(FRAME_BEGIN, new TextEncoder().encode(info.token));
  await expectFrame(main, FRAME_ACCEPTED, { timeoutMs: BEGIN_TIMEOUT_MS });
  const rehearsed = { rehearsal, plan: () => plan(run, info, rehearsal), shared: fence.image };
  const roundMs = await rehearse(main, signal, rehearsed);
  info.estimateUs = Math.round(roundMs * 1000);
  info.predictedUs = correct(history, "cpr-transfer", info.estimateUs);
  progress.predictedUs = info.predictedUs;
  refuseLongPause(info.predictedUs, run.parameters["pause-limit"]);

  const handover = run.capabilities["x-handover-connections"] ? await ConnectionHandover.freeze(run) : undefined;
  for (let attempt = 1; ; attempt++) {
    await vm.whenSettled();
    progress.setupDone();
    try {
      await handover?.offer(main, cpr);
      await announceBurst(main, { frameCount: ROUNDS_PER_BURST + 1, isLast: true });
      signal.throwIfAborted();
      run.refuseToGoOn();
      guestFirst.hurry({ on: info.mainCpu });
      progress.setTimeline(handOver(run, { main, fence, info, rehearsed, handover, guestFirst }));
      return;
    } catch (error) {
      if (!isGuestRequest(error) || attempt === MAX_ATTEMPTS) throw error;
      run.resumeGuest();
      handover?.tellResume();
    }
  }
}

/** Lays out the image that is to come. `stamps` are those of the pause so far, when the image is taken. */
function plan(
  run: Outgoing,
  info: TransferInfo,
  accel: Pick<AcceleratedVm, "planState">,
  stamps: readonly number[] = [],
): PlannedGuest {
  return planGuest(run.vm, run.vm.state, accel, (writer) => planTransfer(writer, info, stamps, CPR_TRANSFER_VERSION), {
    isFixed: true,
  });
}

interface Prepared {
  main: FrameChannel;
  fence: Fence;
  info: TransferInfo;
  rehearsed: Rehearsed;
  handover: ConnectionHandover | undefined;
  guestFirst: GuestFirst;
}

/**
 * The pause, and the rehearsals right before it. Synchronous on purpose: nothing else of this process runs in between.
 * @throws VmmError: the other side does not have the guest and never will
 */
function handOver(run: Outgoing, { main, fence, info, rehearsed, handover, guestFirst }: Prepared): Timeline {
  const { vm, progress } = run;
  const limitMs = run.parameters["pause-limit"];
  const isLimited = limitMs > 0 && limitMs <= PAUSE_TIMEOUT_MS;
  const timeoutMs = isLimited ? limitMs : PAUSE_TIMEOUT_MS;
  for (let round = 0; round < ROUNDS_PER_BURST; round++) rehearseOnce(main, rehearsed);
  handover?.stopping();
  const stamps: number[] = [];
  const planned = plan(run, info, vm.accel, stamps);
  const isRunning = vm.isRunning;
  let failure: unknown;
  stamps.push(monotonicMs());
  try {
    run.noteStop();
    vm.park();
    vm.refuseRequested();
    stamps.push(monotonicMs());
    refuseLatePause(stamps[1]! - stamps[0]!, 0, limitMs);
    const onTaken = (): void => {
      stamps.push(monotonicMs());
      fence.offer();
    };
    fence.image.send(main, planned, { type: FRAME_STATE, timeoutMs, onTaken });
    const elapsedMs = isLimited ? monotonicMs() - stamps[0]! : 0;
    const leftMs = Math.max(0, Math.ceil(timeoutMs - elapsedMs));
    const answer = expectType(main.receiveNow(MAX_ANSWER_BYTES, leftMs), FRAME_RUNNING);
    stamps.push(...decodeStamps(answer.payload));
  } catch (error) {
    failure = isLimited ? explainTimeout(error, limitMs) : error;
  }
  guestFirst.makeWay();
  // Whatever the other side has said, or could not say: whether it has the guest stands in the fence alone.
  if (isGuestRequest(failure) || fence.withdraw()) {
    if (isRunning && handover === undefined) vm.events.emit("STOP");
    throw failure ?? new VmmError("stream", `${main.transport.name} says that the guest runs there: it does not`);
  }
  handover?.commit();
  run.commit("The guest has moved to another process and may not run here again");
  vm.leaveLifeline();
  if (failure !== undefined) stamps.push(monotonicMs());
  if (handover === undefined) {
    // Told earlier, these would have lengthened the pause.
    if (isRunning) vm.events.emit("STOP");
    progress.enter("active");
    progress.pass(2);
    progress.enter("device");
  }
  return new Timeline(stamps, TRANSFER_PHASES);
}
