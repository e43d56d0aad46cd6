// SPDX-License-Identifier: Apache-2.0
// Checks a value from a client against a schema type, with QEMU's error texts.
import { QmpError } from "../errors.ts";
import type { BuiltinType, EnumType, Members, ObjectType, Static, Type } from "./types.ts";

export interface CheckOptions {
  /** The value comes from `key=value` text, where numbers and booleans are strings. */
  keyval?: boolean;
}

/**
 * Returns `value` as `type` describes it, in fresh objects that hold nothing but members of the schema; throws a
 * `QmpError` that names the first member at fault. `name` is what the value itself is called, if it has a name.
 */
export function check<T extends Type>(type: T, value: unknown, name = "", options: CheckOptions = {}): Static<T> {
  return checkValue(type, value, name, options) as Static<T>;
}

function checkValue(type: Type, value: unknown, path: string, options: CheckOptions): unknown {
  switch (type.meta) {
    case "builtin":
      return checkBuiltin(type, value, path, options);
    case "enum":
      return checkEnum(type, value, path);
    case "array":
      if (!Array.isArray(value)) throw wrongType(path, "array");
      return value.map((element, index) => checkValue(type.element, element, `${path}[${index}]`, options));
    case "object":
      return checkObject(type, value, path, options);
  }
}

const MAX_INT64 = 2n ** 63n - 1n;
const MIN_INT64 = -(2n ** 63n);
const MAX_UINT64 = 2n ** 64n - 1n;

function checkBuiltin(type: BuiltinType, value: unknown, path: string, options: CheckOptions): unknown {
  switch (type.name) {
    case "any":
      return value;
    case "str":
      if (typeof value !== "string") throw wrongType(path, "string");
      return value;
    case "bool":
      if (options.keyval && (value === "on" || value === "off")) return value === "on";
      if (typeof value !== "boolean") throw wrongType(path, "boolean");
      return value;
    case "number":
      if (typeof value === "bigint") return Number(value);
      if (typeof value !== "number") throw wrongType(path, "number");
      return value;
    case "int":
      return checkInteger(type, value, path, options);
  }
}

function checkInteger(type: BuiltinType, value: unknown, path: string, options: CheckOptions): number | bigint {
  const parsed = options.keyval && typeof value === "string" && /^-?\d+$/.test(value) ? BigInt(value) : value;
  const isInteger = typeof parsed === "bigint" || (typeof parsed === "number" && Number.isInteger(parsed));
  if (!isInteger) throw wrongType(path, "integer");
  const [least, most] = type.unsigned ? [0n, MAX_UINT64] : [MIN_INT64, MAX_INT64];
  const exact = BigInt(parsed as number | bigint);
  if (exact < least || exact > most) {
    throw new QmpError(`Parameter '${path}' expects ${type.unsigned ? "uint64" : "int64"}`);
  }
  return Number.isSafeInteger(Number(exact)) ? Number(exact) : exact;
}

function checkEnum(type: EnumType, value: unknown, path: string): string {
  if (typeof value !== "string") throw wrongType(path, "string");
  if (!type.values.includes(value)) {
    // As in QEMU only the last name of the path is given here.
    throw new QmpError(`Parameter '${path.slice(path.lastIndexOf(".") + 1)}' does not accept value '${value}'`);
  }
  return value;
}

function checkObject(type: ObjectType, value: unknown, path: string, options: CheckOptions): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrongType(path, "object");
  const given = value as Record<string, unknown>;
  const result: Record<string, unknown> = {};
  let level: ObjectType | undefined = type;
  while (level !== undefined) {
    checkMembers(level.members, given, result, path, options);
    level = level.tag === undefined ? undefined : level.variants?.[result[level.tag] as string];
  }
  for (const key of Object.keys(given)) {
    if (!Object.hasOwn(result, key)) throw new QmpError(`Parameter '${join(path, key)}' is unexpected`);
  }
  return result;
}

function checkMembers(
  members: Members,
  given: Record<string, unknown>,
  result: Record<string, unknown>,
  path: string,
  options: CheckOptions,
): void {
  for (const [key, member] of Object.entries(members)) {
    if (Object.hasOwn(given, key)) {
      const type = member.meta === "optional" ? member.type : member;
      result[key] = checkValue(type, given[key], join(path, key), options);
    } else if (member.meta !== "optional") {
      throw new QmpError(`Parameter '${join(path, key)}' is missing`);
    }
  }
}

function join(path: string, key: string): string {
  return path === "" ? key : `${path}.${key}`;
}

function wrongType(path: string, expected: string): QmpError {
  return new QmpError(`Invalid parameter type for '${path}', expected: ${expected}`);
}
