// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { close, makeFifo, O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR, open, pipe } from "../../../ffi/fd.ts";
import { create } from "../../../src/backends/chardev/create.ts";
import type { ChardevSpec } from "../../../src/config/types.ts";
import { bytes, openFdCount, temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { carry, handOver, Peer, Reports, TestFrontend, tick, until, warmReactor } from "./support.ts";

const test = describe("src/backends/chardev: null, file, pipe, pty");
const directory = temporaryDirectory();
const reactor = await warmReactor();
test.after(() => reactor.close());

test("null takes everything, and opens once", () => {
  const device = create({ backend: "null", id: "n" }, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  device.write(bytes("gone"));
  assert.is(device.queuedBytes, 0);
  assert.is(device.filename, "null");
  const successor = handOver(device, frontend, reactor);
  assert.equal(frontend.events, ["opened"]);
  successor.close();
});

test("file truncates or appends, also over an update", () => {
  const path = join(directory, "out");
  writeFileSync(path, "old");
  for (const [append, expected] of [[false, "onetwo"] as const, [true, "onetwoonetwo"] as const]) {
    const before = openFdCount();
    const device = create({ backend: "file", id: "f", path, append }, reactor);
    device.attach(new TestFrontend());
    device.write(bytes("one"));
    const successor = handOver(device, new TestFrontend(), reactor);
    successor.write(bytes("two"));
    successor.close();
    assert.is(readFileSync(path, "utf8"), expected);
    assert.is(openFdCount(), before);
  }
});

test("file reads its input-path to the end and goes on writing", async () => {
  const inputPath = join(directory, "in");
  writeFileSync(inputPath, "some input");
  const path = join(directory, "out2");
  const device = create({ backend: "file", id: "f", path, append: false, inputPath }, reactor);
  const frontend = new TestFrontend();
  frontend.space = 4;
  device.attach(frontend);
  await until(() => frontend.text === "some");
  await tick();
  assert.is(frontend.text, "some");
  frontend.space = 100;
  device.acceptInput();
  await until(() => frontend.text === "some input");
  device.write(bytes("output"));
  assert.is(readFileSync(path, "utf8"), "output");
  assert.ok(device.connected);
  device.close();
});

test("file survives a full disk and reports it once", async () => {
  const reports = new Reports();
  const device = create({ backend: "file", id: "f", path: "/dev/full", append: true }, reactor, reports.report);
  const frontend = new TestFrontend();
  device.attach(frontend);
  for (let round = 1; round <= 3; round++) {
    device.write(bytes("lost"));
    await until(() => frontend.events.filter((event) => event === "drained").length === round);
  }
  assert.is(reports.errors.length, 1);
  assert.match(String(reports.errors[0]!.cause), "ENOSPC");
  assert.is(device.queuedBytes, 0);
  device.close();
});

test("devices that cannot be opened say which and why, and leak nothing", async () => {
  const specs: ChardevSpec[] = [
    { backend: "file", id: "bad", path: join(directory, "absent/out"), append: false },
    { backend: "file", id: "bad", path: join(directory, "x"), append: false, inputPath: join(directory, "absent") },
    { backend: "pipe", id: "bad", path: join(directory, "absent") },
    { backend: "pty", id: "bad", path: join(directory, "absent/link") },
  ];
  const before = openFdCount();
  for (const spec of specs) {
    const error = await rejection(() => create(spec, reactor));
    assert.is((error as Error & { code: string }).code, "chardev-open");
    assert.match(error.message, "bad");
    assert.match(String(error.cause), "ENOENT");
  }
  await until(() => openFdCount() <= before);
});

test("pipe talks over two fifos, whose other sides come and go unnoticed", async () => {
  const path = join(directory, "pipe");
  makeFifo(`${path}.in`);
  makeFifo(`${path}.out`);
  const before = openFdCount();
  let device = create({ backend: "pipe", id: "p", path }, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  for (const round of ["1", "2"]) {
    const peer = new Peer(open(`${path}.out`, O_RDONLY | O_NONBLOCK), open(`${path}.in`, O_RDWR | O_NONBLOCK));
    peer.write(`in${round}`);
    await until(() => frontend.text.endsWith(`in${round}`));
    device.write(bytes(`out${round}`));
    await peer.expect(`out${round}`);
    peer.close();
    device = handOver(device, frontend, reactor);
  }
  assert.equal(frontend.events, ["opened"]);
  assert.is(frontend.text, "in1in2");
  device.close();
  await until(() => openFdCount() <= before);
});

test("pipe over one fifo writes, and does not read its own output", async () => {
  const path = join(directory, "single");
  makeFifo(path);
  const device = create({ backend: "pipe", id: "p", path }, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  const peer = new Peer(open(path, O_RDONLY | O_NONBLOCK));
  device.write(bytes("out"));
  await peer.expect("out");
  assert.is(frontend.text, "");
  peer.close();
  device.close();
});

test("pty tells of those who come and go at its slave", async () => {
  const path = join(directory, "pty");
  const before = openFdCount();
  const device = create({ backend: "pty", id: "t", path }, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  assert.match(device.filename, /^pty:\/dev\/pts\/\d+$/);
  assert.is(readlinkSync(path), device.filename.slice(4));
  assert.not(device.connected);
  device.write(bytes("nobody hears this"));
  for (let round = 1; round <= 2; round++) {
    const peer = new Peer(open(path, O_RDWR | O_NOCTTY | O_NONBLOCK));
    await until(() => device.connected);
    peer.write(`in${round}`);
    await until(() => frontend.text.endsWith(`in${round}`));
    device.write(bytes("out\r\n"));
    await peer.expect("out\r\n");
    peer.close();
    await until(() => !device.connected);
  }
  assert.equal(frontend.events, ["opened", "closed", "opened", "closed"]);
  device.close();
  assert.not(existsSync(path));
  await until(() => openFdCount() <= before);
});

test("pty: who has just opened the slave gets the very next output", async () => {
  const device = create({ backend: "pty", id: "t" }, reactor);
  device.attach(new TestFrontend());
  const peer = new Peer(open(device.filename.slice(4), O_RDWR | O_NOCTTY | O_NONBLOCK));
  device.write(bytes("prompt"));
  await peer.expect("prompt");
  peer.close();
  device.close();
});

test("pty: what was typed during an update is there after it, for a connected and an absent peer", async () => {
  const frontend = new TestFrontend();
  let device = create({ backend: "pty", id: "t" }, reactor);
  device.attach(frontend);
  device = handOver(device, frontend, reactor);
  const peer = new Peer(open(device.filename.slice(4), O_RDWR | O_NOCTTY | O_NONBLOCK));
  await until(() => device.connected);
  device.freeze();
  peer.write("typed");
  device.write(bytes("written"));
  await tick();
  assert.is(frontend.text, "");
  const state = carry(device);
  assert.ok(state.connected);
  device.thaw();
  await until(() => frontend.text === "typed");
  await peer.expect("written");
  for (const fd of Object.values(state.fds)) close(fd);
  device = handOver(device, frontend, reactor);
  assert.equal(frontend.events, ["opened", "drained"]);
  peer.close();
  await until(() => !device.connected);
  assert.equal(frontend.events, ["opened", "drained", "closed"]);
  device.close();
});

test("a write end without a reader is survived and reported once", async () => {
  const reports = new Reports();
  const { readFd, writeFd } = pipe();
  const device = create(
    { backend: "file", id: "f", path: `/proc/self/fd/${writeFd}`, append: true },
    reactor,
    reports.report,
  );
  device.attach(new TestFrontend());
  close(readFd);
  close(writeFd);
  for (let round = 0; round < 3; round++) {
    device.write(bytes("lost"));
    await until(() => device.queuedBytes === 0);
  }
  assert.is(reports.errors.length, 1);
  assert.match(String(reports.errors[0]!.cause), "EPIPE");
  device.close();
});

test("save() refuses a device that runs", async () => {
  const device = create({ backend: "file", id: "f", path: join(directory, "y"), append: false }, reactor);
  assert.match((await rejection(() => device.save())).message, "while it runs");
  device.close();
});

test.run();
