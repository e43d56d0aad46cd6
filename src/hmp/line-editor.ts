// SPDX-License-Identifier: Apache-2.0
// The line editor of the human monitor: a raw terminal's bytes in, lines and echo out.

/** An edited line, as plain JSON. `line` is base64, since a character may have arrived in part. */
export interface LineEditorState {
  line: string;
  history: string[];
  shown: number;
  sequence: Sequence;
  afterReturn: boolean;
  isTooLong: boolean;
}

/** Where in an escape sequence: nowhere, after ESC, or after its introducer. */
type Sequence = "" | "escape" | "control";

/** What a byte did: bytes to show, and the line if it is complete. */
export interface LineEdit {
  echo: Uint8Array;
  line?: string;
}

export const MAX_LINE_BYTES = 64 << 10;
const MAX_HISTORY_LINES = 64;

const CTRL_C = 0x03;
const BACKSPACE = 0x08;
const NEWLINE = 0x0a;
const RETURN = 0x0d;
const CTRL_U = 0x15;
const ESCAPE = 0x1b;
const DELETE = 0x7f;
const BELL = "\x07";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class LineEditor {
  readonly #prompt: string;
  #line: number[];
  readonly #history: string[];
  /** The line of the history that is shown, counted from its end; 0 is the line being written. */
  #shown: number;
  #sequence: Sequence;
  #afterReturn: boolean;
  #isTooLong: boolean;

  constructor(prompt: string, state?: LineEditorState) {
    this.#prompt = prompt;
    this.#line = state === undefined ? [] : [...Uint8Array.fromBase64(state.line)];
    this.#history = state?.history ?? [];
    this.#shown = state?.shown ?? 0;
    this.#sequence = state?.sequence ?? "";
    this.#afterReturn = state?.afterReturn ?? false;
    this.#isTooLong = state?.isTooLong ?? false;
  }

  save(): LineEditorState {
    return {
      line: Uint8Array.from(this.#line).toBase64(),
      history: [...this.#history],
      shown: this.#shown,
      sequence: this.#sequence,
      afterReturn: this.#afterReturn,
      isTooLong: this.#isTooLong,
    };
  }

  /** The prompt and the line as far as it is written. */
  redraw(): string {
    return this.#prompt + this.#text();
  }

  feed(byte: number): LineEdit {
    const afterReturn = this.#afterReturn;
    this.#afterReturn = byte === RETURN;
    if (this.#sequence !== "") return show(this.#continueSequence(byte));
    switch (byte) {
      case NEWLINE:
        // The second half of CR LF.
        return afterReturn ? show("") : this.#enter();
      case RETURN:
        return this.#enter();
      case BACKSPACE:
      case DELETE:
        return show(this.#erase());
      case CTRL_C:
        this.#replace([]);
        return show(`^C\r\n${this.#prompt}`);
      case CTRL_U:
        return show(this.#replace([]));
      case ESCAPE:
        this.#sequence = "escape";
        return show("");
      default:
        return this.#insert(byte);
    }
  }

  #insert(byte: number): LineEdit {
    if (byte < 0x20) return show("");
    if (this.#line.length >= MAX_LINE_BYTES) {
      this.#isTooLong = true;
      return show(BELL);
    }
    this.#line.push(byte);
    return { echo: Uint8Array.of(byte) };
  }

  #enter(): LineEdit {
    const line = this.#text();
    const isTooLong = this.#isTooLong;
    this.#line = [];
    this.#shown = 0;
    this.#isTooLong = false;
    // A part of a command may mean something else than the whole.
    if (isTooLong) return show(`\r\nline too long\r\n${this.#prompt}`);
    if (line.trim() !== "" && line !== this.#history.at(-1)) this.#history.push(line);
    if (this.#history.length > MAX_HISTORY_LINES) this.#history.shift();
    return { echo: encoder.encode("\r\n"), line };
  }

  #erase(): string {
    if (this.#line.length === 0) return "";
    let last = this.#line.pop()!;
    // The rest of a UTF-8 character.
    while (last >= 0x80 && last < 0xc0 && this.#line.length > 0) last = this.#line.pop()!;
    return "\b \b";
  }

  #continueSequence(byte: number): string {
    if (this.#sequence === "escape" && (byte === 0x5b || byte === 0x4f)) {
      this.#sequence = "control";
      return "";
    }
    const isFinal = this.#sequence === "escape" || (byte >= 0x40 && byte <= 0x7e);
    if (!isFinal) return "";
    const isControl = this.#sequence === "control";
    this.#sequence = "";
    if (isControl && byte === 0x41) return this.#recall(this.#shown + 1);
    if (isControl && byte === 0x42) return this.#recall(this.#shown - 1);
    return "";
  }

  #recall(shown: number): string {
    if (shown < 0 || shown > this.#history.length) return "";
    this.#shown = shown;
    const line = shown === 0 ? "" : this.#history[this.#history.length - shown]!;
    return this.#replace([...encoder.encode(line)]);
  }

  #replace(line: number[]): string {
    this.#line = line;
    this.#isTooLong = false;
    return `\r\x1b[K${this.redraw()}`;
  }

  #text(): string {
    return decoder.decode(Uint8Array.from(this.#line));
  }
}

function show(text: string): LineEdit {
  return { echo: encoder.encode(text) };
}
