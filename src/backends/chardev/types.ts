// SPDX-License-Identifier: Apache-2.0
// What a character device back end is to its front end (a serial port, a monitor) and to an update.
import type { ChardevSpec } from "../../config/types.ts";

/** What a front end wants to hear of its back end. */
export interface ChardevFrontend {
  /** How many bytes the front end can take now; 0 stops reading from the host until `acceptInput()`. */
  inputSpaceBytes(): number;
  /** Bytes from the host, never more than `inputSpaceBytes()` said. */
  receive(bytes: Uint8Array): void;
  /**
   * Fds that come with the bytes of the next `receive`, over a unix socket; they are the front end's to close. The fds for a
   * front end without this are dropped by the kernel.
   */
  receiveFds?(fds: number[]): void;
  /** A peer connected (a back end without connections opens once, when a front end is attached). */
  opened?(): void;
  /** The peer has gone; the chardev may open again later. */
  closed?(): void;
  /** All queued output has been written. */
  drained?(): void;
}

/**
 * One character device. Output never blocks and never is lost while a peer is there: it is queued and written when the
 * host takes it. `queuedBytes` is for front ends that hold back (a UART does, a monitor does not).
 */
export interface Chardev {
  readonly id: string;
  readonly spec: ChardevSpec;
  /** As QEMU's query-chardev says it: `unix:/tmp/a.sock,server=on`, `pty:/dev/pts/3`, `stdio`, `null`. */
  readonly filename: string;
  /** True while there is somebody to talk to. */
  readonly connected: boolean;
  readonly queuedBytes: number;
  attach(frontend: ChardevFrontend): void;
  /** Queues bytes. Without a peer they are dropped, as on a serial line with nothing plugged in. */
  write(bytes: Uint8Array): void;
  /** The front end has room again. */
  acceptInput(): void;
  /** Stops reading and writing the host at once, for an update: what is queued stays queued and is saved. */
  freeze(): void;
  /** Undoes `freeze` when the update did not happen. */
  thaw(): void;
  /** State for the stream; every fd it names stays open across the update. Only after `freeze`. */
  save(): ChardevState;
  close(): void;
}

/** Saved form of a chardev: plain JSON but for the fds, which are named so that the carrier can pass them on. */
export interface ChardevState {
  spec: ChardevSpec;
  /** Role (`listen`, `connection`, `in`, `out`, `pty`) to fd number in the saving process. */
  fds: Record<string, number>;
  /** Output the host has not taken yet, base64. */
  queued: string;
  connected: boolean;
  filename: string;
}
