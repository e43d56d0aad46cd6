// SPDX-License-Identifier: Apache-2.0
// Builds one JSON value from its tokens, as they come.

/** A token that the value cannot have here; the message is the part after `JSON parse error, `. */
export class JsonSyntaxError extends Error {}

export type JsonToken = "{" | "}" | "[" | "]" | ":" | "," | "string" | "scalar";

type Frame = { object: Record<string, unknown>; key: string } | { array: unknown[] };

/** What the value may go on with. */
type Expectation = "value" | "value or ]" | "key" | "key or }" | "colon" | "comma or end";

const ESCAPES: Readonly<Record<string, string>> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const PLAIN_ESCAPES = "\"'\\/";

export class JsonBuilder {
  readonly #frames: Frame[] = [];
  #expected: Expectation = "value";

  /** Open brackets. */
  get depth(): number {
    return this.#frames.length;
  }

  reset(): void {
    this.#frames.length = 0;
    this.#expected = "value";
  }

  /** Throws unless `token` may come next: the check comes before the text of a string is even looked at. */
  expect(token: JsonToken): void {
    const startsValue = token === "{" || token === "[" || token === "string" || token === "scalar";
    switch (this.#expected) {
      case "value or ]":
        if (startsValue || token === "]") return;
        throw new JsonSyntaxError("expecting value");
      case "value":
        if (startsValue) return;
        throw new JsonSyntaxError("expecting value");
      case "key or }":
        if (token === "string" || token === "}") return;
        throw new JsonSyntaxError("expecting key");
      case "key":
        if (token === "string") return;
        throw new JsonSyntaxError("expecting key");
      case "colon":
        if (token === ":") return;
        throw new JsonSyntaxError("expecting ':'");
      case "comma or end": {
        const end = "array" in this.#frames.at(-1)! ? "]" : "}";
        if (token === "," || token === end) return;
        throw new JsonSyntaxError(`expected ',' or '${end}'`);
      }
    }
  }

  /** Takes an expected `{`, `[`, `:` or `,`. */
  punctuate(token: "{" | "[" | ":" | ","): void {
    switch (token) {
      case "{":
        this.#frames.push({ object: {}, key: "" });
        this.#expected = "key or }";
        break;
      case "[":
        this.#frames.push({ array: [] });
        this.#expected = "value or ]";
        break;
      case ":":
        this.#expected = "value";
        break;
      case ",":
        this.#expected = "array" in this.#frames.at(-1)! ? "value" : "key";
        break;
    }
  }

  /** Takes an expected `}` or `]`; true if the whole value is complete, which is then in `result`. */
  close(): boolean {
    const frame = this.#frames.pop()!;
    return this.#put("array" in frame ? frame.array : frame.object);
  }

  /** Takes an expected string, number or keyword, as a key where a key belongs. */
  scalar(value: unknown): boolean {
    if (this.#expected === "key" || this.#expected === "key or }") {
      (this.#frames.at(-1) as { key: string }).key = value as string;
      this.#expected = "colon";
      return false;
    }
    return this.#put(value);
  }

  result: unknown;

  #put(value: unknown): boolean {
    const frame = this.#frames.at(-1);
    if (frame === undefined) {
      this.result = value;
      this.#expected = "value";
      return true;
    }
    this.#expected = "comma or end";
    if ("array" in frame) {
      frame.array.push(value);
    } else if (Object.hasOwn(frame.object, frame.key)) {
      throw new JsonSyntaxError("duplicate key");
    } else if (frame.key === "__proto__") {
      // Plain assignment would change the prototype of the object instead.
      Object.defineProperty(frame.object, frame.key, { value, enumerable: true, writable: true, configurable: true });
    } else {
      frame.object[frame.key] = value;
    }
    return false;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The string whose text, quotes not included, is `bytes`. */
export function decodeString(bytes: Uint8Array): string {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    throw new JsonSyntaxError("invalid UTF-8 sequence in string");
  }
  return text.includes("\\") ? unescapeString(text) : text;
}

function unescapeString(text: string): string {
  // A high surrogate is matched with all of what should be its other half.
  return text.replace(
    /\\(?:u([dD][89abAB]..\\u.{0,4}|.{0,4})|(.))/gsu,
    (whole, hex: string | undefined, plain: string) => {
      if (hex === undefined) {
        const character = PLAIN_ESCAPES.includes(plain) ? plain : ESCAPES[plain];
        if (character === undefined) throw new JsonSyntaxError("invalid escape sequence in string");
        return character;
      }
      const units = /^([0-9a-fA-F]{4})(?:\\u([0-9a-fA-F]{4}))?$/.exec(hex);
      const first = Number.parseInt(units?.[1] ?? "d800", 16);
      if (units?.[2] !== undefined) {
        const second = Number.parseInt(units[2], 16);
        if (second >= 0xdc00 && second <= 0xdfff) return String.fromCharCode(first, second);
      } else if (first < 0xd800 || first > 0xdfff) {
        return String.fromCharCode(first);
      }
      throw new JsonSyntaxError(`${whole.slice(0, 6)} is not a valid Unicode character`);
    },
  );
}

const NUMBER = /^-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/;

export function isNumber(text: string): boolean {
  return NUMBER.test(text);
}

/** The value of a number token. Integers of 64 bits keep all their digits, as `bigint` where `number` would not. */
export function decodeNumber(text: string): number | bigint {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new JsonSyntaxError("number out of range");
  const isInteger = /^[-0-9]*$/.test(text);
  if (!isInteger || Number.isSafeInteger(value)) return value === 0 ? 0 : value;
  const exact = BigInt(text);
  return exact >= -(2n ** 63n) && exact < 2n ** 64n ? exact : value;
}

export function decodeKeyword(text: string): boolean | null {
  switch (text) {
    case "true":
      return true;
    case "false":
      return false;
    case "null":
      return null;
    default:
      throw new JsonSyntaxError(`invalid keyword '${text.slice(0, 64)}'`);
  }
}
