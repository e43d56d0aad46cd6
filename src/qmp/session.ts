// SPDX-License-Identifier: Apache-2.0
// One QMP client. https://www.qemu.org/docs/master/interop/qmp-spec.html
//
//   ── greeting ──▶ negotiation ── qmp_capabilities ──▶ commands and events
//
// Commands are executed in the order in which they came, one at a time. What cannot be executed yet is kept as bytes,
// not as parsed commands: so the input that is waiting is bounded, and is saved by copying it.
import type { QmpEvent } from "./events.ts";
import { type JsonResult, JsonStream, type JsonStreamState } from "./json-stream.ts";
import { formatJson } from "./json-writer.ts";
import { ReceivedFds } from "./received-fds.ts";
import type { QmpTarget } from "./target.ts";
import { versionInfo } from "./version.ts";

/** The client's end: a connection, a terminal, a file. */
export interface MonitorPort {
  /** Queues bytes for the client; never blocks, never throws. */
  send(bytes: Uint8Array): void;
  /** How much of it the client has not taken yet. A client that does not read is not served until `outputDrained()`. */
  backlogBytes?(): number;
  /** Called when `inputSpaceBytes` has become more than 0 again. */
  acceptInput?(): void;
  /** Hangs up on a client that does not read; absent where that is not possible. The session may be closed by it. */
  drop?(): void;
}

/** A session between two commands, as plain JSON. */
export interface QmpSessionState {
  negotiated: boolean;
  pretty: boolean;
  input: JsonStreamState;
}

export interface QmpSessionOptions {
  pretty?: boolean;
  /** Goes on with a saved session: no greeting, and nothing is executed before `thaw()`. */
  state?: QmpSessionState;
}

/** Input taken while commands are waiting. One value may be larger: it is not waiting, it is incomplete. */
export const INPUT_WINDOW_BYTES = 64 << 10;
/** Unread output at which a client's commands have to wait. */
export const OUTPUT_WINDOW_BYTES = 1 << 20;
/** Unread output at which a client gets no more events: the guest can cause any number of them. */
export const EVENT_BACKLOG_BYTES = 4 << 20;

const encoder = new TextEncoder();

/**
 * A QMP session from its greeting on. The owner passes on what the client sends and says when it has gone.
 *
 * @example
 * const session = new QmpSession(vm, { send: (bytes) => socket.write(bytes) });
 * socket.on("data", (bytes) => session.receive(bytes));
 * socket.on("end", () => session.endInput());
 */
export class QmpSession {
  /** Past negotiation: events are sent from then on. */
  negotiated: boolean;

  readonly #target: QmpTarget;
  readonly #port: MonitorPort;
  readonly #pretty: boolean;
  readonly #input: JsonStream;
  readonly #receivedFds = new ReceivedFds();
  readonly #unsubscribe: () => void;
  /** Where in the client's input the next byte is. */
  #inputBytes: number;
  #frozen: boolean;
  #closed = false;
  #running: Promise<void> | undefined;
  #refusedInput = false;

  constructor(target: QmpTarget, port: MonitorPort, options: QmpSessionOptions = {}) {
    const { state } = options;
    this.#target = target;
    this.#port = port;
    this.#pretty = state?.pretty ?? options.pretty ?? false;
    this.#input = new JsonStream(state?.input);
    this.#inputBytes = this.#input.unreadBytes;
    this.negotiated = state?.negotiated ?? false;
    this.#frozen = state !== undefined;
    this.#unsubscribe = target.subscribe((event) => this.#sendEvent(event));
    if (state === undefined) this.#send({ QMP: { version: versionInfo(target.version), capabilities: [] } });
  }

  /** How much input should be given now; 0 holds the client back until `acceptInput`. */
  get inputSpaceBytes(): number {
    const space = this.#frozen ? 0 : Math.max(0, INPUT_WINDOW_BYTES - this.#input.unreadBytes);
    this.#refusedInput ||= space === 0;
    return space;
  }

  /**
   * Fds that came with the bytes of the next `receive`; they are the session's. Those that no command has taken are no part
   * of its saved state: an update by cpr-exec closes them, and their commands, should they be waiting, fail.
   */
  receiveFds(fds: number[]): void {
    this.#receivedFds.add(fds, this.#inputBytes);
    if (this.#closed) this.#receivedFds.close();
  }

  /** For the running command: the fd that came with it. */
  takeFd(): number | undefined {
    return this.#receivedFds.take(this.#inputBytes - this.#input.unreadBytes);
  }

  receive(bytes: Uint8Array): void {
    this.#inputBytes += bytes.byteLength;
    this.#input.feed(bytes);
    this.#run();
  }

  /** The client will send no more. It still gets all replies; after `idle()` the owner may hang up. */
  endInput(): void {
    this.#input.end();
    this.#run();
  }

  /** The port's backlog has shrunk. */
  outputDrained(): void {
    this.#run();
  }

  /** Resolves when nothing is being executed and there is nothing left that could be. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  /**
   * Starts no more commands, and resolves when the running one has been answered, at once if there is none. A command
   * must not wait for this on its own session.
   */
  async freeze(): Promise<void> {
    this.#frozen = true;
    await this.#running;
  }

  /** Goes on after `freeze`, or after a restore. */
  thaw(): void {
    this.#frozen = false;
    this.#run();
    this.#acceptInput();
  }

  /** The session's state. Only while frozen and nothing is being executed. */
  save(): QmpSessionState {
    if (!this.#frozen || this.#running !== undefined) throw new Error("save() of a QMP session that is not frozen");
    return { negotiated: this.negotiated, pretty: this.#pretty, input: this.#input.save() };
  }

  /** The client has gone: the rest of its input is dropped. */
  close(): void {
    this.#closed = true;
    this.#receivedFds.close();
    this.#unsubscribe();
  }

  #run(): void {
    if (this.#running !== undefined || !this.#mayExecute()) return;
    const first = this.#input.next();
    if (first === undefined) return;
    this.#running = this.#execute(first).finally(() => {
      this.#running = undefined;
      this.#acceptInput();
      // Input may have come after the last look at it.
      this.#run();
    });
  }

  async #execute(first: JsonResult): Promise<void> {
    const { dispatch } = await import("./dispatch.ts");
    let next: JsonResult | undefined = first;
    while (next !== undefined) {
      const reply: unknown =
        "error" in next
          ? { error: { class: "GenericError", desc: next.error } }
          : await dispatch({ target: this.#target, session: this }, next.value);
      this.#send(reply);
      next = this.#mayExecute() ? this.#input.next() : undefined;
      this.#acceptInput();
    }
  }

  #mayExecute(): boolean {
    return !this.#frozen && !this.#closed && (this.#port.backlogBytes?.() ?? 0) < OUTPUT_WINDOW_BYTES;
  }

  #acceptInput(): void {
    if (!this.#refusedInput || this.#closed || this.inputSpaceBytes < INPUT_WINDOW_BYTES / 2) return;
    this.#refusedInput = false;
    this.#port.acceptInput?.();
  }

  #sendEvent(event: QmpEvent): void {
    if (!this.negotiated) return;
    if ((this.#port.backlogBytes?.() ?? 0) >= EVENT_BACKLOG_BYTES) {
      // While frozen the connection may be part of a saved state already.
      if (!this.#frozen && !this.#closed) this.#port.drop?.();
      return;
    }
    const isMigration = event.event === "MIGRATION" || event.event === "MIGRATION_PASS";
    if (!isMigration || this.#target.migration.capabilities().events) this.#send(event);
  }

  #send(message: unknown): void {
    if (!this.#closed) this.#port.send(encoder.encode(`${formatJson(message, this.#pretty)}\r\n`));
  }
}
