// SPDX-License-Identifier: Apache-2.0
// Who we are. tools/check.ts holds VERSION against package.json.

export const VERSION = "0.1.0";
export const PRODUCER = `baton ${VERSION}`;
