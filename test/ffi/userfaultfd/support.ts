// SPDX-License-Identifier: Apache-2.0
// Whether tests can have userfaultfd(2) here.
import { close } from "../../../ffi/fd.ts";
import { openUserfaultfd } from "../../../ffi/userfaultfd/userfaultfd.ts";
import { describeError } from "../../../src/errors.ts";

/** Why there is none, for `skipIf`; undefined when there is. */
export function userfaultfdMissing(): string | undefined {
  try {
    close(openUserfaultfd());
    return undefined;
  } catch (error) {
    return `userfaultfd(2) cannot be used: ${describeError(error)}`;
  }
}
