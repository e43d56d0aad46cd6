#!/usr/bin/env -S bun run
// SPDX-License-Identifier: Apache-2.0
// Entry point of `baton`. A process that an update has started takes over the guest before it does anything else, and
// before it loads anything else.
import { firstLineMs } from "../../ffi/first-line.ts";
import { describeError } from "../errors.ts";
import { resumeFromExec, takeHandover } from "../migration/cpr-incoming.ts";
import { importEntry } from "../runtime/entry.ts";

const program = (): Promise<typeof import("./run.ts")> => importEntry("cli/run.ts");

function report(error: unknown): void {
  process.stderr.write(`baton: ${describeError(error)}\n`);
}

async function main(): Promise<void> {
  const handover = takeHandover(process.env);
  const args = process.argv.slice(2);
  if (handover === undefined) return (await program()).run(args);
  const resumed = await resumeFromExec(handover, firstLineMs, args);
  // The guest runs in this process: whatever goes wrong from here on, it must not end.
  void program()
    .then(({ goOn }) => goOn(resumed))
    .catch(report);
}

main().catch((error: unknown) => {
  report(error);
  process.exit(1);
});
