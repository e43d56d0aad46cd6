// SPDX-License-Identifier: Apache-2.0
// What all character devices have in common: a front end, freezing, reporting.
import { Buffer } from "node:buffer";
import type { SysError } from "../../../ffi/error.ts";
import { close } from "../../../ffi/fd.ts";
import type { ChardevSpec } from "../../config/types.ts";
import { describeError, VmmError } from "../../errors.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import { FdStream, type StreamFds, type StreamHandlers } from "./stream.ts";
import type { Chardev, ChardevFrontend, ChardevState } from "./types.ts";

/** Hears of trouble that a character device survives. */
export type Report = (error: VmmError) => void;

export function reportToStderr(error: VmmError): void {
  process.stderr.write(`baton: ${describeError(error)}\n`);
}

/** What the machine may do with a character device beyond what front ends see. */
export interface HostChardev extends Chardev {
  /** Resolves when the device may be used: at once, or when the peer that the configuration waits for has come. */
  ready(): Promise<void>;
  /** After the fds went to another process: closes them here and leaves everything else (paths, terminal) as it is. */
  release(): void;
  /** Ends the connection to the present peer; another may come. Absent where there are no connections. */
  hangUp?(): void;
}

/** What has to be undone on the host goes along, so that whoever ends last can do it. */
export interface HostChardevState extends ChardevState {
  /** Settings of the terminal before raw mode, base64. */
  termios?: string;
  /** Fds whose open files were made non-blocking for everybody who shares them, to be undone at the end. */
  madeNonBlocking?: number[];
  /** The device came from another process; its standard streams are not this one's. */
  isForeign?: boolean;
  /** Identity of a listening unix socket's file; null when it is not known. */
  listenerFile?: string | null;
}

/**
 * A character device over at most one open stream. A subclass opens and closes the stream as its back end does, and
 * decides what the end of the input and failing output mean.
 */
export abstract class StreamChardev<Spec extends ChardevSpec = ChardevSpec> implements HostChardev {
  readonly spec: Spec;
  protected readonly reactor: Reactor;
  protected frozen = false;
  protected closed = false;
  #frontend: ChardevFrontend | undefined;
  #stream: FdStream | undefined;
  #fds: StreamFds = {};
  /** A restored peer has been announced to the front end in its former life. */
  #announced: boolean;
  readonly #report: Report;
  readonly #reported = new Set<string>();

  constructor(spec: Spec, reactor: Reactor, report: Report, restored?: ChardevState) {
    this.spec = spec;
    this.reactor = reactor;
    this.#report = report;
    this.#announced = restored?.connected ?? false;
    // Until the update is certain to succeed, the process that saved the device may take it back.
    this.frozen = restored !== undefined;
  }

  get id(): string {
    return this.spec.id;
  }

  abstract readonly filename: string;

  get connected(): boolean {
    return this.#stream !== undefined;
  }

  get queuedBytes(): number {
    return this.#stream?.queuedBytes ?? 0;
  }

  attach(frontend: ChardevFrontend): void {
    this.#frontend = frontend;
    if (this.connected && !this.#announced) this.#announce();
    this.#stream?.acceptInput();
  }

  write(bytes: Uint8Array): void {
    this.#stream?.write(bytes);
  }

  acceptInput(): void {
    this.#stream?.acceptInput();
  }

  freeze(): void {
    this.frozen = true;
    this.#stream?.pause();
  }

  thaw(): void {
    if (!this.frozen || this.closed) return;
    this.frozen = false;
    this.#stream?.resume();
    this.thawed();
  }

  save(): HostChardevState {
    if (!this.frozen) throw new Error(`Character device ${this.id} is saved while it runs`);
    return {
      spec: this.spec,
      fds: this.savedFds(),
      queued: Buffer.from(this.#stream?.queued() ?? []).toString("base64"),
      connected: this.connected,
      filename: this.filename,
    };
  }

  close(): void {
    this.#end(true);
  }

  release(): void {
    this.#end(false);
  }

  ready(): Promise<void> {
    return Promise.resolve();
  }

  /** Fds by role, for the saved state. */
  protected abstract savedFds(): Record<string, number>;

  /** Gives back what the subclass holds beside the stream's fds; with `undo`, also what others see of it. */
  protected dispose(_undo: boolean): void {}

  /** What else `freeze` stopped, or a restored device has not started yet. */
  protected thawed(): void {}

  /** Fds of the open stream; empty when there is none. */
  protected get openFds(): StreamFds {
    return this.#fds;
  }

  protected get hasInputEnded(): boolean {
    return this.#stream?.inputEnded ?? false;
  }

  /** Opens the stream over fds that belong to this device from here on. */
  protected openStream(fds: StreamFds, restored?: ChardevState): void {
    const queued = restored === undefined ? undefined : Buffer.from(restored.queued, "base64");
    this.#fds = fds;
    this.#stream = new FdStream(this.reactor, fds, this.#handlers(), queued);
    if (!this.frozen) this.#stream.resume();
    if (restored === undefined && this.#frontend !== undefined) {
      this.#announce();
      // A monitor has room only from then on: there is no session without a peer.
      this.#stream?.acceptInput();
    }
  }

  /** Closes the stream and its fds. */
  protected closeStream(): void {
    const fds = new Set([this.#fds.in, this.#fds.out]);
    this.abandonStream(() => {
      for (const fd of fds) if (fd !== undefined) close(fd);
    });
  }

  /** Closes the stream; queued output is lost. Tells the front end unless the device itself is closed. */
  protected abandonStream(closeFds: () => void = () => {}): void {
    const stream = this.#stream;
    if (stream === undefined) return;
    this.#stream = undefined;
    stream.close();
    closeFds();
    this.#fds = {};
    const announced = this.#announced;
    this.#announced = false;
    if (announced && !this.closed) this.#frontend?.closed?.();
  }

  protected abstract inputEnded(error?: SysError): void;
  protected abstract outputFailed(error: SysError): void;
  /** The queue has been written. */
  protected outputDrained(): void {}

  /** Reports trouble of a kind (`what`) once, until `reportAgain`. */
  protected reportOnce(what: string, message: string, cause: unknown): void {
    if (this.#reported.has(what)) return;
    this.#reported.add(what);
    this.#report(new VmmError("chardev-failed", `Character device ${this.id}: ${message}`, { cause }));
  }

  protected reportAgain(what: string): void {
    this.#reported.delete(what);
  }

  #end(undo: boolean): void {
    if (this.closed) return;
    this.closed = true;
    this.dispose(undo);
    this.closeStream();
  }

  #announce(): void {
    this.#announced = true;
    this.#frontend?.opened?.();
  }

  #handlers(): StreamHandlers {
    return {
      inputSpaceBytes: () => this.#frontend?.inputSpaceBytes() ?? 0,
      receive: (bytes) => this.#frontend?.receive(bytes),
      takesFds: () => this.#frontend?.receiveFds !== undefined,
      receiveFds: (fds) => this.#frontend!.receiveFds!(fds),
      drained: () => {
        this.#frontend?.drained?.();
        this.outputDrained();
      },
      inputEnded: (error) => this.inputEnded(error),
      outputFailed: (error) => this.outputFailed(error),
    };
  }
}
