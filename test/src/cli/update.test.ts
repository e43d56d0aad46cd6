// SPDX-License-Identifier: Apache-2.0
// `baton update` and `baton status` as a person or a script runs them, against real VMs.
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, program, programMissing, thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { kvmMissing } from "../../kvm.ts";

const test = describe("baton update, baton status");
const skip = kvmMissing() ?? programMissing("compiled");

function baton(...args: string[]): Promise<{ exitCode: number | null; output: string; error: string }> {
  const [command, ...rest] = [...program(thisRuntime), ...args];
  const child = spawn(command!, rest, { stdio: ["ignore", "pipe", "pipe"] });
  let [output, error] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (error += text));
  return new Promise((resolve) => child.once("close", (exitCode) => resolve({ exitCode, output, error })));
}

test.skipIf(skip, "update replaces the program, and says how long the guest stood still", async () => {
  await using guest = await GuestProcess.start();
  const socket = join(guest.dir, "qmp");
  const before = guest.imageIdentity();
  const { exitCode, output, error } = await baton("update", socket);
  assert.is(exitCode, 0, error);
  assert.match(output, /^Updated: the guest stood still for \d+\.\d\d ms\n {2}quiesce +\d/);
  assert.match(output, /\n {2}resume +\d+\.\d\d ms\n$/);
  assert.ok(guest.imageIdentity() !== before, "the program was replaced");
  await guest.runsOn();

  const image = program("compiled")[0]!;
  const second = await baton("update", `unix:${socket}`, "--image", image, "--json");
  assert.is(second.exitCode, 0, second.error);
  const info = JSON.parse(second.output);
  assert.equal([info.status, info.updates], ["completed", 2]);
  await guest.runsOn();
});

test.skipIf(skip, "update says why it failed, and the guest runs on", async () => {
  await using guest = await GuestProcess.start();
  const socket = join(guest.dir, "qmp");
  const missing = await baton("update", socket, "--image", "/no/baton");
  assert.equal([missing.exitCode, missing.output], [1, ""]);
  assert.match(missing.error, /^baton: execvp \/no\/baton failed: No such file or directory\n$/);
  // Executed in earnest it would end, and the guest with it.
  const foreign = await baton("update", socket, "--image", "/bin/false");
  assert.equal([foreign.exitCode, foreign.output], [1, ""]);
  assert.match(foreign.error, /^baton: \/bin\/false is not Baton/);
  await guest.runsOn();
});

test.skipIf(skip, "update and status tell of RAM that cannot be handed over, and what to do", async () => {
  await using guest = new GuestProcess({ ram: ["-object", "memory-backend-ram,id=ram0,size=32M"] });
  await using qmp = await guest.qmp();
  const socket = join(guest.dir, "qmp");
  const update = await baton("update", socket);
  assert.equal([update.exitCode, update.output], [1, ""]);
  assert.match(update.error, /^baton: The VM cannot be updated: Memory region ram0 .* Start the VM with .*\.\n$/);
  const status = await baton("status", socket);
  assert.is(status.exitCode, 0, status.error);
  assert.match(status.output, /\ncpr-exec +blocked\n +Memory region ram0/);
  assert.is((await qmp.execute("query-status")).status, "running");
});

test.skipIf(skip, "status tells what the VM is", async () => {
  await using guest = await GuestProcess.start({ extra: ["-name", "web1"], payload: { cpuCount: 2 } });
  const socket = join(guest.dir, "qmp");
  const { exitCode, output, error } = await baton("status", socket);
  assert.is(exitCode, 0, error);
  assert.match(
    output,
    /^name +web1\nstatus +running\nprogram +\S.*\nvCPUs +2\nRAM +32 MiB\nupdates +0\ncpr-exec +possible\n$/,
  );
  await baton("update", socket);
  const json = JSON.parse((await baton("status", socket, "--json")).output);
  assert.equal([json.name, json.cpus, json.status.status], ["web1", 2, "running"]);
  assert.equal([json.migrate.status, json.migrate.updates], ["completed", 1]);
  assert.equal(json["migrate-blockers"], []);
});

test("a socket that is no monitor is named, with the reason", async () => {
  const dir = temporaryDirectory();
  const none = join(dir, "none");
  for (const verb of ["update", "status"]) {
    const { exitCode, output, error } = await baton(verb, none);
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
  for (const verb of ["update", "status"]) {
    for (const args of [[], ["a", "b"], ["a", "--no-such"]]) {
      const { exitCode, output, error } = await baton(verb, ...args);
      assert.equal([exitCode, output], [2, ""], error);
      assert.ok(error.startsWith(`baton: ${verb}: `), error);
    }
    const help = await baton(verb, "--help");
    assert.is(help.exitCode, 0);
    assert.ok(help.output.startsWith(`Usage: baton ${verb} SOCKET`));
  }
  assert.is((await baton("update", "a", "--timeout", "soon")).exitCode, 2);
});

test.run();
