// SPDX-License-Identifier: Apache-2.0
import { close } from "../../../ffi/fd.ts";
import { IoMemory } from "../../../ffi/iov.ts";
import { advise } from "../../../ffi/mmap.ts";
import { POLLIN, PollSet } from "../../../ffi/poll.ts";
import { FaultableMemory, openUserfaultfd } from "../../../ffi/userfaultfd/userfaultfd.ts";
import { createMemory, mapRam } from "../../../src/memory/ram.ts";
import { assert, describe } from "../../harness.ts";
import { failsWith } from "../support.ts";
import { userfaultfdMissing } from "./support.ts";

const test = describe("ffi/userfaultfd");
const skip = userfaultfdMissing();
const PAGE = 4096;
const SIZE_BYTES = 16 * PAGE;

function withMemory(share: boolean, use: (ram: FaultableMemory, bytes: Uint8Array, faultFd: number) => void): void {
  const memory = createMemory(SIZE_BYTES);
  const backend = { qomType: "memory-backend-ram" as const, id: "ram0", sizeBytes: SIZE_BYTES, share };
  const ram = mapRam(memory, backend);
  const faultFd = openUserfaultfd();
  const bytes = new Uint8Array(memory.buffer, ram.base, SIZE_BYTES);
  const faultable = new FaultableMemory(faultFd, new IoMemory(bytes));
  try {
    use(faultable, bytes, faultFd);
  } finally {
    close(faultFd);
    if (ram.fd !== undefined) close(ram.fd);
  }
}

function source(): { io: IoMemory; bytes: Uint8Array } {
  const memory = IoMemory.allocate(4 * PAGE);
  for (let page = 0; page < 4; page++) memory.bytes.fill(page + 1, page * PAGE, (page + 1) * PAGE);
  return memory;
}

for (const share of [true, false]) {
  test.skipIf(
    skip,
    `${share ? "shared" : "private"} memory: pages are placed, and can be dropped and placed anew`,
    () => {
      withMemory(share, (ram, bytes) => {
        const { io } = source();
        ram.register();
        ram.place(2 * PAGE, io, PAGE, 3 * PAGE);
        assert.equal(
          [2, 3, 4].map((page) => bytes[page * PAGE]),
          [2, 3, 4],
        );
        failsWith("EEXIST", "UFFDIO_COPY", () => ram.place(3 * PAGE, io, 0, PAGE));
        assert.is(bytes[3 * PAGE], 3, "what is there stays");
        advise(new Uint8Array(bytes.buffer), bytes.byteOffset + 3 * PAGE, PAGE, share ? "drop-shared" : "drop-private");
        ram.place(3 * PAGE, io, 0, PAGE);
        assert.is(bytes[3 * PAGE], 1);
        ram.placeZero(5 * PAGE);
        ram.placeZero(5 * PAGE);
        ram.placeZero(2 * PAGE);
        assert.is(bytes[5 * PAGE], 0);
        assert.is(bytes[2 * PAGE], 2, "a page that is there does not become zero");
        ram.unregister();
        assert.is(bytes[9 * PAGE], 0, "nobody waits any more");
      });
    },
  );
}

test.skipIf(skip, "nothing is to be read when nobody waits", () => {
  withMemory(true, (ram, _, faultFd) => {
    ram.register();
    const polled = new PollSet([faultFd]);
    polled.want(0, POLLIN);
    polled.wait(0);
    assert.is(polled.events(0), 0);
    assert.is(
      ram.readFaults(() => assert.unreachable()),
      false,
    );
  });
});

test.skipIf(skip, "places outside of the memory are refused", () => {
  withMemory(true, (ram) => {
    const { io } = source();
    ram.register();
    assert.throws(() => ram.place(15 * PAGE, io, 0, 2 * PAGE), /lie outside/);
    assert.throws(() => ram.place(0, io, 3 * PAGE, 2 * PAGE), /lie outside/);
    assert.throws(() => ram.placeZero(16 * PAGE), /lie outside/);
  });
});

test.run();
