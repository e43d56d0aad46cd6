// SPDX-License-Identifier: Apache-2.0
import { ConsoleLog } from "../../../src/meter/console-log.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("console-log");

test("ConsoleLog follows the numbered lines and tells which one is out of turn", () => {
  const log = new ConsoleLog();
  log.receive("Baton self-check\nready\ntick 000000");
  log.receive("07\ntick 00000008\r\ntick 0000");
  assert.equal([log.lines, log.faults], [2, []]);
  log.receive("0010\ntick 00000011\ngarbage\n");
  assert.equal([log.lines, log.faults], [4, ["tick 00000010", "garbage"]]);
});

test("ConsoleLog does not mind that it came in the middle of the first line, but of no other", () => {
  const log = new ConsoleLog();
  log.receive("heck\nready\ntick 00000001\n");
  assert.equal([log.lines, log.faults], [1, []]);
  log.receive("heck\n");
  assert.equal(log.faults, ["heck"]);
});

test("ConsoleLog waits for Linux to be ready, if it is told so", () => {
  const log = new ConsoleLog({ awaitsReady: true });
  log.receive("[ 0.1] a kernel's line\r\nready\r\ntick 00000000\r\n[ 0.2] another\r\n");
  assert.equal([log.lines, log.faults], [1, ["[ 0.2] another"]]);
  const atOnce = new ConsoleLog({ awaitsReady: true });
  atOnce.receive("ready\r\ntick 00000000\r\n");
  assert.is(atOnce.lines, 1);
});

test("ConsoleLog hands the lines of an answer to whoever asked, and takes nobody else's for one", async () => {
  const log = new ConsoleLog();
  const answer = log.ask("uname; nproc", 60_000);
  log.receive("tick 00000001\n> Linux\r\n> 1\r\n>.\r\ntick 00000002\r\n");
  assert.equal(await answer, ["Linux", "1"]);
  assert.equal([log.lines, log.faults], [2, []]);
  log.receive("> nobody has asked\r\n");
  assert.equal(log.faults, ["> nobody has asked"]);
  assert.is(await log.ask("uname", 1), undefined);
});

test.run();
