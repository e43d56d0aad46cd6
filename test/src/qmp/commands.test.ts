// SPDX-License-Identifier: Apache-2.0

import { defaultParameters } from "../../../src/migration/parameters.ts";
import { check } from "../../../src/qmp/schema/check.ts";
import { MigrationCapability } from "../../../src/qmp/schema/migration.ts";
import type { CommandSpec } from "../../../src/qmp/schema/types.ts";
import { COMMANDS, type CommandName } from "../../../src/qmp/schema.ts";
import { assert, describe } from "../../harness.ts";
import { FakeTarget, TestClient } from "./fake-target.ts";

const test = describe("qmp commands");

test("modules of devices are listed and swapped", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  const modules = (await client.returnOf("query-device-modules")) as { device: string; swaps: number }[];
  assert.equal(
    modules.map(({ device, swaps }) => `${device} ${swaps}`),
    ["uart16550 0", "mc146818 3"],
  );
  const swap = { device: "uart16550", instance: 1, filename: "/tmp/new.wasm" };
  assert.equal(await client.returnOf("device-module-swap", swap), { "closed-us": 120 });
  await client.returnOf("device-module-swap", { device: "uart16550", filename: "b.wasm" });
  assert.equal(vm.calls, ["swap uart16550 1 /tmp/new.wasm", "swap uart16550 0 b.wasm"]);
});

test("argument errors are QEMU's", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  const cases: [command: CommandName, args: object, desc: string][] = [
    ["query-status", { x: 1 }, "Parameter 'x' is unexpected"],
    ["migrate", { uri: 1 }, "Invalid parameter type for 'uri', expected: string"],
    ["migrate", { uri: "unix:a", detach: true }, "Parameter 'detach' is unexpected"],
    ["migrate", {}, "need either 'uri' or 'channels' argument"],
    ["migrate", { uri: "x:y" }, "unknown migration protocol: x:y"],
    ["migrate", { channels: [] }, "Channel list has no main entry"],
    ["migrate", { uri: "unix:a", resume: true }, "Cannot resume if there is no paused migration"],
    ["migrate-incoming", {}, "need either 'uri' or 'channels' argument"],
    ["migrate-incoming", { channels: [] }, "Channel list must have only one entry, for type 'main'"],
    ["migrate-incoming", { uri: "unix:a" }, "'-incoming' was not specified on the command line"],
    ["migrate-set-parameters", { mode: "bogus" }, "Parameter 'mode' does not accept value 'bogus'"],
    ["migrate-set-parameters", { mode: 7 }, "Invalid parameter type for 'mode', expected: string"],
    ["migrate-set-parameters", { "announce-rounds": 1 }, "Parameter 'announce-rounds' is unexpected"],
    [
      "migrate-set-parameters",
      { "cpr-exec-command": "x" },
      "Invalid parameter type for 'cpr-exec-command', expected: array",
    ],
    [
      "migrate-set-parameters",
      { "cpr-exec-command": ["a", 1] },
      "Invalid parameter type for 'cpr-exec-command[1]', expected: string",
    ],
    ["device-module-swap", { device: "uart16550" }, "Parameter 'filename' is missing"],
    ["device-module-swap", { filename: "a" }, "Parameter 'device' is missing"],
    [
      "device-module-swap",
      { device: "uart16550", filename: "a", instance: "1" },
      "Invalid parameter type for 'instance', expected: integer",
    ],
    ["device-module-swap", { device: "disk", filename: "a" }, "This machine has no device disk 0"],
    ["migrate-set-capabilities", {}, "Parameter 'capabilities' is missing"],
    ["migrate-set-capabilities", { capabilities: {} }, "Invalid parameter type for 'capabilities', expected: array"],
    [
      "migrate-set-capabilities",
      { capabilities: [1] },
      "Invalid parameter type for 'capabilities[0]', expected: object",
    ],
    [
      "migrate-set-capabilities",
      { capabilities: [{ capability: "xbzrle", state: true }] },
      "Parameter 'capability' does not accept value 'xbzrle'",
    ],
    [
      "migrate-set-capabilities",
      { capabilities: [{ capability: "events" }] },
      "Parameter 'capabilities[0].state' is missing",
    ],
    [
      "migrate-set-capabilities",
      { capabilities: [{ capability: "events", state: 1 }] },
      "Invalid parameter type for 'capabilities[0].state', expected: boolean",
    ],
    ["human-monitor-command", {}, "Parameter 'command-line' is missing"],
    [
      "human-monitor-command",
      { "command-line": "info cpus", "cpu-index": 9 },
      "Parameter 'cpu-index' expects a CPU number",
    ],
    ["system_wakeup", {}, "Unable to wake up: guest is not in suspended state"],
  ];
  for (const [command, args, desc] of cases) {
    assert.is(await client.errorOf(command, args), desc, `${command} ${JSON.stringify(args)}`);
  }
  assert.equal(vm.migration.started, []);
});

test("what the queries tell", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  assert.equal(await client.returnOf("query-version"), {
    qemu: { major: 11, minor: 1, micro: 3 },
    package: "baton 0.1.0",
  });
  assert.equal(await client.returnOf("query-name"), { name: "vm1" });
  assert.equal(await client.returnOf("query-uuid"), { UUID: "00000000-0000-0000-0000-000000000000" });
  vm.name = undefined;
  vm.uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
  assert.equal(await client.returnOf("query-name"), {});
  assert.equal(await client.returnOf("query-uuid"), { UUID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8" });
  assert.equal(await client.returnOf("query-target"), { arch: "x86_64" });
  assert.equal(await client.returnOf("query-migrate"), {});
  assert.equal(
    await client.returnOf("query-migrate-capabilities"),
    MigrationCapability.values.map((capability) => ({ capability, state: false })),
  );
  for (const state of ["prelaunch", "inmigrate", "finish-migrate", "postmigrate", "paused"] as const) {
    vm.state = state;
    assert.equal(await client.returnOf("query-status"), { status: state, running: false });
  }
});

test("every query answers as the schema says", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  for (const [name, spec] of Object.entries(COMMANDS) as [CommandName, CommandSpec][]) {
    if (!name.startsWith("query-")) continue;
    check(spec.returns!, await client.returnOf(name), name);
  }
});

test("query-commands lists what can be executed", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  const names = (await client.returnOf("query-commands")) as { name: string }[];
  assert.equal(names.map(({ name }) => name).sort(), Object.keys(COMMANDS).sort());
});

test("cont waits for nobody's state", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  vm.state = "finish-migrate";
  assert.is(await client.errorOf("cont"), "Migration is not finalized yet");
  vm.state = "paused";
  assert.equal(await client.returnOf("cont"), {});
  assert.equal(vm.calls, ["cont"]);
});

test("wakeup", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  vm.state = "suspended";
  assert.equal(await client.returnOf("system_wakeup"), {});
  assert.is(vm.state, "running");
});

test("parameters are read back as they were set", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  assert.equal(await client.returnOf("query-migrate-parameters"), defaultParameters());
  const command = ["/new/baton", "-m", "64M", ""];
  await client.returnOf("migrate-set-parameters", { "cpr-exec-command": command });
  await client.returnOf("migrate-set-parameters", { mode: "cpr-exec" });
  await client.returnOf("migrate-set-parameters", {});
  await client.returnOf("migrate-set-parameters", { "max-bandwidth": 1 << 20 });
  assert.equal(await client.returnOf("query-migrate-parameters"), {
    ...defaultParameters(),
    mode: "cpr-exec",
    "cpr-exec-command": command,
    "max-bandwidth": 1 << 20,
  });
});

test("migrate gives the target checked channels", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  assert.equal(await client.returnOf("migrate", { uri: "file:vm.state,offset=16" }), {});
  await client.returnOf("migrate-set-parameters", { mode: "cpr-transfer" });
  const addr = { transport: "socket", type: "unix", path: "main.sock" } as const;
  const cpr = { ...addr, path: "cpr.sock" };
  assert.is(await client.errorOf("migrate", { uri: "unix:main.sock" }), "missing 'cpr' migration channel");
  const channels = [
    { "channel-type": "main", addr },
    { "channel-type": "cpr", addr: cpr },
  ];
  assert.equal(await client.returnOf("migrate", { channels }), {});
  assert.equal(vm.migration.started, [
    { main: { transport: "file", filename: "vm.state", offset: 16 } },
    { main: addr, cpr },
  ]);
  vm.migration.blocker = "Memory region ram0 is not compatible with CPR";
  assert.is(await client.errorOf("migrate", { channels }), "Memory region ram0 is not compatible with CPR");
});

test("migrate-incoming, migrate_cancel, migrate-start-postcopy", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  vm.state = "inmigrate";
  await client.returnOf("migrate-incoming", { uri: "unix:a" });
  await client.returnOf("migrate-incoming", { uri: "unix:b", "exit-on-error": false });
  assert.equal(vm.migration.received, [
    { main: { transport: "socket", type: "unix", path: "a" }, exitOnError: true },
    { main: { transport: "socket", type: "unix", path: "b" }, exitOnError: false },
  ]);
  assert.equal(await client.returnOf("migrate_cancel"), {});
  assert.equal(await client.returnOf("migrate-start-postcopy"), {});
  assert.equal(vm.calls, ["cancel", "startPostcopy"]);
});

test("human-monitor-command", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  const cases: [line: string, output: string][] = [
    ["", ""],
    ["info status", "VM status: running\r\n"],
    ["bogus", "unknown command: 'bogus'\r\n"],
    ["migrate x:y", "Error: unknown migration protocol: x:y\r\n"],
    ["migrate file:a", "terminal does not allow synchronous migration, continuing detached\r\n"],
    ["migrate -d file:a", ""],
  ];
  for (const [line, output] of cases) {
    assert.is(await client.returnOf("human-monitor-command", { "command-line": line }), output, line);
  }
  assert.is(
    await client.returnOf("human-monitor-command", { "command-line": "info cpus", "cpu-index": 1 }),
    "  CPU #0: thread_id=100\r\n* CPU #1: thread_id=101\r\n",
  );
});

test.run();
