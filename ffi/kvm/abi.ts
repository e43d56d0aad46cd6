// SPDX-License-Identifier: Apache-2.0
// Numbers and layouts of /dev/kvm: <linux/kvm.h> and <asm/kvm.h> for x86-64, each written once.

export const KVM_API_VERSION = 12;

/** ioctl request numbers. */
export const KVM_GET_API_VERSION = 0xae00;
export const KVM_CREATE_VM = 0xae01;
export const KVM_GET_MSR_INDEX_LIST = 0xc004ae02;
export const KVM_CHECK_EXTENSION = 0xae03;
export const KVM_GET_VCPU_MMAP_SIZE = 0xae04;
export const KVM_GET_SUPPORTED_CPUID = 0xc008ae05;
export const KVM_CREATE_VCPU = 0xae41;
export const KVM_GET_DIRTY_LOG = 0x4010ae42;
export const KVM_SET_USER_MEMORY_REGION = 0x4020ae46;
export const KVM_SET_TSS_ADDR = 0xae47;
export const KVM_SET_IDENTITY_MAP_ADDR = 0x4008ae48;
export const KVM_CREATE_IRQCHIP = 0xae60;
export const KVM_IRQ_LINE = 0x4008ae61;
export const KVM_GET_IRQCHIP = 0xc208ae62;
export const KVM_SET_IRQCHIP = 0x8208ae63;
export const KVM_CREATE_PIT2 = 0x4040ae77;
export const KVM_SET_CLOCK = 0x4030ae7b;
export const KVM_GET_CLOCK = 0x8030ae7c;
export const KVM_RUN = 0xae80;
export const KVM_GET_REGS = 0x8090ae81;
export const KVM_SET_REGS = 0x4090ae82;
export const KVM_GET_SREGS = 0x8138ae83;
export const KVM_SET_SREGS = 0x4138ae84;
export const KVM_GET_MSRS = 0xc008ae88;
export const KVM_SET_MSRS = 0x4008ae89;
export const KVM_SET_SIGNAL_MASK = 0x4004ae8b;
export const KVM_GET_LAPIC = 0x8400ae8e;
export const KVM_SET_LAPIC = 0x4400ae8f;
export const KVM_SET_CPUID2 = 0x4008ae90;
export const KVM_GET_MP_STATE = 0x8004ae98;
export const KVM_SET_MP_STATE = 0x4004ae99;
export const KVM_GET_PIT2 = 0x8070ae9f;
export const KVM_GET_VCPU_EVENTS = 0x8040ae9f;
export const KVM_SET_PIT2 = 0x4070aea0;
export const KVM_SET_VCPU_EVENTS = 0x4040aea0;
export const KVM_GET_DEBUGREGS = 0x8080aea1;
export const KVM_SET_DEBUGREGS = 0x4080aea2;
export const KVM_ENABLE_CAP = 0x4068aea3;
export const KVM_GET_XSAVE = 0x9000aea4;
export const KVM_SET_XSAVE = 0x5000aea5;
export const KVM_GET_XCRS = 0x8188aea6;
export const KVM_SET_XCRS = 0x4188aea7;
export const KVM_GET_XSAVE2 = 0x9000aecf;
export const KVM_SET_TSC_KHZ = 0xaea2;
export const KVM_GET_TSC_KHZ = 0xaea3;
export const KVM_KVMCLOCK_CTRL = 0xaead;
export const KVM_CLEAR_DIRTY_LOG = 0xc018aec0;
export const KVM_RESET_DIRTY_RINGS = 0xaec7;
export const KVM_GET_SREGS2 = 0x8140aecc;
export const KVM_SET_SREGS2 = 0x4140aecd;
export const KVM_SET_DEVICE_ATTR = 0x4018aee1;
export const KVM_GET_DEVICE_ATTR = 0x4018aee2;
export const KVM_HAS_DEVICE_ATTR = 0x4018aee3;

/** Capabilities asked of KVM_CHECK_EXTENSION. */
export const KVM_CAP_TSC_CONTROL = 60;
export const KVM_CAP_TSC_DEADLINE_TIMER = 72;
export const KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168;
export const KVM_CAP_DIRTY_LOG_RING = 192;
export const KVM_CAP_SREGS2 = 200;
export const KVM_CAP_XSAVE2 = 208;
export const KVM_CAP_DIRTY_LOG_RING_ACQ_REL = 223;

/** Flags of a memory slot. */
export const KVM_MEM_LOG_DIRTY_PAGES = 1;

/** Modes of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: what checking it answers, and what enabling it takes. */
export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1;
export const KVM_DIRTY_LOG_INITIALLY_SET = 2;

/** Page of a vCPU's fd at which its dirty ring is mapped; an entry is a struct kvm_dirty_gfn. */
export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;
export const KVM_DIRTY_GFN_SIZE_BYTES = 16;

/** struct kvm_run: offsets used, and the size of the shared pages is KVM_GET_VCPU_MMAP_SIZE. */
export const KVM_RUN_IMMEDIATE_EXIT_U8 = 1;
export const KVM_RUN_EXIT_REASON_U32 = 8;
/** Union member `io`: u8 direction, u8 size, u16 port, u32 count, u64 data_offset. */
export const KVM_RUN_IO_DIRECTION_U8 = 32;
export const KVM_RUN_IO_SIZE_U8 = 33;
export const KVM_RUN_IO_PORT_U16 = 34;
export const KVM_RUN_IO_COUNT_U32 = 36;
export const KVM_RUN_IO_DATA_OFFSET_U64 = 40;
/** Union member `mmio`: u64 phys_addr, u8 data[8], u32 len, u8 is_write. */
export const KVM_RUN_MMIO_PHYS_ADDR_U64 = 32;
export const KVM_RUN_MMIO_DATA_U8X8 = 40;
export const KVM_RUN_MMIO_LEN_U32 = 48;
export const KVM_RUN_MMIO_IS_WRITE_U8 = 52;
/** The first word of the union: `internal` has a suberror there, `fail_entry` the low half of a hardware reason. */
export const KVM_RUN_INTERNAL_SUBERROR_U32 = 32;

export const KVM_EXIT_IO = 2;
export const KVM_EXIT_HLT = 5;
export const KVM_EXIT_MMIO = 6;
export const KVM_EXIT_IRQ_WINDOW_OPEN = 7;
export const KVM_EXIT_SHUTDOWN = 8;
export const KVM_EXIT_INTR = 10;
export const KVM_EXIT_DIRTY_RING_FULL = 31;
export const KVM_EXIT_IO_IN = 0;

/** struct kvm_enable_cap: u32 cap, u32 flags, u64 args[4], u8 pad[64]. */
export const KVM_ENABLE_CAP_SIZE_BYTES = 104;
/** struct kvm_dirty_log: u32 slot, u32 padding, u64 address of the bitmap. */
export const KVM_DIRTY_LOG_SIZE_BYTES = 16;
/** struct kvm_clear_dirty_log: u32 slot, u32 num_pages, u64 first_page, u64 address of the bitmap. */
export const KVM_CLEAR_DIRTY_LOG_SIZE_BYTES = 24;

/** Sizes of the structs that hold state. */
export const KVM_REGS_SIZE_BYTES = 144;
export const KVM_SREGS_SIZE_BYTES = 312;
export const KVM_SREGS2_SIZE_BYTES = 320;
export const KVM_XSAVE_SIZE_BYTES = 4096;
export const KVM_XCRS_SIZE_BYTES = 392;
export const KVM_LAPIC_STATE_SIZE_BYTES = 1024;
export const KVM_MP_STATE_SIZE_BYTES = 4;
export const KVM_VCPU_EVENTS_SIZE_BYTES = 64;
export const KVM_DEBUGREGS_SIZE_BYTES = 128;
/** struct kvm_irqchip: u32 chip_id, u32 pad, then 512 bytes of the chip. */
export const KVM_IRQCHIP_SIZE_BYTES = 520;
export const KVM_IRQCHIP_PIC_MASTER = 0;
export const KVM_IRQCHIP_PIC_SLAVE = 1;
export const KVM_IRQCHIP_IOAPIC = 2;
export const KVM_PIT_STATE2_SIZE_BYTES = 112;
export const KVM_PIT_CONFIG_SIZE_BYTES = 64;
export const KVM_PIT_SPEAKER_DUMMY = 1;
/** struct kvm_clock_data: u64 clock, u32 flags, u32 pad, u64 realtime, u64 host_tsc, u32 pad[4]. */
export const KVM_CLOCK_DATA_SIZE_BYTES = 48;
export const KVM_CLOCK_FLAGS_U32 = 8;
export const KVM_CLOCK_REALTIME_U64 = 16;
export const KVM_CLOCK_REALTIME = 4;
/** struct kvm_cpuid2: u32 nent, u32 padding, then entries of 40 bytes. */
export const KVM_CPUID2_HEADER_SIZE_BYTES = 8;
export const KVM_CPUID_ENTRY2_SIZE_BYTES = 40;
/** struct kvm_msrs: u32 nmsrs, u32 pad, then entries {u32 index, u32 reserved, u64 data}. */
export const KVM_MSRS_HEADER_SIZE_BYTES = 8;
export const KVM_MSR_ENTRY_SIZE_BYTES = 16;

/** struct kvm_device_attr of a vCPU: u32 flags, u32 group, u64 attr, u64 address of the value. */
export const KVM_VCPU_TSC_CTRL = 0;
export const KVM_VCPU_TSC_OFFSET = 0;
