// SPDX-License-Identifier: Apache-2.0
// `baton status`: what a running VM is, how its last migration went, and in which modes it can be updated and moved.
import { formatSize } from "../hmp/size.ts";
import type { CommandResult, QmpClient } from "../qmp/client.ts";
import { MigMode, type MigrationInfo } from "../qmp/schema/migration.ts";
import { parseVerbArguments } from "./arguments.ts";
import { milliseconds } from "./migration/report.ts";
import { connectMonitor, onlySocket } from "./monitor.ts";

const USAGE = `Usage: baton status SOCKET [--json]
Says what the VM whose QMP socket is SOCKET (a path, or HOST:PORT) is, how its last update or migration went, and what
forbids which mode of them.

  --json   the same for programs; each of migrate-blockers has mode, code, device, reason and fix
  --help`;

/** Keys of the JSON form: the QMP commands' names without `query-`. */
interface Status {
  status: CommandResult<"query-status">;
  version: CommandResult<"query-version">;
  name: string | undefined;
  uuid: string;
  kvm: CommandResult<"query-kvm">;
  cpus: number;
  "memory-size": number;
  memdev: CommandResult<"query-memdev">;
  migrate: CommandResult<"query-migrate">;
  "migrate-blockers": CommandResult<"query-migrate-blockers">;
}

type Row = [key: string, value: string | undefined];

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
    // Older programs do not know query-accelerators.
    kvm: await qmp.execute("query-kvm"),
    cpus: (await qmp.execute("query-cpus-fast")).length,
    "memory-size": (await qmp.execute("query-memory-size-summary"))["base-memory"],
    memdev: await qmp.execute("query-memdev"),
    migrate: await qmp.execute("query-migrate"),
    "migrate-blockers": await qmp.execute("query-migrate-blockers"),
  };
}

function describe(found: Status): string {
  const { migrate } = found;
  const rows: Row[] = [
    ["name", found.name],
    ["status", found.status.status],
    ["program", found.version.package === "" ? undefined : found.version.package],
    ["vCPUs", `${found.cpus}, on ${found.kvm.enabled ? "KVM" : "Baton's CPU engine"}`],
    ["RAM", `${found["memory-size"] / 2 ** 20} MiB${found.memdev.map(describeBackend).join("")}`],
    ["updates", String(migrate.updates ?? 0)],
    ["last one", lastMigration(migrate)],
    // A VM without its guest has nothing to move.
    ...(["inmigrate", "postmigrate"].includes(found.status.status)
      ? []
      : MigMode.values.flatMap((mode) => modeRows(mode, found))),
  ];
  return rows.flatMap(([key, value]) => (value === undefined ? [] : [`${key.padEnd(12)} ${value}\n`])).join("");
}

function describeBackend({ id, share }: Status["memdev"][number]): string {
  return `, ${id ?? "no name"}: ${share ? "shared" : "private"}`;
}

function modeRows(mode: MigMode, found: Status): Row[] {
  const blockers = found["migrate-blockers"].filter((blocker) => blocker.mode === mode);
  if (blockers.length === 0) return [[mode, "possible"]];
  return [
    [mode, "blocked"],
    ...blockers.flatMap(({ reason, fix }): Row[] => [
      ["", reason],
      ["", fix],
    ]),
  ];
}

function lastMigration(info: MigrationInfo): string | undefined {
  const { status: state, "downtime-us": downtimeUs, "error-desc": error } = info;
  if (state === undefined) return undefined;
  if (state === "active" && info.ram !== undefined) {
    const { remaining, total, "dirty-sync-count": round } = info.ram;
    return `active, round ${round}: ${formatSize(remaining)} of ${formatSize(total)} left`;
  }
  const pause = downtimeUs === undefined ? "" : `, the guest stood still for ${milliseconds(downtimeUs)}`;
  return `${state}${pause}${error === undefined ? "" : `: ${error}`}`;
}
