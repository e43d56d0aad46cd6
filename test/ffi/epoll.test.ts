// SPDX-License-Identifier: Apache-2.0
import { join } from "node:path";
import * as epoll from "../../ffi/epoll.ts";
import { eventfd, signalEventfd, takeEventfd } from "../../ffi/eventfd.ts";
import { close, O_CREAT, O_RDWR, open } from "../../ffi/fd.ts";
import { assert, describe } from "../harness.ts";
import { failsWith, temporaryDirectory, withoutLeak } from "./support.ts";

const test = describe("ffi/epoll and eventfd");
const events = new Uint32Array(3 * 8);

test("an eventfd counts signals and is empty after it was taken", () =>
  withoutLeak(() => {
    const fd = eventfd(2);
    signalEventfd(fd);
    signalEventfd(fd, 4n);
    assert.is(takeEventfd(fd), 7n);
    assert.is(takeEventfd(fd), 0n);
    close(fd);
    failsWith("EBADF", "write", () => signalEventfd(9999));
    failsWith("EBADF", "read", () => takeEventfd(9999));
  }));

test("a one-shot registration reports once for each time it is armed", () =>
  withoutLeak(() => {
    const epollFd = epoll.epollCreate();
    const fd = eventfd(1);
    assert.ok(epoll.epollAdd(epollFd, fd, epoll.EPOLLIN | epoll.EPOLLONESHOT, 0xfedcba98));
    assert.is(epoll.epollWait(epollFd, events, 0), 1);
    assert.is(events[0], epoll.EPOLLIN);
    assert.is(events[1], 0xfedcba98);
    assert.is(epoll.epollWait(epollFd, events, 0), 0);
    epoll.epollModify(epollFd, fd, epoll.EPOLLIN | epoll.EPOLLONESHOT, 7);
    assert.is(epoll.epollWait(epollFd, events, -1), 1);
    assert.is(events[1], 7);
    epoll.epollRemove(epollFd, fd);
    failsWith("ENOENT", "epoll_ctl", () => epoll.epollModify(epollFd, fd, epoll.EPOLLIN, 7));
    failsWith("ENOENT", "epoll_ctl", () => epoll.epollRemove(epollFd, fd));
    close(fd);
    close(epollFd);
  }));

test("epollAdd() tells files that are always ready, and fails for what is not open or already there", () =>
  withoutLeak(() => {
    const epollFd = epoll.epollCreate();
    const file = open(join(temporaryDirectory(), "file"), O_CREAT | O_RDWR, 0o600);
    assert.not(epoll.epollAdd(epollFd, file, epoll.EPOLLIN, 1));
    failsWith("EBADF", "epoll_ctl", () => epoll.epollAdd(epollFd, 9999, epoll.EPOLLIN, 1));
    const fd = eventfd();
    epoll.epollAdd(epollFd, fd, epoll.EPOLLIN, 1);
    failsWith("EEXIST", "epoll_ctl", () => epoll.epollAdd(epollFd, fd, epoll.EPOLLIN, 1));
    failsWith("EINVAL", "epoll_wait", () => epoll.epollWait(fd, events, 0));
    for (const fdToClose of [fd, file, epollFd]) close(fdToClose);
  }));

test.run();
