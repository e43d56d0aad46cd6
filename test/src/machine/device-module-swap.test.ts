// SPDX-License-Identifier: Apache-2.0
// The modules of devices are swapped in whole VM processes, under the guest that checks itself.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { QmpClient } from "../../../src/qmp/client.ts";
import {
  GuestProcess,
  onlyOnBun,
  program,
  programMissing,
  type Runtime,
  thisRuntime,
  update,
  updated,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { assertConsecutive, LETTERS, splitConsole, TALKATIVE } from "../migration/consoles.ts";
import { sockets, transferTo, waiting } from "../migration/transfers.ts";
import { compileDevice, type Edit, moduleFile, undescribed } from "./device-variants.ts";

const test = describe("device-module-swap");
const noBinary = programMissing("compiled");

const builtModules = fileURLToPath(new URL("../../../build/modules", import.meta.url));
const uartFile = join(builtModules, "uart16550.wasm");
/** Scratch register of COM1. */
const SCR_PORT = 0x3ff;
const PROBING = { ...TALKATIVE, cpuCount: 2, probePort: SCR_PORT };

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function scratchReads(value: number): Edit {
  return ["module.ts", "case reg.SCR:\n      return uart.scr;", `case reg.SCR:\n      return ${value};`];
}

async function moduleOf(qmp: QmpClient, device: string) {
  return (await qmp.execute("query-device-modules")).find((module) => module.device === device)!;
}

/** Waits until every vCPU has read that value from the probed port. */
async function probed(guest: GuestProcess, value: number): Promise<void> {
  await guest.until(`all vCPUs to read ${value}`, () => guest.report()!.vcpus.every(({ probe }) => probe === value));
}

/** Types letters, swaps the module many times meanwhile, and returns what the console has shown. */
async function swapsUnderConsole(guest: GuestProcess, qmp: QmpClient, count: number): Promise<void> {
  using console = await guest.stream("serial");
  await console.waitFor("tick ");
  let typed = "";
  for (let swap = 0; swap < count; swap++) {
    const letter = LETTERS[swap % LETTERS.length]!;
    console.write(letter);
    typed += letter;
    await qmp.execute("device-module-swap", { device: "uart16550", filename: uartFile });
    await pause(swap % 7);
  }
  await guest.until("all of the echo", () => splitConsole(console.text).echo.length >= typed.length);
  const linesSoFar = splitConsole(console.text).ticks.length;
  await guest.until("more lines", () => splitConsole(console.text).ticks.length > linesSoFar + 2);
  const { ticks, echo, rest } = splitConsole(console.text);
  assert.is(echo, typed, "every letter came back, once and in order");
  assertConsecutive(ticks);
  assert.is(rest, "", "nothing but lines and echo");
}

for (const runtime of ["bun", "deno", "compiled"] as const satisfies Runtime[]) {
  const skip = programMissing(runtime) ?? (runtime === thisRuntime ? undefined : onlyOnBun);
  test.skipIf(skip, `on ${runtime}, 50 swaps of the UART lose no line, no letter and no interrupt`, async () => {
    await using guest = await GuestProcess.start({ runtime, payload: PROBING });
    await using qmp = await guest.qmp();
    await swapsUnderConsole(guest, qmp, 50);
    await guest.runsOn();
    const { swaps, "built-in": isBuiltIn, "taken-back": takenBack } = await moduleOf(qmp, "uart16550");
    assert.equal({ swaps, isBuiltIn, takenBack }, { swaps: 50, isBuiltIn: false, takenBack: 0 });
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  });
}

test.skipIf(noBinary ?? onlyOnBun, "the new code runs on all vCPUs, and state comes along by name", async () => {
  await using guest = await GuestProcess.start({ payload: PROBING });
  await using qmp = await guest.qmp();
  await probed(guest, 0);
  const swapIn = async (edits: readonly Edit[]) => {
    const filename = moduleFile(await compileDevice("uart16550", edits));
    await qmp.execute("device-module-swap", { device: "uart16550", filename });
  };
  await swapIn([scratchReads(0x5a)]);
  await probed(guest, 0x5a);
  // The state page of this version is laid out differently: the scratch register lies elsewhere, and a field is new.
  const newer: Edit[] = [
    ["layout.ts", "STATE_VERSION = 1", "STATE_VERSION = 2"],
    ["layout.ts", "FIELD_SCR_U8 = 6;", "FIELD_SCR_U8 = 44;\nexport const FIELD_MOOD_U8 = 45;"],
    ["module.ts", "  scr: u8;\n", "  private gap3: u8;\n"],
    ["module.ts", "  droppedBytes: u32;\n", "  droppedBytes: u32;\n  scr: u8;\n  mood: u8;\n"],
    ["module.ts", "  uart.scr = 0;\n", "  uart.scr = 0;\n  uart.mood = 0x33;\n"],
    scratchReads(0).with(2, "case reg.SCR:\n      return uart.scr + uart.mood;") as unknown as Edit,
  ];
  await swapIn(newer);
  await probed(guest, 0x33);
  assert.is((await moduleOf(qmp, "uart16550")).version, 2);
  const old = await rejection(() => swapIn([scratchReads(0x5a)]));
  assert.match(old.message, /state version 1, which is older than version 2 of the module in use/);
  await swapsUnderConsoleOf(guest, qmp, newer);
  await guest.runsOn();
});

async function swapsUnderConsoleOf(guest: GuestProcess, qmp: QmpClient, edits: readonly Edit[]): Promise<void> {
  const filename = moduleFile(await compileDevice("uart16550", edits));
  using console = await guest.stream("serial");
  await console.waitFor("tick ");
  for (let swap = 0; swap < 10; swap++) {
    await qmp.execute("device-module-swap", { device: "uart16550", filename });
    await pause(swap);
  }
  const { ticks, rest } = splitConsole(console.text);
  assertConsecutive(ticks);
  assert.is(rest, "");
}

test.skipIf(noBinary ?? onlyOnBun, "all devices are swapped, and the guest can still end the VM", async () => {
  await using guest = await GuestProcess.start({ payload: PROBING });
  await using qmp = await guest.qmp();
  const modules = await qmp.execute("query-device-modules");
  const names = modules.map(({ device }) => device);
  assert.equal(names, ["mc146818", "acpi-pm", "port92", "i8042", "debug-exit", "uart16550"]);
  for (const device of names) {
    const filename = join(builtModules, `${device}.wasm`);
    for (let swap = 0; swap < 3; swap++) await qmp.execute("device-module-swap", { device, filename });
  }
  const after = await qmp.execute("query-device-modules");
  assert.equal(
    after.map(({ sha256 }) => sha256),
    modules.map(({ sha256 }) => sha256),
    "the files are what is built in",
  );
  await guest.runsOn();
  guest.commandShutdown();
  assert.equal(await guest.ended, { exitCode: 1, signal: null }, guest.error);
});

test.skipIf(noBinary ?? onlyOnBun, "what is refused leaves the old module in place", async () => {
  await using guest = await GuestProcess.start({ payload: PROBING });
  await using qmp = await guest.qmp();
  using console = await guest.stream("serial");
  await console.waitFor("tick ");
  const refused = async (filename: string, pattern: RegExp, device = "uart16550") => {
    const { message } = await rejection(() => qmp.execute("device-module-swap", { device, filename }));
    assert.match(message, pattern);
  };
  const trapping = (name: string): Edit => [
    "module.ts",
    `${name}\n`,
    `${name}\n  if (uart.address > 0) unreachable();\n`,
  ];
  await refused("/nowhere/module.wasm", /ENOENT/);
  await refused("/dev/zero", /is no file but a character/);
  await refused(moduleFile(readFileSync(uartFile).subarray(0, 1000)), /no valid Wasm module/);
  await refused(moduleFile(undescribed("uart16550")), /0 custom sections baton.device/);
  await refused(uartFile, /is a module for uart16550, not for mc146818/, "mc146818");
  await refused(uartFile, /no device uart16551 0; it has mc146818 0, /, "uart16551");
  await refused(
    moduleFile(await compileDevice("uart16550", [trapping("export function reset(uart: Uart): void {")])),
    /fails at power-on/,
  );
  const onState: Edit = scratchReads(0).with(
    2,
    "case reg.SCR:\n      if (uart.ier != 0) unreachable();\n      return 0;",
  ) as unknown as Edit;
  await refused(moduleFile(await compileDevice("uart16550", [onState])), /fails on the state of the device/);
  const keepsLock: Edit = [
    "module.ts",
    "  const value = readRegister(uart, offset);\n  release(uart.address);\n",
    "  const value = readRegister(uart, offset);\n",
  ];
  await refused(moduleFile(await compileDevice("uart16550", [keepsLock])), /keeps the lock/);
  const endless: Edit = [
    "module.ts",
    "export function reset(uart: Uart): void {\n",
    "export function reset(uart: Uart): void {\n  while (uart.address > 0) {}\n",
  ];
  await refused(moduleFile(await compileDevice("uart16550", [endless])), /did not come to an end within 5 s/);
  const module = await moduleOf(qmp, "uart16550");
  assert.equal([module.swaps, module["built-in"], module["taken-back"]], [0, true, 0]);
  await guest.runsOn();
  assertConsecutive(splitConsole(console.text).ticks);
});

test.skipIf(noBinary ?? onlyOnBun, "a thread that can make no instance gets the old module back", async () => {
  await using guest = await GuestProcess.start({ payload: PROBING });
  await using qmp = await guest.qmp();
  using console = await guest.stream("serial");
  await console.waitFor("tick ");
  await qmp.execute("device-module-swap", {
    device: "uart16550",
    filename: moduleFile(await compileDevice("uart16550", [scratchReads(0x5a)])),
  });
  await probed(guest, 0x5a);
  // Counts its instances in a word of the VM's memory that nobody uses. The main thread's is the first.
  const counting: Edit = [
    "module.ts",
    "export function read(",
    "if (atomic.add<i32>(0xe0000, 1) >= 1) unreachable();\n\nexport function read(",
  ];
  for (let time = 1; time <= 2; time++) {
    const counter = counting.with(2, counting[2].replace("0xe0000", `${0xe0000 + 8 * time}`)) as unknown as Edit;
    const filename = moduleFile(await compileDevice("uart16550", [scratchReads(0x77), counter]));
    await qmp.execute("device-module-swap", { device: "uart16550", filename });
    await guest.until("the way back", async () => (await moduleOf(qmp, "uart16550"))["taken-back"] === time);
    await guest.runsOn();
    await probed(guest, 0x5a);
  }
  assert.match(guest.error, /could not use the new module of uart16550 0: the one before is in use again/);
  await qmp.execute("device-module-swap", { device: "uart16550", filename: uartFile });
  await probed(guest, 0);
  await guest.runsOn();
  const { ticks, rest } = splitConsole(console.text);
  assertConsecutive(ticks);
  assert.is(rest, "");
});

test.skipIf(noBinary ?? onlyOnBun, "while the guest stands, and before it first runs", async () => {
  const filename = moduleFile(await compileDevice("uart16550", [scratchReads(0x5a)]));
  await using guest = new GuestProcess({ payload: PROBING, extra: ["-S"] });
  await using qmp = await guest.qmp();
  await qmp.execute("device-module-swap", { device: "uart16550", filename });
  await qmp.execute("cont");
  await guest.ready();
  await probed(guest, 0x5a);
  await qmp.execute("stop");
  await qmp.execute("device-module-swap", { device: "uart16550", filename: uartFile });
  assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
  await qmp.execute("cont");
  await probed(guest, 0);
  await guest.runsOn();
});

test.skipIf(noBinary ?? onlyOnBun, "a reset keeps the module; an update brings its own", async () => {
  await using guest = await GuestProcess.start({ payload: PROBING, noReboot: false });
  await using qmp = await guest.qmp();
  const filename = moduleFile(
    await compileDevice("uart16550", [
      scratchReads(0x5a),
      ["layout.ts", "STATE_VERSION = 1", "STATE_VERSION = 7"],
      ["layout.ts", "FIELD_RX_FIFO", "FIELD_MOOD_U8 = 44;\nexport const FIELD_RX_FIFO"],
    ]),
  );
  await qmp.execute("device-module-swap", { device: "uart16550", filename });
  await probed(guest, 0x5a);
  await qmp.execute("system_reset");
  await guest.until("the guest to start anew", () => guest.report()?.ready === false || !guest.report());
  await guest.ready();
  await probed(guest, 0x5a);
  // A program that refuses gives the guest back to the program before, which is without the module again.
  const failed = await update(qmp, { command: [...program("compiled"), ...guest.args, "-m", "33M"] });
  assert.is(failed.status, "failed");
  await guest.runsOn();
  await probed(guest, 0);
  await qmp.execute("device-module-swap", { device: "uart16550", filename });
  await probed(guest, 0x5a);
  await updated(guest, qmp);
  await probed(guest, 0);
  assert.equal((await moduleOf(qmp, "uart16550"))["built-in"], true);
  await swapsUnderConsole(guest, qmp, 5);
  await guest.runsOn();
});

test.skipIf(
  noBinary ?? onlyOnBun,
  "is refused while the guest's state is on its way, and goes on afterwards",
  async () => {
    await using guest = await GuestProcess.start({ payload: PROBING });
    const place = sockets();
    await using next = waiting(place);
    await using qmp = await guest.qmp();
    await using nextQmp = await next.qmp();
    const swap = { device: "uart16550", filename: uartFile };
    assert.match(
      (await rejection(() => nextQmp.execute("device-module-swap", swap))).message,
      /waiting for an incoming/,
    );
    await qmp.execute("device-module-swap", swap);
    await qmp.execute("migrate-set-parameters", { mode: "normal", "max-bandwidth": 1 << 20 });
    await qmp.execute("migrate", { uri: "exec:cat > /dev/null" });
    assert.match(
      (await rejection(() => qmp.execute("device-module-swap", swap))).message,
      /migration process in progress/,
    );
    await qmp.execute("migrate_cancel");
    await guest.until(
      "the end of the migration",
      async () => (await qmp.execute("query-migrate")).status === "cancelled",
    );
    await qmp.execute("device-module-swap", swap);
    await qmp.execute("migrate-set-parameters", { "max-bandwidth": 0 });
    const info = await transferTo(qmp, place);
    assert.is(info.status, "completed", `${info["error-desc"]} ${guest.error} ${next.error}`);
    await next.runsOn();
    await nextQmp.execute("device-module-swap", swap);
    await next.runsOn();
  },
);

test.run();
