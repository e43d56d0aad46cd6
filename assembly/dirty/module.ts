// SPDX-License-Identifier: Apache-2.0
// The module `dirty`: dirty bitmaps and page contents, at the speed of memory. Stateless, for any thread.
//
// It is always given addresses in the VM's linear memory; nothing is checked, so the caller's ranges must be right.

export { clearRange, orBitmap, setRange } from "./bitmap";
export { takeDirtyFlags } from "./flags";
export { hashPage } from "./hash";
export { collectDirty, countDirty, nextCleanPage, nextDirtyPage, nextDirtyRun } from "./scan";
export { countLeadingDataPages, countLeadingZeroPages, isZeroPage, scanZeroPages, zeroPages } from "./zero";
