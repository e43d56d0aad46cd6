// SPDX-License-Identifier: Apache-2.0
// What the implementation of a QMP command is.
import type { CommandArguments, CommandName, CommandResult } from "../schema.ts";
import type { MaybePromise, QmpTarget } from "../target.ts";

/** The client that a command came from, as far as commands may touch it. */
export interface CommandSession {
  negotiated: boolean;
  /** The fd that came with the running command, which is the command's then; undefined when none did. */
  takeFd(): number | undefined;
}

export interface CommandContext {
  readonly target: QmpTarget;
  readonly session: CommandSession;
}

type Result<K extends CommandName> = keyof CommandResult<K> extends never ? unknown : CommandResult<K>;

/** Gets checked arguments. What a command returns that tells nothing is ignored. */
export type Handler<K extends CommandName> = (
  context: CommandContext,
  args: CommandArguments<K>,
) => MaybePromise<Result<K>>;

export type Handlers<K extends CommandName> = { readonly [N in K]: Handler<N> };
