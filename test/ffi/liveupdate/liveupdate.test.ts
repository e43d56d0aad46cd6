// SPDX-License-Identifier: Apache-2.0
// The expected bytes and numbers are what a C compiler makes of <linux/liveupdate.h>.
import { close, O_RDWR, open } from "../../../ffi/fd.ts";
import * as abi from "../../../ffi/liveupdate/abi.ts";
import {
  createSession,
  finishSession,
  openLiveUpdate,
  preserveFd,
  retrieveFd,
  retrieveSession,
} from "../../../ffi/liveupdate/liveupdate.ts";
import { assert, describe } from "../../harness.ts";
import { bytes, failsWith, withoutLeak } from "../support.ts";

const test = describe("ffi/liveupdate");

test("request numbers are those of the header", () => {
  assert.is(abi.LIVEUPDATE_IOCTL_CREATE_SESSION, 0xba00);
  assert.is(abi.LIVEUPDATE_IOCTL_RETRIEVE_SESSION, 0xba01);
  assert.is(abi.LIVEUPDATE_SESSION_PRESERVE_FD, 0xba40);
  assert.is(abi.LIVEUPDATE_SESSION_RETRIEVE_FD, 0xba41);
  assert.is(abi.LIVEUPDATE_SESSION_FINISH, 0xba42);
});

test("a session's struct has its size, room for the fd, and the name ended by NUL", () => {
  const raw = abi.sessionStruct("baton-vm");
  assert.is(raw.length, 72);
  assert.equal(raw.subarray(0, 17), Uint8Array.of(72, 0, 0, 0, 0, 0, 0, 0, ...bytes("baton-vm"), 0));
  assert.ok(raw.subarray(16).every((byte) => byte === 0));
  const longest = abi.sessionStruct("é".repeat(31) + "x");
  assert.is(longest[70], "x".charCodeAt(0));
  assert.is(longest[71], 0);
});

test("a session's name has 1 to 63 bytes of UTF-8 and no NUL", () => {
  for (const name of ["", "x".repeat(64), "é".repeat(32), "a\0b"]) {
    assert.throws(() => abi.sessionStruct(name), /Not a session name of 1 to 63 bytes/);
  }
});

test("the other structs are those of the header", () => {
  const raw = abi.sessionFdStruct(0x1122_3344_5566_7788n, -2);
  const expected = [16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
  assert.equal(raw, Uint8Array.from(expected));
  assert.is(abi.fdOf(raw), -2);
  assert.is(abi.fdOf(abi.sessionFdStruct(1n, 77)), 77);
  assert.equal(abi.sessionFinishStruct(), Uint8Array.of(8, 0, 0, 0, 0, 0, 0, 0));
});

test("every call names itself when an fd is not LUO's, and leaks nothing", () =>
  withoutLeak(() => {
    const fd = open("/dev/null", O_RDWR);
    failsWith("ENOTTY", "CREATE_SESSION", () => createSession(fd, "baton-test"));
    failsWith("ENOTTY", "RETRIEVE_SESSION", () => retrieveSession(fd, "baton-test"));
    failsWith("ENOTTY", "PRESERVE_FD", () => preserveFd(fd, fd, 1n));
    failsWith("ENOTTY", "RETRIEVE_FD", () => retrieveFd(fd, 1n));
    failsWith("ENOTTY", "FINISH", () => finishSession(fd));
    close(fd);
    failsWith("EBADF", "FINISH", () => finishSession(9999));
    failsWith("ENOENT", "open", () => openLiveUpdate("/dev/no-such-liveupdate"));
  }));

test.run();
