// SPDX-License-Identifier: Apache-2.0
// What booting a guest takes: an image to read, bytes to place in RAM, and the state vCPU 0 starts in.
// Names in the vCPU's state are those of struct kvm_regs, kvm_sregs and kvm_segment.
// https://docs.kernel.org/virt/kvm/api.html#kvm-set-regs

/** A file the guest is booted from, read piece by piece and never held as a whole. */
export interface Image {
  /** For messages, and the name that multiboot guests are told. */
  readonly name: string;
  readonly sizeBytes: number;
  /**
   * Fills all of `target` with what the file has from `offset` on.
   * @throws VmmError `image-truncated` when the file ends before that.
   */
  read(target: Uint8Array, offset: number): void;
}

/** Bytes for guest RAM. An image's bytes are read straight into their place when the write is done. */
export type GuestWrite = { what: string; gpa: number; sizeBytes: number } & (
  | { kind: "bytes"; bytes: Uint8Array }
  | { kind: "image"; image: Image; offset: number }
  | { kind: "zeros" }
);

export interface Registers {
  rax: bigint;
  rbx: bigint;
  rcx: bigint;
  rdx: bigint;
  rsi: bigint;
  rdi: bigint;
  rsp: bigint;
  rbp: bigint;
  r8: bigint;
  r9: bigint;
  r10: bigint;
  r11: bigint;
  r12: bigint;
  r13: bigint;
  r14: bigint;
  r15: bigint;
  rip: bigint;
  rflags: bigint;
}

/** struct kvm_segment. `limit` is in bytes, whatever `g` says. */
export interface Segment {
  base: bigint;
  limit: number;
  selector: number;
  type: number;
  present: number;
  dpl: number;
  db: number;
  s: number;
  l: number;
  g: number;
  avl: number;
  unusable: number;
}

/** struct kvm_dtable. */
export interface DescriptorTable {
  base: bigint;
  limit: number;
}

/** struct kvm_sregs without `apic_base` and `interrupt_bitmap`, which keep their reset values. */
export interface SpecialRegisters {
  cs: Segment;
  ds: Segment;
  es: Segment;
  fs: Segment;
  gs: Segment;
  ss: Segment;
  tr: Segment;
  ldt: Segment;
  gdt: DescriptorTable;
  idt: DescriptorTable;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
}

export type CpuMode = "long64" | "protected32" | "real";

/** How vCPU 0 starts; the other vCPUs wait for a start-up IPI. */
export interface InitialVcpuState {
  mode: CpuMode;
  regs: Registers;
  sregs: SpecialRegisters;
}

export type BootProtocol = "linux64" | "pvh" | "multiboot" | "boot-sector";

/** Everything between empty RAM and the guest's first instruction. The writes are in RAM and do not overlap. */
export interface BootPlan {
  protocol: BootProtocol;
  writes: GuestWrite[];
  vcpu: InitialVcpuState;
}

/** What a boot protocol works from. */
export interface BootInput {
  kernel: Image;
  initrd?: Image | undefined;
  commandLine: string;
  memorySizeBytes: number;
  /** Where the ACPI tables' root is. */
  rsdpGpa: number;
  /** A compressed Linux kernel is unpacked here, and not by itself in the guest. */
  unpacksKernel: boolean;
}
