// SPDX-License-Identifier: Apache-2.0
// The guest has asked for its end, a reset or sleep, in the moment in which somebody wanted to look at it or move it: what it asked
// for is in no state image, so it gets that first.
import { VmmError } from "../errors.ts";

const CODE = "guest-request";

export function guestRequest(): VmmError {
  return new VmmError(CODE, "The guest is about to end, reset or suspend itself: try again after that");
}

/**
 * Whether trying again is worth it, once the guest has settled. Told by the code, not by the class: after an update the VM
 * is of one bundle and what moves it is of another, see `ENTRIES` in runtime/entry.ts.
 */
export function isGuestRequest(error: unknown): boolean {
  return error instanceof Error && (error as Partial<VmmError>).code === CODE;
}
