// SPDX-License-Identifier: Apache-2.0
// Small SVG charts without dependencies: bars of pauses, and the phases of an update.
//
// Colours are CSS classes with a second set for dark pages, so one file is readable on both; nothing is drawn behind it.
import { format, medianOf } from "./format.ts";

export interface Bar {
  label: string;
  median: number;
  /** End of the whisker. */
  p99: number;
  /** Index of the bar's series: the same colour for the same thing in every group. */
  series: number;
}

/** Horizontal grouped bars: length = median, whisker = up to the 99th percentile. */
export interface BarChart {
  kind: "bars";
  title: string;
  /** Machine and date: a chart travels without its page. */
  subtitle: string;
  unit: string;
  /** Logarithmic when values differ by more than a factor of 30 or so. */
  scale: "linear" | "log";
  groups: { label: string; bars: Bar[] }[];
}

export interface Segment {
  label: string;
  duration: number;
  /** Whether the guest stands still meanwhile. */
  isPause: boolean;
}

/** The phases of updates, one row each, one after the other on a common scale. */
export interface TimelineChart {
  kind: "timeline";
  title: string;
  subtitle: string;
  unit: string;
  rows: { label: string; segments: Segment[] }[];
}

export type Chart = BarChart | TimelineChart;

const WIDTH = 760;
const LEFT = 190;
const RIGHT = 130;
const PLOT = WIDTH - LEFT - RIGHT;
const HEAD = 52;
const BAR = 16;
const BAR_GAP = 5;
const GROUP_GAP = 16;
const AXIS = 34;
/** As many as there are classes `s<n>` below; an update has ten phases. */
const SERIES_COUNT = 10;
/** Durations that one entry of the legend has room for. */
const MAX_LEGEND_ROWS = 4;
/** Average width of a character of the 12 px font, for deciding what fits. */
const CHAR = 6.4;

const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .soft { fill: #59636e; }
  .inside { fill: #ffffff; }
  .end { text-anchor: end; } .mid { text-anchor: middle; }
  .grid { stroke: #d1d9e0; } .line { stroke: #1f2328; stroke-width: 1.5; fill: none; }
  .s0 { fill: #2563c9; } .s1 { fill: #b35a00; } .s2 { fill: #0f766e; } .s3 { fill: #7c3aad; } .s4 { fill: #a8324a; }
  .s5 { fill: #59636e; } .s6 { fill: #7a6a00; } .s7 { fill: #1a7f37; } .s8 { fill: #8f4a2e; } .s9 { fill: #b02a8f; }
  .outside { fill-opacity: 0.45; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .soft { fill: #9198a1; } .inside { fill: #0d1117; }
    .grid { stroke: #3d444d; } .line { stroke: #e6edf3; }
    .s0 { fill: #6ea8fe; } .s1 { fill: #f0a04b; } .s2 { fill: #4fc7b8; } .s3 { fill: #c297f0; } .s4 { fill: #f2849b; }
    .s5 { fill: #9198a1; } .s6 { fill: #d9c64a; } .s7 { fill: #63c97b; } .s8 { fill: #cf9377; } .s9 { fill: #ef85d5; }
  }`;

export function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

const n = (value: number): string => String(Math.round(value * 100) / 100);

function text(x: number, y: number, content: string, classes = ""): string {
  const attribute = classes === "" ? "" : ` class="${classes}"`;
  return `<text x="${n(x)}" y="${n(y)}"${attribute}>${escapeXml(content)}</text>`;
}

function rect(x: number, y: number, width: number, height: number, classes: string, title: string): string {
  const box = `x="${n(x)}" y="${n(y)}" width="${n(Math.max(width, 0.5))}" height="${n(height)}"`;
  return `<rect ${box} class="${classes}"><title>${escapeXml(title)}</title></rect>`;
}

const line = (x1: number, y1: number, x2: number, y2: number, classes: string): string =>
  `<path d="M${n(x1)} ${n(y1)}L${n(x2)} ${n(y2)}" class="${classes}"/>`;

const head = (chart: Chart): string[] => [text(0, 16, chart.title, "title"), text(0, 34, chart.subtitle, "soft")];

/** About five round ticks from 0 to at least `max`. */
export function linearTicks(max: number): number[] {
  const raw = max / 5;
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * magnitude).find((candidate) => candidate >= raw)!;
  const count = Math.ceil(max / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, index) => Number((index * step).toPrecision(6)));
}

/** Powers of ten around [min, max]. */
export function logTicks(min: number, max: number): number[] {
  const first = Math.floor(Math.log10(min) - 1e-9);
  const last = Math.max(first + 1, Math.ceil(Math.log10(max) - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, index) => Number((10 ** (first + index)).toPrecision(6)));
}

interface Axis {
  ticks: number[];
  position(value: number): number;
}

function axisOf(chart: BarChart): Axis {
  const bars = chart.groups.flatMap((group) => group.bars);
  const max = Math.max(...bars.map((bar) => Math.max(bar.p99, bar.median)));
  if (!(max > 0)) throw new RangeError(`Nothing to draw in "${chart.title}"`);
  if (chart.scale === "linear") {
    const ticks = linearTicks(max);
    return { ticks, position: (value) => LEFT + (value / ticks.at(-1)!) * PLOT };
  }
  const ticks = logTicks(Math.min(...bars.map((bar) => bar.median)), max);
  const [first, last] = [Math.log10(ticks[0]!), Math.log10(ticks.at(-1)!)];
  return { ticks, position: (value) => LEFT + ((Math.log10(value) - first) / (last - first)) * PLOT };
}

function grid({ ticks, position }: Axis, top: number, bottom: number, unit: string): string[] {
  return ticks.flatMap((tick, index) => {
    const label = index === ticks.length - 1 ? `${tick} ${unit}` : String(tick);
    return [
      line(position(tick), top, position(tick), bottom, "grid"),
      text(position(tick), bottom + 16, label, "soft mid"),
    ];
  });
}

interface Drawing {
  elements: string[];
  height: number;
}

function drawBars(chart: BarChart): Drawing {
  const axis = axisOf(chart);
  const elements: string[] = [];
  let y = HEAD;
  for (const group of chart.groups) {
    elements.push(text(0, y + BAR - 4, group.label));
    for (const bar of group.bars) {
      const middle = y + BAR / 2;
      const [end, whisker] = [axis.position(bar.median), axis.position(Math.max(bar.p99, bar.median))];
      const value = `${format(bar.median)} (p99 ${format(bar.p99)})`;
      const name = [group.label, bar.label].filter(Boolean).join(", ");
      if (bar.label !== "") elements.push(text(LEFT - 8, y + BAR - 4, bar.label, "soft end"));
      elements.push(rect(LEFT, y, end - LEFT, BAR, `s${bar.series % SERIES_COUNT}`, `${name}: ${value} ${chart.unit}`));
      elements.push(line(end, middle, whisker, middle, "line"), line(whisker, y + 4, whisker, y + BAR - 4, "line"));
      elements.push(text(whisker + 6, y + BAR - 4, value));
      y += BAR + BAR_GAP;
    }
    y += GROUP_GAP;
  }
  const bottom = y - GROUP_GAP;
  return {
    elements: [...head(chart), ...grid(axis, HEAD - 6, bottom, chart.unit), ...elements],
    height: bottom + AXIS,
  };
}

function drawTimeline(chart: TimelineChart): Drawing {
  const totals = chart.rows.map((row) => row.segments.reduce((sum, segment) => sum + segment.duration, 0));
  const max = Math.max(...totals);
  if (!(max > 0)) throw new RangeError(`Nothing to draw in "${chart.title}"`);
  const ticks = linearTicks(max);
  const axis: Axis = { ticks, position: (value) => LEFT + (value / ticks.at(-1)!) * PLOT };
  const labels = [...new Set(chart.rows.flatMap((row) => row.segments.map((segment) => segment.label)))];
  const elements: string[] = [];
  let y = HEAD + 14;
  for (const row of chart.rows) {
    elements.push(text(LEFT - 8, y + BAR - 2, row.label, "end"));
    let time = 0;
    let pauseStart: number | undefined;
    let pauseEnd = 0;
    for (const { label, duration, isPause } of row.segments) {
      const [start, end] = [axis.position(time), axis.position(time + duration)];
      const classes = `s${labels.indexOf(label) % SERIES_COUNT}${isPause ? "" : " outside"}`;
      elements.push(rect(start, y, end - start, BAR + 4, classes, `${label}: ${format(duration)} ${chart.unit}`));
      if (end - start > label.length * CHAR + 6) {
        elements.push(text((start + end) / 2, y + BAR - 2, label, isPause ? "inside mid" : "mid"));
      }
      if (isPause) {
        pauseStart ??= time;
        pauseEnd = time + duration;
      }
      time += duration;
    }
    if (pauseStart !== undefined) {
      const [from, to] = [axis.position(pauseStart), axis.position(pauseEnd)];
      elements.push(`<path d="M${n(from)} ${n(y - 2)}v-4H${n(to)}v4" class="line"/>`);
      elements.push(text(from, y - 10, `pause ${format(pauseEnd - pauseStart)} ${chart.unit}`));
    }
    y += BAR + 4 + GROUP_GAP + 14;
  }
  const bottom = y - GROUP_GAP;
  const legend = drawLegend(chart, labels, bottom + AXIS);
  return {
    elements: [...head(chart), ...grid(axis, HEAD - 6, bottom, chart.unit), ...elements, ...legend.elements],
    height: legend.height,
  };
}

/** Every phase with its durations row by row, of many rows the median: short segments have no room for a label. */
function drawLegend(chart: TimelineChart, labels: string[], top: number): Drawing {
  const elements: string[] = [];
  let x = 0;
  let y = top;
  for (const [index, label] of labels.entries()) {
    const durations = chart.rows.map((row) => {
      const own = row.segments.filter((segment) => segment.label === label);
      return own.length === 0 ? undefined : own.reduce((sum, segment) => sum + segment.duration, 0);
    });
    const figures =
      durations.length > MAX_LEGEND_ROWS
        ? format(medianOf(durations.filter((duration) => duration !== undefined)))
        : durations.map((duration) => (duration === undefined ? "–" : format(duration))).join(" / ");
    const entry = `${label} ${figures}`;
    const width = entry.length * CHAR + 34;
    if (x > 0 && x + width > WIDTH) {
      x = 0;
      y += 20;
    }
    elements.push(rect(x, y, 12, 12, `s${index % SERIES_COUNT}`, entry), text(x + 18, y + 10, entry));
    x += width;
  }
  return { elements, height: y + 24 };
}

/** One SVG file with the charts one below the other. */
export function renderSvg(charts: readonly Chart[]): string {
  const groups: string[] = [];
  let height = 8;
  for (const chart of charts) {
    const drawing = chart.kind === "bars" ? drawBars(chart) : drawTimeline(chart);
    groups.push(`<g transform="translate(8 ${n(height)})">\n${drawing.elements.join("\n")}\n</g>`);
    height += drawing.height + 20;
  }
  const size = `width="${WIDTH + 16}" height="${n(height)}" viewBox="0 0 ${WIDTH + 16} ${n(height)}"`;
  const label = escapeXml(charts.map((chart) => chart.title).join("; "));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img" aria-label="${label}">`,
    `<style>${STYLE}\n</style>`,
    ...groups,
    "</svg>\n",
  ].join("\n");
}
