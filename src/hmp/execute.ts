// SPDX-License-Identifier: Apache-2.0
// Runs one line of the human monitor.
import { describeError } from "../errors.ts";
import { HmpUsageError, parseArguments } from "./arguments.ts";
import { findCommand, type HmpContext } from "./commands.ts";

/** Runs `line`, whatever is in it, and prints what it has to say, failures included; never throws. */
export async function runLine(context: HmpContext, line: string): Promise<void> {
  if (line.trim() === "") return;
  const found = findCommand(line);
  if ("unknown" in found) {
    context.print(`unknown command: '${found.unknown}'\n`);
    return;
  }
  const { command, path, rest } = found;
  try {
    const args = parseArguments(command.names.join("|"), rest, command.flags ?? [], command.arguments ?? []);
    await command.run(context, args);
  } catch (error) {
    if (error instanceof HmpUsageError) {
      context.print(`${error.message}\nTry "help ${path}${command.names[0]}" for more information\n`);
    } else {
      context.print(`Error: ${describeError(error)}\n`);
    }
  }
}

/** Runs `line` for somebody who wants the output as a text, with the line ends of a terminal. */
export async function executeLine(context: Pick<HmpContext, "target" | "cpuIndex">, line: string): Promise<string> {
  let output = "";
  const print = (text: string): void => {
    output += text;
  };
  await runLine({ ...context, print }, line);
  return toTerminal(output);
}

export function toTerminal(text: string): string {
  return text.replaceAll("\n", "\r\n");
}
