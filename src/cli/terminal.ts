// SPDX-License-Identifier: Apache-2.0
// Where a verb writes for people: a terminal with colours and a line that is rewritten, or plain text.

export interface TerminalOptions {
  /** Colours, and a progress line that is written over. */
  isFancy: boolean;
  columns: number;
  write(text: string): void;
}

const MIN_COLUMNS = 60;
const MAX_COLUMNS = 120;
const PLAIN_COLUMNS = 100;
const ERASE_LINE = "\r\x1b[K";

export class Terminal {
  readonly isFancy: boolean;
  readonly columns: number;
  readonly #write: (text: string) => void;
  /** The line that the next one erases. */
  #progress = "";

  constructor({ isFancy, columns, write }: TerminalOptions) {
    this.isFancy = isFancy;
    this.columns = Math.min(MAX_COLUMNS, Math.max(MIN_COLUMNS, columns));
    this.#write = write;
  }

  /** A standard stream; plain when it is no terminal, a dumb one, or NO_COLOR is set (https://no-color.org). */
  static of(stream: NodeJS.WriteStream): Terminal {
    const { env } = process;
    const isFancy = stream.isTTY === true && !env.NO_COLOR && env.TERM !== "dumb";
    const write = (text: string): void => void stream.write(text);
    return new Terminal({ isFancy, columns: stream.isTTY === true ? stream.columns : PLAIN_COLUMNS, write });
  }

  print(...lines: readonly string[]): void {
    const erase = this.#progress === "" ? "" : ERASE_LINE;
    this.#progress = "";
    this.#write(`${erase}${lines.map((line) => `${line}\n`).join("")}`);
  }

  /** A line that the next one replaces. Plain text has none. */
  progress(text: string): void {
    if (!this.isFancy || text === this.#progress) return;
    this.#write(`${ERASE_LINE}  ${this.soft(text.slice(0, this.columns - 3))}`);
    this.#progress = text;
  }

  strong = (text: string): string => this.#style("1", text);
  soft = (text: string): string => this.#style("2", text);
  good = (text: string): string => this.#style("32", text);
  bad = (text: string): string => this.#style("1;31", text);

  /** `text` in a colour of the 256 that terminals have. */
  colour(code: number, text: string): string {
    return this.#style(`38;5;${code}`, text);
  }

  /** A paragraph as lines that fit behind so many columns. */
  wrap(paragraph: string, indent = 0): string[] {
    const lines = [""];
    for (const word of paragraph.split(" ")) {
      const line = lines.at(-1)!;
      if (line !== "" && line.length + 1 + word.length > this.columns - indent) lines.push(word);
      else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
    }
    return lines;
  }

  #style(codes: string, text: string): string {
    return this.isFancy && text !== "" ? `\x1b[${codes}m${text}\x1b[0m` : text;
  }
}
