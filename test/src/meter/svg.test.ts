// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import {
  type BarChart,
  escapeXml,
  linearTicks,
  logTicks,
  renderSvg,
  type TimelineChart,
} from "../../../src/meter/svg.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("svg");

const bars: BarChart = {
  kind: "bars",
  title: 'Pauses <of> "guests" & others',
  subtitle: "a machine",
  unit: "ms",
  scale: "linear",
  groups: [
    { label: "128 MiB", bars: [{ label: "ours", median: 5, p99: 9, series: 0 }] },
    {
      label: "4 GiB",
      bars: [
        { label: "ours", median: 5, p99: 9, series: 0 },
        { label: "theirs", median: 90, p99: 120, series: 1 },
      ],
    },
  ],
};

const timeline: TimelineChart = {
  kind: "timeline",
  title: "One update",
  subtitle: "a machine",
  unit: "ms",
  rows: [
    {
      label: "exec",
      segments: [
        { label: "prepare", duration: 4, isPause: false },
        { label: "save", duration: 1, isPause: true },
        { label: "exec", duration: 3.5, isPause: true },
        { label: "teardown", duration: 2, isPause: false },
      ],
    },
  ],
};

/** Every element that opens closes, in order, and attributes are quoted: enough of XML to catch a broken chart. */
function assertWellFormed(svg: string): void {
  const open: string[] = [];
  for (const [, closing, name, attributes, selfClosing] of svg.matchAll(/<(\/?)([a-z]+)([^<>]*?)(\/?)>/g)) {
    assert.match(attributes!, /^(\s[a-z][a-zA-Z:-]*="[^"<&]*(&#\d+;[^"<&]*)*")*$/);
    if (closing === "/") assert.is(open.pop(), name);
    else if (selfClosing !== "/") open.push(name!);
  }
  assert.equal(open, []);
  assert.not.match(svg, /NaN|Infinity|undefined/);
}

const attribute = (element: string, name: string): number => Number(new RegExp(` ${name}="([^"]*)"`).exec(element)![1]);

test("renderSvg draws bars to scale with whiskers behind them", () => {
  const svg = renderSvg([bars]);
  assertWellFormed(svg);
  const widths = [...svg.matchAll(/<rect [^>]*>/g)].map(([element]) => attribute(element, "width"));
  assert.is(widths.length, 3);
  assert.ok(Math.abs(widths[2]! / widths[0]! - 90 / 5) < 0.05, String(widths));
  assert.ok(svg.includes("90.0 (p99 120)"));
  assert.ok(svg.includes("Pauses &#60;of&#62; &#34;guests&#34; &#38; others"));
});

test("renderSvg draws a logarithmic scale", () => {
  const svg = renderSvg([{ ...bars, scale: "log" }]);
  assertWellFormed(svg);
  const [first, , third] = [...svg.matchAll(/<rect [^>]*>/g)].map(([element]) => attribute(element, "width"));
  assert.ok(third! / first! < 18 && third! > first!);
});

test("renderSvg puts the phases of an update one after the other and marks the pause", () => {
  const svg = renderSvg([timeline]);
  assertWellFormed(svg);
  const rects = [...svg.matchAll(/<rect [^>]*>/g)].map(([element]) => element).slice(0, 4);
  for (let index = 1; index < rects.length; index++) {
    const end = attribute(rects[index - 1]!, "x") + attribute(rects[index - 1]!, "width");
    assert.ok(Math.abs(attribute(rects[index]!, "x") - end) < 0.05);
  }
  assert.ok(svg.includes("pause 4.50 ms"));
  assert.equal(
    rects.map((element) => element.includes("outside")),
    [true, false, false, true],
  );
});

test("renderSvg stacks charts in one file with colours for light and dark pages", () => {
  const svg = renderSvg([bars, timeline]);
  assertWellFormed(svg);
  assert.is(svg.match(/<g /g)!.length, 2);
  assert.ok(svg.includes("prefers-color-scheme: dark"));
});

test("renderSvg refuses a chart without anything to draw", async () => {
  await rejection(() => renderSvg([{ ...bars, groups: [] }]));
  await rejection(() => renderSvg([{ ...timeline, rows: [{ label: "", segments: [] }] }]));
});

test("ticks cover the values in a few round steps", () => {
  assert.equal(linearTicks(323), [0, 100, 200, 300, 400]);
  assert.equal(logTicks(2.3, 323), [1, 10, 100, 1000]);
  fc.assert(
    fc.property(
      fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
      fc.double({ min: 1, max: 1e4, noNaN: true }),
      (max, factor) => {
        const ticks = linearTicks(max);
        assert.ok(ticks.at(-1)! >= max * (1 - 1e-6) && ticks.length >= 3 && ticks.length <= 7, `${ticks} for ${max}`);
        const powers = logTicks(max, max * factor);
        assert.ok(powers[0]! <= max * (1 + 1e-6) && powers.at(-1)! >= max * factor * (1 - 1e-6), `${powers}`);
      },
    ),
  );
});

test("escapeXml escapes what XML gives a meaning", () => {
  assert.is(escapeXml(`<a href="x">&</a>`), "&#60;a href=&#34;x&#34;&#62;&#38;&#60;/a&#62;");
});

test("the legend of a timeline with many rows has medians", () => {
  const row = (exec: number) => ({ label: "", segments: [{ label: "exec", duration: exec, isPause: true }] });
  assert.match(renderSvg([{ ...timeline, rows: [1, 2, 4].map(row) }]), "exec 1.00 / 2.00 / 4.00");
  const svg = renderSvg([{ ...timeline, rows: [1, 2, 3, 4, 90].map(row) }]);
  assert.match(svg, ">exec 3.00<");
  assertWellFormed(svg);
});

test.run();
