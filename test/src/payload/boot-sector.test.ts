// SPDX-License-Identifier: Apache-2.0
import { BOOT_SECTOR_SIZE_BYTES, buildBootSector } from "../../../src/payload/boot-sector.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("boot-sector");

const indexOf = (sector: Uint8Array, bytes: number[]): number =>
  sector.findIndex((_, at) => bytes.every((value, index) => sector[at + index] === value));

test("buildBootSector() gives 512 bytes with the boot signature", () => {
  const sector = buildBootSector();
  assert.is(sector.length, BOOT_SECTOR_SIZE_BYTES);
  assert.equal([...sector.subarray(510)], [0x55, 0xaa]);
});

test("the range and the passes are immediates of the loop", () => {
  const sector = buildBootSector({ startGpa: 0x20_0000, endGpa: 0x40_0000, passesPerByte: 3 });
  const passes = indexOf(sector, [0xbb, 3, 0, 0, 0]);
  const start = indexOf(sector, [0xb8, 0, 0, 0x20, 0]);
  const end = indexOf(sector, [0x81, 0xf8, 0, 0, 0x40, 0]);
  assert.ok(passes > 0 && passes < start && start < end);
  assert.equal([...sector.subarray(start + 5, start + 7)], [0xfe, 0x00], "inc byte [eax]");
});

test("an empty range is refused", () => {
  assert.throws(() => buildBootSector({ startGpa: 0x20_0000, endGpa: 0x20_0000 }), "empty");
});

test.run();
