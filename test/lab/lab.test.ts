// SPDX-License-Identifier: Apache-2.0
import { SCENARIOS } from "./suite.ts";
import { describeLab } from "./tests.ts";

describeLab(
  "lab",
  SCENARIOS.filter(({ guestSeries }) => guestSeries !== "6.1"),
).run();
