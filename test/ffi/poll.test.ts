// SPDX-License-Identifier: Apache-2.0
import { close, O_NONBLOCK, pipe, write } from "../../ffi/fd.ts";
import { POLLHUP, POLLIN, POLLOUT, PollSet, poll, pollFd } from "../../ffi/poll.ts";
import { SHUT_WR, send, shutdown, socketPair } from "../../ffi/socket.ts";
import { assert, describe } from "../harness.ts";
import { bytes, failsWith, withoutLeak } from "./support.ts";

const test = describe("ffi/poll");
const nothing = { readable: false, writable: false, hangup: false };

test("poll() tells the state of one fd", () =>
  withoutLeak(() => {
    const { readFd, writeFd } = pipe(O_NONBLOCK);
    assert.is(poll(readFd, POLLIN), 0);
    assert.is(poll(writeFd, POLLOUT), POLLOUT);
    close(writeFd);
    assert.is(poll(readFd, POLLIN), POLLHUP);
    close(readFd);
  }));

test("pollFd() tells what an fd is ready for, of what was asked", () =>
  withoutLeak(() => {
    const [one, other] = socketPair();
    assert.equal(pollFd(one, { readable: true }, 0), nothing);
    assert.equal(pollFd(one, { readable: true, writable: true }, 1000), { ...nothing, writable: true });
    write(other, bytes("x"));
    assert.equal(pollFd(one, { readable: true }, -1), { ...nothing, readable: true });
    assert.equal(pollFd(one, {}, 0), nothing);
    while (send(one, new Uint8Array(65536)) !== undefined);
    assert.equal(pollFd(one, { writable: true }, 0.1), nothing);
    close(one);
    close(other);
  }));

test("a peer that ends its side is readable; one that has gone is a hang-up, asked for or not", () =>
  withoutLeak(() => {
    const [one, other] = socketPair();
    shutdown(other, SHUT_WR);
    assert.equal(pollFd(one, { readable: true }, 1000), { ...nothing, readable: true });
    close(other);
    assert.equal(pollFd(one, {}, 1000), { readable: true, writable: true, hangup: true });
    close(one);
  }));

test("a pipe that nobody reads is writable, for the write that tells", () =>
  withoutLeak(() => {
    const { readFd, writeFd } = pipe();
    close(readFd);
    assert.equal(pollFd(writeFd, {}, 1000), { readable: true, writable: true, hangup: false });
    close(writeFd);
  }));

test("an fd that is not open is an error", () => {
  failsWith("EBADF", "poll", () => pollFd(9999, { readable: true }, 1000));
});

test("PollSet tells what each of its fds has", () =>
  withoutLeak(() => {
    const [one, other] = socketPair();
    const { readFd, writeFd } = pipe(O_NONBLOCK);
    const set = new PollSet([one, readFd]);
    set.want(0, POLLOUT);
    set.want(1, POLLIN);
    set.wait(-1);
    assert.equal([set.events(0), set.events(1)], [POLLOUT, 0]);
    set.want(0, 0);
    write(writeFd, bytes("x"));
    set.wait(-1);
    assert.equal([set.events(0), set.events(1)], [0, POLLIN]);
    close(other);
    set.wait(0);
    assert.is(set.events(0), POLLHUP, "asked for or not");
    for (const fd of [one, readFd, writeFd]) close(fd);
  }));

test.run();
