// SPDX-License-Identifier: Apache-2.0
// A stand-in for a guest: counts in a memory file, and pauses now and then.
//
// Prints `PID FD` and then counts for as long as it lives: counter 0 pauses for FAKE_PAUSE_MS again and again, counter 1
// keeps counting meanwhile. With FAKE_EXEC=1 the pause is an exec of this very program, over which the file stays open.
import { execSelf } from "../../../bench/exec-self.ts";
import { setCloseOnExec } from "../../../ffi/fd.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { mapOver } from "../../../ffi/mmap.ts";

const SIZE_BYTES = 65536;
const COUNTER_0 = 0x1000 / 8;
const COUNTER_1 = 0x5008 / 8;
const RUN_MS = 60;

const pauseMs = Number(process.env.FAKE_PAUSE_MS);
const inheritedFd = process.env.FAKE_FD;
const fd = inheritedFd === undefined ? memfdCreate("fake-guest", SIZE_BYTES) : Number(inheritedFd);

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
mapOver(new Uint8Array(memory.buffer), 0, { fd, sizeBytes: SIZE_BYTES });
const counters = new BigInt64Array(memory.buffer);
if (inheritedFd === undefined) console.log(`${process.pid} ${fd}`);

function count(ms: number, first: boolean): void {
  for (const end = performance.now() + ms; performance.now() < end; ) {
    if (first) Atomics.add(counters, COUNTER_0, 1n);
    Atomics.add(counters, COUNTER_1, 1n);
  }
}

for (;;) {
  count(RUN_MS, true);
  if (process.env.FAKE_EXEC === "1") {
    setCloseOnExec(fd, false);
    execSelf({ FAKE_FD: String(fd) });
  }
  count(pauseMs, false);
}
