// SPDX-License-Identifier: Apache-2.0
// `baton demo`: replaces the VMM under a running guest again and again, and shows what the guest noticed of it.
import { writeFileSync } from "node:fs";
import { type AcceleratorChoice, chooseAccelerator, hintAt } from "../accel/choose.ts";
import { MeasuredVm } from "../meter/measured-vm.ts";
import { renderSvg } from "../meter/svg.ts";
import { sleep } from "../meter/vmm-process.ts";
import { chooseGuest, describeGuest, LINUX_MIN_RAM_SIZE_BYTES } from "./demo/guest.ts";
import { type DemoOptions, parseDemoOptions, USAGE } from "./demo/options.ts";
import { picture } from "./demo/picture.ts";
import { checkAll } from "./demo/preconditions.ts";
import { GuestShell } from "./demo/shell.ts";
import { summaryText } from "./demo/summary.ts";
import { Table } from "./demo/table.ts";
import { describeVmm, findVmm } from "./demo/vmm.ts";
import { Terminal } from "./terminal.ts";

/** Between two updates the guest works, and its VMM settles: the old program's memory is given back. */
const INTERVAL_MS = 200;
const EXIT_INTERRUPTED = 130;
/** Where the values of the head begin. */
const HEAD_COLUMN = 9;

/** Returns the exit code: 1 when the guest noticed more than a pause. @throws UsageError, VmmError */
export async function demo(args: string[]): Promise<number> {
  const options = parseDemoOptions(args);
  const terminal = Terminal.of(process.stdout);
  if (options.help) {
    terminal.print(USAGE);
    return 0;
  }
  const command = findVmm(args);
  const accelerator = chooseAccelerator(options.accelerator === undefined ? ["kvm", "wasm"] : [options.accelerator]);
  if (options.check) {
    terminal.print(...checkAll(terminal, command, accelerator));
    return 0;
  }
  return await show(options, command, accelerator, terminal);
}

async function show(
  options: DemoOptions,
  command: readonly string[],
  accelerator: AcceleratorChoice,
  terminal: Terminal,
): Promise<number> {
  const { updates, cpuCount } = options;
  const guest = chooseGuest(options.guest, accelerator, (line) => terminal.progress(`getting a Linux: ${line}`));
  const { linux } = guest;
  const ramSizeBytes = Math.max(options.ramSizeBytes, linux === undefined ? 0 : LINUX_MIN_RAM_SIZE_BYTES);
  const pages = ramSizeBytes / 4096;
  const ram = `${ramSizeBytes >>> 20} MiB of RAM${linux === undefined ? ", all of it in use" : ""}`;
  const doing = linux === undefined ? "counts, and checks itself" : "counts, and numbers lines";
  terminal.print(
    terminal.strong("Baton: the VMM is replaced while the guest runs"),
    "",
    ...paragraph(terminal, "guest", `${describeGuest(guest)}: ${guest.reason}`),
    `         ${cpuCount} vCPU${cpuCount === 1 ? "" : "s"}, ${ram}; ${doing}`,
    ...paragraph(terminal, "accel", `${accelerator.name}: ${accelerator.reason}${hintAt(accelerator, "--accel kvm")}`),
    `  VMM    ${describeVmm(command)}; every update executes it anew (cpr-exec)`,
    "  pause  how long the guest's counter stood still, read from outside in the guest's RAM",
    "",
  );
  if (linux !== undefined) terminal.progress("starting: Linux boots");
  const machine = {
    command,
    accelerator: accelerator.name,
    ramSizeBytes,
    cpuCount,
    ...(linux === undefined ? {} : { linux }),
  };
  await using vm = await MeasuredVm.start(machine, (touched) =>
    terminal.progress(`starting: the guest has touched ${Math.floor((100 * touched) / pages)} % of its RAM`),
  );
  using _ = onInterrupt(() => void vm.close().finally(() => process.exit(EXIT_INTERRUPTED)));
  const shell = linux === undefined ? undefined : await GuestShell.open(vm.console);
  if (shell !== undefined) terminal.print(...shell.greeting().map((line) => `  ${line}`), "");
  const table = new Table(terminal, updates);
  for (let index = 0; index < updates; index++) {
    terminal.progress(`update ${index + 1} of ${updates}`);
    await sleep(INTERVAL_MS);
    terminal.print(...table.add(await vm.update()));
  }
  // The guest has come round to its checks after the last update too.
  await sleep(INTERVAL_MS);
  const shellFaults = await shell?.revisit();
  const outcome = { rows: table.rows, shell: shell?.story, faults: [...vm.faults(), ...(shellFaults ?? [])] };
  terminal.print("", ...table.legend(), "", ...summaryText(terminal, vm, outcome));
  if (options.svg !== undefined) {
    writeFileSync(
      options.svg,
      renderSvg(picture(table.rows, { ram, cpuCount }, `${describeVmm(command)} on ${accelerator.name}`)),
    );
    terminal.print(`  picture      ${options.svg}`);
  }
  return outcome.faults.length === 0 ? 0 : 1;
}

/** A line of the head, or several. */
function paragraph(terminal: Terminal, key: string, text: string): string[] {
  return terminal.wrap(text, HEAD_COLUMN).map((line, index) => `  ${(index === 0 ? key : "").padEnd(7)}${line}`);
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
