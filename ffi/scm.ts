// SPDX-License-Identifier: Apache-2.0
// File descriptors as luggage: sendmsg(2) and recvmsg(2) with SCM_RIGHTS, unix(7).
//
// One buffer holds all that the kernel follows pointers into, but for the payload:
//
//   0    struct msghdr  56 bytes
//   56   struct iovec   16 bytes
//   72   control        struct cmsghdr (u64 length, i32 level, i32 type), then i32 fds
import { SysError } from "./error.ts";
import { close } from "./fd.ts";
import { EAGAIN, lazyCall } from "./libc.ts";
import { addressOf } from "./native.ts";

/** net/scm.h: the most fds of one message. */
export const SCM_MAX_FD = 253;

/** linux/socket.h */
export const SOL_SOCKET = 1;
export const SCM_RIGHTS = 1;
export const MSG_CTRUNC = 0x8;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;

/** struct user_msghdr */
export const MSG_IOV = 16;
export const MSG_IOVLEN = 24;
export const MSG_CONTROL = 32;
export const MSG_CONTROLLEN = 40;
export const MSG_FLAGS = 48;
const IOVEC = 56;
const CONTROL = 72;
export const CMSG_HEADER_SIZE_BYTES = 16;

export const cSendmsg = lazyCall("int64_t sendmsg(int fd, const void *message, int flags)");
export const cRecvmsg = lazyCall("int64_t recvmsg(int fd, void *message, int flags)");

/** What the call under way points into: reachable from here, it cannot be collected. */
const pinned: { payload?: Uint8Array | undefined } = {};

function messageHeader(payload: Uint8Array, controlSizeBytes: number): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(CONTROL + controlSizeBytes);
  const view = new DataView(message.buffer);
  pinned.payload = payload;
  // SAFETY: `message` is an argument of the call and `payload` is pinned, so both outlive it; the kernel keeps neither.
  const base = addressOf(message);
  view.setBigUint64(MSG_IOV, base + BigInt(IOVEC), true);
  view.setBigUint64(MSG_IOVLEN, 1n, true);
  view.setBigUint64(IOVEC, addressOf(payload), true);
  view.setBigUint64(IOVEC + 8, BigInt(payload.byteLength), true);
  if (controlSizeBytes > 0) {
    view.setBigUint64(MSG_CONTROL, base + BigInt(CONTROL), true);
    view.setBigUint64(MSG_CONTROLLEN, BigInt(controlSizeBytes), true);
  }
  return message;
}

/** CMSG_ALIGN: control messages are padded to 8 bytes. */
function align(sizeBytes: number): number {
  return (sizeBytes + 7) & ~7;
}

/**
 * Sends bytes (at least one) together with duplicates of fds. Returns how many bytes went, `undefined` when the socket
 * takes none; the fds go with the first of them.
 */
export function sendMessage(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number | undefined {
  const size = fds.length === 0 ? 0 : CMSG_HEADER_SIZE_BYTES + 4 * fds.length;
  const message = messageHeader(bytes, align(size));
  if (size > 0) {
    const view = new DataView(message.buffer);
    view.setBigUint64(CONTROL, BigInt(size), true);
    view.setInt32(CONTROL + 8, SOL_SOCKET, true);
    view.setInt32(CONTROL + 12, SCM_RIGHTS, true);
    for (const [index, sent] of fds.entries()) {
      view.setInt32(CONTROL + CMSG_HEADER_SIZE_BYTES + 4 * index, sent, true);
    }
  }
  const result = cSendmsg(fd, message, MSG_NOSIGNAL);
  pinned.payload = undefined;
  if (result >= 0) return result;
  if (result === -EAGAIN) return undefined;
  throw new SysError("sendmsg", -result, `fd ${fd}, ${bytes.byteLength} bytes, ${fds.length} fds`);
}

export interface ReceivedMessage {
  /** 0 when the peer has ended the stream. */
  byteCount: number;
  /** Close-on-exec; they are the caller's to close. */
  fds: number[];
}

/** Receives bytes into `buffer` and the fds that came with them; `undefined` when there is nothing yet. */
export function receiveMessage(fd: number, buffer: Uint8Array, maximumFds = SCM_MAX_FD): ReceivedMessage | undefined {
  const message = receive(fd, buffer, maximumFds);
  if (message === undefined) return undefined;
  const { byteCount, fds, hasLostFds } = message;
  if (hasLostFds) throw new Error(`A message on fd ${fd} carried more than ${maximumFds} file descriptors`);
  return { byteCount, fds };
}

/**
 * `receiveMessage` for a stream that must go on: when not all fds of a message can be had, because this process may open no
 * more, the bytes come without any.
 */
export function receiveAvailable(fd: number, buffer: Uint8Array): ReceivedMessage | undefined {
  return receive(fd, buffer, SCM_MAX_FD);
}

function receive(
  fd: number,
  buffer: Uint8Array,
  maximumFds: number,
): (ReceivedMessage & { hasLostFds: boolean }) | undefined {
  const message = messageHeader(buffer, align(CMSG_HEADER_SIZE_BYTES + 4 * maximumFds));
  const result = cRecvmsg(fd, message, MSG_CMSG_CLOEXEC);
  pinned.payload = undefined;
  if (result === -EAGAIN) return undefined;
  if (result < 0) throw new SysError("recvmsg", -result, `fd ${fd}`);
  const view = new DataView(message.buffer);
  const fds = receivedFds(view);
  const hasLostFds = (view.getInt32(MSG_FLAGS, true) & MSG_CTRUNC) !== 0;
  // The kernel has dropped what did not fit, and a half-delivered set of fds is of no use to anybody.
  if (hasLostFds) for (const received of fds.splice(0)) close(received);
  return { byteCount: result, fds, hasLostFds };
}

function receivedFds(view: DataView): number[] {
  const fds: number[] = [];
  const end = CONTROL + Number(view.getBigUint64(MSG_CONTROLLEN, true));
  for (let offset = CONTROL; offset + CMSG_HEADER_SIZE_BYTES <= end; ) {
    const size = Number(view.getBigUint64(offset, true));
    if (size < CMSG_HEADER_SIZE_BYTES) break;
    if (view.getInt32(offset + 8, true) === SOL_SOCKET && view.getInt32(offset + 12, true) === SCM_RIGHTS) {
      for (let at = offset + CMSG_HEADER_SIZE_BYTES; at + 4 <= offset + size; at += 4)
        fds.push(view.getInt32(at, true));
    }
    offset += align(size);
  }
  return fds;
}
