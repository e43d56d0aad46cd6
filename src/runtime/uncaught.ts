// SPDX-License-Identifier: Apache-2.0
// What becomes of an exception that nobody caught.

let isSurvived = false;

/** False when an uncaught exception ends the program. */
export function survivesUncaught(): boolean {
  return isSurvived;
}

/**
 * Reports uncaught exceptions and rejections and goes on. A bug in a monitor or a back end must not take the guest with
 * it: the vCPUs have threads of their own and do not care.
 */
export function surviveUncaught(report: (error: unknown) => void): void {
  isSurvived = true;
  if (typeof Bun === "undefined") {
    globalThis.addEventListener("error", (event) => {
      event.preventDefault();
      report((event as Event & { error: unknown }).error);
    });
    globalThis.addEventListener("unhandledrejection", (event) => {
      event.preventDefault();
      report((event as Event & { reason: unknown }).reason);
    });
  } else {
    process.on("uncaughtException", report);
    process.on("unhandledRejection", report);
  }
}
