// SPDX-License-Identifier: Apache-2.0
// One person at the human monitor.
import { INPUT_WINDOW_BYTES, type MonitorPort, OUTPUT_WINDOW_BYTES } from "../qmp/session.ts";
import type { QmpTarget } from "../qmp/target.ts";
import type { HmpContext } from "./commands.ts";
import { LineEditor, type LineEditorState } from "./line-editor.ts";

/** A session between two commands, as plain JSON. */
export interface HmpSessionState {
  editor: LineEditorState;
  /** Input that has not been looked at, base64. */
  pending: string;
  /** A command was waiting for the end of the migration that this state travels in. */
  waiting: boolean;
}

export interface HmpSessionOptions {
  /** Goes on with a saved session: no greeting, and nothing is executed before `thaw()`. */
  state?: HmpSessionState;
}

const PROMPT = "(baton) ";
const encoder = new TextEncoder();

/**
 * A session from its greeting on. It echoes what it gets, so a terminal in front of it must be raw. The owner passes on
 * what the person types and says when it has gone.
 */
export class HmpSession {
  readonly #target: QmpTarget;
  readonly #port: MonitorPort;
  readonly #editor: LineEditor;
  /** Input that has not been looked at, and where its first piece begins. */
  readonly #pending: Uint8Array[] = [];
  #offset = 0;
  #unreadBytes = 0;
  #frozen: boolean;
  #closed = false;
  #running: Promise<void> | undefined;
  #waiting = false;
  /** The prompt comes with `thaw()`. */
  #promptDue = false;
  #refusedInput = false;
  /** Settles the promise of `freeze` when the running command begins to wait. */
  #onWaiting: (() => void) | undefined;

  constructor(target: QmpTarget, port: MonitorPort, options: HmpSessionOptions = {}) {
    const { state } = options;
    this.#target = target;
    this.#port = port;
    this.#editor = new LineEditor(PROMPT, state?.editor);
    this.#frozen = state !== undefined;
    if (state === undefined) {
      this.#print(`Baton ${target.version} monitor - type 'help' for more information\n${PROMPT}`);
    } else {
      this.#push(Uint8Array.fromBase64(state.pending));
      this.#promptDue = state.waiting;
    }
  }

  /** How much input should be given now; 0 holds the terminal back until `acceptInput`. */
  get inputSpaceBytes(): number {
    const isBusy = this.#frozen || this.#running !== undefined;
    const space = isBusy ? 0 : Math.max(0, INPUT_WINDOW_BYTES - this.#unreadBytes);
    this.#refusedInput ||= space === 0;
    return space;
  }

  receive(bytes: Uint8Array): void {
    this.#push(bytes);
    this.#run();
  }

  /** No more will be typed. A line without an end is not executed. */
  endInput(): void {
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
   * Starts no more commands, and resolves when the running one is done or does nothing but wait for the end of a
   * migration.
   */
  async freeze(): Promise<void> {
    this.#frozen = true;
    if (this.#running === undefined || this.#waiting) return;
    await Promise.race([this.#running, new Promise<void>((resolve) => (this.#onWaiting = resolve))]);
  }

  /** Goes on after `freeze`, or after a restore. */
  thaw(): void {
    this.#frozen = false;
    if (this.#promptDue) {
      this.#promptDue = false;
      this.#print(this.#editor.redraw());
    }
    this.#run();
    this.#acceptInput();
  }

  /** The session's state. Only while frozen and nothing is being executed. */
  save(): HmpSessionState {
    if (!this.#frozen || (this.#running !== undefined && !this.#waiting)) {
      throw new Error("save() of a monitor session that is not frozen");
    }
    const pending = new Uint8Array(this.#unreadBytes);
    let at = -this.#offset;
    for (const piece of this.#pending) {
      pending.set(at < 0 ? piece.subarray(-at) : piece, Math.max(0, at));
      at += piece.length;
    }
    return { editor: this.#editor.save(), pending: pending.toBase64(), waiting: this.#waiting || this.#promptDue };
  }

  /** The person has gone: the rest of the input is dropped. */
  close(): void {
    this.#closed = true;
  }

  #push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    // A copy, because the caller may use its buffer again.
    this.#pending.push(bytes.slice());
    this.#unreadBytes += bytes.length;
  }

  #run(): void {
    if (this.#running !== undefined) return;
    const line = this.#nextLine();
    if (line === undefined) return;
    this.#running = this.#execute(line).finally(() => {
      this.#running = undefined;
      // Output that comes between the saving of this session and of its port would be printed twice after a restore.
      if (this.#frozen) this.#promptDue = true;
      else this.#print(PROMPT);
      this.#run();
      this.#acceptInput();
    });
  }

  async #execute(line: string): Promise<void> {
    const { runLine } = await import("./execute.ts");
    const context: HmpContext = {
      target: this.#target,
      cpuIndex: 0,
      print: (text) => this.#print(text),
      wait: (promise) => this.#wait(promise),
    };
    await runLine(context, line);
  }

  async #wait(promise: Promise<void>): Promise<void> {
    this.#waiting = true;
    this.#onWaiting?.();
    try {
      await promise;
    } finally {
      this.#waiting = false;
    }
  }

  /** Edits with what there is of input, up to the end of a line. Empty lines only bring the next prompt. */
  #nextLine(): string | undefined {
    const echo: Uint8Array[] = [];
    let line: string | undefined;
    while (line === undefined && this.#unreadBytes > 0 && this.#mayExecute()) {
      const edit = this.#editor.feed(this.#nextByte());
      if (edit.echo.length > 0) echo.push(edit.echo);
      line = edit.line;
    }
    if (echo.length > 0) this.#send(concat(echo));
    return line;
  }

  #nextByte(): number {
    const piece = this.#pending[0]!;
    const byte = piece[this.#offset++]!;
    this.#unreadBytes--;
    if (this.#offset === piece.length) {
      this.#pending.shift();
      this.#offset = 0;
    }
    return byte;
  }

  #mayExecute(): boolean {
    return !this.#frozen && !this.#closed && (this.#port.backlogBytes?.() ?? 0) < OUTPUT_WINDOW_BYTES;
  }

  #acceptInput(): void {
    if (!this.#refusedInput || this.#closed || this.inputSpaceBytes < INPUT_WINDOW_BYTES / 2) return;
    this.#refusedInput = false;
    this.#port.acceptInput?.();
  }

  #print(text: string): void {
    this.#send(encoder.encode(text.replaceAll("\n", "\r\n")));
  }

  #send(bytes: Uint8Array): void {
    if (!this.#closed) this.#port.send(bytes);
  }
}

function concat(pieces: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
