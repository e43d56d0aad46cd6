// SPDX-License-Identifier: Apache-2.0
// The one place that loads koffi: version gate first, then libc.
//
// The native module is required by its literal path: that is what `bun build --compile` embeds, and it skips koffi's
// own search, which costs 3 ms of every start (https://koffi.dev/).
import type koffiModule from "koffi";

declare const require: NodeJS.Require | undefined;
declare const Deno: { version: { deno: string } } | undefined;

/** Older Bun releases abort in their garbage collector when koffi is used. */
const MINIMUM_BUN = [1, 4, 0] as const;

function assertRuntime(): void {
  const bun = process.versions.bun;
  if (bun === undefined) {
    if (typeof Deno === "undefined") throw new Error("Baton runs on Bun ≥ 1.4.0 or Deno, not on Node.js");
    return;
  }
  const parts = bun.split(".");
  for (let index = 0; index < MINIMUM_BUN.length; index++) {
    const found = Number.parseInt(parts[index] ?? "0", 10);
    const wanted = MINIMUM_BUN[index]!;
    if (found > wanted) return;
    if (found < wanted) throw new Error(`Bun ${bun} is too old for Baton: 1.4.0 or newer is needed`);
  }
}

assertRuntime();

export type Koffi = typeof koffiModule;

// Bun inlines a literal `require` into the compiled binary; Deno has no `require` in ES modules. node:module is asked for
// by name, because importing it costs Bun 0.2 ms of every update.
export const koffi: Koffi =
  typeof Deno === "undefined"
    ? require!("@koromix/koffi-linux-x64/linux_x64/koffi.node")
    : process.getBuiltinModule("node:module").createRequire(import.meta.url)(
        "@koromix/koffi-linux-x64/linux_x64/koffi.node",
      );

const libc = koffi.load("libc.so.6");

/** A foreign function as koffi gives it: callable, and `.async` for a call on a pool thread. */
export type Foreign = ReturnType<typeof libc.func>;

/** Declares a libc function by its C prototype. Declare variadic functions with fixed arguments. */
export function libcFunction(prototype: string): Foreign {
  return libc.func(prototype);
}

/** errno of the last call. Read it in the very next statement: any other call may change it. */
export function errno(): number {
  return koffi.errno();
}

/**
 * Address of a buffer's first byte.
 *
 * SAFETY: the address is good only while the buffer is alive and is not detached; a garbage-collected buffer may not
 * be given to a call that keeps the pointer. `WebAssembly.Memory` with initial = maximum never moves.
 */
export function addressOf(view: ArrayBufferView): bigint {
  return BigInt(koffi.address(view as unknown as bigint));
}
