// SPDX-License-Identifier: Apache-2.0
import { SCENARIOS } from "./suite.ts";
import { describeLab } from "./tests.ts";

describeLab(
  "lab, guests with Linux 6.1",
  SCENARIOS.filter(({ guestSeries }) => guestSeries === "6.1"),
).run();
