// SPDX-License-Identifier: Apache-2.0
// /dev/kvm, typed: one method for each ioctl (https://docs.kernel.org/virt/kvm/api.html).
//
// Every buffer is given by the caller and is exactly the kernel's struct, so state goes from the kernel to the state
// image and back without a copy in between.
import { SysError } from "../error.ts";
import { close, open } from "../fd.ts";
import { mapOver } from "../mmap.ts";
import { addressOf, errno, libcFunction } from "../native.ts";
import * as abi from "./abi.ts";

const ioctlValue = libcFunction("int ioctl(int fd, unsigned long request, uintptr_t arg)");
const ioctlBuffer = libcFunction("int ioctl(int fd, unsigned long request, void *arg)");

const EINTR = 4;
const EIO = 5;
const EAGAIN = 11;
const EINVAL = 22;
const E2BIG = 7;
const O_RDWR = 2;

function call(name: string, fd: number, request: number, arg: number | bigint | Uint8Array, detail = ""): number {
  const result = (typeof arg === "object" ? ioctlBuffer : ioctlValue)(fd, request, arg) as number;
  if (result < 0) throw new SysError(name, errno(), detail);
  return result;
}

/** The system fd of KVM. */
export class KvmSystem {
  readonly fd: number;

  /** Opens /dev/kvm. @throws SysError (ENOENT: no KVM; EACCES: no permission) or Error when the API is not version 12. */
  constructor(path = "/dev/kvm") {
    this.fd = open(path, O_RDWR);
    try {
      const version = call("KVM_GET_API_VERSION", this.fd, abi.KVM_GET_API_VERSION, 0);
      if (version === abi.KVM_API_VERSION) return;
      throw new Error(`${path} has KVM API version ${version}; Baton needs ${abi.KVM_API_VERSION}`);
    } catch (error) {
      close(this.fd);
      throw error;
    }
  }

  checkExtension(capability: number): number {
    return call("KVM_CHECK_EXTENSION", this.fd, abi.KVM_CHECK_EXTENSION, capability);
  }

  createVm(): KvmVm {
    return new KvmVm(call("KVM_CREATE_VM", this.fd, abi.KVM_CREATE_VM, 0));
  }

  /** Size of the area to map for each vCPU: kvm_run and the pages behind it. */
  vcpuMmapSizeBytes(): number {
    return call("KVM_GET_VCPU_MMAP_SIZE", this.fd, abi.KVM_GET_VCPU_MMAP_SIZE, 0);
  }

  /** struct kvm_cpuid2 with what this host can give a guest. */
  supportedCpuid(): Uint8Array {
    for (let entries = 128; ; entries *= 2) {
      const cpuid = new Uint8Array(abi.KVM_CPUID2_HEADER_SIZE_BYTES + entries * abi.KVM_CPUID_ENTRY2_SIZE_BYTES);
      const view = new DataView(cpuid.buffer);
      view.setUint32(0, entries, true);
      try {
        call("KVM_GET_SUPPORTED_CPUID", this.fd, abi.KVM_GET_SUPPORTED_CPUID, cpuid);
      } catch (error) {
        if (error instanceof SysError && error.errno === E2BIG && entries < 4096) continue;
        throw error;
      }
      const used = view.getUint32(0, true);
      return cpuid.slice(0, abi.KVM_CPUID2_HEADER_SIZE_BYTES + used * abi.KVM_CPUID_ENTRY2_SIZE_BYTES);
    }
  }

  /** Indices of the MSRs that KVM can save and restore. */
  msrIndices(): Uint32Array {
    const head = new Uint8Array(4);
    try {
      call("KVM_GET_MSR_INDEX_LIST", this.fd, abi.KVM_GET_MSR_INDEX_LIST, head);
    } catch (error) {
      if (!(error instanceof SysError && error.errno === E2BIG)) throw error;
    }
    const count = new DataView(head.buffer).getUint32(0, true);
    const list = new Uint32Array(1 + count);
    list[0] = count;
    call("KVM_GET_MSR_INDEX_LIST", this.fd, abi.KVM_GET_MSR_INDEX_LIST, new Uint8Array(list.buffer));
    return list.slice(1);
  }

  close(): void {
    close(this.fd);
  }
}

/** One VM fd. It works only in the address space that made it: after exec, or in another process, it answers EIO. */
export class KvmVm {
  readonly fd: number;
  readonly #irq = new Uint32Array(2);
  readonly #irqBytes = new Uint8Array(this.#irq.buffer);

  constructor(fd: number) {
    this.fd = fd;
  }

  setTssAddr(gpa: number): void {
    call("KVM_SET_TSS_ADDR", this.fd, abi.KVM_SET_TSS_ADDR, gpa);
  }

  setIdentityMapAddr(gpa: number): void {
    const arg = new Uint8Array(new BigUint64Array([BigInt(gpa)]).buffer);
    call("KVM_SET_IDENTITY_MAP_ADDR", this.fd, abi.KVM_SET_IDENTITY_MAP_ADDR, arg);
  }

  createIrqchip(): void {
    call("KVM_CREATE_IRQCHIP", this.fd, abi.KVM_CREATE_IRQCHIP, 0);
  }

  createPit2(): void {
    const config = new Uint8Array(abi.KVM_PIT_CONFIG_SIZE_BYTES);
    new DataView(config.buffer).setUint32(0, abi.KVM_PIT_SPEAKER_DUMMY, true);
    call("KVM_CREATE_PIT2", this.fd, abi.KVM_CREATE_PIT2, config);
  }

  /**
   * Makes `memory[offset, offset + sizeBytes)` guest RAM at `gpa`.
   *
   * SAFETY: KVM keeps the host address for the life of the VM; `memory` is the VM's WebAssembly.Memory, which never moves
   * and outlives it.
   *
   * Called again with other `flags` (KVM_MEM_*) and all else the same it changes those of the slot.
   */
  setUserMemoryRegion(
    slot: number,
    gpa: number,
    sizeBytes: number,
    memory: Uint8Array,
    offset: number,
    flags = 0,
  ): void {
    const region = new Uint8Array(32);
    const view = new DataView(region.buffer);
    view.setUint32(0, slot, true);
    view.setUint32(4, flags, true);
    view.setBigUint64(8, BigInt(gpa), true);
    view.setBigUint64(16, BigInt(sizeBytes), true);
    view.setBigUint64(24, addressOf(memory) + BigInt(offset), true);
    call("KVM_SET_USER_MEMORY_REGION", this.fd, abi.KVM_SET_USER_MEMORY_REGION, region, `slot ${slot}`);
  }

  checkExtension(capability: number): number {
    return call("KVM_CHECK_EXTENSION", this.fd, abi.KVM_CHECK_EXTENSION, capability);
  }

  enableCap(capability: number, argument: number): void {
    const cap = new Uint8Array(abi.KVM_ENABLE_CAP_SIZE_BYTES);
    const view = new DataView(cap.buffer);
    view.setUint32(0, capability, true);
    view.setBigUint64(8, BigInt(argument), true);
    call("KVM_ENABLE_CAP", this.fd, abi.KVM_ENABLE_CAP, cap, `capability ${capability}, ${argument}`);
  }

  /**
   * Writes a slot's dirty bitmap, padded to whole 64-bit words, to `bitmap`. Without manual protection the pages are clean
   * from then on, with it they are after `clearDirtyLog`. SAFETY: the kernel uses the address only during the call.
   */
  getDirtyLog(slot: number, pageCount: number, bitmap: Uint8Array): void {
    assertBitmap(bitmap, pageCount);
    const log = new Uint8Array(abi.KVM_DIRTY_LOG_SIZE_BYTES);
    const view = new DataView(log.buffer);
    view.setUint32(0, slot, true);
    view.setBigUint64(8, addressOf(bitmap), true);
    call("KVM_GET_DIRTY_LOG", this.fd, abi.KVM_GET_DIRTY_LOG, log, `slot ${slot}`);
  }

  /**
   * Makes the pages of `bitmap`, which starts at page `firstPage`, clean and write-protects them. `firstPage` is a multiple of
   * 64, and so is `pageCount` unless it ends with the slot. SAFETY: as for `getDirtyLog`.
   */
  clearDirtyLog(slot: number, firstPage: number, pageCount: number, bitmap: Uint8Array): void {
    assertBitmap(bitmap, pageCount);
    const log = new Uint8Array(abi.KVM_CLEAR_DIRTY_LOG_SIZE_BYTES);
    const view = new DataView(log.buffer);
    view.setUint32(0, slot, true);
    view.setUint32(4, pageCount, true);
    view.setBigUint64(8, BigInt(firstPage), true);
    view.setBigUint64(16, addressOf(bitmap), true);
    call("KVM_CLEAR_DIRTY_LOG", this.fd, abi.KVM_CLEAR_DIRTY_LOG, log, `slot ${slot}, pages from ${firstPage}`);
  }

  /** Write-protects the pages of all ring entries that were harvested. Returns how many there were. */
  resetDirtyRings(): number {
    return call("KVM_RESET_DIRTY_RINGS", this.fd, abi.KVM_RESET_DIRTY_RINGS, 0);
  }

  createVcpu(index: number): KvmVcpu {
    return new KvmVcpu(call("KVM_CREATE_VCPU", this.fd, abi.KVM_CREATE_VCPU, index, `vCPU ${index}`));
  }

  setIrqLine(gsi: number, level: number): void {
    this.#irq[0] = gsi;
    this.#irq[1] = level;
    call("KVM_IRQ_LINE", this.fd, abi.KVM_IRQ_LINE, this.#irqBytes);
  }

  /** `chip` is a struct kvm_irqchip whose chip_id the caller has set. */
  getIrqchip(chip: Uint8Array): void {
    call("KVM_GET_IRQCHIP", this.fd, abi.KVM_GET_IRQCHIP, chip);
  }

  setIrqchip(chip: Uint8Array): void {
    call("KVM_SET_IRQCHIP", this.fd, abi.KVM_SET_IRQCHIP, chip);
  }

  getPit2(state: Uint8Array): void {
    call("KVM_GET_PIT2", this.fd, abi.KVM_GET_PIT2, state);
  }

  setPit2(state: Uint8Array): void {
    call("KVM_SET_PIT2", this.fd, abi.KVM_SET_PIT2, state);
  }

  getClock(data: Uint8Array): void {
    call("KVM_GET_CLOCK", this.fd, abi.KVM_GET_CLOCK, data);
  }

  setClock(data: Uint8Array): void {
    call("KVM_SET_CLOCK", this.fd, abi.KVM_SET_CLOCK, data);
  }

  close(): void {
    close(this.fd);
  }
}

/** One vCPU fd. Its ioctls may come from any thread while the vCPU is not in KVM_RUN. */
export class KvmVcpu {
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Maps kvm_run and the pages behind it over the VM's memory. SAFETY: as for `mapOver`; the area is the vCPU's own. */
  mapRun(memory: Uint8Array, offset: number, sizeBytes: number): void {
    mapOver(memory, offset, { fd: this.fd, sizeBytes });
  }

  /** Maps the vCPU's dirty ring. SAFETY: as for `mapRun`. */
  mapDirtyRing(memory: Uint8Array, offset: number, sizeBytes: number): void {
    mapOver(memory, offset, { fd: this.fd, fileOffset: abi.KVM_DIRTY_LOG_PAGE_OFFSET * 4096, sizeBytes });
  }

  /**
   * Runs the guest until an exit. Returns 0, or the errno EINTR/EAGAIN when a signal or `immediate_exit` ended it.
   * @throws SysError for any other failure
   */
  run(): number {
    const result = ioctlValue(this.fd, abi.KVM_RUN, 0) as number;
    if (result >= 0) return 0;
    const failure = errno();
    if (failure === EINTR || failure === EAGAIN) return failure;
    throw new SysError("KVM_RUN", failure);
  }

  /** Signals blocked during KVM_RUN: none, so that a signal blocked by the thread can still interrupt the guest. */
  unblockSignalsInRun(): void {
    const mask = new Uint8Array(12);
    new DataView(mask.buffer).setUint32(0, 8, true);
    call("KVM_SET_SIGNAL_MASK", this.fd, abi.KVM_SET_SIGNAL_MASK, mask);
  }

  setCpuid2(cpuid: Uint8Array): void {
    // The kernel takes the count from the header, wherever the buffer ends.
    const count = cpuid.length < 4 ? -1 : new DataView(cpuid.buffer, cpuid.byteOffset).getUint32(0, true);
    if (cpuid.length !== abi.KVM_CPUID2_HEADER_SIZE_BYTES + count * abi.KVM_CPUID_ENTRY2_SIZE_BYTES) {
      throw new RangeError(`A CPUID of ${cpuid.length} bytes does not have ${count} entries`);
    }
    call("KVM_SET_CPUID2", this.fd, abi.KVM_SET_CPUID2, cpuid);
  }

  /** Reads or writes one whole struct; `request` is one of the KVM_GET_ or KVM_SET_ numbers that take a plain struct. */
  transfer(name: string, request: number, struct: Uint8Array): void {
    call(name, this.fd, request, struct);
  }

  /** Fills in the data of a struct kvm_msrs. Returns how many were read; the first one that failed has that position. */
  getMsrs(msrs: Uint8Array): number {
    return call("KVM_GET_MSRS", this.fd, abi.KVM_GET_MSRS, msrs);
  }

  /** Writes a struct kvm_msrs. Returns how many were written. */
  setMsrs(msrs: Uint8Array): number {
    return call("KVM_SET_MSRS", this.fd, abi.KVM_SET_MSRS, msrs);
  }

  /** KVM_KVMCLOCK_CTRL: the guest's watchdogs are told that it was stopped. Without effect for a guest without kvmclock. */
  notePause(): void {
    const result = ioctlValue(this.fd, abi.KVM_KVMCLOCK_CTRL, 0) as number;
    const failure = errno();
    if (result < 0 && failure !== EINVAL) throw new SysError("KVM_KVMCLOCK_CTRL", failure);
  }

  /** Frequency of the guest's TSC in kHz; 0 when KVM cannot tell, because the host's TSC is not stable. */
  tscKhz(): number {
    const result = ioctlValue(this.fd, abi.KVM_GET_TSC_KHZ, 0) as number;
    if (result >= 0) return result;
    const failure = errno();
    if (failure === EIO) return 0;
    throw new SysError("KVM_GET_TSC_KHZ", failure);
  }

  /** Without KVM_CAP_TSC_CONTROL, KVM takes higher frequencies than the host's too, and lets the guest's TSC jump. */
  setTscKhz(khz: number): void {
    call("KVM_SET_TSC_KHZ", this.fd, abi.KVM_SET_TSC_KHZ, khz, `${khz} kHz`);
  }

  /** Whether the TSC offset can be read and written (Linux ≥ 5.16). */
  hasTscOffset(): boolean {
    const attr = tscOffsetAttr(0n);
    return (ioctlBuffer(this.fd, abi.KVM_HAS_DEVICE_ATTR, attr) as number) === 0;
  }

  /** `value` is one u64: guest TSC minus host TSC. SAFETY: the kernel uses its address only during the call. */
  getTscOffset(value: Uint8Array): void {
    call("KVM_GET_DEVICE_ATTR", this.fd, abi.KVM_GET_DEVICE_ATTR, tscOffsetAttr(addressOf(value)), "TSC offset");
  }

  setTscOffset(value: Uint8Array): void {
    call("KVM_SET_DEVICE_ATTR", this.fd, abi.KVM_SET_DEVICE_ATTR, tscOffsetAttr(addressOf(value)), "TSC offset");
  }

  close(): void {
    close(this.fd);
  }
}

function tscOffsetAttr(address: bigint): Uint8Array {
  const attr = new Uint8Array(24);
  const view = new DataView(attr.buffer);
  view.setUint32(4, abi.KVM_VCPU_TSC_CTRL, true);
  view.setBigUint64(8, BigInt(abi.KVM_VCPU_TSC_OFFSET), true);
  view.setBigUint64(16, address, true);
  return attr;
}

/** The kernel reads and writes whole words. */
function assertBitmap(bitmap: Uint8Array, pageCount: number): void {
  const sizeBytes = Math.ceil(pageCount / 64) * 8;
  if (bitmap.byteLength < sizeBytes) {
    throw new RangeError(`A bitmap of ${pageCount} pages has ${sizeBytes} bytes, not ${bitmap.byteLength}`);
  }
}
