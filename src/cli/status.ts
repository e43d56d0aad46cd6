// SPDX-License-Identifier: Apache-2.0
// `baton status`: what a running VM is, and whether it can be updated.
import type { CommandResult, QmpClient } from "../qmp/client.ts";
import { parseVerbArguments } from "./arguments.ts";
import { connectMonitor, onlySocket } from "./monitor.ts";

const USAGE = `Usage: baton status SOCKET [--json]
Says what the VM whose QMP socket is SOCKET (a path, or HOST:PORT) is, and whether it can be updated.`;

/** Keys of the JSON form: the QMP commands' names without `query-`. */
interface Status {
  status: CommandResult<"query-status">;
  version: CommandResult<"query-version">;
  name: string | undefined;
  uuid: string;
  cpus: number;
  "memory-size": number;
  migrate: CommandResult<"query-migrate">;
  "migrate-blockers": CommandResult<"query-migrate-blockers">;
}

/** Returns the exit code. @throws UsageError, VmmError when the monitor cannot be reached */
export async function status(args: readonly string[]): Promise<number> {
  const options = { json: { type: "boolean", default: false } } as const;
  const { values, positionals } = parseVerbArguments("status", args, options, { allowPositionals: true });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  await using qmp = await connectMonitor(onlySocket("status", positionals));
  const found = await ask(qmp);
  process.stdout.write(values.json ? `${JSON.stringify(found)}\n` : describe(found));
  return 0;
}

async function ask(qmp: QmpClient): Promise<Status> {
  return {
    status: await qmp.execute("query-status"),
    version: await qmp.execute("query-version"),
    name: (await qmp.execute("query-name")).name,
    uuid: (await qmp.execute("query-uuid")).UUID,
    cpus: (await qmp.execute("query-cpus-fast")).length,
    "memory-size": (await qmp.execute("query-memory-size-summary"))["base-memory"],
    migrate: await qmp.execute("query-migrate"),
    "migrate-blockers": await qmp.execute("query-migrate-blockers"),
  };
}

function describe(found: Status): string {
  const { migrate } = found;
  const blockers = found["migrate-blockers"].filter(({ mode }) => mode === "cpr-exec");
  const downtime = migrate["downtime-us"];
  const rows: [string, string | undefined][] = [
    ["name", found.name],
    ["status", found.status.status],
    ["program", found.version.package === "" ? undefined : found.version.package],
    ["vCPUs", String(found.cpus)],
    ["RAM", `${found["memory-size"] / 2 ** 20} MiB`],
    ["updates", String(migrate.updates ?? 0)],
    ["last one", lastUpdate(migrate.status, downtime, migrate["error-desc"])],
    ["cpr-exec", blockers.length === 0 ? "possible" : "blocked"],
    ...blockers.flatMap(({ reason, fix }): [string, string | undefined][] => [
      ["", reason],
      ["", fix],
    ]),
  ];
  return rows.flatMap(([key, value]) => (value === undefined ? [] : [`${key.padEnd(9)} ${value}\n`])).join("");
}

function lastUpdate(state: string | undefined, downtimeUs: number | undefined, error: string | undefined) {
  if (state === undefined) return undefined;
  const pause = downtimeUs === undefined ? "" : `, the guest stood still for ${(downtimeUs / 1000).toFixed(2)} ms`;
  return `${state}${pause}${error === undefined ? "" : `: ${error}`}`;
}
