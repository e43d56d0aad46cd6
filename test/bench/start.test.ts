// SPDX-License-Identifier: Apache-2.0
import { ownMemoryKiB } from "../../bench/start/memory.ts";
import { assert, describe } from "../harness.ts";

const test = describe("start");

test("ownMemoryKiB leaves guest RAM out", () => {
  const smaps = [
    "55d000000000-55d000001000 r-xp 00000000 08:01 42    /usr/bin/baton",
    "Rss:                 400 kB",
    "Pss:                 300 kB",
    "SwapPss:               7 kB",
    "7f0000000000-7f0008000000 rw-s 00000000 00:01 1024  /memfd:ram0 (deleted)",
    "Pss:              131072 kB",
    "7f0010000000-7f0010001000 rw-p 00000000 00:00 0 ",
    "Pss:                   4 kB",
  ];
  assert.is(ownMemoryKiB(smaps.join("\n"), "ram0"), 304);
});

test.run();
