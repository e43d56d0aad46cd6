// SPDX-License-Identifier: Apache-2.0
// The guest has asked for its end, a reset or sleep, in the moment in which somebody wanted to look at it or move it: what it asked
// for is in no state image, so it gets that first.
import { VmmError } from "../errors.ts";

const CODE = "guest-request";

export function guestRequest(): VmmError {
  return new VmmError(CODE, "The guest is about to end, reset or suspend itself: try again after that");
}

/** Whether trying again is worth it, once the guest has settled. */
export function isGuestRequest(error: unknown): boolean {
  return error instanceof VmmError && error.code === CODE;
}
