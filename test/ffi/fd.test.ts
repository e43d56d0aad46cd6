// SPDX-License-Identifier: Apache-2.0
import { readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as fd from "../../ffi/fd.ts";
import { assert, describe } from "../harness.ts";
import { bytes, failsWith, temporaryDirectory, text, withoutLeak } from "./support.ts";

const directory = temporaryDirectory();
const test = describe("ffi/fd");

test("open() gives a close-on-exec fd and names the path when it fails", () =>
  withoutLeak(() => {
    const path = join(directory, "open");
    const file = fd.open(path, fd.O_RDWR | fd.O_CREAT | fd.O_TRUNC, 0o600);
    assert.ok(fd.isCloseOnExec(file));
    assert.is(fd.fdPath(file), path);
    fd.close(file);
    failsWith("ENOENT", "open", () => fd.open(join(directory, "absent"), fd.O_RDONLY));
    failsWith("EEXIST", "open", () => fd.open(path, fd.O_CREAT | fd.O_EXCL | fd.O_WRONLY, 0o600));
  }));

test("openAt() is relative to a directory", () =>
  withoutLeak(() => {
    const dirFd = fd.open(directory, fd.O_DIRECTORY);
    const file = fd.openAt(dirFd, "at", fd.O_WRONLY | fd.O_CREAT, 0o600);
    assert.is(fd.fdPath(file), join(directory, "at"));
    failsWith("ENOENT", "openat", () => fd.openAt(dirFd, "absent", fd.O_RDONLY));
    fd.close(file);
    fd.close(dirFd);
  }));

test("separateFds() makes the fds of a thread its own", async () => {
  const code = `
    const fd = await import(${JSON.stringify(new URL("../../ffi/fd.ts", import.meta.url).href)});
    const mine = fd.open("/dev/null", fd.O_RDONLY);
    fd.separateFds();
    fd.close(mine);
    postMessage(mine);`;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const number = await new Promise<number>((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = reject;
  });
  assert.ok(fd.isOpen(number), "closed by the worker alone");
  fd.close(number);
  worker.terminate();
});

test("close() fails with EBADF on a number that is not open", () => {
  failsWith("EBADF", "close", () => fd.close(9999));
  assert.not(fd.isOpen(9999));
});

test("read() and write() move bytes, tell the end of the file and an empty pipe apart", () =>
  withoutLeak(() => {
    const { readFd, writeFd } = fd.pipe(fd.O_NONBLOCK);
    const buffer = new Uint8Array(16);
    assert.is(fd.read(readFd, buffer), undefined);
    assert.is(fd.write(writeFd, bytes("hello")), 5);
    assert.is(fd.read(readFd, buffer.subarray(2, 6)), 4);
    assert.is(text(buffer.subarray(2, 6)), "hell");
    assert.is(fd.read(readFd, buffer), 1);
    const page = new Uint8Array(65536);
    while (fd.write(writeFd, page) !== undefined);
    while (fd.read(readFd, page) !== undefined);
    fd.close(writeFd);
    assert.is(fd.read(readFd, buffer), 0);
    fd.close(readFd);
    failsWith("EBADF", "read", () => fd.read(9999, buffer));
    failsWith("EBADF", "write", () => fd.write(9999, buffer));
  }));

test("write() to a pipe without a reader fails with EPIPE and kills nobody", () => {
  // Both runtimes ignore SIGPIPE from their start; everything that writes to pipes and terminals counts on it.
  const ignored = BigInt(`0x${/SigIgn:\s*([0-9a-f]+)/.exec(readFileSync("/proc/self/status", "utf8"))![1]}`);
  assert.is((ignored >> 12n) & 1n, 1n);
  const { readFd, writeFd } = fd.pipe(fd.O_NONBLOCK);
  fd.close(readFd);
  failsWith("EPIPE", "write", () => fd.write(writeFd, bytes("x")));
  fd.close(writeFd);
});

test("write() to a full disk fails with ENOSPC", () => {
  const full = fd.open("/dev/full", fd.O_WRONLY);
  failsWith("ENOSPC", "write", () => fd.write(full, bytes("x")));
  fd.close(full);
});

test("pread() and pwrite() reach offsets above 4 GiB and leave the position alone", () =>
  withoutLeak(() => {
    const file = fd.open(join(directory, "sparse"), fd.O_RDWR | fd.O_CREAT, 0o600);
    const offset = 5 * 2 ** 30;
    assert.is(fd.pwrite(file, bytes("far"), offset), 3);
    assert.is(fd.status(file).sizeBytes, offset + 3);
    const buffer = new Uint8Array(8);
    assert.is(fd.pread(file, buffer, BigInt(offset) + 1n), 2);
    assert.is(text(buffer.subarray(0, 2)), "ar");
    assert.is(fd.seek(file, 0, fd.SEEK_CUR), 0);
    assert.is(fd.seek(file, -3, fd.SEEK_END), offset);
    fd.truncate(file, 10);
    assert.is(fd.status(file).sizeBytes, 10);
    fd.sync(file);
    fd.close(file);
    failsWith("ESPIPE", "pread", () => {
      const { readFd, writeFd } = fd.pipe();
      try {
        fd.pread(readFd, buffer, 0);
      } finally {
        fd.close(readFd);
        fd.close(writeFd);
      }
    });
  }));

test("duplicate() and duplicateTo() share the open file and are close-on-exec", () =>
  withoutLeak(() => {
    const { readFd, writeFd } = fd.pipe(fd.O_NONBLOCK);
    const high = fd.duplicate(writeFd, 200);
    assert.ok(high >= 200);
    assert.ok(fd.isCloseOnExec(high));
    fd.duplicateTo(high, 250);
    assert.ok(fd.isCloseOnExec(250));
    fd.write(250, bytes("x"));
    assert.is(fd.read(readFd, new Uint8Array(4)), 1);
    for (const open of [readFd, writeFd, high, 250]) fd.close(open);
    failsWith("EBADF", "fcntl", () => fd.duplicate(9999));
  }));

test("fd flags are set, cleared and read", () =>
  withoutLeak(() => {
    const { readFd, writeFd } = fd.pipe();
    fd.setCloseOnExec(readFd, false);
    assert.not(fd.isCloseOnExec(readFd));
    fd.setCloseOnExec(readFd, true);
    assert.ok(fd.isCloseOnExec(readFd));
    fd.setNonBlocking(readFd, true);
    assert.ok(fd.statusFlags(readFd) & fd.O_NONBLOCK);
    assert.not(fd.statusFlags(writeFd) & fd.O_NONBLOCK);
    fd.setNonBlocking(readFd, false);
    assert.not(fd.statusFlags(readFd) & fd.O_NONBLOCK);
    fd.close(readFd);
    fd.close(writeFd);
    failsWith("EBADF", "fcntl", () => fd.setNonBlocking(9999, true));
  }));

test("status() tells kinds, modes and sizes", () =>
  withoutLeak(() => {
    const path = join(directory, "kind");
    writeFileSync(path, "12345", { mode: 0o640 });
    const file = fd.open(path, fd.O_RDONLY);
    assert.is(fd.status(file).kind, "file");
    assert.is(fd.status(file).mode, 0o640);
    assert.is(fd.status(file).sizeBytes, 5);
    const dirFd = fd.open(directory, fd.O_RDONLY);
    assert.is(fd.status(dirFd).kind, "directory");
    const zero = fd.open("/dev/zero", fd.O_RDONLY);
    assert.is(fd.status(zero).kind, "character");
    assert.is(fd.status(zero).deviceNumber, 0x105n);
    for (const open of [file, dirFd, zero]) fd.close(open);
    failsWith("EBADF", "fstat", () => fd.status(9999));
    failsWith("ENOENT", "readlink", () => fd.fdPath(9999));
  }));

test("symlink(), makeFifo() and unlink() make and remove files", () => {
  const link = join(directory, "link");
  fd.symlink("target", link);
  assert.is(readlinkSync(link), "target");
  failsWith("EEXIST", "symlink", () => fd.symlink("target", link));
  const path = join(directory, "fifo");
  fd.makeFifo(path);
  failsWith("EEXIST", "mkfifo", () => fd.makeFifo(path));
  const fifo = fd.open(path, fd.O_RDWR | fd.O_NONBLOCK);
  assert.is(fd.status(fifo).kind, "fifo");
  fd.close(fifo);
  fd.unlink(path);
  failsWith("ENOENT", "unlink", () => fd.unlink(path));
});

test.run();
