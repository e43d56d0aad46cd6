// SPDX-License-Identifier: Apache-2.0
import { existsSync } from "node:fs";
import { close, O_RDONLY, open } from "../../../ffi/fd.ts";
import { F_SEAL_GROW, F_SEAL_SHRINK, memfdCreate } from "../../../ffi/memfd.ts";
import { describeError, VmmError } from "../../../src/errors.ts";
import { findRetention, retainRam, retrieveRam } from "../../../src/memory/retention.ts";
import { openFdCount } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("memory/retention");
const HUGE_PAGE_SIZE_BYTES = 2 ** 21;
const NO_DEVICE = "/dev/no-such-liveupdate";
/** The real device; where a host has one, its own sessions are not played with. */
const withLuo = existsSync("/dev/liveupdate") ? "this host has /dev/liveupdate" : undefined;

/** Runs `action`, which must fail with a VmmError of this code and lose no fd; returns its whole text. */
async function refusal(code: string, action: () => unknown): Promise<string> {
  const fdCount = openFdCount();
  const error = await rejection(action);
  assert.instance(error, VmmError);
  assert.is((error as VmmError).code, code);
  assert.is(openFdCount(), fdCount, "file descriptors leak");
  return describeError(error);
}

function withRam(options: Parameters<typeof memfdCreate>[2], action: (ramFd: number) => Promise<void>): Promise<void> {
  const ramFd = memfdCreate("ram0", HUGE_PAGE_SIZE_BYTES, options);
  return action(ramFd).finally(() => close(ramFd));
}

test.skipIf(withLuo, "a host without LUO is told what RAM needs to survive", () =>
  withRam({ seals: F_SEAL_GROW | F_SEAL_SHRINK }, async (ramFd) => {
    const retention = findRetention();
    assert.is(retention.ok, false);
    const problem = retention.ok ? "" : describeError(retention.problem);
    assert.match(problem, "RAM in a memfd does not survive a reboot on this host: no /dev/liveupdate");
    assert.match(problem, "kho=on liveupdate=on");
    assert.match(problem, "open(/dev/liveupdate) failed: ENOENT");
    assert.is(await refusal("luo-absent", () => retainRam({ name: "vm", ramFd })), problem);
    assert.is(await refusal("luo-absent", () => retrieveRam({ name: "vm" })), problem);
  }),
);

test("another path of the device is named", async () => {
  const text = await refusal("luo-absent", () => retrieveRam({ name: "vm", devicePath: NO_DEVICE }));
  assert.match(text, `no ${NO_DEVICE} (Linux ≥ 6.19`);
});

test("a device that cannot be opened is told apart from one that is not there", async () => {
  const text = await refusal("luo-failed", () => retrieveRam({ name: "vm", devicePath: "/dev" }));
  assert.is(text, "/dev cannot be opened: open(/dev) failed: EISDIR");
});

test("a device that is not LUO's fails with the call that it refused", () =>
  withRam({}, async (ramFd) => {
    const devicePath = "/dev/null";
    const retain = await refusal("luo-failed", () => retainRam({ name: "vm", ramFd, devicePath }));
    assert.is(retain, "Live update session 'baton-vm' cannot be created: CREATE_SESSION(baton-vm) failed: ENOTTY");
    const retrieve = await refusal("luo-failed", () => retrieveRam({ name: "vm", devicePath }));
    assert.match(retrieve, "Live update session 'baton-vm' cannot be retrieved: RETRIEVE_SESSION(baton-vm)");
  }));

test("a session's name has room for a UUID and for no more than 57 bytes", () =>
  withRam({}, async (ramFd) => {
    for (const name of ["", "x".repeat(58), "é".repeat(29), "a\0b"]) {
      const text = await refusal("session-name", () => retainRam({ name, ramFd, devicePath: NO_DEVICE }));
      assert.match(text, "it takes 1 to 57 bytes without NUL");
      await refusal("session-name", () => retrieveRam({ name, devicePath: NO_DEVICE }));
    }
    for (const name of ["x".repeat(57), "é".repeat(28), crypto.randomUUID()]) {
      await refusal("luo-absent", () => retainRam({ name, ramFd, devicePath: NO_DEVICE }));
    }
  }));

test("RAM in huge pages is refused before the device is asked", () =>
  withRam({ hugePageSizeBytes: HUGE_PAGE_SIZE_BYTES }, async (ramFd) => {
    const text = await refusal("ram-hugetlb", () => retainRam({ name: "vm", ramFd, devicePath: NO_DEVICE }));
    assert.match(text, "leave out hugetlb=on");
  }));

test("RAM in another file is refused with its path", async () => {
  const ramFd = open("/proc/self/status", O_RDONLY);
  const text = await refusal("ram-not-memfd", () => retainRam({ name: "vm", ramFd, devicePath: NO_DEVICE }));
  assert.match(text, /^RAM in \/proc\/\d+\/status is not in a memfd/);
  close(ramFd);
});

test("an fd that is closed is the system call's failure", async () => {
  const error = await rejection(() => retainRam({ name: "vm", ramFd: 9999, devicePath: NO_DEVICE }));
  assert.is(error.message, "fstatfs(fd 9999) failed: EBADF");
});

test.run();
