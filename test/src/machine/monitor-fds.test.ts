// SPDX-License-Identifier: Apache-2.0
// File descriptors over a monitor's socket: from a client's sendmsg to the VM's table.
import { join } from "node:path";
import { close, isCloseOnExec, O_NONBLOCK, pipe, read, write } from "../../../ffi/fd.ts";
import { sendMessage } from "../../../ffi/scm.ts";
import { AF_UNIX, unixAddress } from "../../../ffi/sockaddr.ts";
import { connect, socket } from "../../../ffi/socket.ts";
import type { ChardevSpec, MachineSpec, MonitorSpec } from "../../../src/config/types.ts";
import { Connections } from "../../../src/machine/connections.ts";
import { bytes, openFdCount, temporaryDirectory, text } from "../../ffi/support.ts";
import { assert, describe } from "../../harness.ts";
import { until, warmReactor } from "../backends/support.ts";
import { FakeTarget } from "../qmp/fake-target.ts";

const test = describe("src/machine/connections: fds");
const directory = temporaryDirectory();
// The runtime's own fds are there after this.
await (await warmReactor()).close();

let serial = 0;

function monitorOn(
  target: FakeTarget,
  mode: MonitorSpec["mode"],
  wait = false,
): { connections: Connections; path: string } {
  const path = join(directory, `m${serial++}`);
  const chardev: ChardevSpec = { backend: "socket", id: "m", address: { type: "unix", path }, server: true, wait };
  const spec = { chardevs: [chardev], monitors: [{ chardev: "m", mode, pretty: false }] } as unknown as MachineSpec;
  return { connections: new Connections(spec, target), path };
}

class Client {
  readonly fd = socket(AF_UNIX);
  output = "";
  readonly #buffer = new Uint8Array(65536);

  constructor(path: string) {
    connect(this.fd, unixAddress(path));
  }

  async replies(count: number): Promise<string[]> {
    const lines = (): string[] => this.output.split("\r\n").slice(0, -1);
    await until(() => {
      const size = read(this.fd, this.#buffer);
      if (size) this.output += text(this.#buffer.subarray(0, size));
      return lines().length >= count;
    });
    const taken = lines();
    this.output = "";
    return taken;
  }
}

const getfd = (name: string): Uint8Array => bytes(`{"execute":"getfd","arguments":{"fdname":"${name}"}}\n`);

for (const wait of [false, true]) {
  test(`a named fd is the client's open file; ${wait ? "one client" : "any number of clients"}`, async () => {
    const before = openFdCount();
    const target = new FakeTarget();
    const { connections, path } = monitorOn(target, "control", wait);
    const client = new Client(path);
    const { readFd, writeFd } = pipe();
    await client.replies(1);
    write(client.fd, bytes('{"execute":"qmp_capabilities"}\n'));
    assert.equal(await client.replies(1), ['{"return": {}}']);
    // All at once: the commands and their fds wait together.
    sendMessage(client.fd, getfd("in"), [readFd]);
    write(client.fd, bytes('{"execute":"query-name"}\n'));
    sendMessage(client.fd, getfd("out"), [writeFd, readFd]);
    write(client.fd, getfd("none"));
    const replies = await client.replies(4);
    assert.equal(replies.slice(0, 1), ['{"return": {}}']);
    assert.equal(replies.slice(2), [
      '{"return": {}}',
      '{"error": {"class": "GenericError", "desc": "No file descriptor supplied via SCM_RIGHTS"}}',
    ]);
    close(readFd);
    close(writeFd);
    const [into, out] = [target.fds.take("in")!, target.fds.take("out")!];
    assert.ok(isCloseOnExec(into) && isCloseOnExec(out));
    write(out, bytes("through"));
    assert.is(read(into, new Uint8Array(16)), 7);
    close(into);
    close(out);
    sendMessage(client.fd, bytes(" "), [0, 1]);
    sendMessage(client.fd, getfd("left"), [1]);
    assert.equal(await client.replies(1), ['{"return": {}}']);
    // With the client its unclaimed fds go, not the named ones.
    sendMessage(client.fd, bytes(" "), [0]);
    close(client.fd);
    await until(() => connections.info().every(({ isOpen }) => !isOpen));
    assert.ok(target.fds.close("left"));
    await connections.close();
    await until(() => openFdCount() <= before);
    assert.is(openFdCount(), before);
  });
}

test("the human monitor takes no fds", async () => {
  const { connections, path } = monitorOn(new FakeTarget(), "readline");
  const client = new Client(path);
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  sendMessage(client.fd, bytes("info version\r"), [writeFd]);
  close(writeFd);
  await client.replies(2);
  // The end of the stream: nobody has the other end open any more.
  assert.is(read(readFd, new Uint8Array(1)), 0);
  for (const fd of [readFd, client.fd]) close(fd);
  await connections.close();
});

test.run();
