// SPDX-License-Identifier: Apache-2.0
// Scatter and gather: several places in memory in one call, sendmsg(2), recvmsg(2), pwritev(2), preadv(2). Nothing is copied on
// the way to the kernel: calls get addresses.
import { SysError } from "./error.ts";
import { EAGAIN, lazyCall } from "./libc.ts";
import { addressOf, type Foreign, libcFunction } from "./native.ts";

/** linux/socket.h */
const MSG_NOSIGNAL = 0x4000;
/** struct user_msghdr: u64 name, u32 namelen, pad, u64 iov, u64 iovlen, u64 control, u64 controllen, u32 flags, pad. */
const MSG_SIZE_WORDS = 14;
const MSG_IOV_WORD = 4;
const MSG_IOVLEN_WORD = 6;
/** struct iovec: u64 base, u64 length. */
const IOVEC_WORDS = 4;
const IOVEC_SIZE_BYTES = 16;
/** linux/uio.h: UIO_MAXIOV */
const MAX_ENTRIES = 1024;
const WORD = 2 ** 32;

const cSendmsg = lazyCall("int64_t sendmsg(int fd, const void *message, int flags)");
const cRecvmsg = lazyCall("int64_t recvmsg(int fd, void *message, int flags)");
const cPwritev = lazyCall("int64_t pwritev(int fd, uintptr_t entries, int count, int64_t offset)");
const cPreadv = lazyCall("int64_t preadv(int fd, uintptr_t entries, int count, int64_t offset)");

/**
 * Memory whose parts can be named in an `IoVector`.
 *
 * SAFETY: only shared buffers are taken. They never move and cannot be detached, and this holds them for as long as it
 * is there itself; the kernel keeps no address beyond a call.
 */
export class IoMemory {
  readonly sizeBytes: number;
  readonly #view: Uint8Array;
  readonly #address: number;

  constructor(view: Uint8Array) {
    if (!(view.buffer instanceof SharedArrayBuffer)) throw new TypeError("Only shared memory stays where it is");
    this.#view = view;
    this.sizeBytes = view.byteLength;
    // User space addresses have 47 bits.
    this.#address = Number(addressOf(view));
  }

  /** A fresh one. */
  static allocate(sizeBytes: number): { io: IoMemory; bytes: Uint8Array } {
    const bytes = new Uint8Array(new SharedArrayBuffer(sizeBytes));
    return { io: new IoMemory(bytes), bytes };
  }

  /** Address of a part. @throws RangeError when it is not inside */
  addressAt(offset: number, sizeBytes: number): number {
    if (!(offset >= 0 && sizeBytes >= 0 && offset + sizeBytes <= this.#view.byteLength)) {
      throw new RangeError(`${sizeBytes} bytes at ${offset} lie outside a memory of ${this.sizeBytes} bytes`);
    }
    return this.#address + offset;
  }
}

let memcpy: Foreign | undefined;

/** memcpy(3) between two memories, which knows the fastest way for every size. They may not overlap. */
export function copyMemory(
  to: IoMemory,
  toOffset: number,
  from: IoMemory,
  fromOffset: number,
  sizeBytes: number,
): void {
  // SAFETY: `addressAt` proves both ranges to lie inside memories that stay where they are.
  memcpy ??= libcFunction("void memcpy(uintptr_t to, uintptr_t from, size_t sizeBytes)");
  memcpy(to.addressAt(toOffset, sizeBytes), from.addressAt(fromOffset, sizeBytes), sizeBytes);
}

/** A list of places. A call that moves fewer bytes than asked leaves the rest for the next one. */
export class IoVector {
  readonly #entries: Uint32Array;
  readonly #entriesAddress: number;
  readonly #message = new Uint32Array(new SharedArrayBuffer(MSG_SIZE_WORDS * 4));
  readonly #capacity: number;
  /** What the entries point into. */
  readonly #memories = new Set<IoMemory>();
  #first = 0;
  #end = 0;
  #sizeBytes = 0;

  constructor(capacity: number) {
    if (!(capacity >= 1 && capacity <= MAX_ENTRIES)) throw new RangeError(`A vector has 1 to ${MAX_ENTRIES} entries`);
    this.#capacity = capacity;
    this.#entries = new Uint32Array(new SharedArrayBuffer(capacity * IOVEC_SIZE_BYTES));
    this.#entriesAddress = Number(addressOf(this.#entries));
  }

  /** Bytes that are still to be moved. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** How many entries may still be added. */
  get room(): number {
    return this.#capacity - this.#end;
  }

  clear(): void {
    this.#first = 0;
    this.#end = 0;
    this.#sizeBytes = 0;
    this.#memories.clear();
  }

  add(memory: IoMemory, offset: number, sizeBytes: number): void {
    if (this.room === 0) throw new RangeError(`The vector has ${this.#capacity} entries already`);
    this.#setEntry(this.#end, memory.addressAt(offset, sizeBytes), sizeBytes);
    this.#memories.add(memory);
    this.#end++;
    this.#sizeBytes += sizeBytes;
  }

  /** Sends on a socket: how many bytes went, `undefined` when it takes none now. */
  send(fd: number): number | undefined {
    return this.#moved("sendmsg", fd, cSendmsg(fd, this.#header(), MSG_NOSIGNAL));
  }

  /** Receives from a socket: how many bytes came, 0 at the end of the stream, `undefined` when there is nothing now. */
  receive(fd: number): number | undefined {
    return this.#moved("recvmsg", fd, cRecvmsg(fd, this.#header(), 0));
  }

  /** Writes to a file at `offset`: how many bytes went. */
  writeAt(fd: number, offset: number): number {
    return this.#moved("pwritev", fd, cPwritev(fd, this.#firstAddress, this.#end - this.#first, offset)) ?? 0;
  }

  /** Reads from a file at `offset`: how many bytes came, 0 at its end. */
  readAt(fd: number, offset: number): number {
    return this.#moved("preadv", fd, cPreadv(fd, this.#firstAddress, this.#end - this.#first, offset)) ?? 0;
  }

  get #firstAddress(): number {
    return this.#entriesAddress + this.#first * IOVEC_SIZE_BYTES;
  }

  #header(): Uint32Array {
    const address = this.#firstAddress;
    this.#message[MSG_IOV_WORD] = address % WORD;
    this.#message[MSG_IOV_WORD + 1] = Math.floor(address / WORD);
    this.#message[MSG_IOVLEN_WORD] = this.#end - this.#first;
    return this.#message;
  }

  #moved(syscall: string, fd: number, result: number): number | undefined {
    if (result === -EAGAIN) return undefined;
    if (result < 0) throw new SysError(syscall, -result, `fd ${fd}, ${this.#sizeBytes} bytes`);
    this.#advance(result);
    return result;
  }

  #advance(byteCount: number): void {
    this.#sizeBytes -= byteCount;
    for (let left = byteCount; left > 0; ) {
      const at = this.#first * IOVEC_WORDS;
      const sizeBytes = this.#entries[at + 2]!;
      if (sizeBytes > left) {
        const address = this.#entries[at]! + this.#entries[at + 1]! * WORD;
        this.#setEntry(this.#first, address + left, sizeBytes - left);
        return;
      }
      left -= sizeBytes;
      this.#first++;
    }
  }

  #setEntry(index: number, address: number, sizeBytes: number): void {
    const at = index * IOVEC_WORDS;
    this.#entries[at] = address % WORD;
    this.#entries[at + 1] = Math.floor(address / WORD);
    this.#entries[at + 2] = sizeBytes;
  }
}
