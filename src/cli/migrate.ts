// SPDX-License-Identifier: Apache-2.0
// `baton migrate`: moves a guest to another VMM or into a file, shows how far that is, and says what the guest noticed.
import { resolve } from "node:path";
import { parseSize } from "../config/qemu-options.ts";
import type { MigrationAddress } from "../config/types.ts";
import { UsageError } from "../config/usage.ts";
import { describeError, VmmError } from "../errors.ts";
import { formatSize } from "../hmp/size.ts";
import type { QmpClient } from "../qmp/client.ts";
import { formatMigrationUri, parseMigrationUri } from "../qmp/migration-address.ts";
import type { MigrateSetParameters, MigrationInfo } from "../qmp/schema/migration.ts";
import { parseNumber, parseTimeout, parseVerbArguments } from "./arguments.ts";
import { setCapabilities } from "./migration/capabilities.ts";
import { Meter } from "./migration/meter.ts";
import { formatDuration, ProgressView } from "./migration/progress-view.ts";
import { blockedError, milliseconds, phaseLines, refuseWithoutGuest } from "./migration/report.ts";
import { untilOver } from "./migration/until-over.ts";
import { connectMonitor, onlySocket } from "./monitor.ts";
import { Terminal } from "./terminal.ts";

const USAGE = `Usage: baton migrate SOCKET URI [OPTION…]
       baton migrate SOCKET --cancel
Moves the guest of the VM whose QMP socket is SOCKET (a path, or HOST:PORT) to URI, and shows how far that is. The VM
that takes it, at once or when it reads the file, is: baton -incoming URI

  URI               unix:PATH, tcp:HOST:PORT, vsock:CID:PORT, fd:NAME, exec:COMMAND or file:PATH[,offset=N]
  --mode MODE       normal (default): RAM is copied while the guest runs; cpr-reboot: the guest stands from the start
  --ignore-shared   RAM stays in the shared file that it is in (x-ignore-shared)
  --limit SIZE      bytes per second, such as 100M; 0 for no limit (max-bandwidth)
  --downtime MS     how long the guest may stand still for the last of its RAM (downtime-limit)
  --streams N       RAM goes on N connections of its own, or N threads write the file (multifd)
  --zstd            RAM is compressed, on connections of its own
  --auto-converge   a guest that writes faster than its RAM moves is slowed down
  --timeout SECONDS until the migration is given up waiting for (default: never); it goes on all the same
  --cancel          end the migration that is under way; the guest stays here
  --json            print what query-migrate says afterwards
  --help

What is not given stays as the VM has it (limit, downtime), or is off. Progress goes to stderr. Ctrl-C cancels; another
one leaves the migration to itself.
Exit code: 0 when the guest has moved, 1 when it has not (it is here as before then).`;

const OPTIONS = {
  mode: { type: "string", default: "normal" },
  "ignore-shared": { type: "boolean", default: false },
  limit: { type: "string" },
  downtime: { type: "string" },
  streams: { type: "string" },
  zstd: { type: "boolean", default: false },
  "auto-converge": { type: "boolean", default: false },
  timeout: { type: "string" },
  cancel: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
} as const;

const POLL_MS = 100;
const MAX_DOWNTIME_MS = 2_000_000;
const MAX_STREAMS = 8;

type Mode = "normal" | "cpr-reboot";

interface Wanted {
  uri: string;
  address: MigrationAddress;
  mode: Mode;
  parameters: MigrateSetParameters;
  capabilities: Record<string, boolean>;
  timeoutMs: number | undefined;
}

/** Returns the exit code. @throws UsageError, VmmError saying why the guest was not moved */
export async function migrate(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseVerbArguments("migrate", args, OPTIONS, { allowPositionals: true });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  if (values.cancel) {
    await using qmp = await connectMonitor(onlySocket("migrate", positionals));
    return await cancel(qmp, values.json);
  }
  const [socket, uri, ...rest] = positionals;
  if (uri === undefined) throw new UsageError("migrate: Say where to: baton migrate SOCKET URI");
  const wanted = interpret(uri, values);
  await using qmp = await connectMonitor(onlySocket("migrate", [socket!, ...rest]));
  const info = await move(qmp, wanted);
  process.stdout.write(
    values.json ? `${JSON.stringify({ mode: wanted.mode, uri: wanted.uri, ...info })}\n` : describe(info, wanted),
  );
  return 0;
}

function interpret(uri: string, values: ReturnType<typeof parseVerbArguments<typeof OPTIONS>>["values"]): Wanted {
  const address = parseAddress(uri);
  const { mode } = values;
  if (mode === "cpr-exec" || mode === "cpr-transfer") {
    throw new UsageError(`migrate: --mode ${mode}: the guest stays on this host then: use baton update --mode ${mode}`);
  }
  if (mode !== "normal" && mode !== "cpr-reboot") {
    throw new UsageError(`migrate: --mode ${mode}: give normal or cpr-reboot`);
  }
  if (address.transport === "file") {
    for (const option of ["limit", "zstd"] as const) {
      if (!values[option]) continue;
      throw new UsageError(`migrate: --${option}: a file is written as it is, and as fast as the disk takes it`);
    }
  }
  const isMultifd = values.streams !== undefined || values.zstd;
  const limit = values.limit === undefined ? undefined : parseSize(values.limit);
  if (values.limit !== undefined && limit === undefined) {
    throw new UsageError(`migrate: --limit ${values.limit}: not a number of bytes per second, such as 100M`);
  }
  return {
    uri: formatMigrationUri(address),
    address,
    mode,
    parameters: {
      mode,
      ...(limit === undefined ? {} : { "max-bandwidth": limit }),
      ...(values.downtime === undefined
        ? {}
        : {
            "downtime-limit": parseNumber("migrate", "downtime", values.downtime, { least: 0, most: MAX_DOWNTIME_MS }),
          }),
      ...(values.streams === undefined
        ? {}
        : { "multifd-channels": parseNumber("migrate", "streams", values.streams, { least: 1, most: MAX_STREAMS }) }),
      ...(isMultifd ? { "multifd-compression": values.zstd ? "zstd" : "none" } : {}),
    },
    capabilities: {
      "x-ignore-shared": values["ignore-shared"],
      multifd: isMultifd,
      "auto-converge": values["auto-converge"],
    },
    timeoutMs: values.timeout === undefined ? undefined : parseTimeout("migrate", values.timeout),
  };
}

/** Paths are those of the directory that the command is given in, which may be another than the VM's. */
function parseAddress(uri: string): MigrationAddress {
  let address: MigrationAddress;
  try {
    address = parseMigrationUri(uri);
  } catch (error) {
    throw new UsageError(`migrate: ${describeError(error)}`);
  }
  if (address.transport === "file") return { ...address, filename: resolve(address.filename) };
  if (address.transport === "socket" && address.type === "unix") return { ...address, path: resolve(address.path) };
  return address;
}

async function move(
  qmp: QmpClient,
  { uri, mode, parameters, capabilities, timeoutMs }: Wanted,
): Promise<MigrationInfo> {
  await refuseWithoutGuest(qmp, "The guest cannot be moved");
  const blocker = (await qmp.execute("query-migrate-blockers")).find((candidate) => candidate.mode === mode);
  if (blocker !== undefined) throw blockedError("The guest cannot be moved", blocker);
  await setCapabilities(qmp, capabilities);
  await qmp.execute("migrate-set-parameters", parameters);
  const { "downtime-limit": downtimeLimitMs } = await qmp.execute("query-migrate-parameters");
  const { running } = await qmp.execute("query-status");
  const meter = new Meter({ downtimeLimitMs, guestRuns: running && mode === "normal" });
  const view = new ProgressView(Terminal.of(process.stderr), performance.now());
  using interrupt = new Interrupt(qmp, view);
  await qmp.execute("migrate", { uri });
  let info: MigrationInfo;
  try {
    info = await untilOver(qmp, {
      what: "migration",
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      pollMs: POLL_MS,
      signal: interrupt.signal,
      onInfo: (now) => view.show(meter.add(now, performance.now()), performance.now()),
    });
  } finally {
    view.end();
  }
  if (info.status !== "completed") throw await failure(qmp, info);
  return info;
}

/** Ctrl-C: the first one cancels the migration, the second one only the waiting. */
class Interrupt implements Disposable {
  readonly #abort = new AbortController();
  readonly #handle: () => void;
  #count = 0;

  constructor(qmp: QmpClient, view: ProgressView) {
    this.#handle = () => {
      if (this.#count++ > 0) {
        const message = "The migration was left to itself: see baton status, and end it with baton migrate --cancel";
        this.#abort.abort(new VmmError("migration-left", message));
        return;
      }
      view.note("Cancelling; press Ctrl-C again to leave the migration to itself");
      qmp.execute("migrate_cancel").catch((error) => this.#abort.abort(error));
    };
    process.on("SIGINT", this.#handle);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#handle);
  }
}

async function failure(qmp: QmpClient, info: MigrationInfo): Promise<VmmError> {
  const { status } = await qmp.execute("query-status");
  const reason = info["error-desc"] ?? `query-migrate says ${info.status}`;
  // Fenced: it may run over there, and the reason tells that.
  if (status === "postmigrate") return new VmmError("migration-unconfirmed", reason);
  if (info.status === "cancelled") {
    return new VmmError("migration-cancelled", `The migration was cancelled, the guest is here as before: ${status}`);
  }
  return new VmmError("migration-failed", `The guest was not moved, it is here as before (${status}): ${reason}`);
}

async function cancel(qmp: QmpClient, isJson: boolean): Promise<number> {
  const before = await qmp.execute("query-migrate");
  if (!["setup", "active", "device", "cancelling"].includes(before.status ?? "")) {
    throw new VmmError("nothing-to-cancel", "No migration is under way");
  }
  await qmp.execute("migrate_cancel");
  const info = await untilOver(qmp, { what: "migration", pollMs: POLL_MS });
  if (info.status === "completed") {
    throw new VmmError("too-late", "It was too late to cancel the migration: the guest has moved");
  }
  const { status } = await qmp.execute("query-status");
  process.stdout.write(isJson ? `${JSON.stringify(info)}\n` : `Cancelled: the guest is here as before (${status})\n`);
  return 0;
}

function describe(info: MigrationInfo, { uri, address }: Wanted): string {
  const lines = [whatHappened(info, uri, address), ...phaseLines(info)];
  const { ram } = info;
  if (ram !== undefined) {
    const sent = `${formatSize(ram.transferred)} in ${formatDuration(info["total-time"] ?? 0)}`;
    lines.push(`  RAM      ${formatSize(ram.total)}, rounds: ${ram["dirty-sync-count"]}, moved: ${sent}`);
  }
  return `${lines.join("\n")}\n`;
}

function whatHappened(info: MigrationInfo, uri: string, address: MigrationAddress): string {
  if (address.transport === "file") return `Saved to ${address.filename}: it goes on with baton -incoming ${uri}`;
  const pauseUs = info["downtime-us"] ?? 0;
  const isConfirmed = info.phases?.at(-1)?.phase === "resume";
  if (!isConfirmed) return `Sent to ${uri}: the guest goes on where that is read`;
  return `Moved to ${uri}: the guest stood still for ${milliseconds(pauseUs)}`;
}
