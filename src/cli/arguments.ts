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
