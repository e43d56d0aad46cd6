// SPDX-License-Identifier: Apache-2.0

import { close, isCloseOnExec, O_NOCTTY, O_NONBLOCK, O_RDWR, open, read, statusFlags, write } from "../../ffi/fd.ts";
import { POLLHUP, POLLIN, poll } from "../../ffi/poll.ts";
import { openPty, ptyName } from "../../ffi/pty.ts";
import { getTermios, isTerminal, rawTermios, setTermios } from "../../ffi/termios.ts";
import { assert, describe } from "../harness.ts";
import { failsWith, withoutLeak } from "./support.ts";

const test = describe("ffi/pty and termios");
const everyByte = Uint8Array.from({ length: 256 }, (_, index) => index);

test("a pty passes every byte unchanged in both directions", () =>
  withoutLeak(() => {
    const { fd, name } = openPty();
    assert.ok(isCloseOnExec(fd));
    assert.ok(statusFlags(fd) & O_NONBLOCK);
    assert.is(ptyName(fd), name);
    const slave = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
    const buffer = new Uint8Array(512);
    for (const [from, to] of [[fd, slave] as const, [slave, fd] as const]) {
      assert.is(write(from, everyByte), 256);
      let count = 0;
      while (count < 256) {
        poll(to, POLLIN, 5000);
        count += read(to, buffer.subarray(count)) ?? 0;
      }
      assert.equal(buffer.slice(0, count), everyByte);
    }
    close(slave);
    close(fd);
  }));

test("the master reports a hang-up while nobody has the slave open", () =>
  withoutLeak(() => {
    const { fd, name } = openPty();
    assert.is(poll(fd, 0), POLLHUP);
    failsWith("EIO", "read", () => read(fd, new Uint8Array(1)));
    const slave = open(name, O_RDWR | O_NOCTTY);
    assert.is(poll(fd, 0), 0);
    close(slave);
    assert.is(poll(fd, 0), POLLHUP);
    close(fd);
  }));

test("raw mode is set and undone; signals and output processing are optional", () =>
  withoutLeak(() => {
    const { fd, name } = openPty();
    const slave = open(name, O_RDWR | O_NOCTTY);
    const original = getTermios(slave);
    const lflag = (termios: Uint8Array): number => new Uint32Array(termios.buffer)[3]!;
    const oflag = (termios: Uint8Array): number => new Uint32Array(termios.buffer)[1]!;
    setTermios(slave, rawTermios(original, { signals: true, postProcessOutput: true }));
    assert.is(lflag(getTermios(slave)) & 1, 1);
    assert.is(oflag(getTermios(slave)) & 1, 1);
    setTermios(slave, rawTermios(original, { signals: false, postProcessOutput: false }));
    assert.is(lflag(getTermios(slave)) & 0o13, 0);
    assert.is(oflag(getTermios(slave)) & 1, 0);
    setTermios(slave, original);
    assert.equal(getTermios(slave), original);
    assert.ok(isTerminal(slave));
    close(slave);
    close(fd);
  }));

test("what is no terminal is refused", () => {
  assert.not(isTerminal(9999));
  failsWith("EBADF", "tcgetattr", () => getTermios(9999));
  failsWith("EBADF", "tcsetattr", () => setTermios(9999, new Uint8Array(60)));
  failsWith("EBADF", "ptsname_r", () => ptyName(9999));
});

test.run();
