// SPDX-License-Identifier: Apache-2.0
// Which device sits where on the board: one plain table, made from the machine spec, shared by every thread.
import { PM_BLOCK_SIZE_BYTES } from "../../assembly/devices/acpi-pm/layout.ts";
import { DEVICE_BASE, DEVICE_STRIDE_BYTES, RING_BASE, RING_STRIDE_BYTES } from "../../assembly/layout.ts";
import type { DeviceName } from "../../build/devices.ts";
import type { MachineSpec } from "../config/types.ts";
import {
  ACPI_PM_IO_BASE,
  I8042_DATA_IO_BASE,
  PORT_92_IO_BASE,
  RTC_IO_BASE,
  RTC_IRQ,
  RTC_SIZE_BYTES,
  SCI_IRQ,
  SERIAL_PORT_SIZE_BYTES,
  SERIAL_PORTS,
} from "./board.ts";

/** One device on the I/O bus. Plain data: it is posted to the vCPU workers. */
export interface DeviceInstance {
  /** Wasm module that models it. */
  module: DeviceName;
  /** Distinguishes several of one module: COM2 is instance 1. */
  instance: number;
  /** Address of its state page in the VM's memory. */
  state: number;
  ioBase: number;
  ioSizeBytes: number;
  /** Global system interrupt of its line, where it has one. */
  gsi?: number;
  /** Serial ports: index of the ring that takes the output. */
  ring?: number;
  /** Serial ports: chardev that is the other end, null for an unconnected port. */
  chardev?: string | null;
}

export function ringAddress(ring: number): number {
  return RING_BASE + ring * RING_STRIDE_BYTES;
}

/** The board's devices. A device's slot never depends on which others are there, so state keeps its place. */
export function deviceTable(spec: MachineSpec): DeviceInstance[] {
  const at = (slot: number): number => DEVICE_BASE + slot * DEVICE_STRIDE_BYTES;
  const table: DeviceInstance[] = [
    { module: "mc146818", instance: 0, state: at(0), ioBase: RTC_IO_BASE, ioSizeBytes: RTC_SIZE_BYTES, gsi: RTC_IRQ },
    {
      module: "acpi-pm",
      instance: 0,
      state: at(1),
      ioBase: ACPI_PM_IO_BASE,
      ioSizeBytes: PM_BLOCK_SIZE_BYTES,
      gsi: SCI_IRQ,
    },
    { module: "port92", instance: 0, state: at(2), ioBase: PORT_92_IO_BASE, ioSizeBytes: 1 },
    { module: "i8042", instance: 0, state: at(3), ioBase: I8042_DATA_IO_BASE, ioSizeBytes: 5 },
  ];
  if (spec.debugExit !== undefined) {
    table.push({ module: "debug-exit", instance: 0, state: at(4), ioBase: spec.debugExit.ioBase, ioSizeBytes: 4 });
  }
  for (const [index, chardev] of spec.serials.entries()) {
    const port = SERIAL_PORTS[index];
    if (chardev === null || port === undefined) continue;
    table.push({
      module: "uart16550",
      instance: index,
      state: at(8 + index),
      ioBase: port.ioBase,
      ioSizeBytes: SERIAL_PORT_SIZE_BYTES,
      gsi: port.irq,
      ring: index,
      chardev,
    });
  }
  return table;
}
