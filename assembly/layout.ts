// SPDX-License-Identifier: Apache-2.0
// The map of a VM's one linear memory: where device state, vCPU control blocks, kvm_run pages and guest RAM lie.
//
// Imported by AssemblyScript and by TypeScript alike, so: plain integer constants only, each built on the one before.
//
//   0x0000_0000  one page, never used: a null pointer in a device must not hit anything
//   0x0000_1000  CPU_STATE  the engine's: one page for each vCPU, all that it has but RAM (assembly/cpu/layout.ts)
//   0x0001_0000  CONTROL    one page: doorbells and VM-wide flags
//   0x0001_1000  IRQCHIP    the engine's: one page, I/O APIC, PICs and PIT (assembly/irqchip/layout.ts)
//   0x0001_2000  CODE_WRITES the engine's: one page, code that vCPUs have written
//   0x0001_8000  FENCE      one page: who may run the guest; shared with another process during a transfer
//   0x0002_0000  DEVICE     one 4 KiB state page for each device slot
//   0x0004_0000  RING       byte rings between devices and character back ends
//   0x000c_0000  MODULE     64 bytes for each device slot: which module models the device, and how many threads are in it
//   0x0010_0000  VCPU       one 4 KiB control block for each vCPU
//   0x0020_0000  KVM_RUN    1 MiB stride for each vCPU; the kernel's kvm_run, pio and coalesced pages are mapped here
//   0x0100_0000  DIRTY_RING 1 MiB stride for each vCPU; the kernel's dirty ring is mapped here
//   0x0200_0000  SCRATCH    dirty bitmaps and scanner results
//   0x0300_0000  MODULE_BYTES 1 MiB for each device slot: the module that was swapped in
//   0x0500_0000  PAGE_FLAGS  the engine's: a byte for each page of guest RAM
//   0x0600_0000  CPU_CACHES  the engine's: 20 MiB for each vCPU, TLBs and translated code
//   0x1000_0000  RAM        guest RAM below the 3 GiB hole. Guest physical 0 is at the first address from here on that
//                           is a host address on a huge page's boundary: CONTROL_RAM_BASE says which
//   0xd020_0000  (end)

export const PAGE_SIZE_BYTES = 4096;
export const WASM_PAGE_SIZE_BYTES = 65536;

export const MAX_VCPUS = 8;
export const MAX_DEVICES = 32;

/** In the first 64 KiB, so that the address of any register has 16 bits. */
export const CPU_STATE_BASE = 0x1000;
export const CPU_STATE_STRIDE_BYTES = PAGE_SIZE_BYTES;

export const CONTROL_BASE = 0x1_0000;
export const CONTROL_SIZE_BYTES = 0x1000;
/** i32: bumped and notified by any thread that has something for the main thread. */
export const CONTROL_DOORBELL = CONTROL_BASE + 0x00;
/** i32 bit set of `EVENT_*`: what the guest asked of the machine; set by devices, taken by the main thread. */
export const CONTROL_EVENTS = CONTROL_BASE + 0x04;

/** u32: where guest physical 0 is in this memory. */
export const CONTROL_RAM_BASE = CONTROL_BASE + 0x08;
/** u32: entries of each vCPU's dirty ring, a power of two; 0 when there are no rings. */
export const CONTROL_DIRTY_RING_ENTRIES = CONTROL_BASE + 0x0c;
/** u32: pages of guest RAM. Only with dirty rings. */
export const CONTROL_RAM_PAGES = CONTROL_BASE + 0x10;
/** i32: bumped and notified when the last vCPU that ran runs no more. */
export const CONTROL_STANDSTILLS = CONTROL_BASE + 0x14;
// The last word of the control page is the lock (lock.ts) of all dirty rings and DIRTY_MARKS.

/**
 * i64, ns: what the devices' monotonic clock shows more than the host's. Set before the guest runs; 0 unless the guest has
 * come from another boot, where CLOCK_MONOTONIC began at another time.
 */
export const CONTROL_MONOTONIC_OFFSET = CONTROL_BASE + 0x18;

/** i64, ns: what the engine's kvmclock shows more than CLOCK_MONOTONIC. */
export const CONTROL_KVMCLOCK_OFFSET = CONTROL_BASE + 0x20;
/** u32: how often PAGE_FLAGS were taken, twice: odd while they are being taken. See protectPages in cpu/write-tracking.ts. */
export const CONTROL_PROTECTIONS = CONTROL_BASE + 0x28;

export const EVENT_SHUTDOWN = 1;
export const EVENT_RESET = 2;
export const EVENT_SUSPEND = 4;
export const EVENT_DEBUG_EXIT = 8;
export const EVENT_TIMER = 16;
export const EVENT_CHARDEV = 32;
export const EVENT_VCPU_ERROR = 64;
export const EVENT_MODULE_REFUSED = 128;

/** A page with a lock (lock.ts). */
export const IRQCHIP_BASE = 0x1_1000;

/** A page with a lock, that of cpu/locked.ts: see cpu/coherence.ts. */
export const CODE_WRITES_BASE = 0x1_2000;

export const FENCE_BASE = 0x1_8000;
/** i32 `FENCE_*`. */
export const FENCE_OWNER = FENCE_BASE + 0x00;
/** The old VMM has the guest. */
export const FENCE_HELD = 0;
/** The guest stands and its state is on its way: the new VMM may take it, the old one may still take that back. */
export const FENCE_OFFERED = 1;
export const FENCE_TAKEN = 2;
export const FENCE_WITHDRAWN = 3;

export const DEVICE_BASE = 0x2_0000;
export const DEVICE_STRIDE_BYTES = PAGE_SIZE_BYTES;

export const RING_BASE = 0x4_0000;
/** Each ring: i32 head (consumer), i32 tail (producer) on their own cache lines, then the bytes. */
export const RING_STRIDE_BYTES = 0x1_0000;
export const RING_HEAD = 0;
export const RING_TAIL = 64;
export const RING_DATA = 128;
/** A power of two; indices run freely and are masked on access. */
export const RING_CAPACITY_BYTES = 0x8000;
export const MAX_RINGS = 8;

export const MODULE_BASE = 0xc_0000;
/** A cache line: entering one device's module must not slow that of another down. */
export const MODULE_STRIDE_BYTES = 64;
/** i32: threads that are in the device's module; the sign bit keeps others from entering. */
export const MODULE_GATE = 0x00;
/** i32: number of the module that models the device. 0 is the built-in one; no number is used twice. */
export const MODULE_GENERATION = 0x04;
/** i32: generation of which a thread could make no instance; 0 for none. */
export const MODULE_REFUSED = 0x08;
/** u32: length of the module in MODULE_BYTES; 0 for the built-in one. */
export const MODULE_SIZE_BYTES = 0x0c;

export const VCPU_BASE = 0x10_0000;
export const VCPU_STRIDE_BYTES = PAGE_SIZE_BYTES;
/** i32 `VCPU_REQUEST_*`: what the main thread wants of this vCPU's thread. */
export const VCPU_REQUEST = 0x00;
/** i32 `VCPU_STATE_*`: what the thread is doing. */
export const VCPU_STATE = 0x04;
/** i32: Linux thread id of the thread that runs the vCPU. */
export const VCPU_TID = 0x08;
/** i32: exits to user space since start. */
export const VCPU_EXITS = 0x0c;
/** i32: KVM exit reason that stopped the vCPU for good, 0 for none. */
export const VCPU_FAILURE = 0x10;
/** i32: what KVM said of it, a suberror or a hardware reason. */
export const VCPU_FAILURE_DETAIL = 0x14;
/** i32, 0 to 99: how many percent of its time the vCPU is kept from running. */
export const VCPU_THROTTLE_PERCENT = 0x18;
/** u32: number of the next entry of the vCPU's dirty ring to harvest; runs freely and is masked on access. */
export const VCPU_DIRTY_RING_FETCH = 0x1c;
/** i32 `VCPU_OFFER_*`: how the vCPU's thread gets it from the main thread, which runs it. */
export const VCPU_OFFER = 0x20;

export const VCPU_REQUEST_PARK = 0;
export const VCPU_REQUEST_RUN = 1;
export const VCPU_REQUEST_EXIT = 2;
/** Only while the main thread runs the vCPU: its worker asks for it. */
export const VCPU_REQUEST_HANDOVER = 3;

export const VCPU_OFFER_NONE = 0;
/** The vCPU's thread waits. */
export const VCPU_OFFER_AWAITED = 1;
/** It may take the vCPU. */
export const VCPU_OFFER_MADE = 2;

export const VCPU_STATE_ABSENT = 0;
export const VCPU_STATE_PARKED = 1;
export const VCPU_STATE_RUNNING = 2;
export const VCPU_STATE_GONE = 3;

export const KVM_RUN_BASE = 0x20_0000;
export const KVM_RUN_STRIDE_BYTES = 0x10_0000;

export const DIRTY_RING_BASE = 0x100_0000;
export const DIRTY_RING_STRIDE_BYTES = 0x10_0000;

export const SCRATCH_BASE = 0x200_0000;
export const SCRATCH_SIZE_BYTES = 0x100_0000;
/** A dirty bitmap of the largest RAM. Form: assembly/dirty/scan.ts. */
export const DIRTY_BITMAP_SIZE_BYTES = 0x1_8000;
/** Bitmap of what was harvested from dirty rings, or written by the VMM, and not collected yet. Changed with atomics. */
export const DIRTY_MARKS = SCRATCH_BASE;
/** Bitmap that KVM_GET_DIRTY_LOG fills. */
export const DIRTY_LOG = DIRTY_MARKS + DIRTY_BITMAP_SIZE_BYTES;
/** From here on: bitmaps of whoever moves RAM. */
export const SCRATCH_BITMAPS = DIRTY_LOG + DIRTY_BITMAP_SIZE_BYTES;

export const MODULE_BYTES_BASE = 0x300_0000;
export const MODULE_MAX_SIZE_BYTES = 0x10_0000;

export const PAGE_FLAGS_BASE = 0x500_0000;

export const CPU_CACHES_BASE = 0x600_0000;
export const CPU_CACHES_STRIDE_BYTES = 0x140_0000;

export const RAM_MIN_BASE = 0x1000_0000;
/** KVM and the kernel use huge pages only where guest and host addresses have the same place in one. */
export const RAM_ALIGNMENT_BYTES = 0x20_0000;
/** Guest RAM that can be mapped directly: what lies below the PCI hole. 3 GiB. */
export const RAM_MAX_SIZE_BYTES = 3 * 0x4000_0000;
