// SPDX-License-Identifier: Apache-2.0
import { close, O_RDONLY, open } from "../../../ffi/fd.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { findMemoryFile } from "../../../src/meter/guest-ram.ts";
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

test.run();
