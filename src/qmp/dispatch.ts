// SPDX-License-Identifier: Apache-2.0
// From a JSON value that a client sent to the reply. https://www.qemu.org/docs/master/interop/qmp-spec.html
import type { CommandContext } from "./commands/handler.ts";
import { HANDLERS } from "./commands/index.ts";
import { QmpError, type QmpErrorReply, toErrorReply } from "./errors.ts";
import { check } from "./schema/check.ts";
import { type CommandSpec, empty } from "./schema/types.ts";
import { COMMANDS, type CommandName } from "./schema.ts";

/** A reply in the form in which it goes over the wire; `id` is there if the request had one. */
export type QmpReply = { return: unknown; id?: unknown } | { error: QmpErrorReply; id?: unknown };

/** Executes `request` and returns its reply; never throws. */
export async function dispatch(context: CommandContext, request: unknown): Promise<QmpReply> {
  const id = isObject(request) && Object.hasOwn(request, "id") ? { id: request.id } : {};
  try {
    return { return: await execute(context, request), ...id };
  } catch (error) {
    return { error: toErrorReply(error), ...id };
  }
}

async function execute(context: CommandContext, request: unknown): Promise<unknown> {
  const { name, args } = parseRequest(request);
  const isKnown = Object.hasOwn(COMMANDS, name);
  const spec: CommandSpec = isKnown ? COMMANDS[name as CommandName] : {};
  if (!context.session.negotiated && !spec.negotiation) {
    throw new QmpError("Expecting capabilities negotiation with 'qmp_capabilities'", { class: "CommandNotFound" });
  }
  if (!isKnown) throw new QmpError(`The command ${name} has not been found`, { class: "CommandNotFound" });
  const checked = check(spec.arguments ?? empty, args);
  const handler = HANDLERS[name as CommandName] as (context: CommandContext, args: unknown) => unknown;
  const result = await handler(context, checked);
  return spec.returns === undefined ? {} : result;
}

interface Request {
  name: string;
  args: Record<string, unknown>;
}

function parseRequest(request: unknown): Request {
  if (!isObject(request)) throw new QmpError("QMP input must be a JSON object");
  let name: string | undefined;
  let args: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(request)) {
    switch (key) {
      case "execute":
        if (typeof value !== "string") throw new QmpError("QMP input member 'execute' must be a string");
        name = value;
        break;
      case "arguments":
        if (!isObject(value)) throw new QmpError("QMP input member 'arguments' must be an object");
        args = value;
        break;
      case "id":
        break;
      default:
        throw new QmpError(`QMP input member '${key}' is unexpected`);
    }
  }
  if (name === undefined) throw new QmpError("QMP input lacks member 'execute'");
  return { name, args };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
