#!/usr/bin/env -S bun run
// SPDX-License-Identifier: Apache-2.0
// Entry point of `baton`. A process that an update has started takes over the guest before it does anything else, and
// before it loads anything else.
import { firstLineMs } from "../../ffi/first-line.ts";
import { resumeFromExec, takeHandover } from "../migration/cpr-incoming.ts";
import { importEntry } from "../runtime/entry.ts";

const program = (): Promise<typeof import("./run.ts")> => importEntry("cli/run.ts");

const handover = takeHandover(process.env);

if (handover === undefined) {
  void program().then(({ run }) => run(process.argv.slice(2)));
} else {
  void resumeFromExec(handover, firstLineMs, process.argv.slice(2)).then(async (resumed) => {
    const { goOn } = await program();
    await goOn(resumed);
  });
}
