// SPDX-License-Identifier: Apache-2.0
// Keeps a VM going until it ends, and ends the process as it did.

import type { VmHandle } from "../machine/handle.ts";
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
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, () => handle.quit());
  const { exitCode } = await handle.exited;
  await handle.close();
  process.exit(exitCode);
}
