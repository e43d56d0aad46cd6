// SPDX-License-Identifier: Apache-2.0
// Errors as QMP shows them to a client.
import { describeError, VmmError } from "../errors.ts";

/** The classes a client may tell apart; everything else is a `GenericError`. */
export type QmpErrorClass = "GenericError" | "CommandNotFound" | "DeviceNotActive" | "DeviceNotFound" | "KVMMissingCap";

/**
 * A command's failure. The message is the `desc` of the reply; messages that QEMU has too are spelled as QEMU spells
 * them, because management software compares them.
 */
export class QmpError extends VmmError {
  override readonly name = "QmpError";
  readonly class: QmpErrorClass;

  constructor(message: string, options: { class?: QmpErrorClass; code?: string; cause?: unknown } = {}) {
    super(options.code ?? "qmp", message, options.cause === undefined ? undefined : { cause: options.cause });
    this.class = options.class ?? "GenericError";
  }
}

/** The `error` member of a reply. */
export interface QmpErrorReply {
  class: QmpErrorClass;
  desc: string;
}

/** How `error`, thrown by a command, is told to the client: whatever it is, the client gets an answer. */
export function toErrorReply(error: unknown): QmpErrorReply {
  return { class: error instanceof QmpError ? error.class : "GenericError", desc: describeError(error) };
}
