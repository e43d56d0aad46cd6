// SPDX-License-Identifier: Apache-2.0
// The typed QMP client: `import { connect } from "baton/qmp"`.
import { connect as connectSocket, type Socket } from "node:net";
import { VmmError } from "../errors.ts";
import { adoptSocket } from "../runtime/socket.ts";
import { QmpError, type QmpErrorReply } from "./errors.ts";
import type { QmpEvent } from "./events.ts";
import { type JsonResult, JsonStream } from "./json-stream.ts";
import { formatJson } from "./json-writer.ts";
import type { VersionInfo } from "./schema/control.ts";
import type { CommandArguments, CommandName, CommandResult, EventName } from "./schema.ts";

export { QmpError, type QmpErrorClass } from "./errors.ts";
export type { QmpEvent, QmpTimestamp } from "./events.ts";
export type { CommandArguments, CommandName, CommandResult, EventData, EventName } from "./schema.ts";

/** Where the monitor listens. */
export type QmpAddress = { path: string } | { host: string; port: number } | ConnectedSocket;

/** A socket that is connected to the monitor; the client's from then on. */
export interface ConnectedSocket {
  fd: number;
}

/** The server's first message. */
export interface QmpGreeting {
  version: VersionInfo;
  capabilities: string[];
}

/** The connection failed or ended, or what came over it was not QMP. */
export class QmpConnectionError extends VmmError {
  override readonly name = "QmpConnectionError";

  constructor(message: string, options?: { cause?: unknown }) {
    super("qmp-connection", message, options);
  }
}

type ExecuteArguments<K extends CommandName> =
  Record<never, never> extends CommandArguments<K>
    ? [args?: CommandArguments<K>, options?: { signal?: AbortSignal }]
    : [args: CommandArguments<K>, options?: { signal?: AbortSignal }];

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
  settled: Promise<void>;
}

/**
 * Connects to a monitor and negotiates.
 *
 * @example
 * await using vm = await connect({ path: "vm.qmp" });
 * console.log((await vm.execute("query-status")).status);
 * for await (const event of vm.events("SHUTDOWN")) console.log(event.data.reason);
 */
export async function connect(address: QmpAddress, options: { signal?: AbortSignal } = {}): Promise<QmpClient> {
  options.signal?.throwIfAborted();
  const client = new QmpClient("fd" in address ? adoptSocket(address.fd) : connectSocket(address));
  const abort = (): void => client.destroy(abortReason(options.signal!));
  options.signal?.addEventListener("abort", abort, { once: true });
  try {
    await client.greeting;
    await client.execute("qmp_capabilities");
    return client;
  } catch (error) {
    client.destroy(error as Error);
    throw error;
  } finally {
    options.signal?.removeEventListener("abort", abort);
  }
}

/** One connection to a monitor; `connect` makes it. Commands may overlap, the server answers them in order. */
export class QmpClient implements AsyncDisposable {
  readonly greeting: Promise<QmpGreeting>;
  /** Resolves when the connection has ended, for whatever reason. */
  readonly closed: Promise<void>;

  readonly #socket: Socket;
  readonly #input = new JsonStream();
  readonly #waiting = new Map<number, Waiting>();
  readonly #queues = new Set<EventQueue>();
  #nextId = 1;
  #failure: Error | undefined;
  readonly #greet = Promise.withResolvers<QmpGreeting>();

  constructor(socket: Socket) {
    this.#socket = socket;
    this.greeting = this.#greet.promise;
    // Whoever does not ask for the greeting is told of the failure by every command.
    this.greeting.catch(() => {});
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("data", (bytes: Uint8Array) => this.#receive(bytes));
    socket.on("error", (cause) => this.destroy(new QmpConnectionError("QMP connection failed", { cause })));
    socket.on("close", () => this.destroy(new QmpConnectionError("QMP connection was closed")));
  }

  /**
   * Executes `command` and returns what it returns. Throws a `QmpError` if the VM refuses it. An aborted command is no
   * longer waited for; the VM executes it all the same.
   */
  execute<K extends CommandName>(command: K, ...[args, options]: ExecuteArguments<K>): Promise<CommandResult<K>> {
    return this.call(command, args, options) as Promise<CommandResult<K>>;
  }

  /** `execute` for commands that this version of Baton does not know, without types. */
  call(command: string, args?: object, { signal }: { signal?: AbortSignal } = {}): Promise<unknown> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (signal?.aborted) return Promise.reject(abortReason(signal));
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const abort = (): void => reject(abortReason(signal!));
    signal?.addEventListener("abort", abort, { once: true });
    const settled = promise.then(
      () => signal?.removeEventListener("abort", abort),
      () => signal?.removeEventListener("abort", abort),
    );
    // An aborted command keeps its entry, because its reply will still come.
    this.#waiting.set(id, { resolve, reject, settled });
    this.#socket.write(`${formatJson({ execute: command, arguments: args, id })}\n`);
    return promise;
  }

  /**
   * The events from this call on, only those named if any are named. Ends with the connection. Events
   * that nobody has asked for yet are kept until the iteration ends.
   */
  events<K extends EventName = EventName>(...names: K[]): AsyncIterableIterator<QmpEvent<K>> {
    const queue = new EventQueue(names, () => this.#queues.delete(queue));
    if (this.#failure === undefined) this.#queues.add(queue);
    else queue.end();
    // The queue keeps only events with these names.
    return queue as AsyncIterableIterator<QmpEvent> as AsyncIterableIterator<QmpEvent<K>>;
  }

  /** Hangs up after the replies to all commands have come. */
  async close(): Promise<void> {
    await Promise.all([...this.#waiting.values()].map(({ settled }) => settled));
    this.destroy();
    await this.closed;
  }

  /** Hangs up at once; commands without a reply fail with `error`. */
  destroy(error: Error = new QmpConnectionError("QMP connection was closed")): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#greet.reject(error);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    for (const queue of [...this.#queues]) queue.end();
    this.#socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #receive(bytes: Uint8Array): void {
    this.#input.feed(bytes);
    let result: JsonResult | undefined = this.#input.next();
    while (result !== undefined && this.#failure === undefined) {
      if ("error" in result) this.destroy(new QmpConnectionError(`Not a QMP server: ${result.error}`));
      else this.#message(result.value);
      result = this.#input.next();
    }
  }

  #message(value: unknown): void {
    const message = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
    if ("QMP" in message) this.#greet.resolve(message.QMP as QmpGreeting);
    else if ("event" in message) for (const queue of [...this.#queues]) queue.push(message as unknown as QmpEvent);
    else if ("return" in message) this.#take(message.id)?.resolve(message.return);
    else if ("error" in message) this.#take(message.id)?.reject(toQmpError(message.error as QmpErrorReply));
    else this.destroy(new QmpConnectionError("Not a QMP server: unknown message"));
  }

  #take(id: unknown): Waiting | undefined {
    const waiting = this.#waiting.get(id as number);
    this.#waiting.delete(id as number);
    return waiting;
  }
}

/** Events on their way to one `for await` loop. */
class EventQueue implements AsyncIterableIterator<QmpEvent> {
  readonly #names: readonly EventName[];
  readonly #onEnd: () => void;
  readonly #events: QmpEvent[] = [];
  readonly #readers: ((result: IteratorResult<QmpEvent>) => void)[] = [];
  #ended = false;

  constructor(names: readonly EventName[], onEnd: () => void) {
    this.#names = names;
    this.#onEnd = onEnd;
  }

  push(event: QmpEvent): void {
    if (this.#names.length > 0 && !this.#names.includes(event.event)) return;
    const reader = this.#readers.shift();
    if (reader === undefined) this.#events.push(event);
    else reader({ done: false, value: event });
  }

  end(): void {
    this.#ended = true;
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined });
    this.#onEnd();
  }

  next(): Promise<IteratorResult<QmpEvent>> {
    const event = this.#events.shift();
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.#readers.push(resolve));
  }

  return(): Promise<IteratorResult<QmpEvent>> {
    this.#events.length = 0;
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

function toQmpError(reply: QmpErrorReply): QmpError {
  return new QmpError(reply.desc, { class: reply.class });
}

function abortReason(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new VmmError("aborted", String(signal.reason));
}
