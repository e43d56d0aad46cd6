// SPDX-License-Identifier: Apache-2.0
// `baton demo`: replaces the VMM under a running guest again and again, and shows what the guest noticed of it.
import { writeFileSync } from "node:fs";
import { MeasuredVm } from "../meter/measured-vm.ts";
import { renderSvg } from "../meter/svg.ts";
import { sleep } from "../meter/vmm-process.ts";
import { type DemoOptions, parseDemoOptions, USAGE } from "./demo/options.ts";
import { picture } from "./demo/picture.ts";
import { checkAll, kvmProblem } from "./demo/preconditions.ts";
import { summaryText } from "./demo/summary.ts";
import { Table } from "./demo/table.ts";
import { describeVmm, findVmm } from "./demo/vmm.ts";
import { Terminal } from "./terminal.ts";

/** Between two updates the guest works, and its VMM settles: the old program's memory is given back. */
const INTERVAL_MS = 200;
const EXIT_INTERRUPTED = 130;

/** Returns the exit code: 1 when the guest noticed more than a pause. @throws UsageError, VmmError */
export async function demo(args: string[]): Promise<number> {
  const options = parseDemoOptions(args);
  const terminal = Terminal.of(process.stdout);
  if (options.help) {
    terminal.print(USAGE);
    return 0;
  }
  const command = findVmm(args);
  if (options.check) {
    terminal.print(...checkAll(terminal, command));
    return 0;
  }
  const problem = kvmProblem();
  if (problem !== undefined) {
    terminal.print(...terminal.wrap(problem));
    return 1;
  }
  return await show(options, command, terminal);
}

async function show(options: DemoOptions, command: readonly string[], terminal: Terminal): Promise<number> {
  const { updates, ramSizeBytes, cpuCount } = options;
  const pages = ramSizeBytes / 4096;
  terminal.print(
    terminal.strong("Baton: the VMM is replaced while the guest runs"),
    "",
    `  guest  ${cpuCount} vCPU${cpuCount === 1 ? "" : "s"}, ${ramSizeBytes >>> 20} MiB of RAM, all of it in use; counts, and checks itself`,
    `  VMM    ${describeVmm(command)}; every update executes it anew (cpr-exec)`,
    "  pause  how long the guest's counter stood still, read from outside in the guest's RAM",
    "",
  );
  await using vm = await MeasuredVm.start({ command, ramSizeBytes, cpuCount }, (touched) =>
    terminal.progress(`starting: the guest has touched ${Math.floor((100 * touched) / pages)} % of its RAM`),
  );
  using _ = onInterrupt(() => void vm.close().finally(() => process.exit(EXIT_INTERRUPTED)));
  const table = new Table(terminal, updates);
  for (let index = 0; index < updates; index++) {
    terminal.progress(`update ${index + 1} of ${updates}`);
    await sleep(INTERVAL_MS);
    terminal.print(...table.add(await vm.update()));
  }
  // The guest has come round to its checks after the last update too.
  await sleep(INTERVAL_MS);
  terminal.print("", ...table.legend(), "", ...summaryText(terminal, vm, table.rows));
  if (options.svg !== undefined) {
    writeFileSync(options.svg, renderSvg(picture(table.rows, options, describeVmm(command))));
    terminal.print(`  picture      ${options.svg}`);
  }
  return vm.faults().length === 0 ? 0 : 1;
}

/** Without it a VM would stay behind when the demo is interrupted. */
function onInterrupt(action: () => void): Disposable {
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.once(signal, action);
  return {
    [Symbol.dispose]: () => {
      for (const signal of signals) process.off(signal, action);
    },
  };
}
