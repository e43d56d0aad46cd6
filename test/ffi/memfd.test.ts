// SPDX-License-Identifier: Apache-2.0
import { close, fdPath, isCloseOnExec, pread, pwrite, status, truncate } from "../../ffi/fd.ts";
import { addSeals, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, getSeals, memfdCreate } from "../../ffi/memfd.ts";
import { assert, describe } from "../harness.ts";
import { bytes, failsWith, text, withoutLeak } from "./support.ts";

const test = describe("ffi/memfd");

test("memfdCreate() gives a file of zeros of the wanted size", () =>
  withoutLeak(() => {
    const fd = memfdCreate("ram", 4 * 2 ** 30);
    assert.is(status(fd).sizeBytes, 4 * 2 ** 30);
    assert.is(fdPath(fd), "/memfd:ram (deleted)");
    assert.ok(isCloseOnExec(fd));
    assert.is(pwrite(fd, bytes("end"), 4 * 2 ** 30 - 3), 3);
    const buffer = new Uint8Array(4);
    pread(fd, buffer, 4 * 2 ** 30 - 4);
    assert.is(text(buffer), "\0end");
    close(fd);
  }));

test("seals hold, and a memfd made without seals cannot be sealed", () =>
  withoutLeak(() => {
    const fd = memfdCreate("sealed", 4096, { seals: F_SEAL_SHRINK | F_SEAL_GROW });
    assert.is(getSeals(fd), F_SEAL_SHRINK | F_SEAL_GROW);
    failsWith("EPERM", "ftruncate", () => truncate(fd, 0));
    failsWith("EPERM", "ftruncate", () => truncate(fd, 8192));
    addSeals(fd, F_SEAL_SEAL);
    failsWith("EPERM", "fcntl", () => addSeals(fd, F_SEAL_SHRINK));
    close(fd);
    const unsealed = memfdCreate("unsealed", 4096);
    assert.is(getSeals(unsealed), F_SEAL_SEAL);
    close(unsealed);
  }));

test("memfdCreate() makes an executable file on every kernel", () => {
  const fd = memfdCreate("image", 0, { executable: true });
  assert.ok(status(fd).mode & 0o100);
  close(fd);
});

test("memfdCreate() leaks nothing when it fails", () =>
  withoutLeak(() => {
    failsWith("EINVAL", "memfd_create", () => memfdCreate("x".repeat(300), 0));
    failsWith("EINVAL", "ftruncate", () => memfdCreate("odd", 4097, { hugePageSizeBytes: 2 ** 21 }));
  }));

test.run();
