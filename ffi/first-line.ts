// SPDX-License-Identifier: Apache-2.0
// When this program's first line ran. Imported before anything else, so that what comes after counts as Baton's own.
import { monotonicMs } from "./clock.ts";

/** CLOCK_MONOTONIC, ms; koffi is loaded by then, which reading the clock needs. */
export const firstLineMs = monotonicMs();
