// SPDX-License-Identifier: Apache-2.0
// CODE and DATA in the RAM of a rig, and what a case starts from.
import {
  CACHE_TLB_USER,
  CPU_ACTIVITY,
  CPU_GPRS,
  CPU_LAST_EPOCH,
  CPU_LINK_EPOCH,
  CPU_MXCSR,
  CPU_RIP,
  CPU_X87_CONTROL,
  CPU_X87_DP,
  CPU_X87_IP,
  CPU_X87_OPCODE,
  CPU_X87_REGISTERS,
  CPU_X87_STATUS,
  CPU_X87_TOP,
  CPU_X87_VALID,
  CPU_XMMS,
  SEGMENT_CS,
  SEGMENT_DS,
  SEGMENT_ES,
  SEGMENT_FS,
  SEGMENT_GS,
  SEGMENT_SS,
  TLB_ENTRY_COUNT,
  TLB_ENTRY_SIZE_BYTES,
  TLB_FETCH_U64,
  TLB_READ_U64,
  TLB_WRITE_U64,
} from "../../../../assembly/cpu/layout.ts";
import { NO_EXECUTE, PRESENT, type Rig, USER, WRITABLE } from "../rig.ts";
import {
  CODE,
  CODE_SIZE_BYTES,
  DATA,
  DATA_SIZE_BYTES,
  DATA_WRITABLE_BYTES,
  FILLER,
  FS_BASE,
  GS_BASE,
  STATE_FCW,
  STATE_FSW,
  STATE_GPRS,
  STATE_MXCSR,
  STATE_RFLAGS,
  STATE_RIP,
  STATE_VALID,
  STATE_X87,
  STATE_XMMS,
  type State,
} from "./state.ts";

export const PAGE_SIZE_BYTES = 0x1000;
/** Neighbours in linear memory are none in RAM. */
const DATA_PAGES = [0x1_0000, 0x1_4000, 0x1_2000];
/** Each case has its code at another place, so that nothing of what the engine keeps of the one before is good for it. */
const CODE_PLACES = 0x10_0000;
const CODE_PLACE_COUNT = 256;

export class Stage {
  /** RAM of DATA. */
  readonly dataPages: readonly Uint8Array[];
  readonly #rig: Rig;
  readonly #codeEntries: number[];
  /** Of 16-bit code, RIP is an offset in CODE. */
  readonly #codeBase: bigint;
  #place = 0;

  constructor(rig: Rig) {
    this.#rig = rig;
    this.#codeBase = rig.bits === 16 ? BigInt(CODE) : 0n;
    this.#codeEntries = [0, PAGE_SIZE_BYTES].map((offset) =>
      rig.map(BigInt(CODE + offset), CODE_PLACES, PRESENT | USER),
    );
    this.dataPages = DATA_PAGES.map((physical, page) => {
      const isWritable = page * PAGE_SIZE_BYTES < DATA_WRITABLE_BYTES;
      rig.map(
        BigInt(DATA + page * PAGE_SIZE_BYTES),
        physical,
        PRESENT | USER | NO_EXECUTE | (isWritable ? WRITABLE : 0n),
      );
      return rig.ram.subarray(physical, physical + PAGE_SIZE_BYTES);
    });
    rig.setBase(SEGMENT_FS, BigInt(FS_BASE));
    rig.setBase(SEGMENT_GS, BigInt(GS_BASE));
    if (rig.bits === 16) {
      rig.setBase(SEGMENT_CS, BigInt(CODE));
      for (const segment of [SEGMENT_ES, SEGMENT_SS, SEGMENT_DS]) rig.setBase(segment, BigInt(DATA));
    }
    rig.ram.fill(FILLER, CODE_PLACES, CODE_PLACES + CODE_PLACE_COUNT * CODE_SIZE_BYTES);
    rig.engine.stateChanged();
  }

  /** Puts code where RIP is. */
  placeCode(code: Uint8Array, before: State): void {
    const { ram, engine, view, caches } = this.#rig;
    const [first, second] = this.#codeEntries as [number, number];
    this.#place = (this.#place + 1) % CODE_PLACE_COUNT;
    // The second page is before the first.
    const secondPage = CODE_PLACES + this.#place * CODE_SIZE_BYTES;
    const firstPage = secondPage + PAGE_SIZE_BYTES;
    const offset = before.words[STATE_RIP / 4]! - CODE;
    ram.fill(FILLER, secondPage, secondPage + CODE_SIZE_BYTES);
    for (const [index, byte] of code.entries()) {
      const at = offset + index;
      if (at < CODE_SIZE_BYTES) ram[(at < PAGE_SIZE_BYTES ? firstPage : secondPage) + (at % PAGE_SIZE_BYTES)] = byte;
    }
    this.#rig.setEntry(first, firstPage, PRESENT | USER);
    this.#rig.setEntry(second, secondPage, PRESENT | USER);
    if (this.#place === 0) {
      engine.stateChanged();
      return;
    }
    // As INVLPG would: these two pages' TLB entries, and a new epoch.
    for (const page of [CODE, CODE + PAGE_SIZE_BYTES]) {
      const entry = CACHE_TLB_USER + ((page >>> 12) & (TLB_ENTRY_COUNT - 1)) * TLB_ENTRY_SIZE_BYTES;
      for (const tag of [TLB_READ_U64, TLB_WRITE_U64, TLB_FETCH_U64]) caches.setBigInt64(entry + tag, -1n, true);
    }
    const epoch = view.getUint32(CPU_LAST_EPOCH, true) + 1;
    view.setUint32(CPU_LAST_EPOCH, epoch, true);
    view.setUint32(CPU_LINK_EPOCH, epoch, true);
  }

  /** Where the rig is. */
  rip(): bigint {
    return this.#rig.view.getBigUint64(CPU_RIP, true) + this.#codeBase;
  }

  /** Registers and what DATA has in it. */
  loadState(before: State, memoryBefore: Uint8Array): void {
    const { state, view } = this.#rig;
    const { bytes, words } = before;
    state.set(bytes.subarray(STATE_GPRS, STATE_GPRS + 128), CPU_GPRS);
    view.setBigUint64(CPU_RIP, before.view.getBigUint64(STATE_RIP, true) - this.#codeBase, true);
    state.set(bytes.subarray(STATE_XMMS, STATE_XMMS + 256), CPU_XMMS);
    state.set(bytes.subarray(STATE_X87, STATE_X87 + 128), CPU_X87_REGISTERS);
    view.setUint32(CPU_MXCSR, words[STATE_MXCSR / 4]!, true);
    const fsw = before.view.getUint16(STATE_FSW, true);
    view.setUint16(CPU_X87_CONTROL, before.view.getUint16(STATE_FCW, true), true);
    view.setUint16(CPU_X87_STATUS, fsw & ~0x3800, true);
    view.setUint8(CPU_X87_TOP, (fsw >> 11) & 7);
    view.setUint8(CPU_X87_VALID, bytes[STATE_VALID]!);
    // As the oracle's worker has them.
    view.setUint16(CPU_X87_OPCODE, 0, true);
    view.setBigUint64(CPU_X87_IP, 0n, true);
    view.setBigUint64(CPU_X87_DP, 0n, true);
    view.setUint32(CPU_ACTIVITY, 0, true);
    this.#rig.setRflags(words[STATE_RFLAGS / 4]!);
    for (const [page, ram] of this.dataPages.entries()) {
      ram.set(memoryBefore.subarray(page * PAGE_SIZE_BYTES, (page + 1) * PAGE_SIZE_BYTES));
    }
  }
}

if (DATA_SIZE_BYTES !== DATA_PAGES.length * PAGE_SIZE_BYTES) throw new Error("DATA_PAGES does not cover DATA");
