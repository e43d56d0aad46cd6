// SPDX-License-Identifier: Apache-2.0
// What a new process takes for connections, and what it does with everything else.
import { close, O_WRONLY, open, status } from "../../../ffi/fd.ts";
import { SCM_MAX_FD } from "../../../ffi/scm.ts";
import { withConnections } from "../../../src/config/carried-spec.ts";
import type { ChardevSpec, MachineSpec } from "../../../src/config/types.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import { type ReceivedConnections, receiveConnections } from "../../../src/migration/connection-handover.ts";
import { expectFrame, FRAME_CONNECTIONS, FRAME_FDS, FRAME_HELD } from "../../../src/migration/messages.ts";
import { openFdCount } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { warmReactor } from "../backends/support.ts";
import { transportPair } from "./channel/support.ts";

const test = describe("src/migration: handover of connections");
const reactor = await warmReactor();
test.after(() => reactor.close());

const CIRCUMSTANCES = { serials: ["c0", null], events: true, startedMs: 1.5, setupMs: 2 };

function fileState(id: string, out: number) {
  const spec = { backend: "file", id, path: "/x", append: false };
  return { spec, fds: { out }, queued: "", connected: true, filename: "file" };
}

function message(chardevs: unknown, fdCount: number, others: object = {}): object {
  return { connections: { chardevs, monitors: [] }, fdCount, ...CIRCUMSTANCES, ...others };
}

/** Sends it as the old side does, with duplicates of one fd in as many frames as it takes. */
async function receive(value: unknown, fdCount: number): Promise<ReceivedConnections> {
  const channels = [transportPair(), transportPair()].map((pair) => pair.map((end) => new FrameChannel(end, reactor)));
  const [[main, nextMain], [cpr, nextCpr]] = channels as [[FrameChannel, FrameChannel], [FrameChannel, FrameChannel]];
  const fds = Array.from({ length: fdCount }, () => open("/dev/null", O_WRONLY));
  try {
    const received = receiveConnections(nextMain, nextCpr);
    received.catch(() => {});
    const payload = new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
    await cpr.send(FRAME_CONNECTIONS, payload, fds.slice(0, SCM_MAX_FD));
    for (let at = SCM_MAX_FD; at < fds.length; at += SCM_MAX_FD) {
      await cpr.send(FRAME_FDS, new Uint8Array(0), fds.slice(at, at + SCM_MAX_FD));
    }
    // The end of the stream ends waiting for more.
    cpr.close();
    const connections = await received;
    await expectFrame(main, FRAME_HELD);
    return connections;
  } finally {
    for (const fd of fds) close(fd);
    for (const channel of channels.flat()) channel.close();
  }
}

test("more fds than a frame can carry come in several, and each is where it belongs", async () => {
  const before = openFdCount();
  const count = SCM_MAX_FD + 20;
  const chardevs = Array.from({ length: count }, (_, place) => fileState(`c${place}`, place));
  const received = await receive(message(chardevs, count), count);
  const fds = received.state.chardevs.map((chardev) => chardev.fds.out!);
  assert.is(new Set(fds).size, count);
  for (const fd of fds) assert.is(status(fd).kind, "character");
  assert.equal([received.serials, received.events], [CIRCUMSTANCES.serials, true]);
  assert.is(openFdCount(), before + count);
  received.discard();
  received.discard();
  assert.is(openFdCount(), before);
});

const pty = { spec: { backend: "pty", id: "p" }, fds: { pty: 0 }, queued: "", connected: false, filename: "pty:/x" };
const monitor = { chardev: "c0", mode: "control", pretty: false };
const client = { chardev: fileState("c0", 0) };
const refused: [what: string, value: unknown, fdCount: number, error: string][] = [
  ["what is no JSON", "{", 1, "makes no sense"],
  ["a place that no fd has", message([fileState("c0", 1)], 1), 1, "file descriptor 1 of 1"],
  ["an fd that belongs to nothing", message([fileState("c0", 0)], 2), 2, "1 file descriptors that belong to nothing"],
  ["fewer fds than announced", message([fileState("c0", 0)], 2), 1, "ended before it sent FDS"],
  ["more fds than announced", message([fileState("c0", 0)], 1), 2, "2 file descriptors instead of 1"],
  ["a back end that there is not", message([{ ...pty, spec: { backend: "vc", id: "p" } }], 1), 1, "backend"],
  ["a role that no fd has", message([{ ...pty, fds: { other: 0 } }], 1), 1, "other"],
  ["a serial port that is no name", message([pty], 1, { serials: [7] }), 1, "the chardev 7"],
  [
    "a monitor that is neither",
    { ...message([], 1), connections: { chardevs: [], monitors: [{ spec: monitor }] } },
    1,
    "either 'client' or 'listener'",
  ],
  [
    "a session of another kind than its monitor",
    {
      ...message([], 1),
      connections: {
        chardevs: [],
        monitors: [{ spec: monitor, client: { ...client, session: { editor: {}, pending: "", waiting: false } } }],
      },
    },
    1,
    "session",
  ],
];
for (const [what, value, fdCount, error] of refused) {
  test(`${what} is refused, and no fd stays open`, async () => {
    const before = openFdCount();
    const failure = await rejection(() => receive(value, fdCount));
    const text = `${failure.message} ${(failure.cause as Error | undefined)?.message}`;
    assert.ok(text.includes(error), text);
    assert.is(openFdCount(), before);
  });
}

test("the machine has the other side's serial ports and both sides' monitors, each by a name of its own", () => {
  const nullChardev = (id: string): ChardevSpec => ({ backend: "null", id });
  const monitorOf = (chardev: string) => ({ chardev, mode: "control" as const, pretty: false });
  const own = {
    chardevs: ["serial0", "serial1", "compat_monitor0"].map(nullChardev),
    serials: ["serial0", "serial1", null],
    monitors: [monitorOf("compat_monitor0")],
  } as unknown as MachineSpec;
  const { spec, names, ports, replaced } = withConnections(own, {
    chardevs: ["serial0", "spare"].map(nullChardev),
    monitors: ["compat_monitor0", "compat_monitor0.1"].map((id) => ({
      spec: monitorOf(id),
      chardev: nullChardev(id),
    })),
    serials: ["serial0", "unconnected-serial1", null],
  });
  assert.equal(spec.serials, ["serial0", "serial1", null]);
  assert.equal([...ports], [0], "a port without a chardev there keeps its own");
  assert.equal(replaced, ["serial0"]);
  assert.equal(
    [...names],
    [
      ["compat_monitor0", "compat_monitor0.1"],
      ["compat_monitor0.1", "compat_monitor0.1.1"],
    ],
  );
  const ids = spec.chardevs.map(({ id }) => id);
  assert.equal(ids, ["serial1", "compat_monitor0", "serial0", "spare", "compat_monitor0.1", "compat_monitor0.1.1"]);
  assert.equal(
    spec.monitors.map(({ chardev }) => chardev),
    ["compat_monitor0", "compat_monitor0.1", "compat_monitor0.1.1"],
  );
});

test.run();
