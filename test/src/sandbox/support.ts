// SPDX-License-Identifier: Apache-2.0
// Whether tests can have a sandbox here.
import { whyNoSandbox } from "../../../src/sandbox/enter.ts";

/** Why this kernel has no sandbox, for `skipIf`; undefined when it has. */
export function sandboxMissing(): string | undefined {
  return whyNoSandbox();
}
