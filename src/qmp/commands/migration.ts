// SPDX-License-Identifier: Apache-2.0
// Commands about migration and updates.
import { QmpError } from "../errors.ts";
import { type ChannelArguments, incomingAddress, outgoingChannels } from "../migration-address.ts";
import type { MigrationCapability, MigrationCapabilityStatus } from "../schema/migration.ts";
import type { MigrationTarget } from "../target.ts";
import type { Handlers } from "./handler.ts";

/** Starts an outgoing migration; everything that can be seen to be wrong is refused before anything changes. */
export async function migrate(migration: MigrationTarget, args: ChannelArguments): Promise<void> {
  const channels = outgoingChannels(args, migration.parameters());
  await migration.migrate(channels);
}

/** The capabilities as a list, in the order of the schema. */
export function listCapabilities(migration: MigrationTarget): MigrationCapabilityStatus[] {
  return Object.entries(migration.capabilities()).map(([capability, state]) => ({
    capability: capability as MigrationCapability,
    state,
  }));
}

export const migrationCommands: Handlers<
  | "migrate"
  | "migrate-incoming"
  | "migrate_cancel"
  | "migrate-start-postcopy"
  | "migrate-set-parameters"
  | "query-migrate-parameters"
  | "migrate-set-capabilities"
  | "query-migrate-capabilities"
  | "query-migrate"
  | "query-migrate-blockers"
> = {
  migrate({ target }, { resume = false, "dry-run": isDryRun = false, ...channels }) {
    if (resume) throw new QmpError("Cannot resume if there is no paused migration");
    if (isDryRun) {
      if (channels.uri !== undefined || channels.channels !== undefined) {
        throw new QmpError("A dry run starts the new program itself: it takes neither 'uri' nor 'channels'");
      }
      return target.migration.dryRun();
    }
    return migrate(target.migration, channels);
  },
  "migrate-incoming": ({ target }, { "exit-on-error": exitOnError = true, ...channels }) =>
    target.migration.incoming(incomingAddress(channels), { exitOnError }),
  migrate_cancel: ({ target }) => target.migration.cancel(),
  "migrate-start-postcopy": ({ target }) => target.migration.startPostcopy(),

  "migrate-set-parameters": ({ target }, changes) => target.migration.setParameters(changes),
  "query-migrate-parameters": ({ target }) => target.migration.parameters(),

  "migrate-set-capabilities": ({ target }, { capabilities }) =>
    target.migration.setCapabilities(Object.fromEntries(capabilities.map((c) => [c.capability, c.state]))),
  "query-migrate-capabilities": ({ target }) => listCapabilities(target.migration),

  "query-migrate": ({ target }) => target.migration.query(),
  "query-migrate-blockers": ({ target }) => target.migration.blockers(),
};
