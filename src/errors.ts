// SPDX-License-Identifier: Apache-2.0
// The base of every error that Baton raises on purpose.

/**
 * An expected failure. `code` is stable and meant for programs (`"ram-too-large"`), the message for people: capital
 * letter, no trailing period, and it never repeats its `cause`, because the whole chain is printed.
 */
export class VmmError extends Error {
  override readonly name: string = "VmmError";
  readonly code: string;

  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** The messages of an error and of all its causes, outermost first, as one line for a person. */
export function describeError(error: unknown): string {
  const messages: string[] = [];
  for (let current = error; current !== undefined; current = current instanceof Error ? current.cause : undefined) {
    messages.push(current instanceof Error ? current.message : String(current));
  }
  return messages.join(": ");
}
