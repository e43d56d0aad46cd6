// SPDX-License-Identifier: Apache-2.0
// The implementation of every command of the schema.
import type { CommandName } from "../schema.ts";
import { controlCommands } from "./control.ts";
import { fdCommands } from "./fds.ts";
import type { Handlers } from "./handler.ts";
import { machineCommands } from "./machine.ts";
import { migrationCommands } from "./migration.ts";

export const HANDLERS: Handlers<CommandName> = {
  ...controlCommands,
  ...machineCommands,
  ...fdCommands,
  ...migrationCommands,
};
