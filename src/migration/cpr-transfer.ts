// SPDX-License-Identifier: Apache-2.0
// cpr-transfer, the old side: the guest goes to another process of this host, which has everything ready when it stops.
//
//   guest runs    hello      over the cpr channel: the machine, and the fds of RAM and fence
//                 wait       the other side builds the VM and fills its page tables; then its main channel listens
//                 rehearse   both sides save, carry and restore a scratch VM until their code is warm
//                 hand over  consoles and monitors, if they go along: see connection-handover.ts
//   ┌ pause       park       vCPUs leave the guest                                   quiesce
//   │             fill       the state image                                         save
//   │             send       it is offered, and on its way                           carry
//   └             (other side: cpr-transfer-incoming.ts) restore, take ── point of no return ── resume
//
// Until the other side takes the guest, it can be taken back: see fence.ts for why it is never run twice.

import { randomUUID } from "node:crypto";
import { monotonicMs } from "../../ffi/clock.ts";
import type { AcceleratedVm, Rehearsal } from "../accel/types.ts";
import type { MigrationAddress } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { Reactor } from "../runtime/reactor.ts";
import { FrameChannel } from "./channel/frames.ts";
import { connectTransport } from "./channel/transport.ts";
import { ConnectionHandover } from "./connection-handover.ts";
import { Fence } from "./fence.ts";
import { type PlannedGuest, planGuest } from "./guest-image.ts";
import {
  decodeNumbers,
  expectFrame,
  expectType,
  FRAME_ACCEPTED,
  FRAME_BEGIN,
  FRAME_BURST,
  FRAME_HELLO,
  FRAME_LISTENING,
  FRAME_REHEARSE,
  FRAME_REHEARSED,
  FRAME_RUNNING,
  FRAME_STATE,
} from "./messages.ts";
import type { Outgoing } from "./outgoing.ts";
import { Timeline, TRANSFER_PHASES } from "./timeline.ts";
import { planTransfer, type TransferInfo } from "./transfer-section.ts";

/** Rounds of the rehearsal: after these the code of the pause is compiled as well as it ever will be. */
const REHEARSAL_BURSTS = 10;
const ROUNDS_PER_BURST = 4;
/** The other side answers within a millisecond; what it has not done after this it will not do. */
const ANSWER_TIMEOUT_MS = 5000;
const MAX_ATTEMPTS = 3;

export interface TransferChannels {
  main: MigrationAddress;
  cpr: MigrationAddress;
}

/** Hands the guest over. @throws VmmError; the guest is here then, stopped if `run` has noted that */
export async function transfer(run: Outgoing, channels: TransferChannels, generation: number): Promise<void> {
  const { vm, progress, signal } = run;
  const reactor = new Reactor();
  run.atEnd(() => void reactor.close());
  const findFd = (name: string): number | undefined => vm.fds.take(name);
  const open = async (address: MigrationAddress): Promise<FrameChannel> => {
    const channel = new FrameChannel(await connectTransport(address, reactor, { signal, findFd }), reactor);
    run.atEnd(() => channel.close());
    signal.addEventListener("abort", () => channel.close(), { once: true });
    signal.throwIfAborted();
    return channel;
  };
  const cpr = await open(channels.cpr);
  const fence = Fence.create(vm.memory);
  run.atEnd(() => fence.close());
  const rehearsal = vm.accel.rehearse();
  run.atEnd(() => rehearsal.close());
  const info: TransferInfo = { token: randomUUID(), generation };
  await cpr.send(FRAME_HELLO, plan(run, info, rehearsal).take(), [vm.ram.fd!, fence.fd]);
  await expectFrame(cpr, FRAME_ACCEPTED);
  // For as long as an operator takes to say migrate-incoming over there.
  await expectFrame(cpr, FRAME_LISTENING);
  const main = await open(channels.main);
  await main.send(FRAME_BEGIN, new TextEncoder().encode(info.token));
  for (let burst = 0; burst < REHEARSAL_BURSTS; burst++) await rehearse(run, main, info, rehearsal);

  const handover = run.capabilities["x-handover-connections"] ? await ConnectionHandover.freeze(run) : undefined;
  for (let attempt = 1; ; attempt++) {
    await vm.whenSettled();
    run.refuseToGoOn();
    progress.setupDone();
    try {
      await handover?.offer(main, cpr);
      await announce(main, ROUNDS_PER_BURST + 1);
      const timeline = handOver(run, main, fence, info, rehearsal, handover);
      progress.setTimeline(timeline);
      break;
    } catch (error) {
      if (!(error instanceof VmmError && error.code === "guest-request") || attempt === MAX_ATTEMPTS) throw error;
      run.resumeGuest();
      handover?.tellResume();
    }
  }
  handover?.commit();
  run.commit("The guest has moved to another process and may not run here again");
}

/** Lays out the image that is to come. `stamps` are those of the pause so far, when the image is taken. */
function plan(
  run: Outgoing,
  info: TransferInfo,
  accel: Pick<AcceleratedVm, "planState">,
  stamps: readonly number[] = [],
): PlannedGuest {
  return planGuest(run.vm, run.vm.state, accel, (writer) => planTransfer(writer, info, stamps));
}

async function announce(main: FrameChannel, count: number): Promise<void> {
  await main.send(FRAME_BURST, new Uint8Array(Uint32Array.of(count).buffer));
}

/** Some rounds of what happens in the pause, with a VM that nobody will run. */
async function rehearse(run: Outgoing, main: FrameChannel, info: TransferInfo, rehearsal: Rehearsal): Promise<void> {
  await announce(main, ROUNDS_PER_BURST);
  for (let round = 0; round < ROUNDS_PER_BURST; round++) rehearseOnce(main, plan(run, info, rehearsal));
  run.signal.throwIfAborted();
}

function rehearseOnce(main: FrameChannel, planned: PlannedGuest): void {
  main.sendNow(FRAME_REHEARSE, planned.take(), [], ANSWER_TIMEOUT_MS);
  expectType(main.receiveNow(MAX_ANSWER_BYTES, ANSWER_TIMEOUT_MS), FRAME_REHEARSED);
}

const MAX_ANSWER_BYTES = 16 * 1024;

/**
 * The pause, and the rehearsals right before it. Synchronous on purpose: nothing else of this process runs in between.
 * @throws VmmError: the other side does not have the guest and never will
 */
function handOver(
  run: Outgoing,
  main: FrameChannel,
  fence: Fence,
  info: TransferInfo,
  rehearsal: Rehearsal,
  handover: ConnectionHandover | undefined,
): Timeline {
  const { vm, progress } = run;
  for (let round = 0; round < ROUNDS_PER_BURST; round++) rehearseOnce(main, plan(run, info, rehearsal));
  handover?.stopping();
  const stamps: number[] = [];
  const planned = plan(run, info, vm.accel, stamps);
  const isRunning = vm.isRunning;
  stamps.push(monotonicMs());
  try {
    run.noteStop();
    vm.park();
    if (vm.hasGuestRequest) {
      throw new VmmError("guest-request", "The guest is about to end, reset or suspend itself: try again after that");
    }
    stamps.push(monotonicMs());
    const image = planned.take();
    stamps.push(monotonicMs());
    fence.offer();
    main.sendNow(FRAME_STATE, image, [], ANSWER_TIMEOUT_MS);
    const answer = expectType(main.receiveNow(MAX_ANSWER_BYTES, ANSWER_TIMEOUT_MS), FRAME_RUNNING);
    stamps.push(...decodeNumbers(answer.payload));
  } catch (error) {
    const isRequest = error instanceof VmmError && error.code === "guest-request";
    // The other side has taken the guest, and only its word of that got lost.
    if (!isRequest && !fence.withdraw()) stamps.push(monotonicMs());
    else {
      if (isRunning && handover === undefined) vm.events.emit("STOP");
      throw error;
    }
  }
  if (handover === undefined) {
    // Told earlier, these would have lengthened the pause.
    if (isRunning) vm.events.emit("STOP");
    progress.enter("active");
    progress.pass(2);
    progress.enter("device");
  }
  return new Timeline(stamps, TRANSFER_PHASES);
}
