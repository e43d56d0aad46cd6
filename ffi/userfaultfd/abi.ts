// SPDX-License-Identifier: Apache-2.0
// Numbers and layouts of userfaultfd(2), x86-64: <linux/userfaultfd.h>, each written once.

/** <asm/unistd_64.h>: libc has no function for it. */
export const SYS_USERFAULTFD = 323;
export const O_CLOEXEC = 0o2000000;
export const O_NONBLOCK = 0o4000;

export const USERFAULTFD_DEVICE = "/dev/userfaultfd";
/** _IO(0xAA, 0x00), of the device: its argument are the flags of userfaultfd(2). */
export const USERFAULTFD_IOC_NEW = 0xaa00;

/** ioctl request numbers of a userfaultfd. */
export const UFFDIO_API = 0xc018_aa3f;
export const UFFDIO_REGISTER = 0xc020_aa00;
export const UFFDIO_UNREGISTER = 0x8010_aa01;
export const UFFDIO_WAKE = 0x8010_aa02;
export const UFFDIO_COPY = 0xc028_aa03;
export const UFFDIO_ZEROPAGE = 0xc020_aa04;

/** struct uffdio_api: u64 api; u64 features (in: wanted, out: all); u64 ioctls (out). As an index of u64: */
export const API_WORDS = 3;
export const API_VERSION = 0;
export const API_FEATURES = 1;
export const UFFD_API = 0xaan;
/** Pages of shared memory (tmpfs, memfd) that no file has yet. */
export const UFFD_FEATURE_MISSING_SHMEM = 1n << 5n;

/** struct uffdio_range: u64 start, length. The first two words of the structs that follow, too. */
export const RANGE_WORDS = 2;
/** struct uffdio_register: range; u64 mode; u64 ioctls (out): bit n is set when ioctl number n works on the range. */
export const REGISTER_WORDS = 4;
export const REGISTER_MODE = 2;
export const REGISTER_IOCTLS = 3;
export const UFFDIO_REGISTER_MODE_MISSING = 1n;
/** Numbers of UFFDIO_WAKE, UFFDIO_COPY and UFFDIO_ZEROPAGE. */
export const NEEDED_IOCTLS = (1n << 2n) | (1n << 3n) | (1n << 4n);

/** struct uffdio_copy: u64 dst, src, length, mode; s64 copy (out): bytes, or -errno. */
export const COPY_WORDS = 5;
export const COPY_DONE = 4;
/** struct uffdio_zeropage: range; u64 mode; s64 zeropage (out): bytes, or -errno. */
export const ZEROPAGE_WORDS = 4;
export const ZEROPAGE_DONE = 3;

/** struct uffd_msg: u8 event; 7 reserved bytes; of a page fault u64 flags, u64 address, u32 ptid. */
export const MESSAGE_SIZE_BYTES = 32;
export const MESSAGE_EVENT_U8 = 0;
export const MESSAGE_ADDRESS_U64 = 16;
export const UFFD_EVENT_PAGEFAULT = 0x12;
