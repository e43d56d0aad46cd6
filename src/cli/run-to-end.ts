// SPDX-License-Identifier: Apache-2.0
// Keeps a VM going until it ends, and ends the process as it did.

import { describeError } from "../errors.ts";
import type { VmHandle } from "../machine/handle.ts";
import { heedEndSignals } from "../runtime/end-signals.ts";
import { surviveUncaught } from "../runtime/uncaught.ts";

/** From here on a bug costs a message, not the guest. */
export function surviveBugs(): void {
  surviveUncaught((error) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`baton: internal error, the guest runs on: ${text}\n`);
  });
}

/** SIGTERM, SIGINT and SIGHUP end the VM as `quit` does; the process ends with the guest's exit code. */
export async function runToEnd(handle: VmHandle): Promise<void> {
  heedEndSignals(function quit(signal) {
    try {
      handle.quit();
    } catch (error) {
      // What would lose the guest is answered with a message, as `quit` is; the next one is obeyed.
      process.stderr.write(`baton: ${signal}: ${describeError(error)}\n`);
      process.once(signal, quit);
    }
  });
  const { exitCode } = await handle.exited;
  await handle.close();
  process.exit(exitCode);
}
