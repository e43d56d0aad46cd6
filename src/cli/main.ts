#!/usr/bin/env -S bun run
// SPDX-License-Identifier: Apache-2.0
// Entry point of `baton`. A process that an update has started takes over the guest before it does anything else.
import { firstLineMs } from "../../ffi/first-line.ts";
import { resumeFromExec, takeHandover } from "../migration/cpr-incoming.ts";

const handover = takeHandover(process.env);

if (handover === undefined) {
  void import("./run.ts").then(({ run }) => run(process.argv.slice(2)));
} else {
  void resumeFromExec(handover, firstLineMs, process.argv.slice(2)).then(async (resumed) => {
    const [{ connectResumed }, { runToEnd, surviveBugs }] = await Promise.all([
      import("../migration/cpr-resumed.ts"),
      import("./run-to-end.ts"),
    ]);
    surviveBugs();
    await runToEnd(connectResumed(resumed));
  });
}
