// SPDX-License-Identifier: Apache-2.0
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { whyNotAlone } from "../../../src/image/busybox.ts";
import { buildCounter, COUNTER_MAGIC } from "../../../src/image/counter.ts";
import { buildInitramfs } from "../../../src/image/initramfs.ts";
import { installedKernel } from "../../../src/image/kernel.ts";
import { cacheDir, type GuestImage, readImage, writeImage } from "../../../src/image/store.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";
import { elf, filler } from "../machine/boot/images.ts";
import { BUSYBOX, FakeMachine, KERNEL, type Outcome, runImage, whyNoApt } from "./support.ts";

const test = describe("baton image");

function machineWithPackages(): FakeMachine {
  const machine = new FakeMachine();
  machine.addPackage("linux-image-6.1.0-9-cloud-amd64", "boot/vmlinuz-6.1.0-9-cloud-amd64", KERNEL);
  machine.addPackage("busybox-static", "usr/bin/busybox", BUSYBOX);
  return machine;
}

function found({ exitCode, stdout, stderr }: Outcome): GuestImage & { append: string; command: string[] } {
  assert.is(exitCode, 0, stdout + stderr);
  return JSON.parse(stdout);
}

function assertFails({ exitCode, stderr }: Outcome, ...parts: string[]): void {
  assert.is(exitCode, 1, stderr);
  for (const part of parts) assert.ok(stderr.includes(part), `"${part}" is not in: ${stderr}`);
}

test("fetches the newest kernel and busybox by apt, and keeps them", async () => {
  const machine = machineWithPackages();
  const image = found(await machine.image("--json"));
  const dir = join(machine.cacheHome, "baton");
  assert.is(image.kernel, join(dir, "vmlinuz-6.1.0-9-cloud-amd64"));
  assert.is(image.kernelFrom, "linux-image-6.1.0-9-cloud-amd64 1:6.1.9-1");
  assert.equal(Uint8Array.from(readFileSync(image.kernel)), KERNEL);
  assert.is(image.initrd, join(dir, "initrd.gz"));
  assert.is(image.busyboxFrom, "busybox-static 1:6.1.9-1");
  assert.equal(image.command.slice(-6), [
    ...["-kernel", image.kernel, "-initrd", image.initrd, "-append", "console=ttyS0"],
  ]);
  assert.equal(readdirSync(dir).toSorted(), ["image.json", "initrd.gz", "vmlinuz-6.1.0-9-cloud-amd64"]);

  // Kept: the archive may be out of reach now.
  rmSync(join(machine.dir, "packages"), { recursive: true });
  const again = await machine.image();
  assert.is(again.exitCode, 0, again.stderr);
  assert.is(again.stderr, "");
  assert.match(again.stdout, `-kernel ${image.kernel} -initrd ${image.initrd} -append console=ttyS0\n`);
});

test("takes paths, and needs no apt for them", async () => {
  const machine = new FakeMachine([]);
  const kernel = machine.write("my kernel", KERNEL);
  const busybox = machine.write("bb", BUSYBOX);
  const dir = join(machine.dir, "there");
  const image = found(await machine.image("--kernel", kernel, "--busybox", busybox, "--dir", dir, "--json"));
  assert.equal([image.kernel, image.kernelFrom, image.busyboxFrom], [kernel, kernel, busybox]);
  assert.is(image.initrd, join(dir, "initrd.gz"));
  const { stdout } = await machine.image("--dir", dir);
  assert.match(stdout, `-kernel '${kernel}' `);
});

test("takes this machine's busybox where there is no apt", async () => {
  const machine = new FakeMachine([]);
  machine.addProgram("busybox", BUSYBOX);
  const image = found(await machine.image("--kernel", machine.write("k", KERNEL), "--json"));
  assert.is(image.busyboxFrom, join(machine.dir, "bin/busybox"));
});

test("says what is missing and what to do", async () => {
  const noApt = await new FakeMachine([]).image("--kernel", new FakeMachine([]).write("k", KERNEL));
  assertFails(noApt, "There is no busybox", "apt-get is not installed", "--busybox");

  const offline = machineWithPackages();
  rmSync(join(offline.dir, "packages"), { recursive: true });
  assertFails(
    await offline.image("--kernel", offline.write("k", KERNEL)),
    "apt-get download -q busybox-static failed: E: Failed to fetch busybox-static",
  );

  const needsLibraries = new FakeMachine([]);
  needsLibraries.addProgram("busybox", dynamic());
  assertFails(
    await needsLibraries.image("--kernel", needsLibraries.write("k", KERNEL)),
    "bin/busybox needs libraries: give one that is linked statically",
  );

  const machine = machineWithPackages();
  assertFails(await machine.image("--kernel", "/nowhere/vmlinuz"), "/nowhere/vmlinuz: Cannot open the image");
  assertFails(await machine.image("--kernel", machine.write("k", filler(2000))), "Is not bootable");
  assertFails(await machine.image("--busybox", machine.write("b", filler(2000))), "is no program for x86-64");
  assertFails(await machine.image("--dir", machine.write("file", "")), "Cannot keep an image here");
  assert.is(readImage(join(machine.cacheHome, "baton")), undefined, "what failed is not kept");
  const usage = await machine.image("--frob");
  assert.is(usage.exitCode, 2);
});

test("without apt's kernel this machine's own is taken, or said to be missing", async () => {
  const machine = new FakeMachine(["apt-cache"]);
  machine.addPackage("none", "x", KERNEL);
  machine.addProgram("busybox", BUSYBOX);
  const outcome = await machine.image("--json");
  assert.match(outcome.stderr, "apt-get is not installed");
  if (installedKernel() === undefined)
    assertFails(outcome, "There is no /boot/vmlinuz-* that you may read", "--kernel");
  else assert.match(found(outcome).kernel, "/boot/vmlinuz-");
});

test("installedKernel() is the newest that may be read", () => {
  const dir = temporaryDirectory();
  assert.is(installedKernel(dir), undefined);
  assert.is(installedKernel(join(dir, "nowhere")), undefined);
  for (const name of ["vmlinuz-6.9.0", "vmlinuz-6.10.0", "config-7.0"]) writeFileSync(join(dir, name), "");
  assert.is(installedKernel(dir)?.path, join(dir, "vmlinuz-6.10.0"));
  chmodSync(join(dir, "vmlinuz-6.10.0"), 0);
  // Root may read everything.
  const newest = process.getuid?.() === 0 ? "vmlinuz-6.10.0" : "vmlinuz-6.9.0";
  assert.is(installedKernel(dir)?.path, join(dir, newest));
});

test("cacheDir() follows XDG_CACHE_HOME where that is a path", () => {
  assert.is(cacheDir({ XDG_CACHE_HOME: "/c" }), "/c/baton");
  assert.match(cacheDir({ XDG_CACHE_HOME: "c" }), /^\/.*\/\.cache\/baton$/);
  assert.match(cacheDir({}), /^\/.*\/\.cache\/baton$/);
});

test("readImage() takes nothing that is not whole", () => {
  const dir = temporaryDirectory();
  const [kernel, initrd] = [join(dir, "k"), join(dir, "i")];
  const whole = { kernel, initrd, kernelFrom: "a", busyboxFrom: "b" };
  const write = (image: object): void => writeFileSync(join(dir, "image.json"), JSON.stringify(image));
  writeFileSync(kernel, "");
  writeImage(dir, whole);
  assert.is(readImage(dir), undefined, "the initrd is missing");
  writeFileSync(initrd, "");
  assert.equal(readImage(dir), whole);
  const written = JSON.parse(readFileSync(join(dir, "image.json"), "utf8"));
  write({ ...written, recipe: written.recipe - 1 });
  assert.is(readImage(dir), undefined, "its initrd is that of an older version");
  write({ ...written, kernel: 5 });
  assert.is(readImage(dir), undefined);
  writeFileSync(join(dir, "image.json"), "{");
  assert.is(readImage(dir), undefined);
});

/** A program with PT_INTERP. */
function dynamic(): Uint8Array {
  const program = elf({ bits: 64 });
  program[0x40] = 3;
  return program;
}

test("whyNotAlone() knows programs that need others", () => {
  assert.is(whyNotAlone(BUSYBOX), undefined);
  assert.match(whyNotAlone(dynamic())!, "needs libraries");
  assert.match(whyNotAlone(elf({ bits: 32 }))!, "no program for x86-64");
  assert.match(whyNotAlone(new Uint8Array())!, "no program for x86-64");
  assert.match(whyNotAlone(BUSYBOX.subarray(0, 0x50))!, "damaged");
});

test("buildInitramfs() has an init, busybox and the counter, and is the same each time", () => {
  const archive = gunzipSync(buildInitramfs(BUSYBOX)).toString("latin1");
  for (const part of ["init\0", "bin/busybox\0", "bin/counter\0", "#!/bin/busybox sh", "TRAILER!!!"]) {
    assert.ok(archive.includes(part), part);
  }
  assert.equal(buildInitramfs(BUSYBOX), buildInitramfs(BUSYBOX));
});

test("the counter is a program that Linux runs, and counts where it says", async () => {
  const path = join(temporaryDirectory(), "counter");
  writeFileSync(path, buildCounter(), { mode: 0o755 });
  const child = spawn(path, { stdio: "ignore" });
  try {
    const page = new DataView(new ArrayBuffer(0x48));
    const read = async (): Promise<bigint> => {
      await new Promise((resolve) => setTimeout(resolve, 30));
      const { status, stdout } = spawnSync("dd", [
        ...[`if=/proc/${child.pid}/mem`, "bs=4096", `skip=${0x40_1000 / 4096}`, "count=1", "status=none"],
      ]);
      assert.is(status, 0);
      new Uint8Array(page.buffer).set(stdout.subarray(0, page.byteLength));
      return page.getBigUint64(0x40, true);
    };
    const before = await read();
    assert.is(page.getBigUint64(0, true), COUNTER_MAGIC);
    assert.ok((await read()) > before);
  } finally {
    child.kill("SIGKILL");
  }
});

test.skipIf(whyNoApt(), "with the real apt it has a real kernel and busybox", async () => {
  const dir = temporaryDirectory();
  const image = found(await runImage(["--dir", dir, "--json"], process.env));
  assert.ok(existsSync(image.kernel));
  assert.ok(readFileSync(image.kernel).length > 1e6);
  assert.match(gunzipSync(readFileSync(image.initrd)).toString("latin1"), "BusyBox v1");
  console.log(`NOTE baton image: ${image.kernelFrom}, ${image.busyboxFrom}`);
});

test.run();
