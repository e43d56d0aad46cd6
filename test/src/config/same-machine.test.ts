// SPDX-License-Identifier: Apache-2.0
import { interpretOptions } from "../../../src/config/interpret.ts";
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolve } from "../../../src/config/resolve.ts";
import { compareSpecs, mergeSpecs } from "../../../src/config/same-machine.ts";
import type { MachineSpec, WantedSpec } from "../../../src/config/types.ts";
import type { VmmError } from "../../../src/errors.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("same-machine");

const interpret = (...argv: string[]): WantedSpec => interpretOptions(parseArguments(argv).options);

const COMMAND_LINE = [
  ...["-machine", "microvm,memory-backend=ram0,aux-ram-share=on", "-object", "memory-backend-memfd,id=ram0,size=1G"],
  ...["-smp", "4", "-cpu", "host,-avx512f", "-kernel", "vmlinux", "-append", "quiet", "-name", "vm", "-S"],
  ...["-uuid", "12345678-1234-1234-1234-123456789abc", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
  ...["-serial", "stdio", "-serial", "none", "-serial", "pty", "-qmp", "unix:a.qmp,server=on,wait=off"],
  ...["-chardev", "null,id=spare", "-pidfile", "a.pid"],
];
const running: MachineSpec = resolve(interpret(...COMMAND_LINE));

const differences = (...argv: string[]): string[] =>
  compareSpecs(running, interpret(...argv)).map(
    ({ kind, what, running, wanted }) => `${kind}: ${what}: ${running} -> ${wanted}`,
  );
const merge = (...argv: string[]): MachineSpec => mergeSpecs(running, interpret(...argv));

test("an empty command line, the same one and -nodefaults keep everything", () => {
  const kept = { ...running, startPaused: false };
  for (const argv of [[], COMMAND_LINE.filter((word) => word !== "-S"), ["-nodefaults"]]) {
    assert.equal(differences(...argv), []);
    assert.equal(merge(...argv), kept);
  }
});

test("a whole MachineSpec counts as a command line, and equals itself", () => {
  assert.equal(compareSpecs(running, running), []);
  assert.equal(mergeSpecs(running, running), running);
});

test("anonymous RAM that an update has made shared may still be called private, and not the other way round", () => {
  const ram = (share: string): string[] => ["-object", `memory-backend-ram,id=ram0,size=1G,share=${share}`];
  const machine = ["-machine", "microvm,memory-backend=ram0"];
  const started = (share: string): MachineSpec => resolve(interpret(...machine, ...ram(share), "-kernel", "vmlinux"));
  assert.equal(compareSpecs(started("on"), interpret(...ram("off"))), []);
  assert.equal(
    compareSpecs(started("off"), interpret(...ram("on"))).map(({ what }) => what),
    ["memory back end 'ram0': share"],
  );
});

test("-S and -incoming are the new VMM's own and no differences", () => {
  assert.equal(differences("-S", "-incoming", "defer"), []);
  const merged = merge("-S", "-incoming", "defer");
  assert.is(merged.startPaused, true);
  assert.equal(merged.incoming, [{ channel: "main", defer: true }]);
  assert.equal(mergeSpecs(merged, {}).incoming, []);
});

test("every part of the machine is compared", () => {
  const cases: [string[], string][] = [
    [["-machine", "q35"], "machine: machine type: microvm -> q35"],
    [["-machine", "memory-backend=b"], "machine: memory-backend of the machine: ram0 -> b"],
    [["-machine", "aux-ram-share=off"], "machine: aux-ram-share: on -> off"],
    [["-m", "2G"], "machine: RAM size: 1 GiB -> 2 GiB"],
    [
      ["-object", "memory-backend-ram,id=b,size=2M"],
      "machine: memory back end 'b': none -> memory-backend-ram of 2 MiB",
    ],
    [["-object", "memory-backend-memfd,id=ram0,size=2G"], "machine: memory back end 'ram0': size: 1 GiB -> 2 GiB"],
    [
      ["-object", "memory-backend-memfd,id=ram0,size=1G,share=off"],
      "machine: memory back end 'ram0': share: on -> off",
    ],
    [["-smp", "2"], "machine: number of CPUs: 4 -> 2"],
    [
      ["-smp", "4,sockets=2"],
      "machine: arrangement of the CPUs: sockets=1,cores=4,threads=1 -> sockets=2,cores=2,threads=1",
    ],
    [["-cpu", "max,-avx512f"], "machine: CPU model: host -> max"],
    [["-cpu", "host"], 'machine: CPU features: {"avx512f":false} -> {}'],
    [
      ["-uuid", "00000000-1234-1234-1234-123456789abc"],
      "machine: UUID: 12345678-1234-1234-1234-123456789abc -> 00000000-1234-1234-1234-123456789abc",
    ],
    [
      ["-device", "isa-debug-exit"],
      'machine: isa-debug-exit: {"ioBase":244,"ioSizeBytes":4} -> {"ioBase":1281,"ioSizeBytes":2}',
    ],
    [["-serial", "none"], "machine: serial port 0: present -> absent"],
  ];
  for (const [argv, expected] of cases)
    assert.ok(differences(...argv).includes(expected), `${expected}: ${differences(...argv)}`);
  assert.ok(differences("-serial", "stdio", "-serial", "null").includes("machine: serial port 1: absent -> present"));
});

test("a back end's file is part of the machine: another file has other contents", () => {
  const file = (path: string): string[] => ["-object", `memory-backend-file,id=ram0,size=1G,mem-path=${path},share=on`];
  const old = resolve(interpret(...file("/a"), "-M", "memory-backend=ram0", "-S"));
  assert.equal(compareSpecs(old, interpret(...file("/a"))), []);
  assert.equal(compareSpecs(old, interpret(...file("/b"))), [
    { what: "memory back end 'ram0': mem-path", running: "/a", wanted: "/b", kind: "machine" },
  ]);
});

test("the dirty rings are the VMM's own and may differ", () => {
  assert.equal(differences("-accel", "kvm,dirty-ring-size=4096"), ["backend: dirty-ring-size: none -> 4096"]);
  const merged = merge("-accel", "kvm,dirty-ring-size=4096");
  assert.is(merged.dirtyRingEntries, 4096);
  assert.is(mergeSpecs(merged, interpret("-accel", "kvm")).dirtyRingEntries, 4096);
  assert.is(mergeSpecs(merged, interpret("-accel", "kvm,dirty-ring-size=0")).dirtyRingEntries, 0);
});

test("a command line that leaves the choice of the accelerator does not ask for another one", () => {
  const either = interpret("-accel", "kvm", "-accel", "wasm");
  for (const name of ["kvm", "wasm"]) {
    const running = resolve(interpret("-S", "-accel", name));
    assert.equal(compareSpecs(running, either), []);
    assert.equal(mergeSpecs(running, either).accelerators, [name]);
  }
  const onKvm = resolve(interpret("-S", "-accel", "kvm"));
  assert.equal(mergeSpecs(onKvm, interpret("-accel", "wasm")).accelerators, ["wasm"]);
  assert.equal(compareSpecs(onKvm, interpret("-accel", "wasm")), [
    { what: "accelerators", running: '["kvm"]', wanted: '["wasm"]', kind: "backend" },
  ]);
});

test("mergeSpecs() refuses another machine and lists why", async () => {
  const error = await rejection(() => merge("-m", "2G", "-smp", "2"));
  assert.is((error as VmmError).code, "machine-differs");
  assert.is(
    error.message,
    "An update cannot change the machine: RAM size (running: 1 GiB, wanted: 2 GiB); number of CPUs (running: 4, wanted: 2)",
  );
});

test("monitors that are mentioned replace the old ones and their chardevs", () => {
  const merged = merge("-monitor", "null", "-qmp", "unix:b.qmp,server=on,wait=off");
  assert.equal(
    merged.monitors.map(({ chardev, mode }) => [chardev, mode]),
    [
      ["compat_monitor0", "readline"],
      ["compat_monitor1", "control"],
    ],
  );
  assert.equal(
    merged.chardevs.map(({ id, backend }) => [id, backend]),
    [
      ["serial0", "stdio"],
      ["serial2", "pty"],
      ["compat_monitor0", "null"],
      ["spare", "null"],
      ["compat_monitor1", "socket"],
    ],
  );
  assert.equal(differences("-monitor", "none"), [
    'backend: chardev \'compat_monitor0\': {"address":{"path":"a.qmp","type":"unix"},"backend":"socket","id":"compat_monitor0","server":true,"wait":false} -> none',
    'backend: monitors: [{"chardev":"compat_monitor0","mode":"control","pretty":false}] -> []',
  ]);
});

test("serial ports change their target one by one", () => {
  const merged = merge("-chardev", "pty,id=con", "-serial", "chardev:con");
  assert.equal(merged.serials, ["con", null, "serial2"]);
  assert.equal(
    merged.chardevs.map(({ id }) => id),
    ["serial2", "compat_monitor0", "spare", "con"],
  );
  assert.equal(merge("-serial", "chardev:spare").serials[0], "spare");
  assert.equal(differences("-serial", "null"), [
    'backend: chardev \'serial0\': {"backend":"stdio","id":"serial0","signal":true} -> {"backend":"null","id":"serial0"}',
  ]);
});

test("stdio moves when it is given up, and two users of it are refused", async () => {
  assert.equal(
    merge("-serial", "null", "-monitor", "stdio").chardevs.filter(({ backend }) => backend === "stdio").length,
    1,
  );
  assert.is(
    (await rejection(() => merge("-monitor", "stdio"))).message,
    "Chardev 'compat_monitor0': cannot use stdio by multiple character devices: 'serial0' has it already",
  );
  assert.is((await rejection(() => merge("-mon", "nope"))).message, 'chardev "nope" not found (monitor)');
});

test("name, pidfile, boot files and switches may change", () => {
  const unpacks = ["-machine", "x-unpack-kernel=on"];
  assert.equal(differences("-name", "b", "-pidfile", "b.pid", "-kernel", "k2", "-no-reboot", ...unpacks), [
    "backend: name: vm -> b",
    "backend: pidfile: a.pid -> b.pid",
    "backend: kernel: vmlinux -> k2",
    "backend: x-unpack-kernel: none -> on",
    "backend: no-reboot: off -> on",
  ]);
  const merged = merge("-name", "b", "-append", "x", "-no-reboot");
  assert.equal([merged.name, merged.append, merged.noReboot, merged.kernel], ["b", "x", true, "vmlinux"]);
});

test("neither argument is changed", () => {
  const before = JSON.stringify(running);
  const wanted = interpret("-serial", "null", "-qmp", "null");
  const wantedBefore = JSON.stringify(wanted);
  mergeSpecs(running, wanted);
  assert.is(JSON.stringify(running), before);
  assert.is(JSON.stringify(wanted), wantedBefore);
});

test.run();
