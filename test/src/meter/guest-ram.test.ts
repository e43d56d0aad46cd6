// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { close, O_RDONLY, open } from "../../../ffi/fd.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { COUNTER_MAGIC } from "../../../src/image/counter.ts";
import { findMemoryFile, GuestRam } from "../../../src/meter/guest-ram.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("meter: guest RAM");

test("a process's own memory file is found, and no other that it only reads", () => {
  const find = (): string | undefined => findMemoryFile(process.pid, ["ram-of-a-test"]);
  assert.is(find(), undefined);
  const created = memfdCreate("ram-of-a-test", 4096, { seals: 0 });
  const borrowed = open(`/proc/self/fd/${created}`, O_RDONLY);
  assert.is(find(), `/proc/${process.pid}/fd/${created}`);
  close(created);
  assert.is(find(), undefined, "what can only be read is another VMM's");
  close(borrowed);
});

test("the counters of a Linux guest are found by their page", () => {
  const path = join(temporaryDirectory(), "ram");
  const bytes = new Uint8Array(3 << 20);
  const view = new DataView(bytes.buffer);
  for (const offset of [0x5000, 0x10_0000, 0x20_0800]) view.setBigUint64(offset, COUNTER_MAGIC, true);
  writeFileSync(path, bytes);
  using ram = new GuestRam(path);
  // The third is in the middle of a page: an instruction's operand, say.
  assert.equal(ram.linuxCounters(), [0x5040, 0x10_0040]);
});

test.run();
