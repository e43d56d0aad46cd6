// SPDX-License-Identifier: Apache-2.0
import type { RamSnapshot } from "../../../../src/cli/migration/meter.ts";
import { describeSnapshot, formatDuration, ProgressView } from "../../../../src/cli/migration/progress-view.ts";
import { Terminal } from "../../../../src/cli/terminal.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("migration progress");

const MIB = 2 ** 20;
const RAM: RamSnapshot = {
  totalBytes: 512 * MIB,
  remainingBytes: 256 * MIB,
  round: 1,
  bytesPerSecond: 100 * MIB,
  dirtyBytesPerSecond: undefined,
  expectedPauseMs: undefined,
  remainingMs: 2560,
  isAtLeast: true,
};

test("a line says how far RAM is", () => {
  const line = (ram: Partial<RamSnapshot>, throttlePercent = 0): string =>
    describeSnapshot({ status: "active", throttlePercent, ram: { ...RAM, ...ram } }, { bar: false });
  assert.is(line({}), "50 % of 512 MiB, round 1, 256 MiB left, 100 MiB/s, at least 2.6 s to go");
  assert.is(
    line(
      {
        round: 3,
        remainingBytes: MIB,
        remainingMs: 70_000,
        isAtLeast: false,
        dirtyBytesPerSecond: 4 * MIB,
        expectedPauseMs: 12,
      },
      30,
    ),
    "99 % of 512 MiB, round 3, 1 MiB left, 100 MiB/s, 1:10 to go, guest writes 4 MiB/s, pause 12 ms, slowed down by 30 %",
  );
  assert.match(line({ remainingMs: undefined }), /, end not known yet$/);
  assert.match(line({ remainingMs: undefined, isAtLeast: false }), /, no end in sight$/);
});

test("what moves no RAM is told by its status", () => {
  const line = (status: "setup" | "cancelling" | "completed"): string =>
    describeSnapshot({ status, throttlePercent: 0 }, { bar: true });
  assert.match(line("setup"), /^getting ready/);
  assert.is(line("cancelling"), "being cancelled");
  assert.is(line("completed"), "status completed");
});

test("a terminal has a bar that is written over and taken away, a log has a line now and then", () => {
  for (const isFancy of [true, false]) {
    let written = "";
    const terminal = new Terminal({ isFancy, columns: 80, write: (text) => (written += text) });
    const view = new ProgressView(terminal, 0);
    for (let ms = 100; ms <= 5000; ms += 100) {
      const ram = { ...RAM, remainingBytes: (512 - ms / 10) * MIB };
      view.show({ status: "active", throttlePercent: 0, ram }, ms);
    }
    view.end();
    if (isFancy) {
      assert.not.match(written, "\n", "one line");
      assert.is(written.split("\r").length, 52);
      assert.ok(written.endsWith("\r\x1b[K"));
      assert.match(written, "[####################".slice(0, 11));
      // biome-ignore lint/suspicious/noControlCharactersInRegex: those of the terminal are not seen
      for (const line of written.split("\r")) assert.ok(line.replaceAll(/\x1b\[[0-9;]*[mK]/g, "").length < 80);
    } else {
      assert.is(written.split("\n").length, 3, "every two seconds");
      assert.not.match(written, "\x1b");
    }
  }
});

test("durations read as people say them", () => {
  for (const [ms, text] of [
    [0, "0.0 s"],
    [432, "0.4 s"],
    [41_600, "42 s"],
    [185_000, "3:05"],
    [3_723_000, "1:02:03"],
  ] as const) {
    assert.is(formatDuration(ms), text);
  }
});

test.run();
