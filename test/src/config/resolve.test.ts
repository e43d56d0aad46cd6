// SPDX-License-Identifier: Apache-2.0
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveConfig, resolveOptions } from "../../../src/config/resolve.ts";
import type { MachineSpec } from "../../../src/config/types.ts";
import type { VmmError } from "../../../src/errors.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("resolve");

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** The machine of a command line, to which something to run is added. */
const resolve = (...argv: string[]): MachineSpec =>
  resolveOptions(parseArguments([...argv, "-S", "-nodefaults"]).options);

const refusals = async (cases: readonly (readonly [string[], string])[]): Promise<void> => {
  for (const [argv, message] of cases) {
    const error = await rejection(() => resolve(...argv));
    assert.is((error as VmmError).code, "usage", error.message);
    assert.is(error.message, message);
  }
};

const ram = (size: string, rest = ""): string[] => ["-object", `memory-backend-memfd,id=ram0,size=${size}${rest}`];

test("a VM of which only the kernel is given", () => {
  assert.equal(resolveConfig({ kernel: "vmlinux" }), {
    kernel: "vmlinux",
    machine: { type: "microvm", auxRamShare: false, memoryBackend: "microvm.ram" },
    accelerators: ["kvm", "wasm"],
    memoryBackends: [{ qomType: "memory-backend-ram", id: "microvm.ram", sizeBytes: 128 * MIB, share: false }],
    memorySizeBytes: 128 * MIB,
    cpuCount: 1,
    cpu: { model: "host", features: {} },
    chardevs: [{ backend: "stdio", id: "serial0", signal: true }],
    serials: ["serial0"],
    monitors: [],
    noReboot: false,
    startPaused: false,
    incoming: [],
  });
});

test("the default serial port is there whoever has stdio, and not with -nodefaults", async () => {
  const monitored = resolveConfig({ kernel: "k", monitor: "stdio" });
  assert.equal(monitored.serials, ["serial0"]);
  assert.equal(monitored.chardevs[1], { backend: "null", id: "serial0" });
  assert.equal(resolveConfig({ kernel: "k", nodefaults: true }).serials, []);
  assert.equal(resolveConfig({ kernel: "k", serial: "none" }).serials, []);
  assert.is(
    (await rejection(() => resolveConfig({ kernel: "k", chardev: "null,id=serial0" }))).message,
    "Duplicate ID 'serial0' for chardev: the default serial port has it; give -serial or -nodefaults",
  );
});

test("-machine adds up, the later wins", async () => {
  const spec = resolve(
    "-machine",
    "pc,aux-ram-share=off",
    "-M",
    "memory-backend=ram0",
    "-M",
    "aux-ram-share=on",
    ...ram("1G"),
  );
  assert.equal(spec.machine, { type: "pc", auxRamShare: true, memoryBackend: "ram0" });
  assert.is(resolve("-machine", "pc", "-machine", "q35").machine.type, "q35");
  assert.is(resolve().unpackKernel, undefined);
  assert.is(resolve("-machine", "x-unpack-kernel=off", "-machine", "x-unpack-kernel=on").unpackKernel, true);
  await refusals([
    [["-machine", "pc98"], "-machine pc98: Parameter 'type' does not accept value 'pc98'; accepted: microvm, q35, pc"],
    [
      ["-machine", "microvmm"],
      "-machine microvmm: Parameter 'type' does not accept value 'microvmm' (did you mean 'microvm'?); accepted: microvm, q35, pc",
    ],
    [
      ["-machine", "q35,usb=on"],
      "-machine q35,usb=on: Invalid parameter 'usb'; accepted: type, memory-backend, aux-ram-share, x-unpack-kernel, accel",
    ],
    [
      ["-M", "aux-ram-shared=on"],
      "-M aux-ram-shared=on: Invalid parameter 'aux-ram-shared' (did you mean 'aux-ram-share'?); accepted: type, memory-backend, aux-ram-share, x-unpack-kernel, accel",
    ],
    [["-M", "aux-ram-share=1"], "-M aux-ram-share=1: Parameter 'aux-ram-share' expects 'on' or 'off', got '1'"],
  ]);
});

test("-accel knows kvm and wasm, in order of preference", async () => {
  assert.equal(resolve("-accel", "kvm").accelerators, ["kvm"]);
  assert.is(resolve("-accel", "kvm").dirtyRingEntries, undefined);
  assert.is(resolve("-accel", "kvm,dirty-ring-size=4096").dirtyRingEntries, 4096);
  assert.is(resolve("-accel", "kvm,dirty-ring-size=0").dirtyRingEntries, 0);
  assert.equal(resolve("-machine", "accel=kvm").accelerators, ["kvm"]);
  assert.equal(resolve("-machine", "accel=kvm:kvm").accelerators, ["kvm", "kvm"]);
  assert.equal(resolve("-accel", "wasm").accelerators, ["wasm"]);
  assert.equal(resolve("-accel", "kvm", "-accel", "wasm").accelerators, ["kvm", "wasm"]);
  assert.equal(resolve("-accel", "kvm:wasm").accelerators, ["kvm", "wasm"]);
  assert.equal(resolve("-machine", "accel=wasm:kvm").accelerators, ["wasm", "kvm"]);
  const foreign = "Accelerator 'tcg' is QEMU's own; Baton's CPU engine is called wasm";
  await refusals([
    [["-accel", "kvm", "-accel", "tcg"], `-accel tcg: ${foreign}`],
    [["-machine", "accel=kvm:tcg"], `-machine accel=kvm:tcg: ${foreign}`],
    [["-accel", "kvn"], "-accel kvn: Invalid accelerator 'kvn' (did you mean 'kvm'?); accepted: kvm, wasm"],
    [["-accel", ""], "-accel : Parameter 'accel' is missing; accepted: kvm, wasm"],
    [
      ["-accel", "wasm,dirty-ring-size=4096"],
      "-accel wasm,dirty-ring-size=4096: Parameter 'dirty-ring-size' is KVM's: -accel kvm,dirty-ring-size=N",
    ],
    [
      ["-accel", "kvm,thread=multi"],
      "-accel kvm,thread=multi: Invalid parameter 'thread'; accepted: accel, dirty-ring-size",
    ],
    [
      ["-accel", "kvm,dirty-ring-size=1000"],
      "-accel kvm,dirty-ring-size=1000: Parameter 'dirty-ring-size' must be a power of two from 1024 to 65536, or 0, got 1000",
    ],
    [
      ["-accel", "kvm,dirty-ring-size=512"],
      "-accel kvm,dirty-ring-size=512: Parameter 'dirty-ring-size' must be a power of two from 1024 to 65536, or 0, got 512",
    ],
    [
      ["-accel", "kvm,dirty-ring-size=131072"],
      "-accel kvm,dirty-ring-size=131072: Parameter 'dirty-ring-size' expects a number from 0 to 65536, got '131072'",
    ],
    [["-accel", "kvm", "-M", "accel=kvm"], 'The -accel and "-machine accel=" options are incompatible'],
  ]);
});

test("-cpu takes features in all of QEMU's spellings", async () => {
  assert.equal(resolve("-cpu", "max,+avx2,-AVX512F,sse4_1=on,pmu=off,invtsc").cpu, {
    model: "max",
    features: { avx2: true, avx512f: false, "sse4-1": true, pmu: false, invtsc: true },
  });
  assert.equal(resolve("-cpu", "host,+a,-a").cpu.features, { a: false });
  assert.equal(resolve("-cpu", "baton64,-invtsc").cpu, { model: "baton64", features: { invtsc: false } });
  assert.equal(resolve("-cpu", "max", "-cpu", "host").cpu, { model: "host", features: {} });
  await refusals([
    [["-cpu", "qemu64"], "-cpu qemu64: Unable to find CPU model 'qemu64'; accepted: host, max, baton64"],
    [
      ["-cpu", "hots"],
      "-cpu hots: Unable to find CPU model 'hots' (did you mean 'host'?); accepted: host, max, baton64",
    ],
    [["-cpu", ""], "-cpu : Unable to find CPU model ''; accepted: host, max, baton64"],
    [["-cpu", "host,level=7"], "-cpu host,level=7: CPU feature 'level' expects 'on' or 'off', got '7'"],
    [["-cpu", "host,+a=on"], "-cpu host,+a=on: Expected +FEATURE, -FEATURE or FEATURE=on|off, got '+a=on'"],
    [["-cpu", "host,"], "-cpu host,: Expected +FEATURE, -FEATURE or FEATURE=on|off, got ''"],
  ]);
});

test("-smp completes the arrangement of the CPUs, cores first", async () => {
  const smp = (...values: string[]): unknown[] => {
    const spec = resolve(...values.flatMap((value) => ["-smp", value]));
    return [spec.cpuCount, spec.cpuTopology];
  };
  assert.equal(smp("4"), [4, undefined]);
  assert.equal(smp("cpus=4,cores=4"), [4, undefined]);
  assert.equal(smp("4", "sockets=2"), [4, { sockets: 2, cores: 2, threads: 1 }]);
  assert.equal(smp("4,threads=2"), [4, { sockets: 1, cores: 2, threads: 2 }]);
  assert.equal(smp("8,cores=2"), [8, { sockets: 4, cores: 2, threads: 1 }]);
  assert.equal(smp("8,cores=2,sockets=2"), [8, { sockets: 2, cores: 2, threads: 2 }]);
  assert.equal(smp("sockets=2,threads=2"), [4, { sockets: 2, cores: 1, threads: 2 }]);
  assert.equal(smp("maxcpus=2"), [2, undefined]);
  assert.equal(smp("2,maxcpus=2,dies=1,clusters=1"), [2, undefined]);
  assert.equal(smp("4,sockets=4", "sockets=1"), [4, undefined]);
  await refusals([
    [["-smp", "0"], "-smp 0: Parameter 'cpus' expects a number from 1 to 65535, got '0'"],
    [["-smp", "9"], "-smp 9: A machine has 1 to 8 CPUs, got 9"],
    [
      ["-smp", "4,sockets=3"],
      "-smp 4,sockets=3: Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (3) * cores (1) * threads (1) != maxcpus (4)",
    ],
    [
      ["-smp", "2,maxcpus=1"],
      "-smp 2,maxcpus=1: Invalid CPU topology: maxcpus (1) must be equal to or greater than cpus (2)",
    ],
    [
      ["-smp", "2,maxcpus=4"],
      "-smp 2,maxcpus=4: Parameter 'maxcpus' must equal cpus (2), got 4: there is no CPU hot-plug yet",
    ],
    [["-smp", "2,dies=2"], "-smp 2,dies=2: Parameter 'dies' expects a number from 1 to 1, got '2'"],
  ]);
});

test("-m counts in MiB, is rounded up as QEMU does, and 0 is the default", async () => {
  assert.is(resolve("-m", "256").memorySizeBytes, 256 * MIB);
  assert.is(resolve("-m", "1.5G").memorySizeBytes, 1.5 * GIB);
  assert.is(resolve("-m", "size=2g").memorySizeBytes, 2 * GIB);
  assert.is(resolve("-m", "64", "-m", "3G").memorySizeBytes, 3 * GIB);
  assert.is(resolve("-m", "1025k").memorySizeBytes, 1032 * 1024);
  assert.is(resolve("-m", "0").memorySizeBytes, 128 * MIB);
  await refusals([
    [["-m", "128X"], "-m 128X: Parameter 'size' expects a size such as 512M or 1.5G (suffixes k, M, G, T), got '128X'"],
    [["-m", "1G,slots=2"], "-m 1G,slots=2: Parameter 'slots' is not supported: there is no memory hot-plug yet"],
    [["-m", "1G,foo=2"], "-m 1G,foo=2: Invalid parameter 'foo'; accepted: size"],
    [["-m", "4k"], "RAM of 8 KiB is too small: a guest needs at least 1 MiB"],
  ]);
});

test("RAM beyond 3 GiB is refused with the limit and the reason", async () => {
  for (const argv of [
    ["-m", "4G"],
    [...ram("4G"), "-machine", "memory-backend=ram0"],
  ]) {
    const error = await rejection(() => resolve(...argv));
    assert.is((error as VmmError).code, "ram-too-large");
    assert.is(error.message, "RAM of 4 GiB is too large: Baton maps all of it below the PCI hole, 3 GiB at most");
  }
});

test("RAM without an -object gets QEMU's default back end", async () => {
  const [backend] = resolve("-machine", "q35", "-m", "64").memoryBackends;
  assert.equal(backend, { qomType: "memory-backend-ram", id: "pc.ram", sizeBytes: 64 * MIB, share: false });
  const shared = resolve("-machine", "aux-ram-share=on");
  assert.equal(shared.memoryBackends, [
    { qomType: "memory-backend-memfd", id: "microvm.ram", sizeBytes: 128 * MIB, share: true, seal: true },
  ]);
  await refusals([
    [
      ["-object", "memory-backend-ram,id=microvm.ram,size=1M"],
      "Object id 'microvm.ram' is reserved for the default RAM backend; choose another one, or make it the guest's RAM with -machine memory-backend=microvm.ram",
    ],
  ]);
});

test("-machine memory-backend= must exist and be as large as -m, which it else decides", async () => {
  const machine = ["-machine", "memory-backend=ram0"];
  assert.is(resolve(...machine, ...ram("64M")).memorySizeBytes, 64 * MIB);
  assert.is(resolve(...machine, ...ram("64M"), "-m", "64").memorySizeBytes, 64 * MIB);
  assert.is(resolve(...ram("64M")).memorySizeBytes, 128 * MIB);
  await refusals([
    [machine, "Memory backend 'ram0' not found; -object makes one"],
    [
      [...machine, ...ram("64M"), "-m", "32M"],
      "Machine memory size does not match the size of the memory backend: -m is 32 MiB, 'ram0' has 64 MiB",
    ],
  ]);
});

test("-object has QEMU's defaults for each type, as text and as JSON", async () => {
  const backend = (text: string): unknown => resolve("-object", text).memoryBackends[0];
  assert.equal(backend("memory-backend-memfd,id=a,size=2M"), {
    qomType: "memory-backend-memfd",
    id: "a",
    sizeBytes: 2 * MIB,
    share: true,
    seal: true,
  });
  assert.equal(backend("qom-type=memory-backend-memfd,id=a,size=4M,hugetlb=on,hugetlbsize=2M,seal=off,prealloc=on"), {
    qomType: "memory-backend-memfd",
    id: "a",
    sizeBytes: 4 * MIB,
    share: true,
    prealloc: true,
    seal: false,
    hugetlb: true,
    hugetlbSizeBytes: 2 * MIB,
  });
  assert.equal(backend("memory-backend-file,id=a,size=1G,mem-path=/dev/shm/a,,b,share"), {
    qomType: "memory-backend-file",
    id: "a",
    sizeBytes: GIB,
    share: true,
    memPath: "/dev/shm/a,b",
  });
  assert.equal(
    backend("memory-backend-file,id=a,size=1G,mem-path=/dev/dax0.0,align=2M"),
    backend("memory-backend-file,id=a,size=1G,mem-path=/dev/dax0.0"),
  );
  const json = '{"qom-type":"memory-backend-ram","id":"a","size":1048576,"share":true}';
  assert.equal(backend(json), { qomType: "memory-backend-ram", id: "a", sizeBytes: MIB, share: true });
  const types = "memory-backend-memfd, memory-backend-file, memory-backend-ram, tls-creds-x509";
  const object = (text: string, message: string): [string[], string] => [
    ["-object", text],
    `-object ${text}: ${message}`,
  ];
  await refusals([
    object("", `Parameter 'qom-type' is missing; accepted: ${types}`),
    object("iothread,id=a", `Parameter 'qom-type' does not accept value 'iothread'; accepted: ${types}`),
    object("memory-backend-ram,size=1M", "Parameter 'id' is missing"),
    object("memory-backend-ram,id=a", "Parameter 'size' is missing"),
    object("memory-backend-file,id=a,size=1M", "Parameter 'mem-path' is missing"),
    object(
      "memory-backend-file,id=a,size=1G,mem-path=a,align=1G",
      "Parameter 'align' expects a power of two of at most 2M, got 1073741824",
    ),
    object(
      "memory-backend-file,id=a,size=1M,mem-path=a,align=12K",
      "Parameter 'align' expects a power of two of at most 2M, got 12288",
    ),
    object(
      "memory-backend-ram,id=a,size=1M,sahre=on",
      "Invalid parameter 'sahre' (did you mean 'share'?); accepted: qom-type, id, size, share, prealloc",
    ),
    object(
      "memory-backend-ram,id=a,size=1M,merge=on",
      "Parameter 'merge' is not supported: Baton has no such setting for RAM yet",
    ),
    object(
      "memory-backend-ram,id=a,size=1M,seal=on",
      "Invalid parameter 'seal'; accepted: qom-type, id, size, share, prealloc",
    ),
    object("memory-backend-ram,id=a,size=4097", "Parameter 'size' must be a multiple of 4 KiB, got 4097 bytes"),
    object("memory-backend-ram,id=a,size=0", "Parameter 'size' must be a multiple of 4 KiB, got 0 bytes"),
    object("memory-backend-memfd,id=a,size=2M,hugetlbsize=2M", "Parameter 'hugetlbsize' needs hugetlb=on"),
    object(
      "memory-backend-memfd,id=a,size=2M,hugetlb=on,hugetlbsize=3M",
      "Parameter 'hugetlbsize' expects a power of two such as 2M or 1G, got 3145728",
    ),
    object(
      "memory-backend-memfd,id=a,size=3M,hugetlb=on,hugetlbsize=2M",
      "Parameter 'size' must be a multiple of 2 MiB, got 3145728 bytes",
    ),
    object('{"qom-type":', "JSON parse error"),
    object(
      '{"qom-type":"memory-backend-ram","id":"a","size":[]}',
      "Parameter 'size' expects a size such as 512M or 1.5G (suffixes k, M, G, T), got a list",
    ),
    [[...ram("1M"), ...ram("2M")], "-object memory-backend-memfd,id=ram0,size=2M: Duplicate ID 'ram0' for object"],
  ]);
});

test("-device makes the one device there is", async () => {
  assert.equal(resolve("-device", "isa-debug-exit,iobase=0xf4,iosize=4").debugExit, { ioBase: 0xf4, ioSizeBytes: 4 });
  assert.equal(resolve("-device", "isa-debug-exit").debugExit, { ioBase: 0x501, ioSizeBytes: 2 });
  assert.equal(resolve("-device", '{"driver":"isa-debug-exit","iobase":244}').debugExit?.ioBase, 0xf4);
  const device = (text: string, message: string): [string[], string] => [
    ["-device", text],
    `-device ${text}: ${message}`,
  ];
  await refusals([
    device("virtio-blk-pci,drive=d", "'virtio-blk-pci' is not a valid device model name; accepted: isa-debug-exit"),
    device(
      "isa-debugexit",
      "'isa-debugexit' is not a valid device model name (did you mean 'isa-debug-exit'?); accepted: isa-debug-exit",
    ),
    device("", "Parameter 'driver' is missing; accepted: isa-debug-exit"),
    device("isa-debug-exit,iobase=zz", "Parameter 'iobase' expects a number from 0 to 65535, got 'zz'"),
    device("isa-debug-exit,iosize=3", "Parameter 'iosize' expects 1, 2 or 4, got '3'"),
    device("isa-debug-exit,iobase=0xffff", "Parameter 'iobase' is beyond the last I/O port, 0xffff"),
    device("isa-debug-exit,id=x", "Invalid parameter 'id'; accepted: driver, iobase, iosize"),
    [
      ["-device", "isa-debug-exit", "-device", "isa-debug-exit"],
      "-device isa-debug-exit: There can be only one isa-debug-exit",
    ],
  ]);
});

test("-name, -uuid, -pidfile, -display and the switches", async () => {
  const spec = resolve("-name", "guest=a,,b", "-pidfile", "p", "-no-reboot", "-no-user-config", "-display", "none");
  assert.is(spec.name, "a,b");
  assert.is(spec.pidfile, "p");
  assert.is(spec.noReboot, true);
  assert.is(spec.startPaused, true);
  assert.is(resolve("-name", "a", "-name", "b").name, "b");
  assert.is(resolve("-uuid", "12345678-1234-1234-1234-123456789ABC").uuid, "12345678-1234-1234-1234-123456789abc");
  await refusals([
    [
      ["-name", "a,debug-threads=on"],
      "-name a,debug-threads=on: Parameter 'debug-threads' is not supported: threads and the process keep their names",
    ],
    [["-name", "guest="], "-name guest=: Parameter 'guest' must not be empty"],
    [["-uuid", "x"], "-uuid x: Failed to parse UUID string 'x': expected 8-4-4-4-12 hexadecimal digits"],
    [["-pidfile", ""], "-pidfile : Expected the path of a file"],
    [["-display", "gtk"], "-display gtk: Parameter 'type' does not accept value 'gtk'; accepted: none"],
    [["-display", "none,gl=on"], "-display none,gl=on: Invalid parameter 'gl'; accepted: type"],
  ]);
});

test("what a guest starts from must fit together", async () => {
  const boot = (...argv: string[]): MachineSpec => resolveOptions(parseArguments(argv).options);
  assert.is(boot("-bios", "boot.bin").bios, "boot.bin");
  assert.is(boot("-kernel", "a", "-kernel", "b", "-append", "", "-initrd", "i").kernel, "b");
  assert.is(boot("-incoming", "file:vm.state", "-append", "x").append, "x");
  const message = async (...argv: string[]): Promise<string> => (await rejection(() => boot(...argv))).message;
  const exclusive = "-kernel and -bios exclude each other: the guest starts from the one or the other";
  assert.is(await message("-kernel", "k", "-bios", "b"), exclusive);
  assert.is(await message("-initrd", "i", "-bios", "b"), "-initrd only allowed with -kernel option");
  assert.is(await message("-append", "i", "-S"), "-append only allowed with -kernel option");
  assert.is(await message(), "There is nothing to run: give -kernel FILE, -bios FILE or -incoming SOURCE");
  assert.is(((await rejection(() => boot())) as VmmError).code, "no-guest");
});

test("TLS credentials are objects of their own", async () => {
  const tls = (rest: string): string[] => ["-object", `tls-creds-x509,id=tls0${rest}`];
  const [credentials] = resolve(...tls(",endpoint=client,dir=/pki")).tlsCredentials!;
  assert.equal(credentials, {
    qomType: "tls-creds-x509",
    id: "tls0",
    endpoint: "client",
    dir: "/pki",
    verifyPeer: true,
  });
  assert.is(resolve(...tls(",endpoint=server,dir=/pki,verify-peer=off")).tlsCredentials![0]!.verifyPeer, false);
  assert.is(resolve().tlsCredentials, undefined);
  const prefix = "-object tls-creds-x509,id=tls0";
  await refusals([
    [tls(""), `${prefix}: Parameter 'endpoint' is missing; accepted: client, server`],
    [tls(",endpoint=server"), `${prefix},endpoint=server: Parameter 'dir' is missing`],
    [
      tls(",endpoint=server,dir=/pki,priority=NORMAL"),
      `${prefix},endpoint=server,dir=/pki,priority=NORMAL: Parameter 'priority' is not supported: ` +
        "it is TLS 1.3 with the runtime's ciphers",
    ],
    [
      [...tls(",endpoint=server,dir=/a"), ...tls(",endpoint=client,dir=/b")],
      `${prefix},endpoint=client,dir=/b: Duplicate ID 'tls0' for object`,
    ],
    [
      ["-object", "tls-creds-psk,id=tls0,endpoint=client,dir=/pki"],
      "-object tls-creds-psk,id=tls0,endpoint=client,dir=/pki: 'tls-creds-psk' is not supported: " +
        "Baton has TLS with X.509 certificates only: use tls-creds-x509",
    ],
  ]);
});

test.run();
