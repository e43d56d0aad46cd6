// SPDX-License-Identifier: Apache-2.0
// What one vCPU of the engine has: its state page, and its caches. Imported by AssemblyScript and by TypeScript alike.
//
// The state page holds the whole architectural state but for the local APIC's, which is a page of its own. Registers that an
// instruction can name are first: a translated instruction has their addresses in 16 bits.

/** u64[16] in the order of their numbers: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, … */
export const CPU_GPRS = 0x000;
/** u64, always 0: base or index of an address that has none. */
export const CPU_ZERO = 0x080;
/** u64: an address that one translated instruction makes for the next. */
export const CPU_ADDRESS = 0x088;
/** u64: of the instruction that is to run, whenever the engine is not in the hot loop. */
export const CPU_RIP = 0x090;

// Flags are made when they are asked for, from the last instruction that set them: see flags.ts.
/** u64: its result, zero-extended. */
export const CPU_FLAG_RESULT = 0x098;
/** u64: its first operand, zero-extended. */
export const CPU_FLAG_FIRST = 0x0a0;
/** u32: which kind, and which size; see flags.ts. */
export const CPU_FLAG_KIND = 0x0a8;
/** u32: CF where the kind does not tell it; the six arithmetic flags as in RFLAGS for FLAGS_KNOWN. */
export const CPU_FLAG_CARRY = 0x0ac;
/** u64: RFLAGS without the six arithmetic flags CF, PF, AF, ZF, SF and OF; bit 1 is set. */
export const CPU_RFLAGS = 0x0b0;

/** Segments in the order of their numbers, ES, CS, SS, DS, FS, GS, then LDTR and TR: 24 bytes each. */
export const CPU_SEGMENTS = 0x0c0;
export const SEGMENT_SIZE_BYTES = 24;
export const SEGMENT_BASE_U64 = 0;
export const SEGMENT_LIMIT_U32 = 8;
export const SEGMENT_SELECTOR_U16 = 12;
/** As in the second word of a descriptor from bit 8 on: type 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13, D/B 14, G 15. Bit 16: unusable. */
export const SEGMENT_ATTRIBUTES_U32 = 16;
export const SEGMENT_ES = 0;
export const SEGMENT_CS = 1;
export const SEGMENT_SS = 2;
export const SEGMENT_DS = 3;
export const SEGMENT_FS = 4;
export const SEGMENT_GS = 5;
export const SEGMENT_LDTR = 6;
export const SEGMENT_TR = 7;

export const CPU_GDTR_BASE = 0x180;
export const CPU_GDTR_LIMIT = 0x188;
export const CPU_IDTR_BASE = 0x190;
export const CPU_IDTR_LIMIT = 0x198;
export const CPU_CR0 = 0x1a0;
export const CPU_CR2 = 0x1a8;
export const CPU_CR3 = 0x1b0;
export const CPU_CR4 = 0x1b8;
export const CPU_CR8 = 0x1c0;
export const CPU_EFER = 0x1c8;
/** u64[8]: DR0 to DR7. */
export const CPU_DRS = 0x1d0;

// MSRs, u64 each.
export const CPU_STAR = 0x210;
export const CPU_LSTAR = 0x218;
export const CPU_CSTAR = 0x220;
export const CPU_FMASK = 0x228;
export const CPU_KERNEL_GS_BASE = 0x230;
export const CPU_SYSENTER_CS = 0x238;
export const CPU_SYSENTER_ESP = 0x240;
export const CPU_SYSENTER_EIP = 0x248;
export const CPU_TSC_AUX = 0x250;
/** i64: what the guest's TSC shows more than the host's. */
export const CPU_TSC_OFFSET = 0x258;
export const CPU_PAT = 0x260;
export const CPU_APIC_BASE = 0x268;
export const CPU_TSC_DEADLINE = 0x270;
export const CPU_KVM_SYSTEM_TIME = 0x278;
export const CPU_KVM_WALL_CLOCK = 0x280;
export const CPU_MISC_ENABLE = 0x288;
export const CPU_MTRR_DEF_TYPE = 0x290;
/** u64[11], in the order 250, 258, 259, 268 … 26f. */
export const CPU_MTRR_FIXED = 0x298;
/** u64[16]: 200 to 20f. */
export const CPU_MTRR_VARIABLE = 0x2f0;

/** u8[16][16]: XMM0 to XMM15. On a boundary of 16 bytes. */
export const CPU_XMMS = 0x380;
/** u32. */
export const CPU_MXCSR = 0x480;
/** u8[16][8]: physical registers 0 to 7 of the x87, 80 bits each; MMi is the first 8 bytes of physical register i. */
export const CPU_X87_REGISTERS = 0x490;
/** u16: control word; status word without TOP; u8: TOP; u8: a bit for each physical register that is not empty. */
export const CPU_X87_CONTROL = 0x510;
export const CPU_X87_STATUS = 0x512;
export const CPU_X87_TOP = 0x514;
export const CPU_X87_VALID = 0x515;
/** u16: opcode of the last x87 instruction; u64: its address; u64: that of its operand. */
export const CPU_X87_OPCODE = 0x516;
export const CPU_X87_IP = 0x518;
export const CPU_X87_DP = 0x520;

// What is to be delivered.
/** u32: vector of the exception that the instruction at CPU_RIP has raised, or NO_EXCEPTION. */
export const CPU_EXCEPTION = 0x530;
/** u32: its error code; u32: whether it has one. */
export const CPU_ERROR_CODE = 0x534;
export const CPU_HAS_ERROR_CODE = 0x538;
export const NO_EXCEPTION = 0xffff_ffff;
/** u32: STI or a load of SS holds interrupts off until after the next instruction. */
export const CPU_INTERRUPT_SHADOW = 0x53c;
/** u32: an NMI is being handled: no other until IRET. */
export const CPU_NMI_BLOCKED = 0x540;
/** u32: the vCPU waits, `CPU_ACTIVITY_*`. */
export const CPU_ACTIVITY = 0x544;
export const CPU_ACTIVITY_RUNNING = 0;
export const CPU_ACTIVITY_HALTED = 1;
export const CPU_ACTIVITY_WAITING_FOR_SIPI = 2;
/** Triple fault. */
export const CPU_ACTIVITY_SHUTDOWN = 3;
/**
 * i32 bit set of `CPU_PENDING_*`, changed with atomics by any thread, and woken on: what the vCPU is to look at before it goes
 * on.
 */
export const CPU_PENDING = 0x548;
/** The local APIC may have an interrupt. */
export const CPU_PENDING_INTERRUPT = 1;
export const CPU_PENDING_NMI = 2;
export const CPU_PENDING_INIT = 4;
export const CPU_PENDING_SIPI = 8;
/** The main thread wants something: VCPU_REQUEST says what. */
export const CPU_PENDING_REQUEST = 16;
/** The VMM has written code: TLBs and translated code are stale. */
export const CPU_PENDING_FLUSH = 32;
/** Another vCPU has written code: CODE_WRITES says which pages. */
export const CPU_PENDING_CODE = 256;
/** PAGE_FLAGS were taken: see `protectPages` in write-tracking.ts. */
export const CPU_PENDING_PROTECT = 64;
/** The vCPU's thread sleeps until this word is another: whoever changes it wakes the thread. */
export const CPU_PENDING_ASLEEP = 128;
/** u32: of the startup IPI. */
export const CPU_SIPI_VECTOR = 0x54c;

// The engine's own: nothing of it is saved.
/** u64: instructions run since the start. */
export const CPU_INSTRUCTIONS = 0x560;
/** u64: unsupported instructions met, each of which was #UD. */
export const CPU_UNSUPPORTED = 0x568;
/** u32: address of the TLB in use, of user mode or not. */
export const CPU_TLB = 0x570;
/** u32: `MODE_*` of code at CS:RIP. */
export const CPU_MODE = 0x574;
/** u32, u32: links to other pages are good when they carry one of these. The second is for links to global pages. No two epochs have the same number. */
export const CPU_LINK_EPOCH = 0x578;
export const CPU_GLOBAL_EPOCH = 0x57c;
/** u32: the last number given to an epoch. */
export const CPU_LAST_EPOCH = 0x580;
/** u32: where the next translated instruction goes; u32: number of the next block. */
export const CPU_NEXT_UOP = 0x584;
export const CPU_NEXT_BLOCK = 0x588;
/** u32: bytes that the access at hand has beyond the end of its page, which are in CPU_SPLIT. */
export const CPU_INDEX = 0x58c;
/** u8[32]: a value on its way to or from a device or two pages. */
export const CPU_SPLIT = 0x5a0;
/** u8[64]: room for what one instruction does. */
export const CPU_TEMPORARY = 0x5c0;
/** Of the write that is in CPU_SPLIT, see slow-access.ts: u64: its address; u32: its size. */
export const CPU_SPLIT_ADDRESS = 0x600;
export const CPU_SPLIT_SIZE = 0x608;
/** u32: CONTROL_PROTECTIONS when this vCPU's TLBs last had nothing of a page that may not be written unseen. */
export const CPU_PROTECTIONS = 0x60c;
/** u32: somebody else has written this page: `stateChanged` is to be called before the vCPU runs. */
export const CPU_IS_CHANGED = 0x610;
/** u32: odd while the vCPU may be writing RAM by what its TLBs said when it became so. */
export const CPU_TURNS = 0x628;
/** u32: how much of CODE_WRITES this vCPU has seen. */
export const CPU_CODE_WRITES_SEEN = 0x62c;
/** u64: what makes the addresses of code linear ones, the base of CS: 0 in 64-bit mode. */
export const CPU_CODE_BASE = 0x618;
/** u64: the host's TSC as it was last read. */
export const CPU_HOST_TSC = 0x620;

/** u8[1024], in the form of struct kvm_lapic_state. */
export const CPU_LAPIC = 0x800;
export const CPU_LAPIC_SIZE_BYTES = 0x400;

// Caches, from CPU_CACHES_BASE on.
/** Two TLBs, of supervisor and of user mode. */
export const TLB_ENTRY_COUNT = 4096;
export const TLB_ENTRY_SIZE_BYTES = 32;
/** u64: page that may be read, as a linear address; TLB_NONE if none. */
export const TLB_READ_U64 = 0;
/** u64: page that may be written without anybody having to know. */
export const TLB_WRITE_U64 = 8;
/** u32: what makes the low 32 bits of the linear address an address in this memory. */
export const TLB_ADDEND_U32 = 16;
/** u32: TLB_GLOBAL */
export const TLB_FLAGS_U32 = 20;
export const TLB_GLOBAL = 1;
/** Part of a large page. */
export const TLB_LARGE = 2;
/** u64: page that code may be fetched from. */
export const TLB_FETCH_U64 = 24;
export const TLB_SIZE_BYTES = TLB_ENTRY_COUNT * TLB_ENTRY_SIZE_BYTES;
export const CACHE_TLB_SUPERVISOR = 0x18_0000;
export const CACHE_TLB_USER = CACHE_TLB_SUPERVISOR + TLB_SIZE_BYTES;
/** Of each TLB, in that order, two u64: a bit for each group of entries in which there may be some, and some of pages that are not global. */
export const CACHE_TLB_GROUPS = CACHE_TLB_USER + TLB_SIZE_BYTES;
export const TLB_GROUP_ENTRY_COUNT = TLB_ENTRY_COUNT / 64;

/** Where translated code is by its linear address: u64 address (see blocks.ts), u32 uop, u32 epoch. */
export const CACHE_JUMPS = 0x2_0000;
export const JUMP_COUNT = 0x8000;
export const JUMP_SIZE_BYTES = 16;

/** Pages whose code may be older than it should: see coherence.ts. */
export const CACHE_FRESH_PAGES = 0x1_8000;

/** u8[…]: struct kvm_cpuid2 of the vCPU. */
export const CACHE_CPUID = 0x1_0000;
export const CPUID_MAX_SIZE_BYTES = 0x4000;

/** Numbers of blocks by a hash of where they are, u32 each; see blocks.ts. */
export const CACHE_HASH = 0x10_0000;
export const HASH_COUNT = 0x2_0000;

/** u32 for each page of RAM: the first block in it. */
export const CACHE_PAGE_BLOCKS = 0x20_0000;

/** Blocks of translated code in the order of their uops, see blocks.ts. */
export const CACHE_BLOCKS = 0x50_0000;
export const BLOCK_COUNT = 0x1_0000;
export const BLOCK_SIZE_BYTES = 48;

export const CACHE_UOPS = 0x80_0000;
/** The last block may be longer than it should by that. */
export const CACHE_UOPS_END = 0x13f_0000;

// Flags of a page of guest RAM, PAGE_FLAGS.
/** It was written since the flag was taken. */
export const PAGE_DIRTY = 1;
/** A vCPU has translated code of it. */
export const PAGE_HAS_CODE = 2;
/** With several vCPUs: it has been PAGE_HAS_CODE for so long that none writes it unseen any more. */
export const PAGE_IS_SETTLED = 4;
