// SPDX-License-Identifier: Apache-2.0

import { RAM_MAX_SIZE_BYTES } from "../../../assembly/layout.ts";
import {
  buildMemoryMap,
  HIGH_RAM_GPA,
  IOAPIC_GPA,
  KVM_IDENTITY_MAP_GPA,
  KVM_PAGES_SIZE_BYTES,
  LAPIC_GPA,
  lowRamEndGpa,
  MEMORY_RAM,
  RAM_HOLE_END_GPA,
  RAM_HOLE_GPA,
} from "../../../src/machine/board.ts";
import { assert, describe } from "../../harness.ts";

const MIB = 0x100000;
const GIB = 0x4000_0000;

const test = describe("board");

test("the RAM below the hole is what the memory layout maps directly", () => {
  assert.is(RAM_HOLE_GPA, RAM_MAX_SIZE_BYTES);
  assert.is(lowRamEndGpa(64 * MIB), 64 * MIB);
  assert.is(lowRamEndGpa(3 * GIB), 3 * GIB);
  assert.is(lowRamEndGpa(8 * GIB), 3 * GIB);
});

test("buildMemoryMap() is sorted, without overlaps, and has RAM everywhere but 0x9fc00-0xfffff", () => {
  for (const memorySizeBytes of [MIB, 2 * MIB, 256 * MIB, 3 * GIB, 4 * GIB, 64 * GIB]) {
    const map = buildMemoryMap(memorySizeBytes);
    map.forEach((region, index) => {
      const next = map[index + 1];
      assert.ok(region.sizeBytes > 0);
      assert.ok(next === undefined || region.gpa + region.sizeBytes <= next.gpa);
    });
    const ram = map.filter((region) => region.type === MEMORY_RAM);
    const total = ram.reduce((sum, region) => sum + region.sizeBytes, 0);
    assert.is(total, memorySizeBytes - (HIGH_RAM_GPA - 0x9fc00));
  }
});

test("buildMemoryMap() puts RAM beyond 3 GiB at 4 GiB", () => {
  assert.equal(buildMemoryMap(5 * GIB).at(-1), { gpa: RAM_HOLE_END_GPA, sizeBytes: 2 * GIB, type: MEMORY_RAM });
  assert.not.ok(buildMemoryMap(3 * GIB).some((region) => region.gpa >= RAM_HOLE_END_GPA));
});

test("what is mapped into the hole does not overlap", () => {
  const ranges = [
    [IOAPIC_GPA, 0x1000],
    [LAPIC_GPA, 0x1000],
    [KVM_IDENTITY_MAP_GPA, KVM_PAGES_SIZE_BYTES],
  ] as const;
  let endGpa = RAM_HOLE_GPA;
  for (const [gpa, sizeBytes] of ranges) {
    assert.ok(gpa >= endGpa);
    endGpa = gpa + sizeBytes;
  }
  assert.ok(endGpa <= RAM_HOLE_END_GPA);
});

test.run();
