// SPDX-License-Identifier: Apache-2.0
// Takes the arguments of a human monitor command apart, as its table entry says.

/** One argument: a word (may be quoted), a word `on` or `off`, or everything up to the end of the line. */
export interface HmpArgument {
  name: string;
  kind: "word" | "switch" | "rest";
  optional?: boolean;
}

export interface HmpArguments {
  /** Flags given, `"d"` for `-d`. */
  flags: ReadonlySet<string>;
  values: Readonly<Record<string, string>>;
}

/** The line is not a use of the command; the message is complete but for the pointer to `help`. */
export class HmpUsageError extends Error {}

const QUOTED = /^"((?:[^"\\]|\\.)*)"\s*/;
const WORD = /^(\S+)\s*/;
const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r" };

/** Parses `text`, the line after the name of the command, which is `name` in messages. */
export function parseArguments(
  name: string,
  text: string,
  flags: readonly string[],
  expected: readonly HmpArgument[],
): HmpArguments {
  let rest = text.trimStart();
  const givenFlags = new Set<string>();
  for (let match = /^-(\S+)\s*/.exec(rest); flags.length > 0 && match !== null; match = /^-(\S+)\s*/.exec(rest)) {
    const flag = match[1]!;
    if (!flags.includes(flag)) throw new HmpUsageError(`${name}: unsupported option -${flag}`);
    givenFlags.add(flag);
    rest = rest.slice(match[0].length);
  }
  const values: Record<string, string> = {};
  for (const argument of expected) {
    if (rest === "" && argument.optional) break;
    if (argument.kind === "rest") {
      if (rest.trim() === "") throw new HmpUsageError(`${name}: string expected`);
      values[argument.name] = rest.trimEnd();
      rest = "";
      continue;
    }
    const match = QUOTED.exec(rest);
    if (match === null && rest.startsWith('"')) throw new HmpUsageError("unterminated string");
    const taken = match ?? WORD.exec(rest);
    if (argument.kind === "switch" && taken?.[1] !== "on" && taken?.[1] !== "off") {
      throw new HmpUsageError("Expected 'on' or 'off'");
    }
    if (taken === null) throw new HmpUsageError(`${name}: string expected`);
    values[argument.name] = match === null ? taken[1]! : unescapeWord(taken[1]!);
    rest = rest.slice(taken[0].length);
  }
  if (rest !== "") throw new HmpUsageError(`${name}: extraneous characters at the end of line`);
  return { flags: givenFlags, values };
}

function unescapeWord(text: string): string {
  return text.replace(/\\(.)/gs, (_, character: string) => ESCAPES[character] ?? character);
}
