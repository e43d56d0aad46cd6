// SPDX-License-Identifier: Apache-2.0
// Commands about the monitor itself.
import { QmpError } from "../errors.ts";
import { introspect } from "../schema/introspect.ts";
import { COMMANDS, EVENTS } from "../schema.ts";
import { versionInfo } from "../version.ts";
import type { Handlers } from "./handler.ts";

export const controlCommands: Handlers<
  "qmp_capabilities" | "query-version" | "query-commands" | "query-qmp-schema" | "human-monitor-command"
> = {
  qmp_capabilities({ session }, { enable = [] }) {
    if (session.negotiated) {
      throw new QmpError("Capabilities negotiation is already complete, command ignored", { class: "CommandNotFound" });
    }
    if (enable.length > 0) throw new QmpError(`QMP capability ${enable[0]} not available`);
    session.negotiated = true;
  },

  "query-version": ({ target }) => versionInfo(target.version),

  "query-commands": () => Object.keys(COMMANDS).map((name) => ({ name })),

  "query-qmp-schema": () => introspect(COMMANDS, EVENTS),

  async "human-monitor-command"({ target }, args) {
    const cpuIndex = args["cpu-index"];
    if (cpuIndex !== undefined && !target.cpus().some((cpu) => cpu["cpu-index"] === cpuIndex)) {
      throw new QmpError("Parameter 'cpu-index' expects a CPU number");
    }
    const { executeLine } = await import("../../hmp/execute.ts");
    return executeLine({ target, cpuIndex: cpuIndex ?? 0 }, args["command-line"]);
  },
};
