// SPDX-License-Identifier: Apache-2.0
// A guest's console over one UNIX socket, and a QMP session over another. Neither ever connects twice: that the peer
// keeps them through an update is what the scenarios prove.
import { createConnection, type Socket } from "node:net";
import { check, until } from "./scenario.ts";

/** The server's socket appears some time after the server's process; `stillRuns` throws when that has ended. */
async function connect(path: string, timeoutMs: number, stillRuns: () => void): Promise<Socket> {
  return await until(
    () => {
      stillRuns();
      return new Promise<Socket | undefined>((resolve) => {
        const socket = createConnection(path);
        socket.once("connect", () => {
          socket.removeAllListeners("error");
          resolve(socket);
        });
        socket.once("error", () => resolve(undefined));
      });
    },
    timeoutMs,
    `Nobody listens on ${path} after ${timeoutMs / 1000} s`,
    50,
  );
}

export class Console {
  /** Every byte received so far, one character each. */
  transcript = "";
  #socket: Socket;
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // One byte, one character: a lost or changed byte must not hide in a decoder.
    socket.setEncoding("latin1").on("data", (chunk: string | Uint8Array) => {
      this.transcript += chunk;
    });
    for (const event of ["error", "close"]) socket.on(event, () => (this.#closed = true));
  }

  static async connect(path: string, timeoutMs: number, stillRuns: () => void): Promise<Console> {
    return new Console(await connect(path, timeoutMs, stillRuns));
  }

  get closed(): boolean {
    return this.#closed;
  }

  type(characters: string): void {
    check(!this.#closed, "The console's connection was closed");
    this.#socket.write(characters, "latin1");
  }

  /** The first match from `fromOffset` of the transcript on. */
  async waitFor(pattern: RegExp, timeoutMs: number, fromOffset = 0): Promise<RegExpExecArray> {
    return await until(
      () => {
        const match = pattern.exec(this.transcript.slice(fromOffset));
        if (match !== null) return match;
        check(!this.#closed, `The console's connection was closed while waiting for ${pattern}\n${this.tail()}`);
        return undefined;
      },
      timeoutMs,
      () => `The console did not print ${pattern} in ${timeoutMs / 1000} s\n${this.tail()}`,
    );
  }

  /** The last of the transcript, without what the workload says every moment, for messages. */
  tail(): string {
    const lines = this.transcript.replaceAll("\r", "").split("\n");
    const recent = lines.slice(-200);
    const telling = recent.filter((line, index) => !/^guest: round \d+ ok/.test(line) || index >= recent.length - 5);
    return telling.slice(-60).join("\n").replace(/^/gm, "  console| ");
  }
}

/** QMP's answers as far as the scenarios look at them. */
export type QmpObject = Record<string, unknown>;

export class Qmp {
  /** Names of all events, in their order. */
  readonly events: string[] = [];
  #socket: Socket;
  #closed = false;
  #partialLine = "";
  #greeting: QmpObject | undefined;
  #nextId = 1;
  #answers = new Map<number, QmpObject>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8").on("data", (chunk: string | Uint8Array) => this.#receive(String(chunk)));
    for (const event of ["error", "close"]) socket.on(event, () => (this.#closed = true));
  }

  static async connect(path: string, timeoutMs: number, stillRuns: () => void): Promise<Qmp> {
    const qmp = new Qmp(await connect(path, timeoutMs, stillRuns));
    await until(() => qmp.#greeting, timeoutMs, "QMP sent no greeting");
    await qmp.execute("qmp_capabilities");
    return qmp;
  }

  get closed(): boolean {
    return this.#closed;
  }

  #receive(chunk: string): void {
    const lines = (this.#partialLine + chunk).split("\n");
    this.#partialLine = lines.pop()!;
    for (const line of lines) {
      if (line.trim() === "") continue;
      const message = JSON.parse(line) as QmpObject;
      if ("QMP" in message) {
        // A second greeting would mean that the server took the old connection for a new one.
        check(this.#greeting === undefined, "QMP greeted twice on one connection");
        this.#greeting = message;
      } else if ("event" in message) {
        this.events.push(String(message.event));
      } else {
        this.#answers.set(Number(message.id), message);
      }
    }
  }

  /** Sends a command without waiting for its answer. */
  send(command: string, args?: QmpObject): number {
    check(!this.#closed, `The QMP connection was closed before ${command}`);
    const id = this.#nextId++;
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return id;
  }

  async answer(id: number, command: string, timeoutMs = 30_000): Promise<QmpObject> {
    const message = await until(
      () => {
        const found = this.#answers.get(id);
        check(found !== undefined || !this.#closed, `The QMP connection was closed during ${command}`);
        return found;
      },
      timeoutMs,
      `QMP did not answer ${command} in ${timeoutMs / 1000} s`,
      5,
    );
    this.#answers.delete(id);
    check("return" in message, `QMP refused ${command}: ${JSON.stringify(message.error)}`);
    return message.return as QmpObject;
  }

  async execute(command: string, args?: QmpObject): Promise<QmpObject> {
    return await this.answer(this.send(command, args), command);
  }
}
