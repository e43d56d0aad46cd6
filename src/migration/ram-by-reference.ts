// SPDX-License-Identifier: Apache-2.0
// How two VMMs of one host agree that RAM is not sent: the new side gets the old one's RAM file and takes pages out of it.
//
//   old                                new
//   HELLO  { ramFile: true } ------->
//          <------------------------- ACCEPTED  1          a Baton that does not know of it answers without the 1
//   RAM_FILE  fd, read-only -------->                       a relay between two sockets loses the fd
//          <------------------------- ACCEPTED  1 or 0     0: RAM is sent after all
//   ROUND ... END_OF_ROUND --------->
//          <------------------------- ROUND_DONE           its pages are there: the next round may be decided on
//
// The last round has no answer of its own: READY, which comes after it, is one. Until then the old side keeps its RAM as it is.
// The fd gives nothing away: the other side is about to get all of that RAM.
import { close, O_RDONLY, open } from "../../ffi/fd.ts";
import type { Vm } from "../machine/vm.ts";
import { FLAG_FDS_OPTIONAL } from "./channel/frame-format.ts";
import type { Frame, FrameChannel } from "./channel/frames.ts";
import { expectFrame, FRAME_ACCEPTED, FRAME_RAM_FILE, FRAME_ROUND_DONE } from "./messages.ts";
import type { RamSink } from "./precopy.ts";
import { RamSource } from "./ram/ram-source.ts";
import type { RamLocation } from "./ram-section.ts";
import type { TransferInfo } from "./transfer-section.ts";

const NOTHING = new Uint8Array(0);
const YES = Uint8Array.of(1);

/** Old side: whether this RAM can be had by its file. */
export function canGiveRam({ ram }: Vm, main: FrameChannel, location: RamLocation): boolean {
  return main.transport.isUnix && main.transport.isDuplex && location.where === "in-stream" && ram.isShared;
}

/** Old side: gives the file to a peer that wants it. False when RAM has to be sent. @param accepted the answer to the hello */
export async function giveRam({ ram }: Vm, main: FrameChannel, accepted: Frame): Promise<boolean> {
  if (!saysYes(accepted)) return false;
  const readOnlyFd = open(`/proc/self/fd/${ram.fd}`, O_RDONLY);
  try {
    await main.send(FRAME_RAM_FILE, NOTHING, [readOnlyFd], FLAG_FDS_OPTIONAL);
  } finally {
    close(readOnlyFd);
  }
  return saysYes(await expectFrame(main, FRAME_ACCEPTED));
}

/** Old side: a sink whose rounds are over when the other side has taken the pages, not when it has heard of them. */
export function answered(sink: RamSink, main: FrameChannel): RamSink {
  return {
    get progress() {
      return sink.progress;
    },
    async sendRound(bitmap) {
      const startMs = performance.now();
      const stats = await sink.sendRound(bitmap);
      await expectFrame(main, FRAME_ROUND_DONE);
      return { ...stats, durationMs: performance.now() - startMs };
    },
    cancel() {
      sink.cancel();
    },
  };
}

/** New side: accepts the hello, and gets the old side's RAM file if that is offered. @throws VmmError "ram-source" */
export async function acceptRam(
  main: FrameChannel,
  info: TransferInfo,
  location: RamLocation,
  { ram }: Vm,
): Promise<RamSource | undefined> {
  const isWanted = info.ramFile === true && main.transport.isUnix && location.where === "in-stream";
  await main.send(FRAME_ACCEPTED, isWanted ? YES : NOTHING);
  if (!isWanted) return undefined;
  const [fd] = (await expectFrame(main, FRAME_RAM_FILE)).fds;
  const source = fd === undefined ? undefined : RamSource.adopt(fd, ram);
  try {
    await main.send(FRAME_ACCEPTED, source === undefined ? NOTHING : YES);
  } catch (error) {
    source?.close();
    throw error;
  }
  return source;
}

function saysYes({ payload }: Frame): boolean {
  return payload[0] === 1;
}
