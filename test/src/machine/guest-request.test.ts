// SPDX-License-Identifier: Apache-2.0
// Which errors say that an update is worth another try.
import { VmmError } from "../../../src/errors.ts";
import { guestRequest, isGuestRequest } from "../../../src/machine/guest-request.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("guest-request");

test("knows its own error, and no other", () => {
  assert.ok(isGuestRequest(guestRequest()));
  assert.not.ok(isGuestRequest(new VmmError("guest-busy", "It is busy")));
  assert.not.ok(isGuestRequest(undefined));
});

test("knows it from another bundle, whose VmmError is another class", () => {
  class VmmError extends Error {
    readonly code = guestRequest().code;
  }
  assert.ok(isGuestRequest(new VmmError("of the bundle that the VM came with")));
});

test.run();
