// SPDX-License-Identifier: Apache-2.0
// `baton status` as a person or a script runs it, against real VMs.
import { createServer } from "node:net";
import { join } from "node:path";
import { accelerator } from "../../accelerator.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, privateRam, programMissing } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { baton } from "./support.ts";

const test = describe("baton status");
const skip = programMissing("compiled");

test.skipIf(skip, "tells what the VM is, and how its last migration went", async () => {
  await using guest = await GuestProcess.start({ extra: ["-name", "web1"], payload: { cpuCount: 2 } });
  const socket = join(guest.dir, "qmp");
  const { exitCode, output, error } = await baton("status", socket);
  assert.is(exitCode, 0, error);
  const modes = ["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"].map((mode) => `${mode.padEnd(12)} possible\n`);
  const [head, program, ...rest] = output.split(/(?<=\n)/).slice(1);
  assert.match(output, /^name {9}web1\n/);
  assert.equal(
    [head, ...rest].join(""),
    `status       running
vCPUs        2, on ${accelerator === "kvm" ? "KVM" : "Baton's CPU engine"}
RAM          32 MiB, ram0: shared
updates      0
${modes.join("")}`,
  );
  assert.match(program!, /^program {6}\S/);

  await baton("update", socket);
  assert.match(
    (await baton("status", socket)).output,
    /\nlast one {5}completed, the guest stood still for \d+\.\d\d ms\n/,
  );
  const json = JSON.parse((await baton("status", socket, "--json")).output);
  assert.equal([json.name, json.cpus, json.status.status], ["web1", 2, "running"]);
  assert.equal([json.migrate.status, json.migrate.updates], ["completed", 1]);
  assert.equal([json.memdev[0].id, json.memdev[0].share], ["ram0", true]);
  assert.equal(json["migrate-blockers"], []);
});

test.skipIf(skip, "tells which modes are blocked, why, and what to do, for people and for programs", async () => {
  await using guest = new GuestProcess({ ram: privateRam() });
  await using _qmp = await guest.qmp();
  const socket = join(guest.dir, "qmp");
  const status = await baton("status", socket);
  assert.is(status.exitCode, 0, status.error);
  assert.match(status.output, /\nnormal {7}possible\ncpr-reboot {3}possible\n/);
  for (const mode of ["cpr-transfer", "cpr-exec"]) {
    assert.match(
      status.output,
      new RegExp(`\n${mode.padEnd(12)} blocked\n {13}Memory region ram0 .*\n {13}Start the VM with `),
    );
  }
  const blockers = JSON.parse((await baton("status", socket, "--json")).output)["migrate-blockers"];
  assert.equal(
    blockers.map(({ mode, code, device }: Record<string, string>) => [mode, code, device]),
    ["cpr-transfer", "cpr-exec"].map((mode) => [mode, "ram-not-shared", "ram0"]),
  );
});

test("a socket that is no monitor is named, with the reason", async () => {
  const dir = temporaryDirectory();
  const none = join(dir, "none");
  for (const args of [
    ["update", none],
    ["status", none],
    ["migrate", none, "unix:x"],
    ["migrate", none, "--cancel"],
  ]) {
    const { exitCode, output, error } = await baton(...args);
    assert.equal([exitCode, output], [1, ""]);
    assert.ok(error.startsWith(`baton: The monitor at ${none} cannot be reached`), error);
    assert.match(error, /ENOENT|No such file/);
  }
  const path = join(dir, "talker");
  const server = createServer((socket) => socket.end("220 ready\r\n"));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const { exitCode, error } = await baton("status", path);
  server.close();
  assert.is(exitCode, 1);
  assert.match(error, /cannot be reached.*Not a QMP server/);
});

test("a wrong command line exits with 2, and --help tells the right one", async () => {
  for (const verb of ["migrate", "update", "status"]) {
    for (const args of [[], ["a", "unix:b", "c"], ["a", "--no-such"]]) {
      const { exitCode, output, error } = await baton(verb, ...args);
      assert.equal([exitCode, output], [2, ""], error);
      assert.ok(error.startsWith(`baton: ${verb}: `), error);
    }
    const help = await baton(verb, "--help");
    assert.is(help.exitCode, 0);
    assert.ok(help.output.startsWith(`Usage: baton ${verb} SOCKET`));
    for (const line of help.output.split("\n")) assert.ok(line.length <= 120, line);
  }
});

test.run();
