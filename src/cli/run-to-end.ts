// SPDX-License-Identifier: Apache-2.0
// Keeps a VM going until it ends, and ends the process as it did.

import { describeError } from "../errors.ts";
import type { VmHandle } from "../machine/handle.ts";
import { surviveUncaught } from "../runtime/uncaught.ts";

/** From here on a bug costs a message, not the guest. */
export function surviveBugs(): void {
  surviveUncaught((error) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`baton: internal error, the guest runs on: ${text}\n`);
  });
}

/** A signal that would lose the guest is answered with a message, as `quit` is; the next one is obeyed. */
function quitOn(handle: VmHandle, signal: NodeJS.Signals): void {
  process.once(signal, () => {
    try {
      handle.quit();
    } catch (error) {
      process.stderr.write(`baton: ${signal}: ${describeError(error)}\n`);
      quitOn(handle, signal);
    }
  });
}

/** SIGTERM, SIGINT and SIGHUP end the VM as `quit` does; the process ends with the guest's exit code. */
export async function runToEnd(handle: VmHandle): Promise<void> {
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) quitOn(handle, signal);
  const { exitCode } = await handle.exited;
  await handle.close();
  process.exit(exitCode);
}
