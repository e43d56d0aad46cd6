// SPDX-License-Identifier: Apache-2.0
// Two VMM processes and what goes on between them, for the tests of cpr-transfer.
import { join } from "node:path";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { CommandResult } from "../../../src/qmp/schema.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, thisRuntime, until } from "../../guest.ts";

export interface Sockets {
  main: string;
  cpr: string;
}

export function sockets(): Sockets {
  const dir = temporaryDirectory();
  return { main: join(dir, "main.sock"), cpr: join(dir, "cpr.sock") };
}

const unix = (path: string) => ({ transport: "socket" as const, type: "unix" as const, path });

/** A VMM that waits for a guest. Its RAM is looked at through the process that has the guest now. */
export function waiting({ main, cpr }: Sockets, options: GuestOptions & { defer?: boolean } = {}): GuestProcess {
  const { defer = false, extra = [], ...others } = options;
  const channel = JSON.stringify({ "channel-type": "cpr", addr: unix(cpr) });
  return new GuestProcess({
    runtime: thisRuntime,
    bare: true,
    ...others,
    extra: ["-incoming", defer ? "defer" : `unix:${main}`, "-incoming", channel, ...extra],
  });
}

/** `migrate` by cpr-transfer; returns when it is over. */
export async function transferTo(qmp: QmpClient, place: Sockets): Promise<CommandResult<"query-migrate">> {
  await beginTransfer(qmp, place);
  return over(qmp);
}

export async function beginTransfer(qmp: QmpClient, { main, cpr }: Sockets): Promise<void> {
  await qmp.execute("migrate-set-parameters", { mode: "cpr-transfer" });
  await qmp.execute("migrate", {
    channels: [
      { "channel-type": "main", addr: unix(main) },
      { "channel-type": "cpr", addr: unix(cpr) },
    ],
  });
}

export async function over(qmp: QmpClient): Promise<CommandResult<"query-migrate">> {
  return until("the end of the migration", async () => {
    const info = await qmp.execute("query-migrate");
    return ["completed", "failed", "cancelled"].includes(info.status ?? "") ? info : undefined;
  });
}
