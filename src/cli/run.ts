// SPDX-License-Identifier: Apache-2.0
// What `baton` does when it is started by a person: a verb, or a VM.
import { readFileSync } from "node:fs";
import { helpText } from "../config/help.ts";
import { parseArguments } from "../config/parse-arguments.ts";
import { resolveOptions } from "../config/resolve.ts";
import { describeError, VmmError } from "../errors.ts";
import { startVm } from "../machine/start.ts";
import { entryUrl } from "../runtime/worker.ts";
import { VERSION } from "../version.ts";
import { runToEnd, surviveBugs } from "./run-to-end.ts";

/** Exit code for a command line that cannot be understood. */
const EXIT_USAGE = 2;

export async function run(args: readonly string[]): Promise<void> {
  try {
    if (args[0] === "demo") {
      // A program of its own in the compiled binary: an update, which has no use for it, need not load it.
      const { demo } = (await import(entryUrl("cli/demo.ts"))) as typeof import("./demo.ts");
      process.exitCode = await demo(args.slice(1));
      return;
    }
    const { options, show } = parseArguments([...args], (path) => readFileSync(path, "utf8"));
    if (show === "help") {
      process.stdout.write(helpText());
      return;
    }
    if (show === "version") {
      process.stdout.write(`baton ${VERSION}\n`);
      return;
    }
    const handle = await startVm(resolveOptions(options));
    surviveBugs();
    await runToEnd(handle);
  } catch (error) {
    process.stderr.write(`baton: ${describeError(error)}\n`);
    process.exit(error instanceof VmmError && error.code === "usage" ? EXIT_USAGE : 1);
  }
}
