// SPDX-License-Identifier: Apache-2.0
// The error of a command line or configuration that Baton does not understand or cannot honour.
import { VmmError } from "../errors.ts";

/**
 * A mistake in an option: unknown, malformed or contradictory. The message starts with what the user wrote
 * (`-chardev null,id=a: Duplicate ID 'a' for chardev`). Its code is `"usage"`; a program that prints it should exit with 1.
 */
export class UsageError extends VmmError {
  override readonly name: string = "UsageError";

  constructor(message: string, options?: { cause?: unknown }) {
    super("usage", message, options);
  }
}
