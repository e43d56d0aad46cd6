// SPDX-License-Identifier: Apache-2.0
import { surviveUncaught } from "../../../src/runtime/uncaught.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("runtime/uncaught");
const reports: string[] = [];
surviveUncaught((error) => reports.push((error as Error).message));

test("an exception in a callback and a rejection are reported, and the process goes on", async () => {
  setTimeout(() => {
    throw new Error("in a timer");
  }, 0);
  void Promise.reject(new Error("rejected"));
  while (reports.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(reports.toSorted(), ["in a timer", "rejected"]);
});

test.run();
