// SPDX-License-Identifier: Apache-2.0
import { configOptions } from "../../../src/config/config-options.ts";
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveConfig, resolveOptions } from "../../../src/config/resolve.ts";
import type { VmConfig } from "../../../src/config/vm-config.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("config-options");

const refusal = async (config: unknown): Promise<string> =>
  (await rejection(() => resolveConfig(config as VmConfig))).message;

test("the object form means what the command line means", () => {
  const config: VmConfig = {
    machine: { type: "q35", "memory-backend": "ram0", "aux-ram-share": true },
    accel: ["kvm"],
    cpu: { model: "max", avx512f: false, pmu: "on" },
    smp: { cpus: 4, sockets: 2 },
    m: 1024,
    object: { "qom-type": "memory-backend-memfd", id: "ram0", size: 1024 ** 3, seal: false },
    device: { driver: "isa-debug-exit", iobase: 0xf4, iosize: 4 },
    uuid: "B2A0D8F0-5C0E-4D0E-9A0B-0C8C2A1F6F11",
    kernel: "vmlinux",
    initrd: "initrd.img",
    append: "console=ttyS0, quiet",
    chardev: [{ backend: "pty", id: "p" }, "file,id=log,path=/a,,b"],
    serial: ["chardev:p", { backend: "socket", path: "s,1", server: true, wait: false }],
    mon: { chardev: "log", mode: "control", pretty: true },
    monitor: "none",
    qmp: { backend: "socket", host: "", port: 4444, server: "on" },
    display: "none",
    name: { guest: "vm,1" },
    pidfile: "/run/vm.pid",
    S: true,
    "no-reboot": true,
    nodefaults: false,
    "no-user-config": true,
    incoming: ["defer", { "channel-type": "cpr", addr: { transport: "socket", type: "unix", path: "c" } }],
  };
  const argv = [
    ...["-machine", "q35,memory-backend=ram0", "-machine", "aux-ram-share=on", "-accel", "kvm"],
    ...["-cpu", "max,-avx512f,pmu=on", "-smp", "4,sockets=2", "-m", "1G"],
    ...["-object", "memory-backend-memfd,id=ram0,size=1G,seal=off"],
    ...["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-uuid", "b2a0d8f0-5c0e-4d0e-9a0b-0c8c2a1f6f11"],
    ...["-kernel", "vmlinux", "-initrd", "initrd.img", "-append", "console=ttyS0, quiet"],
    ...["-chardev", "pty,id=p", "-chardev", "file,id=log,path=/a,,b", "-serial", "chardev:p"],
    ...["-serial", "unix:s,,1,server,nowait", "-mon", "log,mode=control,pretty=on", "-monitor", "none"],
    ...["-qmp", "tcp::4444,server=on", "-display", "none", "-name", "vm,,1", "-pidfile", "/run/vm.pid"],
    ...["-S", "-no-reboot", "-no-user-config", "-incoming", "defer"],
    ...["-incoming", "cpr,addr.transport=socket,addr.type=unix,addr.path=c"],
  ];
  const spec = resolveConfig(config);
  assert.equal(spec, resolveOptions(parseArguments(argv).options));
  assert.equal(JSON.parse(JSON.stringify(spec)), spec);
});

test("undefined counts as not given", () => {
  const config = { kernel: "vmlinux", m: undefined, chardev: { backend: "null", id: "a", path: undefined } };
  assert.is(resolveConfig(config as unknown as VmConfig).chardevs[0]!.id, "a");
});

test("a wrong key or kind of value is refused with its place", async () => {
  assert.is(await refusal({ kernal: "x" }), "configuration: Invalid option 'kernal' (did you mean 'kernel'?)");
  assert.is(await refusal({ M: "x" }), "configuration: Invalid option 'M' (did you mean 'machine'?)");
  assert.is(await refusal({ config: "x" }), "configuration: Invalid option 'config'");
  assert.is(await refusal({ help: true }), "configuration: Invalid option 'help'");
  assert.is(await refusal({ S: "yes" }), "configuration: S: Expected true or false, got 'yes'");
  assert.is(await refusal({ kernel: ["a"] }), "configuration: kernel: Expected one value, got a list");
  assert.is(await refusal({ m: null }), "configuration: m: Expected text, a number or an object, got 'null'");
  assert.is(
    await refusal({ serial: ["none", true] }),
    "configuration: serial[1]: Expected text, a number or an object, got 'true'",
  );
  assert.is(await refusal({ kernel: {} }), "configuration: kernel: Expected a string");
  assert.is(
    await refusal({ smp: { cpu: 1 } }),
    "configuration: smp: Invalid parameter 'cpu' (did you mean 'cpus'?); accepted: cpus, sockets, cores, threads, maxcpus, dies, clusters, modules",
  );
  assert.is(
    await refusal({ serial: { backend: "null", id: "x" } }),
    "configuration: serial: Invalid parameter 'id'; accepted: backend, mux",
  );
  assert.is(await refusal([]), "configuration: Expected an object whose keys are option names");
  assert.is(await refusal(null), "configuration: Expected an object whose keys are option names");
});

test("configOptions() names the source it was given", () => {
  assert.equal(configOptions({ smp: [1, "2"] }, "vm.json"), [
    { flag: "smp", value: "1", origin: "vm.json: smp[0]" },
    { flag: "smp", value: "2", origin: "vm.json: smp[1]" },
  ]);
});

test.run();
