// SPDX-License-Identifier: Apache-2.0
// Section `transfer` of a state image that goes to another process: what the two VMMs tell each other beside the guest.
import { monotonicMs } from "../../ffi/clock.ts";
import { VmmError } from "../errors.ts";
import { isCpuNumber } from "../runtime/guest-first.ts";
import type { StateReader } from "../state/reader.ts";
import type { BindSection, StateWriter } from "../state/writer.ts";
import { isDuration, type PauseHistory, readHistory } from "./pause-history.ts";
import { MAX_STREAMS } from "./ram/shared.ts";

export const TRANSFER_SECTION = "transfer";
/** In a stream. */
export const TRANSFER_SECTION_VERSION = 1;
/** In cpr-transfer: 2 since both sides work on one image at the same time (shared-image.ts). */
export const CPR_TRANSFER_VERSION = 2;

export interface TransferInfo {
  /** Random: who knows it on the main channel is who said hello on the cpr channel. */
  token: string;
  /** How many updates the guest has lived through, this one included if it is one. */
  generation: number;
  /** The pauses of the updates before this one. */
  history?: PauseHistory;
  /** Of the pause of this one: see `GuestPast`. */
  predictedUs?: number;
  estimateUs?: number;
  /** Further connections that RAM comes on; 0 or absent: it comes on the main one. */
  streams?: number;
  /** Post-copy is possible: two more connections follow those, for urgent and for other pages. */
  postcopy?: boolean;
  /** The RAM's file can be had: ram-by-reference.ts. */
  ramFile?: boolean;
  /** Of this host: the CPUs that the guest runs on, which whoever prepares for it should leave alone. */
  guestCpus?: readonly number[];
  /** Of this host: the CPU that the old side's main thread stays on in the pause; absent when it may be any. */
  mainCpu?: number;
  /** Of the process whose lifeline comes along: who is in another one has no use for it. */
  pidNamespace?: string;
}

/** Start of the pause, end of `quiesce`, end of `save`: ms on CLOCK_MONOTONIC. */
const STAMP_COUNT = 3;

/** Plans the section. When it is filled in, `stamps` has what is known of the pause by then. */
export function planTransfer(
  writer: StateWriter,
  info: TransferInfo,
  stamps: readonly number[],
  version = TRANSFER_SECTION_VERSION,
): BindSection {
  const value = new TextEncoder().encode(JSON.stringify(info));
  const section = writer.plan({ id: TRANSFER_SECTION, version }, [
    { name: "value", type: "json", sizeBytes: value.length },
    { name: "stamps", type: "f64 ms[]", sizeBytes: STAMP_COUNT * 8 },
  ]);
  return () => {
    writer.view(section, "value").set(value);
    const part = writer.view(section, "stamps");
    const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
    return () => {
      for (let index = 0; index < stamps.length; index++) view.setFloat64(index * 8, stamps[index]!, true);
      view.setFloat64((STAMP_COUNT - 1) * 8, monotonicMs(), true);
    };
  };
}

/** When the phases of the pause were over that the old side knows of. */
export function readStamps(reader: StateReader): number[] {
  const part = reader.section(TRANSFER_SECTION).part("stamps", STAMP_COUNT * 8);
  const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
  const stamps: number[] = [];
  for (let index = 0; index < STAMP_COUNT; index++) stamps.push(view.getFloat64(index * 8, true));
  return stamps;
}

/** @throws VmmError "state-refused" */
export function readTransferInfo(reader: StateReader): TransferInfo {
  const section = reader.section(TRANSFER_SECTION);
  const info = section.json() as Partial<TransferInfo> | null;
  const { token, generation, streams = 0, postcopy = false, ramFile = false, guestCpus = [], mainCpu } = info ?? {};
  const { history, predictedUs, estimateUs, pidNamespace } = info ?? {};
  const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  const areCpus =
    Array.isArray(guestCpus) && guestCpus.every(isCpuNumber) && (mainCpu === undefined || isCpuNumber(mainCpu));
  const isToken = typeof token === "string" && token !== "";
  if (
    !isToken ||
    !isCount(generation) ||
    !isCount(streams) ||
    streams > MAX_STREAMS ||
    typeof postcopy !== "boolean" ||
    !areCpus
  ) {
    throw new VmmError("state-refused", `State section ${section.title} makes no sense`);
  }
  return {
    token,
    generation,
    streams,
    postcopy,
    ramFile: ramFile === true,
    guestCpus,
    ...(mainCpu === undefined ? {} : { mainCpu }),
    ...(typeof pidNamespace === "string" ? { pidNamespace } : {}),
    history: readHistory(history),
    ...(isDuration(predictedUs) ? { predictedUs } : {}),
    ...(isDuration(estimateUs) ? { estimateUs } : {}),
  };
}
