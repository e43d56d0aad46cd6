// SPDX-License-Identifier: Apache-2.0
// Baton as a program that reads older versions of the state only: what an update to the wrong binary meets.
//
//   BATON_TEST_REFUSE   a section and the highest version of it that is read: `vcpu:0`
import { KNOWN_SECTIONS } from "../../../src/migration/carried.ts";
import { GUEST_SECTIONS } from "../../../src/migration/guest-image.ts";

const [section, version] = (process.env.BATON_TEST_REFUSE ?? "").split(":");
if (section !== undefined && section !== "") {
  for (const known of [KNOWN_SECTIONS, GUEST_SECTIONS] as Record<string, number>[]) known[section] = Number(version);
}
await import("../../../src/cli/main.ts");
