// SPDX-License-Identifier: Apache-2.0
// Listens to the guest's numbered lines on a serial console: one that is lost or garbled shows. A Linux there is a shell, too.
import { connect, type Socket } from "node:net";
import { ANSWER_END, ANSWER_MARK } from "../image/initramfs.ts";

const TICK_LINE = /^tick (\d{8})$/;
/** What the payload prints besides numbered lines. */
const OTHER_LINES = new Set(["Baton self-check", "ready", ""]);

export class ConsoleLog {
  /** Numbered lines received. */
  lines = 0;
  /** Lines that are not the one that had to come, as received; the first few. */
  readonly faults: string[] = [];
  isConnected = true;

  /** The guest was talking before anybody listened: where the first line begins is not known. */
  #isFirstLine = true;
  #expected: number | undefined;
  #rest = "";
  #isWaiting: boolean;
  #socket: Socket | undefined;
  /** Lines of the answer that is on its way. */
  #answer: string[] = [];
  #onAnswer: ((lines: string[]) => void) | undefined;

  /** @param options `awaitsReady`: whatever comes before the line "ready" is not the guest's own */
  constructor({ awaitsReady = false }: { awaitsReady?: boolean } = {}) {
    this.#isWaiting = awaitsReady;
  }

  connect(path: string): void {
    const socket = connect({ path });
    this.#socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (text: string) => this.receive(text));
    socket.on("error", () => {});
    socket.on("close", () => {
      this.isConnected = false;
    });
  }

  /** Types a command into the guest's shell. Undefined when it does not answer, as those of older images do not. */
  async ask(command: string, timeoutMs: number): Promise<string[] | undefined> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const answer = new Promise<string[] | undefined>((resolve) => {
      this.#onAnswer = resolve;
      timer = setTimeout(() => resolve(undefined), timeoutMs);
    });
    this.#socket?.write(`${command}\n`);
    const lines = await answer;
    clearTimeout(timer);
    this.#onAnswer = undefined;
    return lines;
  }

  receive(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      if (!this.#isFirstLine || this.#isWaiting || TICK_LINE.test(line)) this.#take(line.replace("\r", ""));
      this.#isFirstLine = false;
    }
  }

  #take(line: string): void {
    if (this.#isWaiting) {
      this.#isWaiting = line !== "ready";
      return;
    }
    if (this.#onAnswer !== undefined && this.#takeAnswer(line)) return;
    const number = TICK_LINE.exec(line)?.[1];
    if (number === undefined) {
      if (!OTHER_LINES.has(line)) this.#fault(line);
      return;
    }
    if (this.#expected !== undefined && Number(number) !== this.#expected) this.#fault(line);
    this.#expected = Number(number) + 1;
    this.lines++;
  }

  #takeAnswer(line: string): boolean {
    if (line === ANSWER_END) {
      this.#onAnswer!(this.#answer);
      this.#answer = [];
      return true;
    }
    if (!line.startsWith(ANSWER_MARK)) return false;
    this.#answer.push(line.slice(ANSWER_MARK.length));
    return true;
  }

  #fault(line: string): void {
    if (this.faults.length < 8) this.faults.push(line);
  }

  close(): void {
    this.#socket?.destroy();
  }
}
