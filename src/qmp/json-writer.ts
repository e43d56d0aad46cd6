// SPDX-License-Identifier: Apache-2.0
// Writes JSON as QMP sends it: ASCII only, a space after `:` and `,`, and a `bigint` with all its digits.

/** `value` as text without a line end; members whose value is undefined are left out. */
export function formatJson(value: unknown, pretty = false): string {
  return format(value, pretty ? "\n" : "");
}

function format(value: unknown, lineStart: string): string {
  switch (typeof value) {
    case "string":
      return formatString(value);
    case "number":
      return Number.isFinite(value) ? String(value) : "null";
    case "bigint":
    case "boolean":
      return String(value);
    case "object":
      if (value === null) return "null";
      return Array.isArray(value) ? formatArray(value, lineStart) : formatObject(value, lineStart);
    default:
      return "null";
  }
}

function formatArray(values: unknown[], lineStart: string): string {
  const inner = indent(lineStart);
  return enclose(
    "[",
    values.map((value) => format(value, inner)),
    "]",
    lineStart,
  );
}

function formatObject(value: object, lineStart: string): string {
  const inner = indent(lineStart);
  const members: string[] = [];
  for (const [key, member] of Object.entries(value)) {
    if (member !== undefined) members.push(`${formatString(key)}: ${format(member, inner)}`);
  }
  return enclose("{", members, "}", lineStart);
}

function indent(lineStart: string): string {
  return lineStart === "" ? "" : `${lineStart}    `;
}

function enclose(open: string, parts: string[], close: string, lineStart: string): string {
  if (parts.length === 0 || lineStart === "") return open + parts.join(", ") + close;
  const inner = indent(lineStart);
  return open + inner + parts.join(`,${inner}`) + lineStart + close;
}

function formatString(text: string): string {
  // JSON.stringify has dealt with everything below 0x20 and with lone surrogates.
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  });
}
