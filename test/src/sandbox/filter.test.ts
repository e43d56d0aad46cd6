// SPDX-License-Identifier: Apache-2.0
// What a process in a sandbox can do and cannot, tried by one that means it: system calls made directly, as by somebody who has
// taken it over.
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { landlockAbi } from "../../../ffi/landlock.ts";
import { assembleFilter } from "../../../ffi/seccomp.ts";
import { sandboxFilter } from "../../../src/sandbox/filter.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { sandboxMissing } from "./support.ts";

const test = describe("src/sandbox/filter");
const skip = sandboxMissing();
const confined = fileURLToPath(new URL("confined.ts", import.meta.url));

function attempt(name: string): { outcome: string; error: string } {
  const dir = join(temporaryDirectory(), "allowed");
  mkdirSync(dir);
  const runtime = thisRuntime === "bun" ? ["run"] : ["run", "--allow-all", "--quiet"];
  const args = [...runtime, confined, name, dir];
  const { stdout, stderr, signal } = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 });
  return { outcome: signal === null ? stdout.trim() : signal, error: stderr };
}

const EXPECTED: Record<string, string> = {
  "execve of a path": "refused EACCES",
  "execve of a pinned image by path": "refused EACCES",
  "execveat of a path": "refused EACCES",
  "execveat of a path relative to a directory": "refused EACCES",
  "execveat of an open program": "refused EACCES",
  "execveat of an O_PATH fd": "refused EACCES",
  "execveat of a path beside a pinned fd": "refused EACCES",
  "execveat of a script": "refused EACCES",
  "execveat of a file in memory of its own": "refused EACCES",
  "making that executable": "refused EPERM",
  "making an executable file in memory": "refused EPERM",
  "making a file in memory that says nothing of it": "refused EPERM",
  "making one that says both": "refused EPERM",
  "execveat of a pinned image": "executed",
  "spawning a pinned image": "executed\ndone",

  "reading a file elsewhere": "refused EACCES",
  "writing a file elsewhere": "refused EACCES",
  "writing a file that is allowed": "done",
  "a socket": "done",
  "a socket of the kernel's cryptography": "refused EAFNOSUPPORT",
  "typing into a terminal": "refused EPERM",
  "a system call that nobody knows": "refused ENOSYS",
  "being found in a sandbox": "done",

  ptrace: "SIGSYS",
  "another process's memory": "SIGSYS",
  mount: "SIGSYS",
  unshare: "SIGSYS",
  "a clone with namespaces": "SIGSYS",
  setuid: "SIGSYS",
  bpf: "SIGSYS",
  "loading a kernel": "SIGSYS",
  "loading a module": "SIGSYS",
  "a system call of x32": "SIGSYS",
};

for (const [name, expected] of Object.entries(EXPECTED)) {
  test.skipIf(skip, `${name}: ${expected.replace("\n", ", ")}`, () => {
    const { outcome, error } = attempt(name);
    assert.is(outcome, expected, error);
  });
}

const scopes = landlockAbi() < 6 ? "Landlock has no scopes before version 6 (Linux 6.12)" : undefined;
test.skipIf(skip ?? scopes, "a signal to another process: refused EPERM", () => {
  assert.is(attempt("a signal to another process").outcome, "refused EPERM");
});

test("a filter is as long as the kernel takes it, and too long a one is refused", () => {
  assert.ok(sandboxFilter().length / 8 < 1000);
  const rules = Array.from({ length: 3000 }, () => ({ call: "read" as const, verdict: "allow" as const }));
  assert.throws(() => assembleFilter(rules, "kill"), /too long/);
});

test.run();
