// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as pm from "../../../../assembly/devices/acpi-pm/layout.ts";
import { MAX_VCPUS } from "../../../../assembly/layout.ts";
import { type AcpiTables, buildAcpiTables, FACS_GPA, RSDP_GPA } from "../../../../src/machine/acpi/tables.ts";
import { ACPI_PM_IO_BASE, BIOS_AREA_GPA, BIOS_AREA_SIZE_BYTES } from "../../../../src/machine/board.ts";
import { assert, describe } from "../../../harness.ts";
import { readU32, readU64 } from "../boot/images.ts";

const HEADER_SIZE_BYTES = 36;
const SERIALS = ["serial0", null, "serial2"];

const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => (total + byte) & 0xff, 0);
const textAt = (bytes: Uint8Array, offset: number, length: number): string =>
  String.fromCharCode(...bytes.subarray(offset, offset + length));

/** Follows the pointers from the RSDP as a guest does. */
function readTables({
  gpa,
  bytes,
}: AcpiTables): Record<"RSDP" | "XSDT" | "FACP" | "APIC" | "FACS" | "DSDT", Uint8Array> {
  const at = (tableGpa: number): Uint8Array => bytes.subarray(tableGpa - gpa);
  const table = (tableGpa: number): Uint8Array => at(tableGpa).subarray(0, readU32(at(tableGpa), 4));
  const rsdp = at(RSDP_GPA).subarray(0, 36);
  const xsdt = table(readU64(rsdp, 24));
  const [fadt, madt] = [table(readU64(xsdt, HEADER_SIZE_BYTES)), table(readU64(xsdt, HEADER_SIZE_BYTES + 8))];
  return {
    RSDP: rsdp,
    XSDT: xsdt,
    FACP: fadt,
    APIC: madt,
    FACS: table(readU32(fadt, 36)),
    DSDT: table(readU32(fadt, 40)),
  };
}

const test = describe("ACPI tables");

test("fit in the BIOS area for any number of CPUs", () => {
  for (let cpuCount = 1; cpuCount <= MAX_VCPUS; cpuCount++) {
    const tables = buildAcpiTables({ cpuCount, serials: ["a", "b", "c", "d"] });
    assert.is(tables.gpa, BIOS_AREA_GPA);
    assert.ok(tables.bytes.length <= BIOS_AREA_SIZE_BYTES);
    assert.is(tables.rsdpGpa % 16, 0);
    assert.is(tables.facsGpa % 64, 0);
  }
});

test("have signatures and checksums where a guest finds them", () => {
  const tables = readTables(buildAcpiTables({ cpuCount: 3, serials: SERIALS }));
  assert.is(textAt(tables.RSDP, 0, 8), "RSD PTR ");
  assert.is(tables.RSDP[15], 2);
  assert.is(sum(tables.RSDP.subarray(0, 20)), 0);
  assert.is(sum(tables.RSDP), 0);
  for (const [signature, bytes] of Object.entries(tables)) {
    if (signature === "RSDP") continue;
    assert.is(textAt(bytes, 0, 4), signature);
    if (signature !== "FACS") assert.is(sum(bytes), 0, signature);
  }
  assert.is(tables.FACS.length, 64);
  assert.is(readU32(tables.FACP, 36), FACS_GPA);
});

test("the FADT describes the ACPI PM device's registers twice, alike", () => {
  const { FACP } = readTables(buildAcpiTables({ cpuCount: 1, serials: [] }));
  assert.is(FACP.length, 276);
  const registers = [
    { field: 56, lengthField: 88, extended: 148, offset: pm.PM1A_EVT_OFFSET, sizeBytes: 4 },
    { field: 64, lengthField: 89, extended: 172, offset: pm.PM1A_CNT_OFFSET, sizeBytes: 2 },
    { field: 76, lengthField: 91, extended: 208, offset: pm.PM_TMR_OFFSET, sizeBytes: 4 },
    { field: 80, lengthField: 92, extended: 220, offset: pm.GPE0_OFFSET, sizeBytes: 4 },
  ];
  for (const { field, lengthField, extended, offset, sizeBytes } of registers) {
    assert.is(readU32(FACP, field), ACPI_PM_IO_BASE + offset);
    assert.is(FACP[lengthField], sizeBytes);
    assert.equal([...FACP.subarray(extended, extended + 3)], [1, sizeBytes * 8, 0]);
    assert.is(readU64(FACP, extended + 4), ACPI_PM_IO_BASE + offset);
  }
  assert.is(readU64(FACP, 120), ACPI_PM_IO_BASE + pm.RESET_OFFSET);
  assert.is(FACP[128], pm.RESET_VALUE);
  assert.is(FACP[46], 9);
});

test("the FADT's flags: power button, reset register, no 8042, no VGA, an RTC", () => {
  const { FACP } = readTables(buildAcpiTables({ cpuCount: 1, serials: [] }));
  const flags = readU32(FACP, 112);
  const bit = (index: number): number => (flags >> index) & 1;
  assert.equal(
    { powerButtonIsDevice: bit(4), sleepButtonIsNotFixed: bit(5), timer32: bit(8), reset: bit(10), reduced: bit(20) },
    { powerButtonIsDevice: 0, sleepButtonIsNotFixed: 1, timer32: 1, reset: 1, reduced: 0 },
  );
  assert.is(FACP[109]! | (FACP[110]! << 8), 0b000101);
});

test("the MADT has every CPU, the I/O APIC and the two overrides", () => {
  for (const cpuCount of [1, 2, MAX_VCPUS]) {
    const { APIC } = readTables(buildAcpiTables({ cpuCount, serials: [] }));
    const entries: number[][] = [];
    for (let offset = HEADER_SIZE_BYTES + 8; offset < APIC.length; offset += APIC[offset + 1]!) {
      entries.push([...APIC.subarray(offset, offset + APIC[offset + 1]!)]);
    }
    const ofType = (type: number): number[][] => entries.filter((entry) => entry[0] === type);
    assert.equal(
      ofType(0),
      Array.from({ length: cpuCount }, (_, index) => [0, 8, index, index, 1, 0, 0, 0]),
    );
    assert.equal(ofType(1), [[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]]);
    assert.equal(ofType(2), [
      [2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
      [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
    ]);
    assert.equal(ofType(4), [[4, 6, 0xff, 0, 0, 1]]);
    assert.is(entries.length, cpuCount + 4);
  }
});

test("the DSDT has the serial ports that are configured, and no others", () => {
  const names = (serials: (string | null)[]): string[] => {
    const { DSDT } = readTables(buildAcpiTables({ cpuCount: 1, serials }));
    return ["COM1", "COM2", "COM3", "COM4"].filter((name) => textAt(DSDT, 0, DSDT.length).includes(name));
  };
  assert.equal(names([]), []);
  assert.equal(names(SERIALS), ["COM1", "COM3"]);
  assert.equal(names(["a", "b", "c", "d"]), ["COM1", "COM2", "COM3", "COM4"]);
});

const iasl = spawnSync("iasl", ["-v"], { encoding: "utf8" });
const missing = iasl.error === undefined ? undefined : "iasl (package acpica-tools) is not on PATH";

test.skipIf(missing, "iasl disassembles every table and compiles the DSDT again", () => {
  const folder = mkdtempSync(join(tmpdir(), "baton-acpi-"));
  try {
    const { RSDP, ...tables } = readTables(buildAcpiTables({ cpuCount: 2, serials: SERIALS }));
    const sources: Record<string, string> = {};
    for (const [signature, bytes] of Object.entries(tables)) {
      const file = join(folder, signature);
      writeFileSync(`${file}.aml`, bytes);
      const result = spawnSync("iasl", ["-d", `${file}.aml`], { encoding: "utf8" });
      const output = result.stdout + result.stderr;
      assert.is(result.status, 0, output);
      assert.not.match(output, /warning|error|incorrect|invalid/i);
      sources[signature] = readFileSync(`${file}.dsl`, "utf8");
    }
    const { DSDT, FACP } = sources;
    for (const part of ['Name (_HID, "ACPI0007"', "Device (COM1)", "Device (COM3)", "Device (RTC)", "Name (\\_S5,"]) {
      assert.ok(DSDT!.includes(part), part);
    }
    assert.match(FACP!, /Control Method Power Button \(V1\) : 0/);
    const result = spawnSync("iasl", [join(folder, "DSDT.dsl")], { encoding: "utf8" });
    assert.match(result.stdout + result.stderr, /0 Errors, 0 Warnings/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
