// SPDX-License-Identifier: Apache-2.0
import { close, duplicate, isOpen } from "../../../ffi/fd.ts";
import { SCM_MAX_FD } from "../../../ffi/scm.ts";
import { ReceivedFds } from "../../../src/qmp/received-fds.ts";
import { openFdCount } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";
import { FakeTarget, TestClient } from "./fake-target.ts";

const test = describe("src/qmp/received-fds");

function fds(count: number): number[] {
  return Array.from({ length: count }, () => duplicate(1));
}

/** Runs `action`, which leaves nothing open. */
async function closesAll(action: () => void | Promise<void>): Promise<void> {
  const before = openFdCount();
  await action();
  assert.is(openFdCount(), before);
}

test("each command gets the fd that came with it, even when all have come before the first is looked at", () =>
  closesAll(() => {
    const received = new ReceivedFds();
    const [first, second] = fds(2);
    received.add([first!], 0);
    received.add([second!], 40);
    assert.is(received.take(40), first);
    assert.is(received.take(80), second);
    assert.is(received.take(120), undefined);
    close(first!);
    close(second!);
  }));

test("an fd is not for a command that ended before it came", () =>
  closesAll(() => {
    const received = new ReceivedFds();
    const [fd] = fds(1);
    received.add([fd!], 40);
    assert.is(received.take(40), undefined);
    assert.is(received.take(41), fd);
    close(fd!);
  }));

test("fds that nobody wanted are closed when a later one is taken, and so is all but the first of a message", () =>
  closesAll(() => {
    const received = new ReceivedFds();
    const stale = fds(2);
    const wanted = fds(3);
    received.add([...stale], 0);
    received.add([...wanted], 10);
    assert.is(received.take(20), wanted[0]);
    for (const fd of [...stale, ...wanted.slice(1)]) assert.not(isOpen(fd));
    close(wanted[0]!);
  }));

test("a client cannot make the VM keep more than a message can have", () =>
  closesAll(() => {
    const before = openFdCount();
    const received = new ReceivedFds();
    for (let at = 0; at < 5; at++) received.add(fds(100), at);
    assert.is(openFdCount(), before + 200);
    received.add(fds(SCM_MAX_FD), 9);
    assert.is(openFdCount(), before + SCM_MAX_FD);
    received.close();
  }));

test("getfd and closefd answer as QEMU does", () =>
  closesAll(async () => {
    const target = new FakeTarget();
    const client = await TestClient.negotiated(target);
    assert.is(await client.errorOf("getfd", { fdname: "x" }), "No file descriptor supplied via SCM_RIGHTS");
    assert.is(await client.errorOf("closefd", { fdname: "x" }), "File descriptor named 'x' not found");
    const [first, second, third, fourth] = fds(4);
    client.session.receiveFds([first!]);
    assert.equal(await client.returnOf("getfd", { fdname: "x" }), {});
    client.session.receiveFds([second!]);
    assert.equal(await client.returnOf("getfd", { fdname: "x" }), {});
    assert.not(isOpen(first!));
    client.session.receiveFds([third!]);
    assert.is(
      await client.errorOf("getfd", { fdname: "7x" }),
      "Parameter 'fdname' expects a name not starting with a digit",
    );
    assert.not(isOpen(third!));
    // A command that fails before it looks at its fd: the next one must not get it.
    client.session.receiveFds([fourth!]);
    assert.is(await client.errorOf("getfd", {}), "Parameter 'fdname' is missing");
    const [fifth] = fds(1);
    client.session.receiveFds([fifth!]);
    assert.equal(await client.returnOf("getfd", { fdname: "y" }), {});
    assert.not(isOpen(fourth!));
    assert.equal(await client.returnOf("closefd", { fdname: "y" }), {});
    assert.not(isOpen(fifth!));
    assert.is(target.fds.take("x"), second);
    close(second!);
  }));

test("fds follow their commands through a window of waiting input, and a restored session counts on", () =>
  closesAll(async () => {
    const target = new FakeTarget();
    const client = await TestClient.negotiated(target);
    const [a, b, c] = fds(3);
    const getfd = (name: string): Uint8Array =>
      new TextEncoder().encode(`{"execute":"getfd","arguments":{"fdname":"${name}"}}\n`);
    await client.session.freeze();
    client.session.receiveFds([a!]);
    client.session.receive(getfd("a"));
    client.session.receive(getfd("none"));
    client.session.receiveFds([b!]);
    client.session.receive(getfd("b"));
    client.session.thaw();
    await client.take();
    assert.is(target.fds.take("a"), a);
    assert.is(target.fds.take("none"), undefined);
    assert.is(target.fds.take("b"), b);

    await client.session.freeze();
    client.session.receive(getfd("lost"));
    const state = client.session.save();
    client.session.close();
    const restored = new TestClient(target, { state });
    restored.session.receiveFds([c!]);
    restored.session.receive(getfd("c"));
    restored.session.thaw();
    assert.match(await restored.take(), "No file descriptor supplied");
    assert.is(target.fds.take("lost"), undefined);
    assert.is(target.fds.take("c"), c);
    for (const fd of [a!, b!, c!]) close(fd);
  }));

test("what a session holds is closed with it, and what comes later at once", () =>
  closesAll(async () => {
    const client = await TestClient.negotiated(new FakeTarget());
    client.session.receiveFds(fds(3));
    client.session.close();
    client.session.receiveFds(fds(2));
  }));

test.run();
