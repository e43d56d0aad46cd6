// SPDX-License-Identifier: Apache-2.0
// Baton whose guards do not wake up before there is a file BATON_TEST_ALARM.
import { existsSync } from "node:fs";

const { BATON_TEST_ALARM } = process.env;
while (process.argv[2] === "guard" && !existsSync(BATON_TEST_ALARM!)) {
  await new Promise((resolve) => setTimeout(resolve, 10));
}
await import("../../../src/cli/main.ts");
