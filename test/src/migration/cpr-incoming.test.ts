// SPDX-License-Identifier: Apache-2.0
// What the environment says of an update: nothing in it is trusted before it has been understood.
import { spawnSync } from "node:child_process";
import { ENV_ERROR, ENV_OLD_COMMAND, ENV_STATE, formatHandover } from "../../../src/migration/carried.ts";
import { takeHandover } from "../../../src/migration/cpr-incoming.ts";
import { program, thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("cpr-incoming");

const COMMAND = ["/opt/baton", "-m", "1G"];

test("takeHandover() reads what formatHandover() writes, and takes it out of the environment", () => {
  const env = {
    [ENV_STATE]: formatHandover(7, 8, [7, 8, 12]),
    [ENV_OLD_COMMAND]: JSON.stringify(COMMAND),
    PATH: "/bin",
  };
  const expected = { stateFd: 7, oldProgramFd: 8, fds: [7, 8, 12], oldCommand: COMMAND, refusal: undefined };
  assert.equal(takeHandover(env), expected);
  assert.equal(env as object, { PATH: "/bin" });
  assert.is(takeHandover(env), undefined);
  const back = { [ENV_STATE]: "7:8:7", [ENV_OLD_COMMAND]: JSON.stringify(COMMAND), [ENV_ERROR]: "no" };
  assert.is(takeHandover(back)!.refusal, "no");
});

const STATES = [
  "",
  "7",
  "7:8",
  "7:8:",
  "7:8:9:10",
  "x:8:9",
  "7:-8:9",
  "7:8:9,",
  "0x7:8:9",
  "7:8:1e3",
  "7:8: 9",
  "7:8:9.5",
];
const COMMANDS = [undefined, "", "no json", "{}", "[]", "[1]", '["a",null]', '"a"'];

test("takeHandover() refuses what no update sets", () => {
  const refusal = /are not what an update by cpr-exec sets: unset them/;
  for (const state of STATES) {
    const env = { [ENV_STATE]: state, [ENV_OLD_COMMAND]: JSON.stringify(COMMAND) };
    assert.throws(() => takeHandover(env), refusal, state);
  }
  for (const command of COMMANDS) {
    assert.throws(() => takeHandover({ [ENV_STATE]: "7:8:9", [ENV_OLD_COMMAND]: command }), refusal, command);
  }
});

test("a program started with a hand-over that is none says so in one line", () => {
  const [command, ...args] = program(thisRuntime);
  const run = (state: string) => {
    const env = { ...process.env, [ENV_STATE]: state, [ENV_OLD_COMMAND]: JSON.stringify(COMMAND) };
    return spawnSync(command!, args, { env, encoding: "utf8" });
  };
  const foreign = run("hello");
  assert.equal([foreign.status, foreign.stdout], [1, ""]);
  assert.match(foreign.stderr, /^baton: BATON_CPR_EXEC_STATE and .* sets: unset them to start a new VM\n$/);
  // Fds that are not open: there is neither a state nor a program to go back to.
  const empty = run("900:901:900,901");
  assert.equal([empty.status, empty.stdout], [1, ""]);
  assert.match(empty.stderr, /^baton: .*EBADF.*\n$/);
});

test.run();
