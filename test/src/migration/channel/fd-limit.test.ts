// SPDX-License-Identifier: Apache-2.0
// What happens to fds that this process may not open: RLIMIT_NOFILE, getrlimit(2).
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { assert, describe } from "../../../harness.ts";

const test = describe("src/migration/channel: limit of open fds");
const probe = fileURLToPath(new URL("fd-limit-probe.ts", import.meta.url));

test("a frame whose fds cannot be had is refused, a monitor's bytes come without them, and nothing leaks", () => {
  const runtime = process.versions.bun === undefined ? ["run", "--allow-all", "--quiet"] : ["run"];
  const args = ["-c", 'ulimit -n 128 && exec "$0" "$@"', process.execPath, ...runtime, probe];
  const result = JSON.parse(execFileSync("/bin/sh", args, { encoding: "utf8" }));
  assert.is(result.message.byteCount, 7);
  assert.equal(result.message.fds, []);
  assert.match(result.refusal, "expected at most 253 file descriptors with a frame, and more came");
  assert.is(result.leaked, 0);
});

test.run();
