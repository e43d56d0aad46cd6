// SPDX-License-Identifier: Apache-2.0
// `baton dry-run`: how a running VM asks another Baton whether it could take over its guest. Not for people: they say
// `baton update --check`.
import { UsageError } from "../config/usage.ts";
import { type DryRunTask, tryTakeover } from "../migration/dry-run-image.ts";
import { MigMode } from "../qmp/schema/migration.ts";
import { parseVerbArguments } from "./arguments.ts";

const OPTIONS = {
  mode: { type: "string" },
  state: { type: "string" },
  ram: { type: "string" },
  same: { type: "boolean", default: false },
} as const;

/** Prints the answer as JSON. @throws UsageError */
export async function dryRun(args: readonly string[], times: Pick<DryRunTask, "execMs" | "loadMs">): Promise<void> {
  const { values, positionals } = parseVerbArguments("dry-run", args, OPTIONS, { allowPositionals: true });
  const mode = MigMode.values.find((name) => name === values.mode);
  if (mode === undefined || values.state === undefined) {
    throw new UsageError("dry-run: A running VM calls this; what you want is baton update SOCKET --check");
  }
  const answer = await tryTakeover({
    mode,
    statePath: values.state,
    ramPath: values.ram,
    args: positionals,
    isSame: values.same,
    ...times,
  });
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
