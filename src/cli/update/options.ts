// SPDX-License-Identifier: Apache-2.0
// The command line of `baton update`.
import { UsageError } from "../../config/usage.ts";
import { parseNumber, parseTimeout, parseVerbArguments } from "../arguments.ts";
import { onlySocket } from "../monitor.ts";
import type { UpdateMode } from "./choose-mode.ts";

export const USAGE = `Usage: baton update SOCKET [OPTION…]
Replaces the program under the VM whose QMP socket is SOCKET (a path, or HOST:PORT). Same guest, same connections.

  --image PROGRAM   the new program (default: by cpr-exec the one that the VM was started with, which may be a newer
                    file by now; by cpr-transfer, and for a VM with -sandbox on, the one that runs this command)
  --mode MODE       cpr-exec: the VM's process executes it; cpr-transfer: a new process of it takes over in the
                    background, and the old one ends; auto (default): cpr-exec unless something forbids it
  --log FILE        what the new process of cpr-transfer says is appended to FILE (default: nowhere)
  --check           only find out whether it would work, and how long the guest would stand still
  --pause-limit MS  refuse the update when the guest would stand still for longer, and take it back when it turns out to
  --guard-timeout MS  by cpr-exec: how long the new program may take to run the guest until a guard gives it back to the
                    old one (default 2000; 0: no guard); with --relay: to be ready (default 30000)
  --relay           by cpr-exec: the guest runs in a helper while the new program starts, and stands still twice for as
                    long as by cpr-transfer, instead of once for a whole start; the helper keeps it if need be
  --timeout SECONDS until the update is given up waiting for (default 60); the VM goes on with it all the same
  --json            print what query-migrate says afterwards, with mode, mode-reason and, of a new process, pid
  --help

Exit code: 0 when the guest runs in the new program, 1 when it does not (it runs on in the old one then).
With --check: 0 when it would work, 3 when it would not, 1 when that could not be found out.`;

const OPTIONS = {
  image: { type: "string" },
  mode: { type: "string", default: "auto" },
  log: { type: "string" },
  check: { type: "boolean", default: false },
  "pause-limit": { type: "string", default: "0" },
  "guard-timeout": { type: "string" },
  relay: { type: "boolean", default: false },
  timeout: { type: "string", default: "60" },
  json: { type: "boolean", default: false },
} as const;

const MODES: readonly (UpdateMode | "auto")[] = ["auto", "cpr-exec", "cpr-transfer"];
/** Longer than anybody's guest may stand. */
const MAX_PAUSE_MS = 3_600_000;

export interface UpdateOptions {
  /** The monitor of the VM. */
  socket: string;
  wanted: UpdateMode | "auto";
  /** The new program as it was named: not looked for yet. */
  image: string | undefined;
  log: string | undefined;
  isCheck: boolean;
  isRelayed: boolean;
  isJson: boolean;
  timeoutMs: number;
  /** 0: none. */
  pauseLimitMs: number;
  guardTimeoutMs: number | undefined;
}

/** Undefined when only help is asked for. @throws UsageError */
export function parseUpdateOptions(args: readonly string[]): UpdateOptions | undefined {
  const { values, positionals } = parseVerbArguments("update", args, OPTIONS, { allowPositionals: true });
  if (values.help) return undefined;
  const socket = onlySocket("update", positionals);
  const timeoutMs = parseTimeout("update", values.timeout);
  const readMs = (name: "pause-limit" | "guard-timeout", text: string): number =>
    parseNumber("update", name, text, { least: 0, most: MAX_PAUSE_MS });
  const pauseLimitMs = readMs("pause-limit", values["pause-limit"]);
  const guardTimeout = values["guard-timeout"];
  const guardTimeoutMs = guardTimeout === undefined ? undefined : readMs("guard-timeout", guardTimeout);
  const asked = MODES.find((mode) => mode === values.mode);
  if (asked === undefined) throw new UsageError(`update: --mode ${values.mode}: give ${MODES.join(", ")}`);
  if (values.relay && asked === "cpr-transfer") throw new UsageError("update: --relay is of mode cpr-exec");
  return {
    socket,
    wanted: values.relay ? "cpr-exec" : asked,
    image: values.image,
    log: values.log,
    isCheck: values.check,
    isRelayed: values.relay,
    isJson: values.json,
    timeoutMs,
    pauseLimitMs,
    guardTimeoutMs,
  };
}
