// SPDX-License-Identifier: Apache-2.0
// The module `irqchip`: interrupt controllers for threads that are no vCPU of the engine, the main thread and those of devices. Stateless.
export {
  hasAddress,
  hasPort,
  ioapicRestored,
  picsRestored,
  pitRestored,
  readIoapic,
  readPort,
  reset,
  runPit,
  savedIrr,
  setIrq,
  settle,
  writeIoapic,
  writePort,
} from "./chip";
export { currentCount, initLapicOf, lapicRestored, resetLapic } from "./lapic";
