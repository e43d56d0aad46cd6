// SPDX-License-Identifier: Apache-2.0
// Cuts a byte stream into JSON values. https://www.rfc-editor.org/rfc/rfc8259, with QEMU's extension: strings may have
// single quotes. Values need no separator; a number or keyword ends at the first byte that is not its own.
//
// After an error the stream finds its way back as QEMU's does:
//
//   good ──byte that no token has──▶ resync ──line end, bracket, comma, colon, 0xFE, 0xFF──▶ good
//   good ──token in a wrong place──▶ skip ──brackets balance again──▶ good
//
// so a client that has lost its bearings sends 0xFF and a line end.
import {
  decodeKeyword,
  decodeNumber,
  decodeString,
  isNumber,
  JsonBuilder,
  JsonSyntaxError,
  type JsonToken,
} from "./json-builder.ts";

export const MAX_VALUE_BYTES = 16 << 20;
export const MAX_DEPTH = 1024;
/** Bounds the memory of a value made of many small parts. */
export const MAX_TOKENS = 2 << 20;

/** The next thing in the stream: a value, or what is wrong with the input. */
export type JsonResult = { value: unknown } | { error: string };

/** A stream between two bytes, as plain JSON. `pending` (base64) has yet to be parsed; the rest says in which state. */
export interface JsonStreamState {
  pending: string;
  line: number;
  column: number;
  mode: "good" | "skip" | "resync";
  depth: number;
  quote: number;
  ended: boolean;
}

const QUOTE = 0x22;
const APOSTROPHE = 0x27;
const BACKSLASH = 0x5c;
const NEWLINE = 0x0a;
const STRAY_SHOWN_BYTES = 64;
const MAX_IDLE_BUFFER_BYTES = 1 << 20;

export class JsonStream {
  #buffer = new Uint8Array(0);
  /** Next byte to look at, and end of what has been fed. */
  #scan = 0;
  #end = 0;
  #line = 1;
  /** Where the current line begins, as an index of the buffer; negative if that byte is gone. */
  #lineStart = 0;
  #mode: JsonStreamState["mode"] = "good";
  /** Open brackets while skipping. */
  #skipDepth = 0;
  /** First byte of the token being read, -1 between tokens. */
  #tokenStart = -1;
  /** The quote of the string being read, else 0. */
  #quote = 0;
  #valueStart = -1;
  #valueLine = 1;
  #valueColumn = 1;
  #tokenCount = 0;
  #ended = false;
  readonly #builder = new JsonBuilder();

  constructor(state?: JsonStreamState) {
    if (state === undefined) return;
    this.feed(Uint8Array.fromBase64(state.pending));
    this.#line = state.line;
    this.#lineStart = 1 - state.column;
    this.#mode = state.mode;
    this.#skipDepth = state.depth;
    this.#quote = state.quote;
    this.#tokenStart = state.quote === 0 ? -1 : 0;
    this.#ended = state.ended;
  }

  /** How much has been fed and not looked at yet. */
  get unreadBytes(): number {
    return this.#end - this.#scan;
  }

  feed(bytes: Uint8Array): void {
    const keepFrom = this.#keepFrom();
    const kept = this.#end - keepFrom;
    // A huge value must not leave its buffer behind for the rest of the session.
    if (kept === 0 && this.#buffer.length > MAX_IDLE_BUFFER_BYTES) this.#buffer = new Uint8Array(0);
    if (this.#end + bytes.length > this.#buffer.length) {
      // Twice what is needed, so that each byte is copied a constant number of times however small the pieces are.
      const target =
        kept + bytes.length > this.#buffer.length / 2 ? new Uint8Array(2 * (kept + bytes.length)) : this.#buffer;
      target.set(this.#buffer.subarray(keepFrom, this.#end));
      this.#buffer = target;
      this.#shift(keepFrom);
    }
    this.#buffer.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** No more bytes will come: a last number or keyword is complete. */
  end(): void {
    this.#ended = true;
  }

  /** The next value or error, undefined if that takes more bytes. */
  next(): JsonResult | undefined {
    for (;;) {
      if (this.#mode === "resync" && !this.#resync()) return undefined;
      if (this.#tokenStart < 0 && !this.#startToken()) return this.#endOfInput();
      const wasSkipping = this.#mode === "skip";
      try {
        const complete = this.#readToken();
        if (complete === undefined) return this.#starved();
        if (complete) {
          const value = this.#builder.result;
          this.#builder.result = undefined;
          return { value };
        }
      } catch (error) {
        if (!(error instanceof JsonSyntaxError)) throw error;
        // While skipping, the client has been told already.
        if (!wasSkipping) return { error: error.message };
      }
    }
  }

  save(): JsonStreamState {
    const inValue = this.#valueStart >= 0;
    const from = this.#keepFrom();
    return {
      pending: this.#buffer.subarray(from, this.#end).toBase64(),
      line: inValue ? this.#valueLine : this.#line,
      column: inValue ? this.#valueColumn : from - this.#lineStart + 1,
      mode: this.#mode,
      depth: this.#skipDepth,
      quote: inValue ? 0 : this.#quote,
      ended: this.#ended,
    };
  }

  /** From here on bytes may still be needed: a value is parsed again from its start after a restore. */
  #keepFrom(): number {
    return this.#valueStart >= 0 ? this.#valueStart : this.#scan;
  }

  #shift(by: number): void {
    this.#scan -= by;
    this.#end -= by;
    this.#lineStart -= by;
    if (this.#valueStart >= 0) this.#valueStart -= by;
    if (this.#tokenStart >= 0) this.#tokenStart = Math.max(0, this.#tokenStart - by);
  }

  #resync(): boolean {
    const buffer = this.#buffer;
    for (; this.#scan < this.#end; this.#scan++) {
      const byte = buffer[this.#scan]!;
      if ((byte < 0x20 && byte !== 0x09) || byte >= 0xfe || isPunctuation(byte)) {
        this.#mode = "good";
        return true;
      }
    }
    return false;
  }

  /** Goes to the next token; false if there is none yet. */
  #startToken(): boolean {
    const buffer = this.#buffer;
    for (; this.#scan < this.#end; this.#scan++) {
      const byte = buffer[this.#scan]!;
      if (byte === NEWLINE) {
        this.#line++;
        this.#lineStart = this.#scan + 1;
      } else if (byte !== 0x20 && byte !== 0x0d && byte !== 0x09) {
        this.#tokenStart = this.#scan;
        if (this.#mode === "good" && this.#valueStart < 0) {
          this.#valueStart = this.#scan;
          this.#valueLine = this.#line;
          this.#valueColumn = this.#scan - this.#lineStart + 1;
        }
        return true;
      }
    }
    return false;
  }

  /** Reads on in the current token. True: the value is complete; undefined: the token is not. */
  #readToken(): boolean | undefined {
    const start = this.#tokenStart;
    const first = this.#quote === 0 ? this.#buffer[start]! : this.#quote;
    if (isPunctuation(first)) {
      this.#scan++;
      return this.#punctuation(String.fromCharCode(first) as "{" | "}" | "[" | "]" | ":" | ",");
    }
    if (first === QUOTE || first === APOSTROPHE) {
      if (!this.#scanString(first)) return undefined;
      return this.#scalar("string", () => decodeString(this.#buffer.subarray(start + 1, this.#scan - 1)));
    }
    if (this.#mode === "skip" && isScalarByte(first)) {
      // Wherever the input is cut, what is left of a number or keyword is skipped as well.
      return this.#scanRun(isScalarByte) ? this.#skipped(false) : undefined;
    }
    if (isDigit(first) || first === 0x2d) {
      if (!this.#scanRun(isNumberByte)) return undefined;
      const text = this.#text(start, this.#scan);
      if (!isNumber(text)) throw this.#stray();
      return this.#scalar("scalar", () => decodeNumber(text));
    }
    if (isLowercase(first)) {
      if (!this.#scanRun(isLowercase)) return undefined;
      return this.#scalar("scalar", () => decodeKeyword(this.#text(start, this.#scan)));
    }
    this.#scan++;
    throw this.#stray();
  }

  #scanString(quote: number): boolean {
    const buffer = this.#buffer;
    const end = this.#end;
    let at = this.#scan;
    if (this.#quote === 0) {
      this.#quote = quote;
      at++;
    }
    while (at < end) {
      const byte = buffer[at]!;
      if (byte === quote) {
        this.#scan = at + 1;
        this.#quote = 0;
        return true;
      }
      if (byte === BACKSLASH) {
        // A backslash at the end is looked at again together with what it escapes.
        if (at + 1 === end) break;
        at++;
      }
      const character = buffer[at]!;
      at++;
      if (character < 0x20 || character >= 0xfe) {
        this.#scan = at;
        throw this.#stray();
      }
    }
    this.#scan = at;
    return false;
  }

  #scanRun(belongs: (byte: number) => boolean): boolean {
    while (this.#scan < this.#end) {
      if (!belongs(this.#buffer[this.#scan]!)) return true;
      this.#scan++;
    }
    return this.#ended;
  }

  #punctuation(token: "{" | "}" | "[" | "]" | ":" | ","): boolean {
    const isOpening = token === "{" || token === "[";
    if (this.#mode === "skip") {
      if (isOpening) this.#skipDepth++;
      return this.#skipped(token === "}" || token === "]");
    }
    this.#checkLimits();
    if (isOpening && this.#builder.depth >= MAX_DEPTH) {
      throw this.#startSkipping(MAX_DEPTH + 1, "JSON nesting depth limit exceeded");
    }
    return this.#build(token, () => {
      if (token === "}" || token === "]") return this.#builder.close();
      this.#builder.punctuate(token);
      return false;
    });
  }

  #scalar(token: "string" | "scalar", decode: () => unknown): boolean {
    if (this.#mode === "skip") return this.#skipped(false);
    this.#checkLimits();
    return this.#build(token, () => this.#builder.scalar(decode()));
  }

  #build(token: JsonToken, take: () => boolean): boolean {
    const depth = this.#builder.depth;
    try {
      this.#builder.expect(token);
      const complete = take();
      this.#tokenStart = -1;
      if (complete) this.#endValue();
      return complete;
    } catch (error) {
      if (!(error instanceof JsonSyntaxError)) throw error;
      const opened = token === "{" || token === "[" ? 1 : token === "}" || token === "]" ? -1 : 0;
      throw this.#startSkipping(depth + opened, this.#describe(error.message));
    }
  }

  #skipped(closing: boolean): false {
    this.#tokenStart = -1;
    if (closing) this.#skipDepth--;
    if (this.#skipDepth <= 0) this.#mode = "good";
    return false;
  }

  #checkLimits(): void {
    const depth = this.#builder.depth;
    if (this.#scan - this.#valueStart > MAX_VALUE_BYTES) {
      throw this.#startSkipping(depth, "JSON token size limit exceeded");
    }
    if (++this.#tokenCount > MAX_TOKENS) throw this.#startSkipping(depth, "JSON token count limit exceeded");
  }

  /** What `next` answers when a token is cut off; a token that would exceed the limit is not waited for. */
  #starved(): JsonResult | undefined {
    const isTooLong = this.#mode === "good" && this.#end - this.#valueStart > MAX_VALUE_BYTES;
    const { message } = isTooLong
      ? this.#startSkipping(this.#builder.depth, "JSON token size limit exceeded")
      : { message: undefined };
    if (this.#mode !== "good" || isTooLong) {
      // The rest of a string is still to come and is skipped as such; of a number or keyword nothing need be kept.
      this.#tokenStart = this.#quote === 0 ? -1 : this.#scan;
      this.#mode = this.#quote === 0 && this.#skipDepth === 0 ? "resync" : "skip";
    }
    return message === undefined ? this.#endOfInput() : { error: message };
  }

  #endOfInput(): JsonResult | undefined {
    if (!this.#ended || this.#valueStart < 0) return undefined;
    const error = this.#describe("premature end of input", this.#scan);
    this.#startSkipping(0, error);
    this.#quote = 0;
    return { error };
  }

  #endValue(): void {
    this.#valueStart = -1;
    this.#tokenCount = 0;
  }

  #startSkipping(depth: number, message: string): JsonSyntaxError {
    this.#endValue();
    this.#tokenStart = -1;
    this.#builder.reset();
    this.#skipDepth = depth;
    this.#mode = depth > 0 ? "skip" : "good";
    return new JsonSyntaxError(message);
  }

  /** The token up to `#scan` cannot be. */
  #stray(): JsonSyntaxError {
    const start = this.#tokenStart;
    const shown = lossy.decode(this.#buffer.subarray(start, Math.min(this.#scan, start + STRAY_SHOWN_BYTES)));
    const message = this.#describe(`stray '${shown}'`);
    this.#startSkipping(0, message);
    this.#quote = 0;
    if (this.#buffer[this.#scan - 1] === NEWLINE) {
      this.#scan--;
    } else {
      this.#mode = "resync";
    }
    return new JsonSyntaxError(message);
  }

  #describe(message: string, at = this.#tokenStart): string {
    return `${this.#line}:${at - this.#lineStart + 1}: JSON parse error, ${message}`;
  }

  #text(from: number, to: number): string {
    return lossy.decode(this.#buffer.subarray(from, to));
  }
}

const lossy = new TextDecoder("utf-8", { ignoreBOM: true });

function isPunctuation(byte: number): boolean {
  return byte === 0x7b || byte === 0x7d || byte === 0x5b || byte === 0x5d || byte === 0x3a || byte === 0x2c;
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

function isLowercase(byte: number): boolean {
  return byte >= 0x61 && byte <= 0x7a;
}

function isScalarByte(byte: number): boolean {
  return isNumberByte(byte) || isLowercase(byte);
}

function isNumberByte(byte: number): boolean {
  return isDigit(byte) || byte === 0x2d || byte === 0x2b || byte === 0x2e || byte === 0x65 || byte === 0x45;
}
