// SPDX-License-Identifier: Apache-2.0
// QEMU's option strings, `kvm,share=on,path=a,,b`: how they split into properties and how a property is read.
import { didYouMean } from "./suggest.ts";
import { UsageError } from "./usage.ts";

/** One property as written. `bare` is the short form without `=`: `server` for `server=on`, `nowait` for `wait=off`. */
export interface Property {
  name: string;
  value: unknown;
  bare: boolean;
}

/** `text`, cut to what fits in an error message. */
export function shorten(text: string, limit = 120): string {
  return text.length <= limit ? text : `${text.slice(0, limit)}…`;
}

/** A property's value for a message. */
export function describeValue(value: unknown): string {
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "a list" : "an object";
  return `'${shorten(String(value))}'`;
}

/** Reads up to the next single comma; `,,` stands for a comma. */
function readValue(text: string, start: number): { value: string; next: number } {
  let value = "";
  let index = start;
  while (index < text.length) {
    if (text[index] === ",") {
      if (text[index + 1] !== ",") break;
      index++;
    }
    value += text[index];
    index++;
  }
  return { value, next: index + 1 };
}

/**
 * Splits an option string into properties, in order. The first one may leave out its name when there is an
 * `impliedKey`.
 *
 * @example
 * parseOptionString("memory-backend-memfd,id=ram0,share", "qom-type")
 * // qom-type=memory-backend-memfd, id=ram0, share (bare)
 */
export function parseOptionString(text: string, impliedKey?: string): Property[] {
  const properties: Property[] = [];
  let index = 0;
  while (index < text.length) {
    const comma = text.indexOf(",", index);
    const equals = text.indexOf("=", index);
    if (equals >= 0 && (comma < 0 || equals < comma)) {
      const { value, next } = readValue(text, equals + 1);
      properties.push({ name: text.slice(index, equals), value, bare: false });
      index = next;
    } else if (index === 0 && impliedKey !== undefined) {
      const { value, next } = readValue(text, 0);
      properties.push({ name: impliedKey, value, bare: false });
      index = next;
    } else {
      const end = comma < 0 ? text.length : comma;
      properties.push({ name: text.slice(index, end), value: true, bare: true });
      index = end + 1;
    }
  }
  return properties;
}

/** The object that `json` spells; a `UsageError` when it is not JSON. `json` starts with `{`. */
export function parseJsonObject(json: string, origin: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(json) as Readonly<Record<string, unknown>>;
  } catch (cause) {
    throw new UsageError(`${origin}: JSON parse error`, { cause });
  }
}

const SUFFIXES = "BKMGTPE";

/**
 * A size in bytes as QEMU reads it: decimal, with an optional fraction and one of the suffixes `B k M G T P E` (powers
 * of 1024), or hexadecimal without suffix. `undefined` when `text` is no such size or exceeds 2^53 bytes.
 *
 * @example
 * parseSize("1.5G") // 1610612736
 * parseSize("512", 1024 * 1024) // 536870912: a number without suffix counts in `unitBytes`
 */
export function parseSize(text: string, unitBytes = 1): number | undefined {
  if (/^0x[0-9a-f]+$/i.test(text)) {
    const sizeBytes = Number(text) * unitBytes;
    return Number.isSafeInteger(sizeBytes) ? sizeBytes : undefined;
  }
  const match = /^(\d+(?:\.\d*)?|\.\d+)([bkmgtpe]?)$/i.exec(text);
  if (match === null) return undefined;
  const factor = match[2] === "" ? unitBytes : 1024 ** SUFFIXES.indexOf(match[2]!.toUpperCase());
  const size = Number(match[1]) * factor;
  if (factor === 1 && !Number.isInteger(size)) return undefined;
  return size <= Number.MAX_SAFE_INTEGER ? Math.round(size) : undefined;
}

/** `134217728` as `128 MiB`: the largest unit that divides it. */
export function formatSize(sizeBytes: number): string {
  for (const [unit, bytes] of [["GiB", 1024 ** 3] as const, ["MiB", 1024 ** 2] as const, ["KiB", 1024] as const]) {
    if (sizeBytes >= bytes && sizeBytes % bytes === 0) return `${sizeBytes / bytes} ${unit}`;
  }
  return `${sizeBytes} bytes`;
}

/** `on`/`off` and the other words QEMU takes for them; `undefined` for anything else. */
export function parseSwitch(value: unknown): boolean | undefined {
  switch (value) {
    case true:
    case "on":
    case "yes":
    case "true":
    case "y":
      return true;
    case false:
    case "off":
    case "no":
    case "false":
    case "n":
      return false;
    default:
      return undefined;
  }
}

/**
 * The properties of one option, read one by one; `refuseOthers()` then names the first that nobody read. So what is
 * accepted is exactly what is honoured. A property given twice counts as its last value, but each must be valid.
 */
export class Properties {
  /** What the user wrote, for messages: `-chardev null,id=a`. */
  readonly origin: string;
  readonly #properties: readonly Property[];
  readonly #accepted = new Set<string>();
  readonly #switches = new Set<string>();

  constructor(origin: string, properties: readonly Property[]) {
    this.origin = origin;
    this.#properties = properties;
  }

  fail(text: string, options?: { cause?: unknown }): never {
    throw new UsageError(`${this.origin}: ${text}`, options);
  }

  #take<T>(name: string, read: (property: Property) => T): T | undefined {
    this.#accepted.add(name);
    let result: T | undefined;
    for (const property of this.#properties) if (property.name === name) result = read(property);
    return result;
  }

  /** Any text, also the empty one; numbers of a JSON form count as their decimal text. */
  text(name: string): string | undefined {
    return this.#take(name, ({ value, bare }) => {
      if (bare) this.fail(`Parameter '${name}' needs a value: ${name}=…`);
      if (typeof value !== "string" && typeof value !== "number") this.fail(`Parameter '${name}' expects a string`);
      return String(value);
    });
  }

  /** Text that may be absent but not empty: paths, hosts, names. */
  nonEmpty(name: string): string | undefined {
    const value = this.text(name);
    if (value === "") this.fail(`Parameter '${name}' must not be empty`);
    return value;
  }

  /** An id as QEMU wants them: it starts with a letter and has letters, digits, `-`, `.` and `_` only. */
  identifier(name: string): string | undefined {
    const value = this.text(name);
    if (value !== undefined && !/^[A-Za-z][A-Za-z0-9._-]*$/.test(value)) {
      this.fail(
        `Parameter '${name}' expects an identifier, got '${shorten(value)}' (it starts with a letter and consists of ` +
          "letters, digits, '-', '.' and '_')",
      );
    }
    return value;
  }

  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const value = this.text(name);
    if (value === undefined || choices.includes(value as T)) return value as T | undefined;
    this.fail(
      `Parameter '${name}' does not accept value '${shorten(value)}'${didYouMean(value, choices)}; ` +
        `accepted: ${choices.join(", ")}`,
    );
  }

  switch(name: string): boolean | undefined {
    this.#switches.add(`no${name}`);
    this.#switches.add(name);
    let result: boolean | undefined;
    for (const property of this.#properties) {
      if (property.bare && property.name === `no${name}`) result = false;
      if (property.name !== name) continue;
      result = parseSwitch(property.value);
      if (result === undefined) {
        this.fail(`Parameter '${name}' expects 'on' or 'off', got ${describeValue(property.value)}`);
      }
    }
    this.#accepted.add(name);
    return result;
  }

  /** A switch QEMU has and Baton lacks: `off` is accepted, `on` is refused because of `reason`. */
  mustBeOff(name: string, reason: string): void {
    if (this.switch(name) === true) this.fail(`Parameter '${name}' must be off: ${reason}`);
  }

  integer(name: string, minimum: number, maximum: number): number | undefined {
    return this.#take(name, ({ value, bare }) => {
      const isNumber = !bare && typeof value !== "object" && /^(\d+|0x[0-9a-f]+)$/i.test(String(value));
      const number = isNumber ? Number(value) : Number.NaN;
      if (number >= minimum && number <= maximum) return number;
      const range = maximum === Number.MAX_SAFE_INTEGER ? `of at least ${minimum}` : `from ${minimum} to ${maximum}`;
      this.fail(`Parameter '${name}' expects a number ${range}, got ${describeValue(value)}`);
    });
  }

  /** A size in bytes; a number without suffix counts in `unitBytes`. */
  size(name: string, unitBytes = 1): number | undefined {
    return this.#take(name, ({ value, bare }) => {
      const sizeBytes = bare || typeof value === "object" ? undefined : parseSize(String(value), unitBytes);
      if (sizeBytes !== undefined) return sizeBytes;
      this.fail(
        `Parameter '${name}' expects a size such as 512M or 1.5G (suffixes k, M, G, T), got ${describeValue(value)}`,
      );
    });
  }

  /** All properties nobody has read so far, which then count as read. */
  rest(): Property[] {
    const others = this.#properties.filter((property) => !this.#isRead(property));
    for (const { name } of others) this.#accepted.add(name);
    return others;
  }

  #isRead({ name, bare }: Property): boolean {
    return this.#accepted.has(name) || (bare && this.#switches.has(name));
  }

  /** Refuses the first property that was not read, `hints` telling why QEMU knows it and Baton does not. */
  refuseOthers(hints: Readonly<Record<string, string>> = {}): void {
    const other = this.#properties.find((property) => !this.#isRead(property));
    if (other === undefined) return;
    const name = shorten(other.name);
    if (Object.hasOwn(hints, other.name)) this.fail(`Parameter '${name}' is not supported: ${hints[other.name]}`);
    const accepted = [...this.#accepted];
    const list = accepted.length === 0 ? "" : `; accepted: ${accepted.join(", ")}`;
    this.fail(`Invalid parameter '${name}'${didYouMean(other.name, accepted)}${list}`);
  }
}
