// SPDX-License-Identifier: Apache-2.0
import { refuseSmpOfOtherHosts } from "../../../../src/accel/wasm/features.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { assert, describe, rejection } from "../../../harness.ts";

const test = describe("accel/wasm/features");

test("several vCPUs need a host whose memory order is the guest's", async () => {
  for (const cpuCount of [1, 2, 8]) refuseSmpOfOtherHosts(cpuCount, "x64");
  refuseSmpOfOtherHosts(1, "arm64");
  const error = await rejection(() => refuseSmpOfOtherHosts(2, "arm64"));
  assert.is((error as VmmError).code, "smp");
  assert.match(error.message, /one vCPU on this host, not 2: .* arm64 has another one\. Start it with -smp 1$/);
});

test.run();
