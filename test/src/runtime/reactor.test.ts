// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { eventfd } from "../../../ffi/eventfd.ts";
import {
  close,
  duplicateTo,
  fdPath,
  isOpen,
  O_CREAT,
  O_NONBLOCK,
  O_RDWR,
  open,
  pipe,
  read,
  write,
} from "../../../ffi/fd.ts";
import { SHUT_WR, shutdown, socketPair } from "../../../ffi/socket.ts";
import type { VmmError } from "../../../src/errors.ts";
import { Reactor, type Readiness } from "../../../src/runtime/reactor.ts";
import { bytes, temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("src/runtime/reactor");
const root = fileURLToPath(new URL("../../..", import.meta.url));

/** The next report of a watch on `fd`. */
function nextReport(
  reactor: Reactor,
  fd: number,
  interest: { readable?: boolean; writable?: boolean },
): Promise<Readiness> {
  return new Promise((resolve) => {
    const watch = reactor.watch(fd, interest, (ready) => {
      watch.close();
      resolve(ready);
    });
  });
}

/** Open fds of this process that are an eventfd or an epoll. */
function anonymousFds(kind = "event(fd|poll)"): number[] {
  const link = new RegExp(`^anon_inode:\\[${kind}\\]$`);
  return readdirSync("/proc/self/fd")
    .map(Number)
    .filter((fd) => {
      try {
        return link.test(fdPath(fd));
      } catch {
        // Other threads of the runtime come and go.
        return false;
      }
    });
}

test("a watch reports once for each time it is armed", async () => {
  const reactor = new Reactor();
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  let reports = 0;
  let resume = (): void => {};
  const watch = reactor.watch(readFd, { readable: true }, () => {
    reports++;
    resume();
  });
  const next = (): Promise<void> => new Promise((resolve) => (resume = resolve));
  let report = next();
  write(writeFd, bytes("a"));
  await report;
  // Unread and not armed: silence, while another fd of the same reactor reports.
  for (let round = 0; round < 3; round++) await nextReport(reactor, writeFd, { writable: true });
  assert.is(reports, 1);
  report = next();
  watch.arm({ readable: true });
  await report;
  assert.is(reports, 2);
  watch.close();
  await reactor.close();
  close(readFd);
  close(writeFd);
});

test("hang-ups and half-closed peers are readable, a full pipe is not writable", async () => {
  const reactor = new Reactor();
  const [one, other] = socketPair();
  shutdown(other, SHUT_WR);
  assert.equal(await nextReport(reactor, one, { readable: true }), { readable: true, writable: false, hangup: false });
  close(other);
  assert.ok((await nextReport(reactor, one, { readable: true })).hangup);
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  while (write(writeFd, new Uint8Array(4096)) !== undefined);
  let writable = false;
  const waiting = nextReport(reactor, writeFd, { writable: true }).then(() => (writable = true));
  await nextReport(reactor, readFd, { readable: true });
  assert.not(writable);
  const buffer = new Uint8Array(4096);
  while (read(readFd, buffer) !== undefined);
  await waiting;
  await reactor.close();
  for (const fd of [one, readFd, writeFd]) close(fd);
});

test("a closed watch never reports, not even what was under way", async () => {
  const reactor = new Reactor();
  const pipes = Array.from({ length: 8 }, () => pipe(O_NONBLOCK));
  const reported: number[] = [];
  const watches = pipes.map(({ readFd }, index) =>
    reactor.watch(readFd, { readable: true }, () => {
      reported.push(index);
      for (const watch of watches) watch.close();
    }),
  );
  for (const { writeFd } of pipes) write(writeFd, bytes("x"));
  await nextReport(reactor, pipes[0]!.writeFd, { writable: true });
  await nextReport(reactor, pipes[0]!.writeFd, { writable: true });
  assert.is(reported.length, 1);
  for (const watch of watches) watch.arm({ readable: true });
  await reactor.close();
  for (const { readFd, writeFd } of pipes) {
    close(readFd);
    close(writeFd);
  }
});

test("more fds than fit into one batch are all reported", async () => {
  const reactor = new Reactor();
  const pipes = Array.from({ length: 200 }, () => pipe(O_NONBLOCK));
  for (const { writeFd } of pipes) write(writeFd, bytes("x"));
  await Promise.all(pipes.map(({ readFd }) => nextReport(reactor, readFd, { readable: true })));
  await reactor.close();
  for (const { readFd, writeFd } of pipes) {
    close(readFd);
    close(writeFd);
  }
});

test("regular files are always ready", async () => {
  const reactor = new Reactor();
  const file = open(join(temporaryDirectory(), "file"), O_CREAT | O_RDWR, 0o600);
  const ready = await nextReport(reactor, file, { readable: true, writable: true });
  assert.equal(ready, { readable: true, writable: true, hangup: false });
  await reactor.close();
  close(file);
});

test("a reactor that starts late reports what became ready before", async () => {
  const reactor = new Reactor({ autoStart: false });
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  write(writeFd, bytes("x"));
  let reported = false;
  const report = nextReport(reactor, readFd, { readable: true }).then(() => (reported = true));
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.not(reported);
  reactor.start();
  await report;
  await reactor.close();
  close(readFd);
  close(writeFd);
});

test("close() gives back the reactor's fds, before a start, after one, and twice", async () => {
  for (const isStarted of [false, true]) {
    const fd = eventfd(1);
    const before = new Set(anonymousFds());
    const reactor = new Reactor({ autoStart: false });
    const report = nextReport(reactor, fd, { readable: true });
    // All in one turn, so nobody else has opened any; Deno itself never gives back two fds of each worker.
    const opened = anonymousFds().filter((candidate) => !before.has(candidate));
    assert.is(opened.length, 2);
    if (isStarted) {
      reactor.start();
      await report;
    }
    await Promise.all([reactor.close(), reactor.close()]);
    assert.equal(opened.filter(isOpen), []);
    close(fd);
  }
  await new Reactor().close();
});

test("an error of a callback is an uncaught exception and does not stop the others", async () => {
  const reactor = new Reactor();
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  const uncaught = new Promise<unknown>((resolve) => process.once("uncaughtException", resolve));
  const watch = reactor.watch(writeFd, { writable: true }, () => {
    throw new Error("thrown on purpose");
  });
  assert.match(String(await uncaught), "thrown on purpose");
  watch.close();
  await nextReport(reactor, writeFd, { writable: true });
  await reactor.close();
  close(readFd);
  close(writeFd);
});

test("the death of the worker is an error, not silence", async () => {
  const before = new Set(anonymousFds("eventpoll"));
  const death = Promise.withResolvers<VmmError>();
  const reactor = new Reactor({ autoStart: false, onError: death.resolve });
  const fd = eventfd(1);
  const report = nextReport(reactor, fd, { readable: true });
  const ours = anonymousFds("eventpoll").filter((candidate) => !before.has(candidate));
  assert.is(ours.length, 1);
  reactor.start();
  await report;
  // The worker's next epoll_wait meets an fd that is no epoll any more.
  const { readFd, writeFd } = pipe();
  const watched = pipe(O_NONBLOCK);
  reactor.watch(watched.readFd, { readable: true }, () => {});
  duplicateTo(readFd, ours[0]!);
  write(watched.writeFd, bytes("x"));
  const error = await death.promise;
  assert.is(error.code, "worker-died");
  assert.match(error.message, "epoll_wait");
  await reactor.close();
  for (const open of [fd, readFd, writeFd, watched.readFd, watched.writeFd]) close(open);
});

const probe = `
import { close, O_NONBLOCK, pipe, write } from "../../ffi/fd.ts";
import { Reactor } from "../runtime/reactor.ts";
const reactor = new Reactor();
const { readFd, writeFd } = pipe(O_NONBLOCK);
const watch = reactor.watch(readFd, { readable: true }, () => {
  watch.close();
  void reactor.close().then(() => console.log("reported"));
});
write(writeFd, new Uint8Array(1));
`;

test.skipIf(
  process.versions.bun === undefined ? "the compiler is Bun's, one run of it is enough" : undefined,
  "a compiled binary finds its worker when the sources are not there",
  () => {
    const directory = temporaryDirectory();
    const sources = join(directory, "sources");
    for (const part of ["ffi", "src/runtime", "src/backends", "src/config", "src/errors.ts", "package.json"]) {
      cpSync(join(root, part), join(sources, part), { recursive: true });
    }
    symlinkSync(join(root, "node_modules"), join(sources, "node_modules"));
    mkdirSync(join(sources, "src/cli"));
    writeFileSync(join(sources, "src/cli/main.ts"), probe);
    const flags = [
      "--compile",
      "--minify",
      "--bytecode",
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
    ];
    const entries = ["src/cli/main.ts", "src/backends/poll-worker.ts"];
    const binary = join(directory, "probe");
    const build = spawnSync(process.execPath, ["build", ...flags, ...entries, "--outfile", binary], { cwd: sources });
    assert.is(build.status, 0, build.stderr.toString());
    rmSync(sources, { recursive: true });
    const run = spawnSync(binary, [], { cwd: "/", encoding: "utf8" });
    assert.is(run.stdout, "reported\n", run.stderr);
    assert.is(run.status, 0);
  },
);

test.run();
