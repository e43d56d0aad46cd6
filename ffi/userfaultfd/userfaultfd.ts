// SPDX-License-Identifier: Apache-2.0
// userfaultfd(2): whoever touches a page that is not there yet waits, in user mode or in the kernel (KVM_RUN included),
// until another thread puts the page in its place.
import { SysError } from "../error.ts";
import { close, O_RDWR, open, read } from "../fd.ts";
import type { IoMemory } from "../iov.ts";
import { check, EAGAIN, EEXIST, EINVAL, EPERM, lazyCall } from "../libc.ts";
import * as abi from "./abi.ts";

const PAGE_SIZE_BYTES = 4096;

const cSyscall = lazyCall("int64_t syscall(int64_t number, int flags)");
const cIoctlFlags = lazyCall("int ioctl(int fd, unsigned long request, int64_t flags)");
const cIoctl = lazyCall("int ioctl(int fd, unsigned long request, void *arg)");

/**
 * A userfaultfd for faults of the kernel, too: close-on-exec, non-blocking. Two ways lead to one: CAP_SYS_PTRACE (or sysctl
 * vm.unprivileged_userfaultfd = 1), and permission to open /dev/userfaultfd.
 * @throws SysError EPERM when there is neither, ENOSYS when the kernel was built without it
 */
function create(): number {
  const result = cSyscall(abi.SYS_USERFAULTFD, abi.O_CLOEXEC | abi.O_NONBLOCK);
  if (result !== -EPERM) return check("userfaultfd", result);
  let device: number;
  try {
    device = open(abi.USERFAULTFD_DEVICE, O_RDWR);
  } catch {
    // The system call's own refusal says more than that of a device which may not be there.
    throw new SysError("userfaultfd", EPERM);
  }
  try {
    return check("USERFAULTFD_IOC_NEW", cIoctlFlags(device, abi.USERFAULTFD_IOC_NEW, abi.O_CLOEXEC | abi.O_NONBLOCK));
  } finally {
    close(device);
  }
}

/**
 * Opens a userfaultfd that can tell of pages missing in shared memory.
 * @throws SysError see `create`; EINVAL for a kernel without that, before Linux 4.11
 */
export function openUserfaultfd(): number {
  const fd = create();
  try {
    const api = new BigUint64Array(abi.API_WORDS);
    api[abi.API_VERSION] = abi.UFFD_API;
    api[abi.API_FEATURES] = abi.UFFD_FEATURE_MISSING_SHMEM;
    check("UFFDIO_API", cIoctl(fd, abi.UFFDIO_API, api));
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/**
 * The faults of one piece of memory, by an fd of `openUserfaultfd`, which stays the caller's. Offsets are in that memory,
 * and offsets and sizes multiples of the page size.
 *
 * SAFETY: every address that the kernel gets is one of an `IoMemory`, checked to be inside it.
 */
export class FaultableMemory {
  readonly #fd: number;
  readonly #memory: IoMemory;
  readonly #base: number;
  readonly #messages = new Uint8Array(16 * abi.MESSAGE_SIZE_BYTES);
  readonly #messageView = new DataView(this.#messages.buffer);
  readonly #copy = new BigInt64Array(abi.COPY_WORDS);
  readonly #zero = new BigInt64Array(abi.ZEROPAGE_WORDS);

  constructor(fd: number, memory: IoMemory) {
    this.#fd = fd;
    this.#memory = memory;
    this.#base = memory.addressAt(0, memory.sizeBytes);
  }

  /**
   * From now on a page that is not there is waited for, by every thread of this process that touches it.
   * @throws SysError EINVAL for memory of which that cannot be had: files of a disk, huge pages
   */
  register(): void {
    const request = new BigUint64Array(abi.REGISTER_WORDS);
    request.set(this.#range(0, this.#memory.sizeBytes));
    request[abi.REGISTER_MODE] = abi.UFFDIO_REGISTER_MODE_MISSING;
    check("UFFDIO_REGISTER", cIoctl(this.#fd, abi.UFFDIO_REGISTER, request), `${this.#memory.sizeBytes} bytes`);
    if ((request[abi.REGISTER_IOCTLS]! & abi.NEEDED_IOCTLS) === abi.NEEDED_IOCTLS) return;
    this.unregister();
    // Huge pages can be registered, but not filled with single pages.
    throw new SysError("UFFDIO_REGISTER", EINVAL, "single pages cannot be placed in this memory");
  }

  /** Pages that are not there are zero again, and whoever waits for one goes on. */
  unregister(): void {
    check("UFFDIO_UNREGISTER", cIoctl(this.#fd, abi.UFFDIO_UNREGISTER, this.#range(0, this.#memory.sizeBytes)));
  }

  /** Calls `onFault` with the offset of each page that somebody has begun to wait for. False when there was none. */
  readFaults(onFault: (offset: number) => void): boolean {
    const count = read(this.#fd, this.#messages) ?? 0;
    for (let at = 0; at < count; at += abi.MESSAGE_SIZE_BYTES) {
      if (this.#messages[at + abi.MESSAGE_EVENT_U8] !== abi.UFFD_EVENT_PAGEFAULT) continue;
      const address = Number(this.#messageView.getBigUint64(at + abi.MESSAGE_ADDRESS_U64, true));
      onFault(Math.floor((address - this.#base) / PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES);
    }
    return count > 0;
  }

  /**
   * Puts pages in their place, each as a whole, and wakes who waits for them.
   * @throws SysError EEXIST when one of them is there already
   */
  place(offset: number, source: IoMemory, sourceOffset: number, sizeBytes: number): void {
    const request = this.#copy;
    for (let done = 0; done < sizeBytes; ) {
      const left = sizeBytes - done;
      request[0] = BigInt(this.#memory.addressAt(offset + done, left));
      request[1] = BigInt(source.addressAt(sourceOffset + done, left));
      request[2] = BigInt(left);
      request[3] = 0n;
      request[abi.COPY_DONE] = 0n;
      const result = cIoctl(this.#fd, abi.UFFDIO_COPY, request);
      // A call that is cut short says so with EAGAIN, and how far it came.
      if (result < 0 && result !== -EAGAIN) check("UFFDIO_COPY", result, `${left} bytes at ${offset + done}`);
      done += Math.max(0, Number(request[abi.COPY_DONE]));
    }
  }

  /** The page is zero for whoever waits for it; no error when it is there already. */
  placeZero(offset: number): void {
    const request = this.#zero;
    for (;;) {
      request[0] = BigInt(this.#memory.addressAt(offset, PAGE_SIZE_BYTES));
      request[1] = BigInt(PAGE_SIZE_BYTES);
      request[2] = 0n;
      request[abi.ZEROPAGE_DONE] = 0n;
      const result = cIoctl(this.#fd, abi.UFFDIO_ZEROPAGE, request);
      if (result >= 0) return;
      if (result === -EEXIST) {
        check("UFFDIO_WAKE", cIoctl(this.#fd, abi.UFFDIO_WAKE, this.#range(offset, PAGE_SIZE_BYTES)));
        return;
      }
      if (result !== -EAGAIN) check("UFFDIO_ZEROPAGE", result, `page at ${offset}`);
    }
  }

  #range(offset: number, sizeBytes: number): BigUint64Array {
    return BigUint64Array.of(BigInt(this.#memory.addressAt(offset, sizeBytes)), BigInt(sizeBytes));
  }
}
