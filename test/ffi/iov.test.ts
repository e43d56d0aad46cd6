// SPDX-License-Identifier: Apache-2.0
import { close, pread } from "../../ffi/fd.ts";
import { IoMemory, IoVector } from "../../ffi/iov.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import { socketPair } from "../../ffi/socket.ts";
import { assert, describe, rejection } from "../harness.ts";

const test = describe("ffi/iov");

const numbered = (sizeBytes: number): { io: IoMemory; bytes: Uint8Array } => {
  const made = IoMemory.allocate(sizeBytes);
  made.bytes.set(made.bytes.map((_, index) => (index * 7) & 0xff));
  return made;
};

test("what is gathered on one side is scattered on the other, however it is cut", () => {
  const [near, far] = socketPair();
  const from = numbered(1 << 20);
  const to = IoMemory.allocate(1 << 20);
  const sending = new IoVector(3);
  sending.add(from.io, 0, 10);
  sending.add(from.io, 10, 0);
  sending.add(from.io, 10, (1 << 20) - 10);
  assert.is(sending.room, 0);
  const receiving = new IoVector(2);
  receiving.add(to.io, 0, 1001);
  receiving.add(to.io, 1001, (1 << 20) - 1001);
  let calls = 0;
  while (receiving.sizeBytes > 0) {
    if (sending.sizeBytes > 0) sending.send(near);
    receiving.receive(far);
    calls++;
  }
  assert.ok(calls > 1, "the socket takes less than that at once");
  assert.is(Buffer.compare(to.bytes, from.bytes), 0);
  receiving.clear();
  receiving.add(to.io, 0, 1);
  assert.is(receiving.receive(far), undefined, "nothing there");
  close(near);
  assert.is(receiving.receive(far), 0, "the end");
  close(far);
});

test("files are written and read at offsets", () => {
  const fd = memfdCreate("iov", 0);
  const from = numbered(5000);
  const vector = new IoVector(2);
  vector.add(from.io, 1000, 10);
  vector.add(from.io, 0, 1000);
  assert.is(vector.writeAt(fd, 4096), 1010);
  const seen = new Uint8Array(1010);
  pread(fd, seen, 4096);
  assert.equal([...seen.subarray(0, 11)], [...from.bytes.subarray(1000, 1010), 0]);
  const to = IoMemory.allocate(100);
  vector.clear();
  vector.add(to.io, 50, 50);
  assert.is(vector.readAt(fd, 4096), 50);
  assert.equal([...to.bytes.subarray(50, 60)], [...from.bytes.subarray(1000, 1010)]);
  assert.is(to.bytes[49], 0);
  vector.clear();
  vector.add(to.io, 0, 10);
  assert.is(vector.readAt(fd, 1 << 20), 0, "behind the end");
  close(fd);
});

test("only shared memory is taken, and only what is inside of it", async () => {
  assert.instance(await rejection(() => new IoMemory(new Uint8Array(8))), TypeError);
  const { io } = IoMemory.allocate(100);
  const vector = new IoVector(1);
  for (const [offset, sizeBytes] of [
    [0, 101],
    [100, 1],
    [-1, 5],
    [5, -1],
    [Number.NaN, 1],
  ] as const) {
    assert.instance(await rejection(() => vector.add(io, offset, sizeBytes)), RangeError);
  }
  vector.add(io, 0, 100);
  assert.match((await rejection(() => vector.add(io, 0, 1))).message, /1 entries already/);
  for (const capacity of [0, 1025]) assert.instance(await rejection(() => new IoVector(capacity)), RangeError);
});

test("failures name call, fd and size", async () => {
  const { io } = IoMemory.allocate(10);
  const vector = new IoVector(1);
  vector.add(io, 0, 10);
  assert.is((await rejection(() => vector.send(-1))).message, "sendmsg(fd -1, 10 bytes) failed: EBADF");
  const [near, far] = socketPair();
  close(far);
  assert.is((await rejection(() => vector.send(near))).message, `sendmsg(fd ${near}, 10 bytes) failed: EPIPE`);
  close(near);
});

test.run();
