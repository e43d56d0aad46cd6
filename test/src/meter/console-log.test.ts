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

test.run();
