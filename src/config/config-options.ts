// SPDX-License-Identifier: Apache-2.0
// The JSON form of a configuration, taken apart into the options it stands for.
import { findOption, OPTIONS, type RawOption } from "./options.ts";
import { describeValue, shorten } from "./qemu-options.ts";
import { didYouMean } from "./suggest.ts";
import { UsageError } from "./usage.ts";
import type { VmConfig } from "./vm-config.ts";

/**
 * The options of `config`, in the order of its keys. `source` names it in messages: a file, or what a program calls it.
 *
 * @throws UsageError for unknown keys and for values of a wrong kind.
 */
export function configOptions(config: VmConfig, source = "configuration"): RawOption[] {
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new UsageError(`${source}: Expected an object whose keys are option names`);
  }
  return Object.entries(config).flatMap(([key, value]) => readKey(key, value, source));
}

function readKey(key: string, value: unknown, source: string): RawOption[] {
  const option = OPTIONS.find(({ flag }) => flag === key);
  const origin = `${source}: ${shorten(key)}`;
  const keys = OPTIONS.map(({ flag }) => flag).filter((flag) => !isCommand(flag));
  if (option === undefined || isCommand(option.flag)) {
    throw new UsageError(`${source}: Invalid option '${shorten(key)}'${suggestKey(key, keys)}`);
  }
  const { flag } = option;
  if (value === undefined || isCommand(flag)) return [];
  if (option.argument === undefined) {
    if (typeof value !== "boolean")
      throw new UsageError(`${origin}: Expected true or false, got ${describeValue(value)}`);
    return value ? [{ flag, value: true, origin }] : [];
  }
  if (!Array.isArray(value)) return [{ flag, value: readValue(value, origin), origin }];
  if (option.repeat === "replace") throw new UsageError(`${origin}: Expected one value, got a list`);
  return value.map((each, index) => {
    const place = `${origin}[${index}]`;
    return { flag, value: readValue(each, place), origin: place };
  });
}

/** Options of the command line that configure no VM. */
function isCommand(flag: string): flag is "config" | "help" | "version" {
  return flag === "config" || flag === "help" || flag === "version";
}

function suggestKey(key: string, keys: readonly string[]): string {
  const long = findOption(key)?.flag;
  return long === undefined || isCommand(long) ? didYouMean(key, keys) : ` (did you mean '${long}'?)`;
}

function readValue(value: unknown, origin: string): string | Readonly<Record<string, unknown>> {
  if (typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new UsageError(`${origin}: Expected text, a number or an object, got ${describeValue(value)}`);
}
