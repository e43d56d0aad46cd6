// SPDX-License-Identifier: Apache-2.0
// Listens to the payload's numbered lines on a serial console: one that is lost or garbled shows.
import { connect, type Socket } from "node:net";

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
  #socket: Socket | undefined;

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

  receive(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      if (!this.#isFirstLine || TICK_LINE.test(line)) this.#take(line.replace("\r", ""));
      this.#isFirstLine = false;
    }
  }

  #take(line: string): void {
    const number = TICK_LINE.exec(line)?.[1];
    if (number === undefined) {
      if (!OTHER_LINES.has(line)) this.#fault(line);
      return;
    }
    if (this.#expected !== undefined && Number(number) !== this.#expected) this.#fault(line);
    this.#expected = Number(number) + 1;
    this.lines++;
  }

  #fault(line: string): void {
    if (this.faults.length < 8) this.faults.push(line);
  }

  close(): void {
    this.#socket?.destroy();
  }
}
