// SPDX-License-Identifier: Apache-2.0
// The interrupt controllers' page, and what local APICs have beyond their registers. Imported by AssemblyScript and by TypeScript alike.
//
// What KVM has structs for has their form: <asm/kvm.h>. All numbers are offsets in the page at IRQCHIP_BASE, unless said otherwise.

/** struct kvm_pic_state[2]: master, slave. */
export const IRQCHIP_PICS = 0x000;
export const PIC_SIZE_BYTES = 16;
export const PIC_SLAVE = PIC_SIZE_BYTES;
export const PIC_LAST_IRR_U8 = 0;
export const PIC_IRR_U8 = 1;
export const PIC_IMR_U8 = 2;
export const PIC_ISR_U8 = 3;
/** The line of the highest priority. */
export const PIC_PRIORITY_ADD_U8 = 4;
export const PIC_IRQ_BASE_U8 = 5;
/** What a read of port 0 gives: 0 IRR, 1 ISR. */
export const PIC_READ_REG_SELECT_U8 = 6;
export const PIC_POLL_U8 = 7;
export const PIC_SPECIAL_MASK_U8 = 8;
/** Which word a write of port 1 is: 0 OCW1, 1 to 3 ICW2 to ICW4. */
export const PIC_INIT_STATE_U8 = 9;
export const PIC_AUTO_EOI_U8 = 10;
export const PIC_ROTATE_ON_AUTO_EOI_U8 = 11;
export const PIC_SPECIAL_FULLY_NESTED_MODE_U8 = 12;
/** ICW1 announced an ICW4. */
export const PIC_INIT4_U8 = 13;
/** Bits of lines that are level triggered; and of those that can be. */
export const PIC_ELCR_U8 = 14;
export const PIC_ELCR_MASK_U8 = 15;

/** struct kvm_ioapic_state. */
export const IRQCHIP_IOAPIC = 0x040;
export const IOAPIC_BASE_ADDRESS_U64 = 0;
export const IOAPIC_IOREGSEL_U32 = 8;
export const IOAPIC_ID_U32 = 12;
/** Lines that are up, and edges that nobody has got yet. */
export const IOAPIC_IRR_U32 = 16;
/** u64[24] */
export const IOAPIC_REDIRTBL = 24;
export const IOAPIC_PIN_COUNT = 24;
export const IOAPIC_SIZE_BYTES = 216;

/** struct kvm_pit_state2: struct kvm_pit_channel_state[3], flags. */
export const IRQCHIP_PIT = 0x140;
export const PIT_CHANNEL_SIZE_BYTES = 24;
export const PIT_CHANNEL_COUNT = 3;
/** As it was written, but 0x10000 for 0. */
export const PIT_COUNT_U32 = 0;
export const PIT_LATCHED_COUNT_U16 = 4;
/** `PIT_*` below: which byte of the latched count is read next; 0 when none is latched. */
export const PIT_COUNT_LATCHED_U8 = 6;
export const PIT_STATUS_LATCHED_U8 = 7;
export const PIT_STATUS_U8 = 8;
/** Which byte of the count is read next, and which is written next. */
export const PIT_READ_STATE_U8 = 9;
export const PIT_WRITE_STATE_U8 = 10;
/** The low byte of a count whose high one is to come. */
export const PIT_WRITE_LATCH_U8 = 11;
export const PIT_RW_MODE_U8 = 12;
/** 0 to 5; 0xff before the first control word. */
export const PIT_MODE_U8 = 13;
export const PIT_BCD_U8 = 14;
export const PIT_GATE_U8 = 15;
/** i64, ns: when counting began. Here by the devices' clock, in KVM's struct by the host's CLOCK_MONOTONIC. */
export const PIT_COUNT_LOAD_TIME_I64 = 16;
/** u32, offset in struct kvm_pit_state2. */
export const PIT_FLAGS_U32 = 72;
/** Some HPET has taken over IRQ 0. */
export const PIT_FLAGS_HPET_LEGACY = 1;
export const PIT_FLAGS_SPEAKER_DATA_ON = 2;
export const PIT_SIZE_BYTES = 112;

// What follows is not saved.
/** i32: the master PIC's INTR is up. Read without the lock. */
export const IRQCHIP_PIC_OUTPUT_I32 = 0x200;
/** u32: pins of the I/O APIC in whose bit of IOAPIC_IRR there is nothing left to deliver. */
export const IRQCHIP_IOAPIC_DELIVERED_U32 = 0x204;
/** u32: vCPUs of the VM. Set before the guest runs. */
export const IRQCHIP_CPU_COUNT_U32 = 0x208;
/** u32: of the host's TSC (hostTsc in cpu/vcpu.ts). Set before the guest runs. */
export const IRQCHIP_TSC_KHZ_U32 = 0x20c;
/** u32: counts lowest priority interrupts: whose turn it is. */
export const IRQCHIP_ARBITER_U32 = 0x210;
/** i64, ns of the devices' clock: when the PIT's channel 0 next has an edge; i64.MAX_VALUE for never. Read without the lock. */
export const IRQCHIP_PIT_DEADLINE_I64 = 0x218;
/** For each of the PIT's channels, 24 bytes. */
export const IRQCHIP_PIT_EXTRAS = 0x220;
/** u32: count that waits for its turn, 0 for none. */
export const EXTRA_NEXT_COUNT_U32 = 0;
/** u32: the counter has not begun: it waits for its count, or for its gate. */
export const EXTRA_IS_WAITING_U32 = 4;
/** i64, ns: how long it had counted when its gate closed. */
export const EXTRA_HELD_NS_I64 = 8;
/** i64, ns: when EXTRA_NEXT_COUNT_U32 takes effect. */
export const EXTRA_NEXT_TIME_I64 = 16;
export const EXTRA_SIZE_BYTES = 24;

// In each vCPU's state page, beside cpu/layout.ts.
/** u64: host TSC at which the one-shot or periodic timer runs out; 0 when it does not run. */
export const CPU_APIC_TIMER_TARGET = 0xc00;
/** i32: errors since the guest last wrote ESR; changed with atomics. */
export const CPU_APIC_ERRORS = 0xc08;

// Registers of the local APIC: offsets in CPU_LAPIC, and in the xAPIC's page. SDM volume 3, table 11-1.
export const APIC_ID = 0x020;
export const APIC_VERSION = 0x030;
export const APIC_TPR = 0x080;
export const APIC_ARBITRATION_PRIORITY = 0x090;
export const APIC_PPR = 0x0a0;
export const APIC_EOI = 0x0b0;
export const APIC_REMOTE_READ = 0x0c0;
export const APIC_LDR = 0x0d0;
export const APIC_DFR = 0x0e0;
export const APIC_SVR = 0x0f0;
/** 256 bits each, 32 every 16 bytes. */
export const APIC_ISR = 0x100;
export const APIC_TMR = 0x180;
export const APIC_IRR = 0x200;
export const APIC_ESR = 0x280;
export const APIC_ICR = 0x300;
export const APIC_ICR2 = 0x310;
export const APIC_LVT_TIMER = 0x320;
export const APIC_LVT_THERMAL = 0x330;
export const APIC_LVT_PERFORMANCE = 0x340;
export const APIC_LVT_LINT0 = 0x350;
export const APIC_LVT_LINT1 = 0x360;
export const APIC_LVT_ERROR = 0x370;
export const APIC_INITIAL_COUNT = 0x380;
export const APIC_CURRENT_COUNT = 0x390;
export const APIC_DIVIDE = 0x3e0;
/** x2APIC only. */
export const APIC_SELF_IPI = 0x3f0;
