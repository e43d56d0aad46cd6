// SPDX-License-Identifier: Apache-2.0
// Files that may become the module of a device: which are refused, and what is said of them.

import { MODULE_MAX_SIZE_BYTES } from "../../../assembly/layout.ts";
import { type DeviceName, deviceStates } from "../../../build/devices.ts";
import { makeFifo } from "../../../ffi/fd.ts";
import {
  builtInModule,
  inspectModule,
  type ModuleCandidate,
  readModuleFile,
} from "../../../src/machine/module-candidate.ts";
import { DESCRIPTION_SECTION, type ModuleDescription } from "../../../src/machine/module-description.ts";
import { withCustomSection } from "../../../src/machine/wasm-file.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";
import { describedAs, moduleFile, undescribed, variantOf } from "./device-variants.ts";
import { type Functions, wasm } from "./wasm-builder.ts";

const test = describe("device modules from files");

function inspect(
  bytes: Uint8Array,
  name: DeviceName,
  running: { version?: number; fields?: string } = {},
): ModuleCandidate {
  const { version, fields } = deviceStates[name];
  return inspectModule(Uint8Array.from(bytes), "new.wasm", { name, version, fields, ...running });
}

const port92 = builtInModule("port92").description;
const PORT92_EXPORTS: Functions = { reset: "i32 ->", read: "i32 i32 i32 -> i32", write: "i32 i32 i32 i32 ->" };

/** A made-up port92 whose functions trap. */
function madeUp(parts: Parameters<typeof wasm>[0], description: Partial<ModuleDescription> = {}): Uint8Array {
  return describedAs(wasm({ exports: PORT92_EXPORTS, ...parts }), { ...port92, ...description });
}

for (const name of Object.keys(deviceStates) as DeviceName[]) {
  test(`the built-in ${name} would be taken`, () => {
    const { bytes, description } = builtInModule(name);
    const candidate = inspect(bytes, name);
    assert.equal(candidate.description, description);
    assert.is(description.version, deviceStates[name].version);
    assert.is(description.fields, deviceStates[name].fields);
    assert.equal(inspect(variantOf(name, {}), name).description, description);
  });
}

test("files are read whole, and only files that can be modules", () => {
  const { bytes } = builtInModule("port92");
  assert.equal(readModuleFile(moduleFile(bytes)), bytes);
  assert.is(readModuleFile(moduleFile(new Uint8Array(0))).length, 0);
  assert.throws(() => readModuleFile("/nowhere/module.wasm"), /ENOENT/);
  assert.throws(() => readModuleFile("/dev/null"), /is no file but a character/);
  assert.throws(() => readModuleFile(temporaryDirectory()), /is no file but a directory/);
  const fifo = `${temporaryDirectory()}/fifo`;
  makeFifo(fifo);
  assert.throws(() => readModuleFile(fifo), /is no file but a fifo/);
  const large = moduleFile(new Uint8Array(MODULE_MAX_SIZE_BYTES + 1));
  assert.throws(() => readModuleFile(large), /has 1048577 bytes; a device module has 1048576 at most/);
});

test("bytes that are no module, or none that says what it is", () => {
  assert.throws(() => inspect(new Uint8Array(0), "port92"), /^new.wasm is no valid Wasm module$/);
  assert.throws(() => inspect(undescribed("port92").subarray(0, 100), "port92"), /no valid Wasm module/);
  assert.throws(() => inspect(undescribed("port92"), "port92"), /has 0 custom sections baton.device instead of one/);
  const twice = describedAs(describedAs(undescribed("port92"), port92), port92);
  assert.throws(() => inspect(twice, "port92"), /has 2 custom sections/);
  for (const wrong of [
    null,
    1,
    [],
    {},
    { ...port92, version: 0 },
    { ...port92, version: 1.5 },
    { ...port92, host: 0 },
  ]) {
    assert.throws(() => inspect(describedAs(undescribed("port92"), wrong), "port92"), /is not understood/);
  }
  const text = withCustomSection(undescribed("port92"), DESCRIPTION_SECTION, new TextEncoder().encode("{"));
  assert.throws(() => inspect(text, "port92"), /is not understood/);
  assert.throws(() => inspect(variantOf("uart16550", {}), "port92"), /is a module for uart16550, not for port92/);
});

test("a made-up module with what a device must have is taken", () => {
  assert.equal(inspect(madeUp({}), "port92").description, port92);
  const imports = { setIrq: "i32 i32 ->", signal: "i32 ->", monotonicNs: "-> i64", realtimeNs: "-> i64" };
  inspect(madeUp({ imports: { ...imports, takeOutput: "i32 -> i32" } }), "port92");
  inspect(
    madeUp({ exports: { ...PORT92_EXPORTS, more: "f64 i64 ->", tick: "i32 ->" }, constantGlobal: true }),
    "port92",
  );
});

test("exports that are missing or of another form", () => {
  const { read, write } = PORT92_EXPORTS as { read: string; write: string };
  assert.throws(
    () => inspect(madeUp({ exports: { read, write } }), "port92"),
    /does not export function reset, which a port92 must have/,
  );
  assert.throws(
    () => inspect(madeUp({ exports: { ...PORT92_EXPORTS, read: "i32 i32 -> i32" } }), "port92"),
    /exports read as \(i32 i32 -> i32\) instead of \(i32 i32 i32 -> i32\)/,
  );
  assert.throws(
    () => inspect(madeUp({ exports: { ...PORT92_EXPORTS, nextDeadlineNs: "i32 -> i32" } }), "port92"),
    /exports nextDeadlineNs as \(i32 -> i32\) instead of \(i32 -> i64\)/,
  );
  const uart = describedAs(wasm({ exports: PORT92_EXPORTS }), builtInModule("uart16550").description);
  assert.throws(() => inspect(uart, "uart16550"), /does not export function receiveSpace/);
});

test("imports that nobody gives", () => {
  const refused = (imports: Functions, from: string, pattern: RegExp): void => {
    assert.throws(() => inspect(madeUp({ imports, importsFrom: from }), "port92"), pattern);
  };
  refused({ exec: "i32 -> i32" }, "host", /imports function host.exec, which device modules are not given/);
  refused({ toString: "i32 -> i32" }, "host", /imports function host.toString, which/);
  refused({ setIrq: "i32 i32 ->" }, "env", /imports function env.setIrq, which/);
  refused({ setIrq: "i32 ->" }, "host", /imports host.setIrq as \(i32 ->\) instead of \(i32 i32 ->\)/);
  refused({ monotonicNs: "-> i32" }, "host", /imports host.monotonicNs as \(-> i32\)/);
});

test("modules that would keep something where it may not be", () => {
  assert.throws(() => inspect(madeUp({ ownMemory: true }), "port92"), /has a memory of its own/);
  assert.throws(() => inspect(madeUp({ data: true }), "port92"), /has static data/);
  assert.throws(() => inspect(madeUp({ mutableGlobal: true }), "port92"), /has globals that can change/);
});

test("versions of the state", () => {
  assert.is(inspect(variantOf("port92", { version: 9 }), "port92").description.version, 9);
  assert.throws(
    () => inspect(variantOf("port92", { version: 1 }), "port92", { version: 2 }),
    /state version 1, which is older than version 2 of the module in use/,
  );
});

test("fields may come and go, but not what the host needs", () => {
  const { fields } = deviceStates["acpi-pm"];
  assert.is(inspect(variantOf("acpi-pm", { fields: "irq-level:u8@0 new:u8x16@4076" }), "acpi-pm").fields.length, 2);
  const refused = (changed: string, pattern: RegExp, name: DeviceName = "acpi-pm"): void => {
    assert.throws(() => inspect(variantOf(name, { fields: changed }), name), pattern);
  };
  refused(fields.replace("irq-level", "level"), /has no field irq-level:u8, which every acpi-pm must keep/);
  refused(fields.replace("irq-level:u8", "irq-level:u8x2"), /has no field irq-level:u8/);
  refused("code:u32@0", /has no field exit-code:u32, which every debug-exit must keep/, "debug-exit");
  refused("irq-level:u9@0", /has a field list that is not understood: "irq-level:u9@0"/);
  refused(`${fields} irq-level:u8@100`, /has two fields of one name/);
  refused("irq-level:u8@0 a:u32@4 b:u8@7", /a and b overlap/);
  refused("irq-level:u8@0 a:i64@4088", /a ends at byte 4096; a state page has 4092/);
  refused("irq-level:u8@0 a:u8x9999@4", /a ends at byte 10003/);
  refused("irq-level:u8@0 a:u8@34", /ring-index and a overlap/, "uart16550");
  refused(`${deviceStates.uart16550.fields} more:u8x16@30`, /overlap/, "uart16550");
});

test("the host's words are where this Baton has them", () => {
  assert.throws(
    () => inspect(variantOf("uart16550", { host: "ring-index@32 frozen@36" }), "uart16550"),
    /expects the host's words as "ring-index@32 frozen@36"; this Baton has them as "ring-index@32 frozen@36 dropped-bytes@40"/,
  );
});

test.run();
