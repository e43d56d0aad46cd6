// SPDX-License-Identifier: Apache-2.0
import { HMP_COMMANDS } from "../../../src/hmp/commands.ts";
import { executeLine } from "../../../src/hmp/execute.ts";
import { INFO_COMMANDS } from "../../../src/hmp/info.ts";
import { defaultParameters } from "../../../src/migration/parameters.ts";
import { MigrationCapability } from "../../../src/qmp/schema/migration.ts";
import { assert, describe } from "../../harness.ts";
import { FakeTarget } from "../qmp/fake-target.ts";

/** What `info migrate_capabilities` prints when those of `on` are on. */
function capabilities(on: readonly MigrationCapability[]): string {
  return MigrationCapability.values.map((name) => `${name}: ${on.includes(name) ? "on" : "off"}\n`).join("");
}

/** What `info migrate_parameters` prints when all but these are the defaults. */
function parameters(changed: Record<string, string>): string {
  const quoted = { "cpr-exec-image": "''", "cpr-exec-sha256": "''", "tls-creds": "''", "tls-hostname": "''" };
  const shown = { ...defaultParameters(), "cpr-exec-command": "", ...quoted, ...changed };
  const lines = Object.entries(shown).map(([name, value]) => `${name}: ${value}`.trimEnd());
  return `${lines.join("\n")}\n`;
}

const test = describe("hmp commands");

/** Runs lines on one VM and compares what each printed. */
async function expectOutput(vm: FakeTarget, cases: [line: string, output: string][]): Promise<void> {
  for (const [line, output] of cases) {
    const printed = await executeLine({ target: vm, cpuIndex: 0 }, line);
    assert.is(printed, output.replaceAll("\n", "\r\n"), line);
  }
}

test("info status in every state", async () => {
  const vm = new FakeTarget();
  for (const [state, text] of [
    ["running", "running"],
    ["paused", "paused"],
    ["inmigrate", "paused (inmigrate)"],
    ["postmigrate", "paused (postmigrate)"],
    ["prelaunch", "paused (prelaunch)"],
  ] as const) {
    vm.state = state;
    await expectOutput(vm, [["info status", `VM status: ${text}\n`]]);
  }
});

test("info", async () => {
  const vm = new FakeTarget();
  await expectOutput(vm, [
    ["info chardev", "serial0: filename=unix:/tmp/a.sock,server=on\n"],
    ["info cpus", "* CPU #0: thread_id=100\n  CPU #1: thread_id=101\n"],
    ["info name", "vm1\n"],
    ["info uuid", "00000000-0000-0000-0000-000000000000\n"],
    ["info version", "0.1.0 (QMP of QEMU 11.1.3)\n"],
    ["info kvm", "kvm support: enabled\n"],
    ["info accelerators", "[kvm] wasm\n"],
    ["info migrate", ""],
    ["info migrate_capabilities", capabilities([])],
    ["info migrate_parameters", parameters({})],
    ["info bogus", "unknown command: 'info bogus'\n"],
    [
      "info status x",
      'status: extraneous characters at the end of line\nTry "help info status" for more information\n',
    ],
  ]);
  vm.name = undefined;
  await expectOutput(vm, [["  info   name  ", ""]]);
});

test("modules of devices", async () => {
  const vm = new FakeTarget();
  const sha256 = "0".repeat(64);
  await expectOutput(vm, [
    [
      "info device_modules",
      `uart16550 0: version=1 sha256=${sha256} swaps=0 (built-in)\n` +
        `mc146818 0: version=2 sha256=${sha256} swaps=3 (swapped in)\n`,
    ],
    ["device_module_swap uart16550 /tmp/new.wasm", "uart16550 0: accesses waited for 120 us\n"],
    ['device_module_swap uart16550 "/tmp/a b.wasm" 1', "uart16550 1: accesses waited for 120 us\n"],
    ["device_module_swap disk a.wasm", "Error: This machine has no device disk 0\n"],
    ["device_module_swap uart16550 a.wasm x", "Error: Invalid parameter type for 'instance', expected: integer\n"],
    [
      "help device_module_swap",
      "device_module_swap device filename [instance] -- replace the Wasm module that models a device\n",
    ],
  ]);
  assert.equal(vm.calls, ["swap uart16550 0 /tmp/new.wasm", "swap uart16550 1 /tmp/a b.wasm"]);
});

test("info migrate tells status, times and why not", async () => {
  const vm = new FakeTarget();
  vm.migration.info = { status: "completed", "total-time": 43, "setup-time": 2, downtime: 5 };
  await expectOutput(vm, [["info migrate", "Status: \t\tcompleted\nTime (ms): \t\ttotal=43, setup=2, down=5\n"]]);
  vm.migration.info = { status: "failed", "error-desc": "No peer", "blocked-reasons": ["No", "Never"] };
  await expectOutput(vm, [
    ["info migrate", "Outgoing migration blocked:\n  No\n  Never\nStatus: \t\tfailed (No peer)\n"],
  ]);
});

test("info migrate tells where RAM stands, as QEMU lays it out", async () => {
  const vm = new FakeTarget();
  vm.migration.info = {
    status: "active",
    "total-time": 6092,
    "setup-time": 9,
    "expected-downtime": 300,
    "cpu-throttle-percentage": 30,
    "socket-address": [{ type: "unix", path: "/a b" }],
    ram: {
      transferred: 481296384,
      remaining: 291504128,
      total: 2 ** 33,
      duplicate: 1946319,
      normal: 112561,
      "normal-bytes": 461049856,
      "dirty-pages-rate": 0,
      mbps: 1169.8391,
      "dirty-sync-count": 1,
      "postcopy-requests": 0,
      "page-size": 4096,
      "multifd-bytes": 0,
      "pages-per-second": 66560,
      "precopy-bytes": 481296384,
      "downtime-bytes": 0,
      "postcopy-bytes": 0,
      "dirty-sync-missed-zero-copy": 0,
    },
  };
  const active = `Status: \t\tactive
Time (ms): \t\ttotal=6092, setup=9, exp_down=300
Sockets: [
\tunix:/a b
]
RAM info:
  Throughput (Mbps): \t1169.84
  Sizes: \t\tpagesize=4 KiB, total=8 GiB
  Transfers: \t\ttransferred=459 MiB, remain=278 MiB
    Channels: \t\tprecopy=459 MiB, multifd=0 B, postcopy=0 B
    Page Types: \tnormal=112561, zero=1946319
  Page Rates (pps): \ttransfer=66560
  Others: \t\tdirty_syncs=1
`;
  await expectOutput(vm, [
    ["info migrate", active],
    ["info migrate -a", `${active}CPU Throttle (%): 30\n`],
    ["info migrate -x", 'migrate: unsupported option -x\nTry "help info migrate" for more information\n'],
  ]);
  const { ram } = vm.migration.info;
  vm.migration.info = { ram: { ...ram!, "dirty-pages-rate": 4, "downtime-bytes": 8192 }, status: "completed" };
  const ended = await executeLine({ target: vm, cpuIndex: 0 }, "info migrate");
  assert.match(ended, "Page Rates (pps): \ttransfer=66560, dirty=4\r\n");
  assert.match(ended, "Others: \t\tdirty_syncs=1, downtime_bytes=8192\r\n");
  vm.migration.info = { status: "failing", "error-desc": "No peer" };
  await expectOutput(vm, [["info migrate", "Status: \t\tfailing (No peer)\n"]]);
});

test("migrate_set_parameter takes a bandwidth as a size, in MiB where nothing else is said", async () => {
  const vm = new FakeTarget();
  for (const [text, bytesPerSecond] of [
    ["100", 100 * 2 ** 20],
    ["100M", 100 * 2 ** 20],
    ["1.5G", 1.5 * 2 ** 30],
    ["4096b", 4096],
    ["0", 0],
  ] as const) {
    await expectOutput(vm, [[`migrate_set_parameter max-bandwidth ${text}`, ""]]);
    assert.is(vm.migration.current["max-bandwidth"], bytesPerSecond, text);
  }
  await expectOutput(vm, [
    ["migrate_set_parameter downtime-limit 20", ""],
    ["migrate_set_parameter max-bandwidth fast", "Error: Invalid size fast\n"],
    ["migrate_set_parameter max-bandwidth -1", "Error: Invalid size -1\n"],
    [
      "migrate_set_parameter downtime-limit soon",
      "Error: Invalid parameter type for 'downtime-limit', expected: integer\n",
    ],
  ]);
  assert.is(vm.migration.current["downtime-limit"], 20);
});

test("the cpr-exec transcript", async () => {
  const vm = new FakeTarget();
  await expectOutput(vm, [
    ["info status", "VM status: running\n"],
    ["migrate_set_parameter mode cpr-exec", ""],
    ["migrate_set_parameter cpr-exec-command baton  -m 64M -incoming file:vm.state ", ""],
    [
      "info migrate_parameters",
      parameters({ mode: "cpr-exec", "cpr-exec-command": "baton -m 64M -incoming file:vm.state" }),
    ],
    ["migrate -d file:vm.state", ""],
  ]);
  assert.equal(vm.migration.current["cpr-exec-command"], ["baton", "-m", "64M", "-incoming", "file:vm.state"]);
  assert.equal(vm.migration.started, [{ main: { transport: "file", filename: "vm.state", offset: 0 } }]);
});

test("the incoming side", async () => {
  const vm = new FakeTarget();
  await expectOutput(vm, [
    ["migrate_incoming file:vm.state", "Error: '-incoming' was not specified on the command line\n"],
  ]);
  vm.state = "inmigrate";
  await expectOutput(vm, [["migrate_incoming file:vm.state", ""]]);
  assert.is(vm.migration.received.length, 1);
});

test("wrong uses", async () => {
  const help = (name: string): string => `Try "help ${name}" for more information\n`;
  await expectOutput(new FakeTarget(), [
    ["", ""],
    ["bogus", "unknown command: 'bogus'\n"],
    ["constructor", "unknown command: 'constructor'\n"],
    ["stop x", `stop|s: extraneous characters at the end of line\n${help("stop")}`],
    ["migrate", `migrate: string expected\n${help("migrate")}`],
    ["migrate -d", `migrate: string expected\n${help("migrate")}`],
    ["migrate -x foo", `migrate: unsupported option -x\n${help("migrate")}`],
    ['migrate -d "unix:a', `unterminated string\n${help("migrate")}`],
    ["migrate -d bogus", "Error: unknown migration protocol: bogus\n"],
    ["migrate_set_parameter foo", `migrate_set_parameter: string expected\n${help("migrate_set_parameter")}`],
    ["migrate_set_parameter foo bar", "Error: invalid parameter value: foo\n"],
    ["migrate_set_parameter toString bar", "Error: invalid parameter value: toString\n"],
    ["migrate_set_parameter mode bar", "Error: Parameter 'mode' does not accept value 'bar'\n"],
    ["migrate_set_capability foo on", "Error: invalid parameter value: foo\n"],
    ["migrate_set_capability events bar", `Expected 'on' or 'off'\n${help("migrate_set_capability")}`],
    ["migrate_set_capability events", `Expected 'on' or 'off'\n${help("migrate_set_capability")}`],
    ["system_wakeup", "Error: Unable to wake up: guest is not in suspended state\n"],
  ]);
});

test("quoted words", async () => {
  const vm = new FakeTarget();
  await expectOutput(vm, [['migrate -d "unix:a \\"b\\" c"', ""]]);
  assert.equal(vm.migration.started, [{ main: { transport: "socket", type: "unix", path: 'a "b" c' } }]);
});

test("machine commands and their short names", async () => {
  const vm = new FakeTarget();
  const events: string[] = [];
  vm.subscribe(({ event }) => events.push(event));
  await expectOutput(vm, [
    ["stop", ""],
    ["cont", ""],
    ["s", ""],
    ["c", ""],
    ["system_reset", ""],
    ["system_powerdown", ""],
    ["migrate_cancel", ""],
    ["migrate_set_capability events on", ""],
    ["info migrate_capabilities", capabilities(["events"])],
    ["quit", ""],
    ["q", ""],
  ]);
  vm.state = "suspended";
  await expectOutput(vm, [["system_wakeup", ""]]);
  assert.equal(events, [..."STOP RESUME STOP RESUME RESET POWERDOWN SHUTDOWN SHUTDOWN WAKEUP".split(" ")]);
  assert.equal(vm.calls, ["stop", "cont", "stop", "cont", "cancel", "quit", "quit"]);
});

test("help", async () => {
  const vm = new FakeTarget();
  await expectOutput(vm, [
    ["help migrate", "migrate [-d] uri -- migrate to URI (using -d to not wait for completion)\n"],
    ["? q", "quit|q  -- quit the emulator\n"],
    ["help info name", "info name  -- show the current VM name\n"],
    ["help bogus", "unknown command: 'bogus'\n"],
  ]);
  const all = (await executeLine({ target: vm, cpuIndex: 0 }, "help")).split("\r\n");
  assert.is(all.length, HMP_COMMANDS.length + 1);
  const info = await executeLine({ target: vm, cpuIndex: 0 }, "info");
  assert.is(info.split("\r\n").length, INFO_COMMANDS.length + 1);
  assert.match(info, /^info accelerators {2}-- show the accelerators/);
  assert.match(info, /\r\ninfo chardev {2}-- show the character devices\r\n/);
  assert.is(await executeLine({ target: vm, cpuIndex: 0 }, "help info"), info);
});

test("every command is in order of its name and has one meaning", () => {
  for (const table of [HMP_COMMANDS, INFO_COMMANDS]) {
    const names = table.map((command) => command.names[0]!);
    assert.equal(names, [...names].sort());
    const all = table.flatMap((command) => command.names);
    assert.is(new Set(all).size, all.length);
  }
});

test.run();
