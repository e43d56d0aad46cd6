// SPDX-License-Identifier: Apache-2.0
// uvu suites with honest skips: a skipped test prints why and is counted as skipped.
import { suite } from "uvu";
import * as assert from "uvu/assert";

export { assert };

export type TestBody = () => void | Promise<void>;

export interface TestSuite {
  (title: string, body: TestBody): void;
  /** Registers the test, or a skip that prints `reason` when there is one. */
  skipIf(reason: string | undefined, title: string, body: TestBody): void;
  run(): void;
  before: { (hook: TestBody): void; each(hook: TestBody): void };
  after: { (hook: TestBody): void; each(hook: TestBody): void };
}

/** A named suite. Every test file ends with `.run()` on each of its suites; the runner fails a file that ran none. */
export function describe(name: string): TestSuite {
  const tests = suite(name);
  const skipIf = (reason: string | undefined, title: string, body: TestBody): void => {
    if (reason === undefined) {
      tests(title, body);
    } else {
      console.log(`SKIP ${name}: ${title}: ${reason}`);
      tests.skip(title, body);
    }
  };
  return Object.assign(tests, { skipIf }) as unknown as TestSuite;
}

/** Runs `action` and returns what it threw; fails when it threw nothing. */
export async function rejection(action: () => unknown): Promise<Error> {
  try {
    await action();
  } catch (error) {
    assert.instance(error, Error);
    return error as Error;
  }
  assert.unreachable("expected an error");
  throw new Error("unreachable");
}
