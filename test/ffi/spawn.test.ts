// SPDX-License-Identifier: Apache-2.0
import { planExec } from "../../ffi/exec.ts";
import { close, O_RDONLY, open, pipe, pread, read } from "../../ffi/fd.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import { wait4 } from "../../ffi/process.ts";
import { spawnProgram } from "../../ffi/spawn.ts";
import { assert, describe } from "../harness.ts";
import { failsWith, text, withoutLeak } from "./support.ts";

const test = describe("ffi/spawn");

function spawn(path: string, argv: string[], given: { fd: number; asFd: number }[] = []): number {
  const fd = open(path, O_RDONLY);
  try {
    return spawnProgram(planExec({ fd }, argv, { GREETING: "hello" }), given);
  } finally {
    close(fd);
  }
}

test("spawnProgram() runs a program with arguments, environment and fds", () =>
  withoutLeak(() => {
    const { readFd, writeFd } = pipe();
    const script = 'printf "$GREETING $1 " >&3; grep SigBlk /proc/self/status >&3; exit 7';
    const pid = spawn("/bin/sh", ["sh", "-c", script, "name", "world"], [{ fd: writeFd, asFd: 3 }]);
    close(writeFd);
    assert.equal(wait4(pid), { pid, exitCode: 7 });
    const buffer = new Uint8Array(200);
    const output = text(buffer.subarray(0, read(readFd, buffer)));
    assert.match(output, /^hello world SigBlk:\s*0+\n$/);
    close(readFd);
  }));

test("spawnProgram() gives fds that have each other's numbers", () =>
  withoutLeak(() => {
    const [one, two] = [memfdCreate("one", 0), memfdCreate("two", 0)];
    const given = [
      { fd: one, asFd: 8 },
      { fd: two, asFd: 9 },
    ];
    const pid = spawn("/bin/sh", ["sh", "-c", "echo 1 >&8; echo 2 >&9"], given);
    assert.equal(wait4(pid), { pid, exitCode: 0 });
    const buffer = new Uint8Array(2);
    for (const [fd, expected] of [[one, "1\n"] as const, [two, "2\n"] as const]) {
      pread(fd, buffer, 0);
      assert.is(text(buffer), expected);
      close(fd);
    }
  }));

test("spawnProgram() says why a program cannot be started, and leaves no process", () =>
  withoutLeak(() => {
    failsWith("EACCES", "execveat", () => spawn("/etc/passwd", ["passwd"]));
    failsWith("ECHILD", "wait4", () => wait4(-1));
  }));

test.run();
