// SPDX-License-Identifier: Apache-2.0
import { close, isCloseOnExec, O_NONBLOCK, pipe, read, write } from "../../ffi/fd.ts";
import { receiveMessage, SCM_MAX_FD, sendMessage } from "../../ffi/scm.ts";
import { socketPair } from "../../ffi/socket.ts";
import { assert, describe, rejection } from "../harness.ts";
import { bytes, failsWith, openFdCount, text, withoutLeak } from "./support.ts";

const test = describe("ffi/scm");

test("fds travel with bytes and are the same open files", () =>
  withoutLeak(() => {
    const [one, other] = socketPair();
    const { readFd, writeFd } = pipe(O_NONBLOCK);
    const buffer = new Uint8Array(16);
    assert.is(receiveMessage(other, buffer), undefined);
    assert.is(sendMessage(one, bytes("take"), [readFd, writeFd]), 4);
    const { byteCount, fds } = receiveMessage(other, buffer)!;
    assert.is(text(buffer.subarray(0, byteCount)), "take");
    assert.is(fds.length, 2);
    for (const fd of fds) assert.ok(isCloseOnExec(fd));
    write(fds[1]!, bytes("x"));
    assert.is(read(readFd, buffer), 1);
    for (const fd of [...fds, readFd, writeFd, one]) close(fd);
    assert.equal(receiveMessage(other, buffer), { byteCount: 0, fds: [] });
    close(other);
  }));

test("messages without fds are plain bytes", () =>
  withoutLeak(() => {
    const [one, other] = socketPair();
    assert.is(sendMessage(one, bytes("plain")), 5);
    const buffer = new Uint8Array(3);
    assert.equal(receiveMessage(other, buffer), { byteCount: 3, fds: [] });
    assert.is(text(buffer), "pla");
    close(one);
    close(other);
  }));

test("as many fds travel as the kernel allows, and not one more", () =>
  withoutLeak(() => {
    const [one, other] = socketPair();
    sendMessage(one, bytes("m"), Array(SCM_MAX_FD).fill(one));
    const { fds } = receiveMessage(other, new Uint8Array(1))!;
    assert.is(fds.length, SCM_MAX_FD);
    failsWith("EINVAL", "sendmsg", () => sendMessage(one, bytes("m"), Array(SCM_MAX_FD + 1).fill(one)));
    for (const fd of [...fds, one, other]) close(fd);
  }));

test("a message with more fds than wanted is refused, and none of them stays open", async () => {
  const [one, other] = socketPair();
  sendMessage(one, bytes("m"), Array(8).fill(one));
  const before = openFdCount();
  assert.match((await rejection(() => receiveMessage(other, new Uint8Array(1), 2))).message, "more than 2");
  assert.is(openFdCount(), before);
  close(one);
  close(other);
});

test("failures are named", () => {
  const [one, other] = socketPair();
  failsWith("EBADF", "sendmsg", () => sendMessage(one, bytes("m"), [9999]));
  while (sendMessage(one, new Uint8Array(65536)) !== undefined);
  close(other);
  failsWith("EPIPE", "sendmsg", () => sendMessage(one, bytes("m")));
  close(one);
  failsWith("EBADF", "recvmsg", () => receiveMessage(one, new Uint8Array(1)));
});

test.run();
