// SPDX-License-Identifier: Apache-2.0
// A QMP server that says what a test wants, for VMs that cannot be had: other versions, and rare states.
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { temporaryDirectory } from "../../ffi/support.ts";

export interface Command {
  execute: string;
  arguments?: Record<string, unknown>;
}

export class FakeMonitor implements AsyncDisposable {
  readonly path = join(temporaryDirectory(), "qmp");
  /** Everything that was asked for, but for the negotiation. */
  readonly commands: Command[] = [];
  readonly #server: Server;

  private constructor(replies: Readonly<Record<string, unknown>>) {
    this.#server = createServer((socket) => {
      const send = (message: object): void => void socket.write(`${JSON.stringify(message)}\r\n`);
      send({ QMP: { version: { qemu: { major: 11, minor: 1, micro: 3 }, package: "" }, capabilities: [] } });
      createInterface({ input: socket }).on("line", (line) => {
        const { id, ...command } = JSON.parse(line) as Command & { id: number };
        if (command.execute !== "qmp_capabilities") this.commands.push(command);
        send({ return: replies[command.execute] ?? {}, id });
      });
    });
  }

  static async start(replies: Readonly<Record<string, unknown>>): Promise<FakeMonitor> {
    const monitor = new FakeMonitor(replies);
    await new Promise<void>((resolve) => monitor.#server.listen(monitor.path, resolve));
    return monitor;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
