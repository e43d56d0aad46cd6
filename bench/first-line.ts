// SPDX-License-Identifier: Apache-2.0
// The time of a program's first line of JavaScript. Import it before anything else: modules are evaluated in order.

/** On the clock of performance.now(), whose zero is unusable: it lies somewhere inside the runtime's own start. */
export const firstLineMs = performance.now();
