// SPDX-License-Identifier: Apache-2.0
// What a scenario is: a program that runs inside the lab, prints what it finds, and says by its exit code how it went.
//
// | exit code | meaning                                            |
// |-----------|----------------------------------------------------|
// | 0         | passed                                             |
// | 77        | skipped; the reason is its last line, after `SKIP` |
// | other     | failed; the reason is its last line                |

/** What automake and meson use for the same thing. */
export const EXIT_SKIPPED = 77;

/** Thrown by a scenario that cannot run here. */
export class Skip extends Error {}

/** Throws an error that says `problem` unless `condition` holds. */
export function check(condition: boolean, problem: string): asserts condition {
  if (!condition) throw new Error(problem);
}

/** Runs a scenario's body and ends the process with its verdict. */
export async function scenario(body: () => Promise<void> | void): Promise<never> {
  try {
    await body();
  } catch (error) {
    if (error instanceof Skip) {
      console.log(`SKIP ${error.message}`);
      process.exit(EXIT_SKIPPED);
    }
    console.log(`FAIL ${error instanceof Error ? (error.stack ?? error.message) : error}`);
    process.exit(1);
  }
  process.exit(0);
}

/** Resolves to what `poll` returns once that is not `undefined`; throws `problem` when it stays so for `timeoutMs`. */
export async function until<T>(
  poll: () => T | undefined | Promise<T | undefined>,
  timeoutMs: number,
  problem: string | (() => string),
  intervalMs = 20,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await poll();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(typeof problem === "string" ? problem : problem());
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}
