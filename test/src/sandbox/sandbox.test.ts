// SPDX-License-Identifier: Apache-2.0
// VMs with -sandbox on: they run, they are updated to images that are passed to them and to nothing else, and whatever goes wrong
// leaves the guest where it is.
import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { close, O_RDONLY, open } from "../../../ffi/fd.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { sendMessage } from "../../../ffi/scm.ts";
import { AF_UNIX, unixAddress } from "../../../ffi/sockaddr.ts";
import { connect as connectFd, socket } from "../../../ffi/socket.ts";
import { passImage } from "../../../src/cli/update/pass-image.ts";
import { createVm } from "../../../src/mod.ts";
import { connect, type QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import {
  type GuestOptions,
  GuestProcess,
  onlyOnBun,
  program,
  programMissing,
  type UpdateOptions,
  update,
  updated,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { sandboxMissing } from "./support.ts";

const test = describe("-sandbox on");
const skip = sandboxMissing() ?? programMissing("compiled") ?? onlyOnBun;

const baton = program("compiled")[0]!;
const IMAGE = "image";
const SANDBOX = ["-sandbox", "on"];

/** For what a VM that is killed leaves behind. */
const tmp = temporaryDirectory();
chmodSync(tmp, 0o1777);
const env = { TMPDIR: tmp };

function start({ extra = [], ...options }: GuestOptions = {}): Promise<GuestProcess> {
  return GuestProcess.start({ ...options, env, extra: extra.includes("-sandbox") ? extra : [...extra, ...SANDBOX] });
}

function hashOf(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/** Has the next update of the VM be one to the program at `path`. */
async function pass(guest: GuestProcess, qmp: QmpClient, path = baton): Promise<void> {
  await qmp.execute("migrate-set-parameters", await passImage(join(guest.dir, "qmp"), path));
}

/** Passes any fd. */
async function passFd(guest: GuestProcess, fd: number): Promise<void> {
  const own = socket(AF_UNIX);
  connectFd(own, unixAddress(join(guest.dir, "qmp")));
  await using qmp = await connect({ fd: own });
  sendMessage(own, new TextEncoder().encode("\n"), [fd]);
  await qmp.execute("getfd", { fdname: IMAGE });
}

/** Runs an update that is refused while the guest runs, and returns why. */
async function refused(guest: GuestProcess, qmp: QmpClient, options: UpdateOptions = {}): Promise<string> {
  const before = guest.imageIdentity();
  let reason: string;
  try {
    const info = await update(qmp, options);
    assert.is(info.status, "failed");
    reason = info["error-desc"]!;
  } catch (error) {
    reason = (error as Error).message;
  }
  assert.is(guest.imageIdentity(), before, "nothing was executed");
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  await guest.runsOn();
  return reason;
}

/** Of each thread: a thread has its own. */
function restrictionsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`).map((tid) => {
    const status = readFileSync(`/proc/${pid}/task/${tid}/status`, "utf8");
    return ["CapEff", "NoNewPrivs", "Seccomp"].map((name) => /\S+/.exec(status.split(`${name}:`)[1]!)![0]).join(" ");
  });
}

const RESTRICTED = "0000000000000000 1 2";

function assertRestricted(guest: GuestProcess): void {
  for (const found of restrictionsOf(guest.pid)) assert.is(found, RESTRICTED);
  assert.is(readlinkSync(`/proc/${guest.pid}/exe`), "/memfd:baton (deleted)");
}

test.skipIf(skip, "every thread of the VMM is restricted, and the guest does not notice", async () => {
  await using guest = await start({ payload: { cpuCount: 2, ticksPerLine: 1 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  await guest.runsOn();
  await serial.waitFor("tick ");
  assertRestricted(guest);
  const info = await qmp.execute("query-sandbox");
  assert.equal(info, { enabled: true, seccomp: "filter", "no-new-privs": true, "image-sha256": hashOf(baton) });
  const line = await qmp.execute("human-monitor-command", { "command-line": "info sandbox" });
  assert.is(line, `sandbox: on, seccomp: filter, image: ${hashOf(baton)}\r\n`);
});

test.skipIf(skip, "updates to images that are passed to it, one after the other", async () => {
  await using guest = await start({ payload: { cpuCount: 2, ticksPerLine: 1 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  for (let round = 0; round < 4; round++) {
    await pass(guest, qmp);
    await updated(guest, qmp, round % 2 === 0 ? {} : { command: guest.command("compiled") });
    await guest.runsOn();
    await serial.waitFor("tick ", serial.text.length);
    assertRestricted(guest);
  }
  assert.is((await qmp.execute("query-migrate")).updates, 4);
  await guest.until("no child", () => guest.children().length === 0);
  assert.is(guest.fds().filter((target) => target.startsWith("/memfd:baton")).length, 0, guest.fds().join("\n"));
});

test.skipIf(skip, "executes what was passed, whatever the command and the file are by then", async () => {
  const path = join(temporaryDirectory(), "baton");
  copyFileSync(baton, path);
  await using guest = await start();
  await using qmp = await guest.qmp();
  await pass(guest, qmp, path);
  writeFileSync(path, "#!/bin/sh\nexit 1\n");
  await updated(guest, qmp, { command: [path, ...guest.args] });
  await guest.runsOn();
  assert.is((await qmp.execute("query-sandbox"))["image-sha256"], hashOf(baton));
});

test.skipIf(skip, "refuses every other program, and the guest runs on in the old one", async () => {
  await using guest = await start();
  await using qmp = await guest.qmp();
  const set = (name: string, sha256: string) =>
    qmp.execute("migrate-set-parameters", { "cpr-exec-image": name, "cpr-exec-sha256": sha256 });
  const right = hashOf(baton);
  const wrong = `${right.startsWith("0") ? "1" : "0"}${right.slice(1)}`;

  const noPath = /No program can be executed by path with -sandbox on: pass the new program sealed/;
  assert.match(await refused(guest, qmp), noPath);
  assert.match(await refused(guest, qmp, { command: guest.command("compiled") }), noPath);
  assert.match(await refused(guest, qmp, { command: ["/bin/true"] }), noPath);

  await set(IMAGE, right);
  assert.match(await refused(guest, qmp), /There is no fd named 'image'/);
  const file = open(baton, O_RDONLY);
  await passFd(guest, file);
  close(file);
  assert.match(await refused(guest, qmp), /The image 'image' is no sealed file in memory/);
  for (const executable of [true, false]) {
    const unsealed = memfdCreate("unsealed", 4096, { seals: executable ? 0 : 0xf, executable });
    await passFd(guest, unsealed);
    close(unsealed);
    assert.match(await refused(guest, qmp), executable ? /is no sealed file/ : /is not executable/);
  }

  await pass(guest, qmp);
  const { "cpr-exec-image": name } = await qmp.execute("query-migrate-parameters");
  await set(name, wrong);
  assert.is(await refused(guest, qmp), `The image '${name}' is another program: its SHA-256 is ${right}, not ${wrong}`);
  await set(name, "");
  assert.match(await refused(guest, qmp), /set cpr-exec-sha256/);
  await set("", right);
  assert.match(await refused(guest, qmp), /set cpr-exec-image, too/);
  assert.match((await rejection(() => set(name, "abc"))).message, /expects 64 hexadecimal digits/);

  await set(name, right.toUpperCase());
  await updated(guest, qmp);
  await guest.runsOn();
});

test.skipIf(skip, "goes back to the old image when the new one refuses, and updates again", async () => {
  await using guest = await start();
  await using qmp = await guest.qmp();
  const before = guest.imageIdentity();
  for (let round = 0; round < 2; round++) {
    await pass(guest, qmp);
    const info = await update(qmp, { command: [...guest.command("compiled"), "-smp", "2"] });
    assert.is(info.status, "failed");
    assert.match(info["error-desc"]!, /number of CPUs is 1, the new command line says 2/);
    assert.ok(guest.imageIdentity() !== before, "another image was executed, and then the old one");
    await guest.runsOn();
    assertRestricted(guest);
  }
  await pass(guest, qmp);
  await updated(guest, qmp);
  await guest.runsOn();
});

test.skipIf(skip, "a guard takes the guest back from an image that dies", async () => {
  await using guest = await start({ payload: { ticksPerLine: 1 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  await pass(guest, qmp, "/bin/true");
  await qmp.execute("migrate-set-parameters", { "guard-timeout": 2000 });
  const info = await update(qmp);
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, /died before it ran the guest/);
  await guest.follow();
  await guest.runsOn();
  await serial.waitFor("tick ", serial.text.length);
  assertRestricted(guest);
  await pass(guest, qmp);
  await updated(guest, qmp);
  await guest.runsOn();
  await qmp.execute("quit");
  await guest.gone();
});

test.skipIf(skip, "a relay brings the guest to the passed image, or keeps it, in the sandbox", async () => {
  await using guest = await start({ payload: { ticksPerLine: 1 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  const relayed = async (path: string): Promise<void> => {
    await pass(guest, qmp, path);
    await qmp.execute("migrate-set-parameters", { relay: true });
  };
  for (let round = 0; round < 2; round++) {
    await relayed(baton);
    await updated(guest, qmp);
    await guest.until("the helper to be reaped", () => guest.children().length === 0);
    await guest.runsOn();
    assertRestricted(guest);
  }
  await relayed("/bin/true");
  const info = await update(qmp);
  assert.match(info["error-desc"]!, /The new program did not take the guest/);
  await guest.follow();
  await guest.runsOn();
  assertRestricted(guest);
  // The helper can be updated like any other.
  await pass(guest, qmp);
  await updated(guest, qmp);
  await guest.runsOn();
  await serial.waitFor("tick ", serial.text.length);
  const dir = /BUN_TMPDIR=([^\0]+)/.exec(readFileSync(`/proc/${guest.pid}/environ`, "utf8"))![1]!;
  await qmp.execute("quit");
  await guest.gone();
  assert.not.ok(existsSync(dir), dir);
});

test.skipIf(skip, "an image that cannot be executed at all leaves the guest running", async () => {
  const path = join(temporaryDirectory(), "script");
  writeFileSync(path, "#!/bin/sh\nexec /bin/true\n");
  chmodSync(path, 0o755);
  await using guest = await start();
  await using qmp = await guest.qmp();
  await pass(guest, qmp, path);
  assert.match(await refused(guest, qmp), /execveat\(fd \d+\) failed: E(NOENT|ACCES)/);
});

test.skipIf(skip, "baton update passes the image by itself, with a guard, and --check tries it", async () => {
  await using guest = await start();
  await using qmp = await guest.qmp();
  const verb = async (...args: string[]) => {
    const all = ["update", join(guest.dir, "qmp"), ...args];
    return promisify(execFile)(baton, all, { encoding: "utf8" }).catch(
      (error) => error as typeof error & { code: number },
    );
  };
  const checked = await verb("--check", "--image", baton);
  assert.match(checked.stdout, /An update by cpr-exec to baton .* would work/, checked.stderr);
  const own = await verb();
  assert.match(own.stdout, /Updated: the guest stood still/, own.stderr);
  assert.is(own.stderr, "");
  await guest.runsOn();
  const limited = await verb("--image", baton, "--pause-limit", "60000");
  assert.match(limited.stdout, /were predicted/, limited.stderr);
  await guest.runsOn();
  const other = await verb("--check", "--image", "/bin/true");
  assert.is(other.code, 3);
  assert.match(other.stdout, /is not Baton, or cannot run here/);
  const transfer = await verb("--image", baton, "--mode", "cpr-transfer");
  assert.match(transfer.stderr, /The VM is in a sandbox, and cpr-transfer/);
  assert.is((await qmp.execute("query-migrate")).updates, 2);
  await guest.runsOn();
});

test.skipIf(skip, "uses files in the directories that it was told, and none elsewhere", async () => {
  const [allowed, other] = [temporaryDirectory(), temporaryDirectory()];
  await using guest = await start({ extra: ["-sandbox", `on,allow=${allowed}`] });
  await using qmp = await guest.qmp();
  await pass(guest, qmp);
  assert.match(await refused(guest, qmp, { uri: `file:${join(other, "state")}` }), /cannot be written: .*EACCES/);
  await updated(guest, qmp, { uri: `file:${join(allowed, "state")}` });
  await guest.runsOn();
  assert.ok(existsSync(join(allowed, "state")));
  assert.not.ok(existsSync(join(other, "state")));
});

test.skipIf(skip, "starts no command", async () => {
  await using guest = await start();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { mode: "normal" });
  await qmp.execute("migrate", { uri: "exec:cat >stolen" });
  const reason = await guest.until("the end", async () => (await qmp.execute("query-migrate"))["error-desc"]);
  assert.match(reason, /An exec: address is not possible with -sandbox on: use unix:/);
  await guest.runsOn();
  assert.not.ok(existsSync(join(guest.dir, "stolen")));
});

test.skipIf(skip, "a guest goes from one sandbox into another by cpr-transfer", async () => {
  await using old = await start();
  await using qmp = await old.qmp();
  const [main, cpr] = [join(old.dir, "main"), join(old.dir, "cpr")];
  const channel = (type: "main" | "cpr", path: string) => ({
    "channel-type": type,
    addr: { transport: "socket" as const, type: "unix" as const, path },
  });
  const incoming = ["-incoming", `unix:${main}`, "-incoming", JSON.stringify(channel("cpr", cpr))];
  await using next = new GuestProcess({ bare: true, env, extra: [...incoming, ...SANDBOX] });
  await next.until("its socket", () => existsSync(cpr));
  await qmp.execute("migrate-set-parameters", { mode: "cpr-transfer" });
  await qmp.execute("migrate", { channels: [channel("main", main), channel("cpr", cpr)] });
  await using nextQmp = await next.qmp();
  await next.until("the guest", async () => (await nextQmp.execute("query-status")).running);
  await next.runsOn();
  assertRestricted(next);
  assert.is((await qmp.execute("query-status")).status, "postmigrate");
});

test.skipIf(skip, "leaves nothing behind when it ends", async () => {
  const pidfile = join(temporaryDirectory(), "pid");
  await using guest = await start({ extra: ["-pidfile", pidfile] });
  await using qmp = await guest.qmp();
  const dir = /BUN_TMPDIR=([^\0]+)/.exec(readFileSync(`/proc/${guest.pid}/environ`, "utf8"))![1]!;
  await pass(guest, qmp);
  await updated(guest, qmp);
  assert.ok(existsSync(dir));
  await qmp.execute("quit");
  assert.equal(await guest.ended, { exitCode: 0, signal: null });
  assert.not.ok(existsSync(dir), dir);
  assert.not.ok(existsSync(pidfile));
});

test.skipIf(skip, "an update puts no VM into a sandbox that is in none", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const info = await update(qmp, { command: [...guest.command("compiled"), ...SANDBOX] });
  assert.match(info["error-desc"]!, /sandbox is none, the new command line says/);
  await guest.runsOn();
  // Pinned images are for every VM.
  await pass(guest, qmp);
  await updated(guest, qmp);
  await guest.runsOn();
});

test.skipIf(skip, "says why there can be none", async () => {
  for (const runtime of ["bun", "deno"] as const) {
    const [name, ...args] = program(runtime);
    const { status, stderr } = spawnSync(name!, [...args, "-S", ...SANDBOX], { encoding: "utf8", timeout: 60_000 });
    assert.is(status, 1);
    assert.match(stderr, /-sandbox on is for the compiled program, dist\/baton/);
  }
  const missing = join(temporaryDirectory(), "missing");
  const options = ["-S", "-sandbox", `on,allow=${missing}`];
  const { status, stderr } = spawnSync(baton, options, { encoding: "utf8", timeout: 60_000 });
  assert.is(status, 1);
  assert.match(stderr, new RegExp(`access to ${missing} cannot be allowed: .*ENOENT`));
  const error = await rejection(() => createVm({ S: true, nodefaults: true, sandbox: "on" }));
  assert.match(error.message, /-sandbox on is for the program baton/);
});

/** Starts a program as nobody, with a /dev/kvm of its own that nobody may open. */
const AS_NOBODY = `set -e
d=$(mktemp -d); mknod "$d/kvm" c "$((0x$(stat -c %t /dev/kvm)))" "$((0x$(stat -c %T /dev/kvm)))"; chmod 666 "$d/kvm"
mount --bind "$d/kvm" /dev/kvm; rm -r "$d"
chown -R 65534:65534 .
exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"`;
const asNobody = ["unshare", "--mount", "/bin/sh", "-c", AS_NOBODY, "sh"];

/** Why no VM can be started by an ordinary user here. */
function userMissing(): string | undefined {
  if (process.getuid!() !== 0) return undefined;
  const open = ["/bin/sh", "-c", `exec 3<>/dev/kvm && test -x ${baton} && test -r ${dirname(baton)}`];
  const cwd = join(temporaryDirectory(), "cwd");
  mkdirSync(cwd);
  chmodSync(dirname(cwd), 0o755);
  const { status, stderr, error } = spawnSync(asNobody[0]!, [...asNobody.slice(1), ...open], { cwd, encoding: "utf8" });
  return status === 0 ? undefined : `root cannot start a program as another user: ${error?.message ?? stderr.trim()}`;
}

test.skipIf(skip ?? userMissing(), "an ordinary user with access to /dev/kvm has it, too", async () => {
  const isRoot = process.getuid!() === 0;
  await using guest = await start(isRoot ? { program: [...asNobody, baton] } : {});
  await using qmp = await guest.qmp();
  const status = readFileSync(`/proc/${guest.pid}/status`, "utf8");
  assert.ok(!/^Uid:\s+0\b/m.test(status), status);
  assertRestricted(guest);
  for (let round = 0; round < 2; round++) {
    await pass(guest, qmp);
    await qmp.execute("migrate-set-parameters", { "guard-timeout": 2000 });
    await updated(guest, qmp);
    await guest.runsOn();
    assertRestricted(guest);
  }
});

test.run();
