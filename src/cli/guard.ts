// SPDX-License-Identifier: Apache-2.0
// `baton guard`: a VM starts it before an update, to have its guest taken back from a new program that fails. Not for people.
import { UsageError } from "../config/usage.ts";
import { GUARD_SOCKET_FD } from "../migration/guard.ts";
import { standGuard } from "../migration/guard-watch.ts";

/** A terminal sends these to every process of the VM: they are for the VMM, which the guard is not, or not yet. */
const NOT_FOR_GUARDS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Returns when there is nothing to guard any more. @throws UsageError, VmmError "guest-lost" */
export function guard(args: readonly string[]): void {
  if (args.length !== 1 || args[0] !== String(GUARD_SOCKET_FD)) {
    throw new UsageError("guard: A VM starts this before an update; what you want is baton update SOCKET");
  }
  for (const signal of NOT_FOR_GUARDS) process.on(signal, () => {});
  standGuard(GUARD_SOCKET_FD);
  process.exit(0);
}
