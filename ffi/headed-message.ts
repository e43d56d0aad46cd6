// SPDX-License-Identifier: Apache-2.0
// Messages of a fixed head and a body, to and from one fd, with SCM_RIGHTS where it is a unix socket: sendmsg(2),
// recvmsg(2), writev(2).
//
// For use where microseconds count: everything that the kernel follows pointers into, but for the body, is laid out once,
// in one buffer that never moves:
//
//   0    struct msghdr     56 bytes
//   56   struct iovec      16 bytes, the head
//   72   struct iovec      16 bytes, the body
//   88   control           struct cmsghdr (u64 length, i32 level, i32 type), then i32 fds
//   1120 head
import { SysError } from "./error.ts";
import { read } from "./fd.ts";
import { EAGAIN, lazyCall } from "./libc.ts";
import { addressOf } from "./native.ts";
import {
  CMSG_HEADER_SIZE_BYTES,
  cRecvmsg,
  cSendmsg,
  MSG_CMSG_CLOEXEC,
  MSG_CONTROL,
  MSG_CONTROLLEN,
  MSG_CTRUNC,
  MSG_FLAGS,
  MSG_IOV,
  MSG_IOVLEN,
  MSG_NOSIGNAL,
  SCM_RIGHTS,
  SOL_SOCKET,
} from "./scm.ts";

const HEAD_IOVEC = 56;
const BODY_IOVEC = 72;
const CONTROL = 88;
/** CMSG_SPACE of SCM_MAX_FD fds: 1028 bytes, padded to 8. */
const CONTROL_SIZE_BYTES = 1032;
const HEAD = CONTROL + CONTROL_SIZE_BYTES;

/** What the call under way points into: reachable from here, it cannot be collected. */
const pinned: { body?: Uint8Array | undefined } = {};

const cWritev = lazyCall("int64_t writev(int fd, const void *iovecs, int count)");

/** The buffer of the head comment, with views of every width: element stores allocate nothing. */
class MessageBuffer {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly longs: BigUint64Array;
  readonly head: Uint8Array<ArrayBuffer>;
  readonly headAddress: bigint;
  readonly headIovecAddress: bigint;
  readonly bodyIovecAddress: bigint;

  constructor(headSizeBytes: number) {
    const buffer = new ArrayBuffer(HEAD + headSizeBytes);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer, 0, HEAD / 4);
    this.longs = new BigUint64Array(buffer, 0, HEAD / 8);
    this.head = new Uint8Array(buffer, HEAD, headSizeBytes);
    // SAFETY: neither runtime moves the memory of an ArrayBuffer, and it lives as long as the views of it. The addresses
    // are only used by calls that get `bytes`, or a view of the same buffer, as an argument.
    const base = addressOf(this.bytes);
    this.headAddress = base + BigInt(HEAD);
    this.headIovecAddress = base + BigInt(HEAD_IOVEC);
    this.bodyIovecAddress = base + BigInt(BODY_IOVEC);
    this.longs[MSG_IOV / 8] = this.headIovecAddress;
    this.longs[MSG_CONTROL / 8] = base + BigInt(CONTROL);
  }
}

/** Sends messages. A message may take several calls of `write`: each goes on where the one before it stopped. */
export class HeadedOutput {
  /** The bytes in front of the next body: the caller writes them. */
  readonly head: Uint8Array<ArrayBuffer>;
  readonly #message: MessageBuffer;
  readonly #iovecs: Uint8Array;
  readonly #isSocket: boolean;

  /** `isSocket`: whether the fds to write to are sockets; others (pipes) take no fds. */
  constructor(headSizeBytes: number, isSocket: boolean) {
    this.#message = new MessageBuffer(headSizeBytes);
    this.head = this.#message.head;
    this.#iovecs = this.#message.bytes.subarray(HEAD_IOVEC, CONTROL);
    this.#isSocket = isSocket;
  }

  /**
   * Writes head and body from byte `done` on. Returns how many bytes went, `undefined` when the fd takes none. The fds go
   * with the first byte of the head.
   * @throws SysError EPIPE, ECONNRESET, …; no SIGPIPE comes of a socket
   */
  write(fd: number, body: Uint8Array, done: number, fds: readonly number[]): number | undefined {
    const { words } = this.#message;
    const headDone = Math.min(done, this.head.byteLength);
    pinned.body = body;
    const count = this.#setIovecs(body, headDone, done - headDone);
    const fdCount = done === 0 ? fds.length : 0;
    let result: number;
    if (this.#isSocket) {
      words[MSG_IOVLEN / 4] = count;
      words[MSG_CONTROLLEN / 4] = fdCount === 0 ? 0 : this.#setFds(fds);
      result = cSendmsg(fd, this.#message.bytes, MSG_NOSIGNAL);
    } else {
      result = cWritev(fd, headDone < this.head.byteLength ? this.#iovecs : this.#iovecs.subarray(16), count);
    }
    pinned.body = undefined;
    if (result >= 0) return result;
    if (result === -EAGAIN) return undefined;
    throw new SysError(this.#isSocket ? "sendmsg" : "writev", -result, `fd ${fd}, ${fdCount} fds`);
  }

  /** How many iovecs are used: from the head's on, or from the body's when the head has gone. */
  #setIovecs(body: Uint8Array, headDone: number, bodyDone: number): number {
    const { words, longs, headAddress, headIovecAddress, bodyIovecAddress } = this.#message;
    const isHeadLeft = headDone < this.head.byteLength;
    const isBodyLeft = bodyDone < body.byteLength;
    if (isHeadLeft) {
      longs[HEAD_IOVEC / 8] = headDone === 0 ? headAddress : headAddress + BigInt(headDone);
      words[HEAD_IOVEC / 4 + 2] = this.head.byteLength - headDone;
    }
    if (isBodyLeft) {
      // SAFETY: `pinned` keeps the body alive until the call that uses the address is over.
      const address = addressOf(body);
      longs[BODY_IOVEC / 8] = bodyDone === 0 ? address : address + BigInt(bodyDone);
      words[BODY_IOVEC / 4 + 2] = body.byteLength - bodyDone;
    }
    longs[MSG_IOV / 8] = isHeadLeft ? headIovecAddress : bodyIovecAddress;
    return (isHeadLeft ? 1 : 0) + (isBodyLeft ? 1 : 0);
  }

  /** Returns the size of the control data. */
  #setFds(fds: readonly number[]): number {
    const { words } = this.#message;
    const sizeBytes = CMSG_HEADER_SIZE_BYTES + 4 * fds.length;
    let at = CONTROL / 4;
    words[at++] = sizeBytes;
    words[at++] = 0;
    words[at++] = SOL_SOCKET;
    words[at++] = SCM_RIGHTS;
    for (let index = 0; index < fds.length; index++) words[at++] = fds[index]!;
    return (sizeBytes + 7) & ~7;
  }
}

/** Receives heads, with the fds that come with them. Bodies are read with read(2), which takes no fds. */
export class HeadedInput {
  readonly head: Uint8Array<ArrayBuffer>;
  /** Fds that came since they were taken out of here. Close-on-exec; they are the caller's to close. */
  readonly fds: number[] = [];
  /** The kernel has dropped fds: more came than a message may have, or than this process may open. */
  hasLostFds = false;
  readonly #message: MessageBuffer;
  readonly #isUnix: boolean;

  /** `isUnix`: whether the fds to read from are unix sockets; nothing else brings fds. */
  constructor(headSizeBytes: number, isUnix: boolean) {
    this.#message = new MessageBuffer(headSizeBytes);
    this.head = this.#message.head;
    this.#isUnix = isUnix;
  }

  /** Reads the head from byte `done` on: how many bytes came, 0 at the end of the stream, `undefined` when there are none. */
  readHead(fd: number, done: number): number | undefined {
    if (!this.#isUnix) return read(fd, done === 0 ? this.head : this.head.subarray(done));
    const { bytes, words, longs, headAddress } = this.#message;
    longs[HEAD_IOVEC / 8] = done === 0 ? headAddress : headAddress + BigInt(done);
    words[HEAD_IOVEC / 4 + 2] = this.head.byteLength - done;
    words[MSG_IOVLEN / 4] = 1;
    words[MSG_CONTROLLEN / 4] = CONTROL_SIZE_BYTES;
    words[MSG_FLAGS / 4] = 0;
    const result = cRecvmsg(fd, bytes, MSG_CMSG_CLOEXEC);
    if (result >= 0) {
      if (words[MSG_CONTROLLEN / 4] !== 0) this.#takeFds();
      if ((words[MSG_FLAGS / 4]! & MSG_CTRUNC) !== 0) this.hasLostFds = true;
      return result;
    }
    if (result === -EAGAIN) return undefined;
    throw new SysError("recvmsg", -result, `fd ${fd}`);
  }

  /** After the kernel has written it, `msg_controllen` is the size of what it wrote. */
  #takeFds(): void {
    const { words } = this.#message;
    const end = CONTROL + words[MSG_CONTROLLEN / 4]!;
    for (let offset = CONTROL; offset + CMSG_HEADER_SIZE_BYTES <= end; ) {
      const sizeBytes = words[offset / 4]!;
      if (sizeBytes < CMSG_HEADER_SIZE_BYTES) return;
      if (words[offset / 4 + 2] === SOL_SOCKET && words[offset / 4 + 3] === SCM_RIGHTS) {
        for (let at = offset + CMSG_HEADER_SIZE_BYTES; at + 4 <= offset + sizeBytes; at += 4)
          this.fds.push(words[at / 4]!);
      }
      offset += (sizeBytes + 7) & ~7;
    }
  }
}
