// SPDX-License-Identifier: Apache-2.0
// The command line of a verb.
import { type ParseArgsConfig, type ParseArgsOptionsConfig, parseArgs } from "node:util";
import { UsageError } from "../config/usage.ts";

/** What every verb takes. */
const HELP = { help: { type: "boolean", short: "h", default: false } } as const;

/** `parseArgs` of node:util, with `--help`. @throws UsageError in one sentence that begins with the verb */
export function parseVerbArguments<T extends ParseArgsOptionsConfig>(
  verb: string,
  args: readonly string[],
  options: T,
  { allowPositionals = false }: Pick<ParseArgsConfig, "allowPositionals"> = {},
) {
  try {
    return parseArgs({ args: [...args], allowPositionals, options: { ...options, ...HELP } });
  } catch (error) {
    throw new UsageError(`${verb}: ${(error as Error).message.split(". ")[0]}`);
  }
}

/** The value of `--option`, a whole number. @throws UsageError */
export function parseNumber(
  verb: string,
  option: string,
  text: string,
  { least, most }: { least: number; most: number },
): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new UsageError(`${verb}: --${option} ${text}: not a whole number from ${least} to ${most}`);
}

const MAX_TIMEOUT_SECONDS = 86_400;

/** The value of `--timeout` in ms. @throws UsageError */
export function parseTimeout(verb: string, text: string): number {
  const seconds = Number(text);
  if (seconds > 0 && seconds <= MAX_TIMEOUT_SECONDS) return seconds * 1000;
  throw new UsageError(`${verb}: --timeout ${text}: not a number of seconds up to ${MAX_TIMEOUT_SECONDS}`);
}
