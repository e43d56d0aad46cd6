#!/usr/bin/env -S bun run
// SPDX-License-Identifier: Apache-2.0
// Entry point of `baton`. A process that an update has started takes over the guest before it does anything else, and
// before it loads anything else.
import { monotonicMs, threadCpuMs } from "../../ffi/clock.ts";
import { firstLineMs } from "../../ffi/first-line.ts";
import { describeError } from "../errors.ts";
import { resumeFromExec, takeHandover } from "../migration/cpr-incoming.ts";
import { noteEndSignals } from "../runtime/end-signals.ts";
import { importEntry } from "../runtime/entry.ts";

/** Exit code for a command line that cannot be understood. */
const EXIT_USAGE = 2;
const RETRY_MS = 1000;

const program = (): Promise<typeof import("./run.ts")> => importEntry("cli/run.ts");

/** A running VM asks whether this program could take its guest, and how long that would take: begun as in earnest. */
async function dryRun(args: readonly string[]): Promise<void> {
  const loadMs = monotonicMs() - firstLineMs;
  const execMs = threadCpuMs() - loadMs;
  const { dryRun } = await importEntry<typeof import("./dry-run.ts")>("cli/dry-run.ts");
  await dryRun(args, { execMs, loadMs });
}

/** A VM that is about to be updated wants somebody who takes its guest back if need be. */
async function guard(args: readonly string[]): Promise<void> {
  const { guard } = await importEntry<typeof import("./guard.ts")>("cli/guard.ts");
  guard(args);
}

/** A process that may open no more files, say, may do so later. */
async function loadProgram(): ReturnType<typeof program> {
  for (;;) {
    try {
      return await program();
    } catch (error) {
      report(error);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function report(error: unknown): void {
  process.stderr.write(`baton: ${describeError(error)}\n`);
}

async function main(): Promise<void> {
  const handover = takeHandover(process.env);
  const args = process.argv.slice(2);
  if (handover === undefined && args[0] === "dry-run") return dryRun(args.slice(1));
  if (handover === undefined && args[0] === "guard") return guard(args.slice(1));
  if (handover === undefined) return (await program()).run(args);
  noteEndSignals();
  const resumed = await resumeFromExec(handover, firstLineMs, args);
  // The guest runs in this process: whatever goes wrong from here on, it must not end.
  void loadProgram()
    .then(({ goOn }) => goOn(resumed))
    .catch(report);
}

main().catch((error: unknown) => {
  report(error);
  // Not by its class: a verb is a program of its own, with its own classes.
  process.exit((error as { code?: unknown }).code === "usage" ? EXIT_USAGE : 1);
});
