// SPDX-License-Identifier: Apache-2.0
// What `baton` does when it is started by a person, a verb or a VM, and what it does with a guest that an update has
// brought here.
import { readFileSync } from "node:fs";
import { helpText } from "../config/help.ts";
import { interpretOptions } from "../config/interpret.ts";
import { parseArguments } from "../config/parse-arguments.ts";
import { resolve } from "../config/resolve.ts";
import { keepLifeline, takeLifeline } from "../machine/lifeline.ts";
import { startVm } from "../machine/start.ts";
import type { Resumed } from "../migration/cpr-incoming.ts";
import { connectResumed } from "../migration/cpr-resumed.ts";
import { reapRelayHelper, takeRelayTask } from "../migration/relay.ts";
import { importEntry } from "../runtime/entry.ts";
import { isSandboxed } from "../sandbox/state.ts";
import { VERSION } from "../version.ts";
import { runToEnd, surviveBugs } from "./run-to-end.ts";

/** What `baton VERB` does: takes the arguments after the verb, gives the exit code. */
const VERBS: Readonly<Record<string, () => Promise<(args: string[]) => Promise<number>>>> = {
  demo: async () => (await importEntry<typeof import("./demo.ts")>("cli/demo.ts")).demo,
  image: async () => (await importEntry<typeof import("./image.ts")>("cli/image.ts")).image,
  migrate: async () => (await importEntry<typeof import("./migrate.ts")>("cli/migrate.ts")).migrate,
  state: async () => (await importEntry<typeof import("./state.ts")>("cli/state.ts")).state,
  status: async () => (await importEntry<typeof import("./status.ts")>("cli/status.ts")).status,
  update: async () => (await importEntry<typeof import("./update.ts")>("cli/update.ts")).update,
};

/** @throws what is wrong; of code "usage" when it is the command line */
export async function run(args: readonly string[]): Promise<void> {
  const verb = Object.hasOwn(VERBS, args[0] ?? "") ? VERBS[args[0]!] : undefined;
  if (verb !== undefined) {
    process.exitCode = await (await verb())(args.slice(1));
    return;
  }
  const configFiles: string[] = [];
  const { options, show } = parseArguments([...args], (path) => {
    configFiles.push(path);
    return readFileSync(path, "utf8");
  });
  if (show === "help") {
    process.stdout.write(helpText());
    return;
  }
  if (show === "version") {
    process.stdout.write(`baton ${VERSION}\n`);
    return;
  }
  const wanted = interpretOptions(options);
  const spec = resolve(wanted);
  if (process.pid === 1) {
    const { runAsInit } = await importEntry<typeof import("./init.ts")>("cli/init.ts");
    process.exit(await runAsInit());
  }
  if (spec.sandbox !== undefined && !isSandboxed()) {
    keepLifeline(process.env);
    const { enterSandbox } = await importEntry<typeof import("../sandbox/enter.ts")>("sandbox/enter.ts");
    enterSandbox(spec, configFiles);
  }
  const lifelineFd = takeLifeline(process.env);
  const relayTask = takeRelayTask(process.env);
  reapRelayHelper(process.env);
  const handle = await startVm(spec, { wanted, startsBaton: true, lifelineFd, relayTask });
  surviveBugs();
  await runToEnd(handle);
}

/** Connects a guest that runs here already with the world, and keeps it going until it ends. */
export async function goOn(resumed: Resumed): Promise<void> {
  surviveBugs();
  await runToEnd(connectResumed(resumed, { startsBaton: true }));
}
