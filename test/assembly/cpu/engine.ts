// SPDX-License-Identifier: Apache-2.0
// The engine's module as tools/build.ts has built it.
import { modules } from "../../../build/cpu.ts";

export function loadEngine(): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(modules.cpu), (char) => char.charCodeAt(0));
}
