// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkDax, daxGeometry } from "../../../src/memory/dax.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("memory/dax");
const dir = mkdtempSync(join(tmpdir(), "baton-dax-"));
test.after(() => rmSync(dir, { recursive: true }));

/** What sysfs has of a device of that subsystem. */
function describeDevice(number: string, subsystem: string): void {
  const device = join(dir, "dev/char", number);
  mkdirSync(device, { recursive: true });
  mkdirSync(join(dir, "bus", subsystem), { recursive: true });
  symlinkSync(join(dir, "bus", subsystem), join(device, "subsystem"));
  writeFileSync(join(device, "size"), "333447168\n");
  writeFileSync(join(device, "align"), "2097152\n");
}

test("a DAX device is found by its number, and nothing else is taken for one", () => {
  describeDevice("252:0", "dax");
  describeDevice("511:4097", "dax");
  describeDevice("1:5", "mem");
  // st_rdev as makedev(3) makes it.
  assert.equal(daxGeometry(0xfc00n, dir), { sizeBytes: 333_447_168, alignmentBytes: 2_097_152 });
  assert.equal(daxGeometry(0x101_ff01n, dir), { sizeBytes: 333_447_168, alignmentBytes: 2_097_152 });
  assert.is(daxGeometry(0x105n, dir), undefined);
  assert.is(daxGeometry(0x109n, dir), undefined);
  assert.is(daxGeometry(BigInt(statSync("/dev/zero").rdev)), undefined);
});

test("a device that RAM does not fit on is refused with what to do", async () => {
  const device = { sizeBytes: 256 << 20, alignmentBytes: 2 << 20 };
  checkDax("/dev/dax0.0", device, 256 << 20);
  const small = await rejection(() => checkDax("/dev/dax0.0", device, 258 << 20));
  assert.is(small.message, "/dev/dax0.0 has 268435456 bytes, fewer than the 270532608 of RAM");
  const odd = await rejection(() => checkDax("/dev/dax0.0", device, (200 << 20) + 8192));
  assert.match(odd.message, /pieces of 2097152 bytes, and 209723392 bytes of RAM are no multiple of that/);
  const coarse = await rejection(() => checkDax("/dev/dax0.0", { ...device, alignmentBytes: 1 << 30 }, 256 << 20));
  assert.match(coarse.message, /in pieces of 1073741824 bytes.*--align=2M/);
});

test.run();
