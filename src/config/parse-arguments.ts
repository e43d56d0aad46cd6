// SPDX-License-Identifier: Apache-2.0
// The command line, taken apart into options. What they mean is for `interpret.ts`.
import { readFileSync } from "node:fs";
import { configOptions } from "./config-options.ts";
import { FOREIGN_OPTIONS, findOption, optionNames, type RawOption } from "./options.ts";
import { parseJsonObject, shorten } from "./qemu-options.ts";
import { didYouMean } from "./suggest.ts";
import { UsageError } from "./usage.ts";

export interface ParsedArguments {
  /** In the order given, those of `--config` files in their places. */
  options: RawOption[];
  /** What to print instead of running a VM. The rest of the command line was not read. */
  show?: "help" | "version";
}

/**
 * Splits `argv` (without the program's name) into options. `-x` and `--x` are the same.
 *
 * @throws UsageError for an unknown option, a missing value, an argument that is no option, an unreadable `--config`.
 * @example
 * const { options } = parseArguments(["-m", "1G", "--smp", "2"]);
 * const spec = resolveOptions(options);
 */
export function parseArguments(
  argv: readonly string[],
  readFile: (path: string) => string = (path) => readFileSync(path, "utf8"),
): ParsedArguments {
  const options: RawOption[] = [];
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index]!;
    if (!argument.startsWith("-") || argument === "-") refuseArgument(argument);
    const definition = findOption(argument.slice(argument.startsWith("--") ? 2 : 1));
    if (definition === undefined) refuseOption(argument);
    const { flag } = definition;
    if (flag === "help" || flag === "version") return { options, show: flag };
    if (definition.argument === undefined) {
      if (flag !== "config") options.push({ flag, value: true, origin: argument });
      continue;
    }
    index++;
    const value = argv[index];
    if (value === undefined) throw new UsageError(`${argument}: Requires an argument: ${definition.argument}`);
    if (flag === "config") options.push(...readConfig(value, readFile));
    else options.push({ flag, value, origin: shorten(`${argument} ${value}`) });
  }
  return { options };
}

function readConfig(path: string, readFile: (path: string) => string): RawOption[] {
  let text: string;
  try {
    text = readFile(path);
  } catch (cause) {
    throw new UsageError(`--config ${shorten(path)}: Cannot read the file`, { cause });
  }
  return configOptions(parseJsonObject(text, shorten(path)), shorten(path));
}

function refuseArgument(argument: string): never {
  const hint = findOption(argument) === undefined ? "" : ` (did you mean '-${argument}'?)`;
  throw new UsageError(`Unexpected argument '${shorten(argument)}'${hint}: options start with a dash`);
}

function refuseOption(argument: string): never {
  const name = argument.replace(/^--?/, "");
  const equals = name.indexOf("=");
  const hint = Object.hasOwn(FOREIGN_OPTIONS, name) ? `: ${FOREIGN_OPTIONS[name]}` : undefined;
  if (hint === undefined && equals > 0 && findOption(name.slice(0, equals)) !== undefined) {
    const value = name.slice(equals + 1);
    throw new UsageError(
      `${shorten(argument)}: Write the value as an argument of its own: -${name.slice(0, equals)} ${shorten(value)}`,
    );
  }
  throw new UsageError(`${shorten(argument)}: Invalid option${hint ?? didYouMean(name, optionNames())}`);
}
