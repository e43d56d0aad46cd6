// SPDX-License-Identifier: Apache-2.0
// What a VM and its guard have in common: what the guard is told, and how. See guard.ts.
import { close } from "../../ffi/fd.ts";
import { arrayOf, type Static, str, struct, uint } from "../qmp/schema/types.ts";
import type { FrameChannel } from "./channel/frames.ts";

/**
 * The fds come with it and after it, in the order of `fds`, which are the numbers that they have in process `pid`, whose guest it is,
 * and are to have in the one that the guard becomes. `timeoutMs` is from the offer until the guest runs. Only `socketFd`, the guard's
 * peer, does not come: a program that the guard becomes finds something harmless there.
 */
export const Entrusted = struct({
  pid: uint,
  timeoutMs: uint,
  fds: arrayOf(uint),
  stateFd: uint,
  programFd: uint,
  tokenFd: uint,
  socketFd: uint,
  command: arrayOf(str),
});
export type Entrusted = Static<typeof Entrusted>;

/** One end of the socket between both. `peer` is what messages call the other end. */
export function guardTransport(fd: number, peer: string): ConstructorParameters<typeof FrameChannel>[0] {
  return {
    fd,
    isDuplex: true,
    isUnix: true,
    name: peer,
    finished: () => Promise.resolve(),
    abandon: () => {},
    close: () => close(fd),
  };
}
