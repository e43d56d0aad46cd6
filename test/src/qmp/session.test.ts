// SPDX-License-Identifier: Apache-2.0
import * as fc from "fast-check";
import {
  EVENT_BACKLOG_BYTES,
  INPUT_WINDOW_BYTES,
  OUTPUT_WINDOW_BYTES,
  type QmpSessionState,
} from "../../../src/qmp/session.ts";
import { assert, describe } from "../../harness.ts";
import { bytesOf, FakeTarget, TestClient, withoutTime } from "./fake-target.ts";

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": "baton 0.1.0"}, "capabilities": []}}\r\n';

const test = describe("qmp session");

test("greets at once", () => {
  assert.is(new TestClient(new FakeTarget()).output, GREETING);
});

test("takes nothing but qmp_capabilities at first, and that once", async () => {
  const client = new TestClient(new FakeTarget());
  client.output = "";
  const notYet =
    '{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with \'qmp_capabilities\'"}}';
  assert.is(await client.execute({ execute: "query-version" }), notYet);
  assert.is(await client.execute({ execute: "no-such-cmd" }), notYet);
  assert.is(
    await client.execute({ execute: "qmp_capabilities", arguments: { enable: ["oob"] } }),
    '{"error": {"class": "GenericError", "desc": "QMP capability oob not available"}}',
  );
  assert.is(await client.execute({ execute: "qmp_capabilities", id: 1 }), '{"return": {}, "id": 1}');
  assert.is(
    await client.execute({ execute: "qmp_capabilities", id: 2 }),
    '{"error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}, "id": 2}',
  );
});

test("the requests of QEMU's protocol test", async () => {
  for (const client of [new TestClient(new FakeTarget()), await TestClient.negotiated(new FakeTarget())]) {
    client.output = "";
    const errorOf = async (text: string): Promise<string> => JSON.parse(await client.execute(text)).error.desc;
    const cases: [input: string, desc: string][] = [
      ["null", "QMP input must be a JSON object"],
      ["[1,2]", "QMP input must be a JSON object"],
      ["{}", "QMP input lacks member 'execute'"],
      ["{'execute': true}", "QMP input member 'execute' must be a string"],
      ["{'execute': 'no-such-cmd', 'arguments': []}", "QMP input member 'arguments' must be an object"],
      ["{'execute': 'no-such-cmd', 'arguments': null}", "QMP input member 'arguments' must be an object"],
      ["{'execute': 'no-such-cmd', 'extra': true}", "QMP input member 'extra' is unexpected"],
      ["{'exec-oob': 'query-status'}", "QMP input member 'exec-oob' is unexpected"],
    ];
    for (const [input, desc] of cases) assert.is(await errorOf(input), desc, input);
  }
});

test("unknown commands have a class of their own", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  for (const name of ["bogus", "toString", "__proto__"]) {
    assert.is(
      await client.execute({ execute: name, id: 5 }),
      `{"error": {"class": "CommandNotFound", "desc": "The command ${name} has not been found"}, "id": 5}`,
    );
  }
});

test("the id comes back as it was, with success and with failure", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  const id = String.raw`{"a": [1.5, 12345678901234567890, null, "\u00E9\uD83D\uDE00"], "b": {}}`;
  assert.is(await client.execute(`{"id": ${id}, "execute": "query-name"}`), `{"return": {"name": "vm1"}, "id": ${id}}`);
  assert.is(
    await client.execute('{"execute": "human-monitor-command", "id": null}'),
    '{"error": {"class": "GenericError", "desc": "Parameter \'command-line\' is missing"}, "id": null}',
  );
  assert.is(
    await client.execute('{"id": 7}'),
    '{"error": {"class": "GenericError", "desc": "QMP input lacks member \'execute\'"}, "id": 7}',
  );
});

test("events come only after negotiation, and before the reply of the command that caused them", async () => {
  const vm = new FakeTarget();
  const client = new TestClient(vm);
  client.output = "";
  vm.powerdown();
  assert.is(client.output, "");
  await client.execute({ execute: "qmp_capabilities" });
  assert.is(
    withoutTime(await client.send('{"execute":"stop"}{"execute":"cont"}{"execute":"quit"}')),
    [
      '{"timestamp": T, "event": "STOP"}',
      '{"return": {}}',
      '{"timestamp": T, "event": "RESUME"}',
      '{"return": {}}',
      '{"timestamp": T, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}',
      '{"return": {}}',
      "",
    ].join("\r\n"),
  );
});

test("events go to all sessions past negotiation, until they close", async () => {
  const vm = new FakeTarget();
  const clients = [await TestClient.negotiated(vm), await TestClient.negotiated(vm), new TestClient(vm)];
  vm.powerdown();
  const event = '{"timestamp": T, "event": "POWERDOWN"}\r\n';
  assert.equal(
    clients.map(({ output }) => withoutTime(output)),
    [event, event, GREETING],
  );
  clients[0]!.session.close();
  vm.powerdown();
  assert.equal(
    clients.map(({ output }) => withoutTime(output)),
    [event, event + event, GREETING],
  );
});

test("MIGRATION events need the capability", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  vm.migration.enter("setup");
  vm.events.emit("MIGRATION_PASS", { pass: 1 });
  assert.is(client.output, "");
  const capabilities = [{ capability: "events", state: true }];
  await client.execute({ execute: "migrate-set-capabilities", arguments: { capabilities } });
  vm.migration.enter("completed");
  vm.events.emit("MIGRATION_PASS", { pass: 2 });
  assert.is(
    withoutTime(await client.take()),
    '{"timestamp": T, "event": "MIGRATION", "data": {"status": "completed"}}\r\n' +
      '{"timestamp": T, "event": "MIGRATION_PASS", "data": {"pass": 2}}\r\n',
  );
});

test("a slow command holds back its own client only", async () => {
  const vm = new FakeTarget();
  const [slow, other] = [await TestClient.negotiated(vm), await TestClient.negotiated(vm)];
  const gate = Promise.withResolvers<void>();
  vm.stopGate = gate.promise;
  slow.session.receive(bytesOf('{"execute":"stop","id":1}{"execute":"query-name","id":2}\n{]'));
  assert.is(await other.execute({ execute: "query-name" }), '{"return": {"name": "vm1"}}');
  assert.is(slow.output, "");
  gate.resolve();
  assert.is(
    withoutTime(await slow.take()),
    [
      '{"timestamp": T, "event": "STOP"}',
      '{"return": {}, "id": 1}',
      '{"return": {"name": "vm1"}, "id": 2}',
      '{"error": {"class": "GenericError", "desc": "2:2: JSON parse error, expecting key"}}',
      "",
    ].join("\r\n"),
  );
});

test("a failing command answers with the whole cause chain", async () => {
  const vm = new FakeTarget();
  vm.reset = () => {
    throw new Error("Reset failed", { cause: new Error("KVM_SET_REGS failed: EINVAL") });
  };
  const client = await TestClient.negotiated(vm);
  assert.is(
    await client.execute({ execute: "system_reset" }),
    '{"error": {"class": "GenericError", "desc": "Reset failed: KVM_SET_REGS failed: EINVAL"}}',
  );
});

test("thousands of pipelined commands are answered in order", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  const count = 5000;
  let input = "";
  for (let id = 0; id < count; id++) input += `{"execute":"query-status","id":${id}}`;
  const replies = (await client.send(input)).trimEnd().split("\r\n");
  assert.is(replies.length, count);
  replies.forEach((reply, id) => {
    assert.is(reply, `{"return": {"status": "running", "running": true}, "id": ${id}}`);
  });
});

test("waiting input is bounded: a client that sends more is held back, then let on", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  const gate = Promise.withResolvers<void>();
  vm.stopGate = gate.promise;
  client.session.receive(bytesOf('{"execute":"stop"}'));
  client.session.receive(new Uint8Array(INPUT_WINDOW_BYTES).fill(0x20));
  assert.is(client.session.inputSpaceBytes, 0);
  gate.resolve();
  await client.session.idle();
  assert.is(client.acceptedInput, 1);
  assert.is(client.session.inputSpaceBytes, INPUT_WINDOW_BYTES);
});

test("a client that does not read is not served further", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  client.backlog = OUTPUT_WINDOW_BYTES;
  assert.is(await client.send('{"execute":"query-name"}'), "");
  client.backlog = 0;
  client.session.outputDrained();
  assert.is(await client.take(), '{"return": {"name": "vm1"}}\r\n');
});

test("a client that reads no events loses its connection, or else the events", async () => {
  const vm = new FakeTarget();
  const [reader, sleeper] = [await TestClient.negotiated(vm), await TestClient.negotiated(vm)];
  sleeper.backlog = EVENT_BACKLOG_BYTES - 1;
  vm.powerdown();
  assert.match(sleeper.output, "POWERDOWN");
  assert.is(sleeper.drops, 0);
  sleeper.backlog = EVENT_BACKLOG_BYTES;
  sleeper.output = "";
  vm.powerdown();
  assert.is(sleeper.output, "");
  assert.is(sleeper.drops, 1);
  assert.is(reader.output.split("POWERDOWN").length, 3);
  await sleeper.session.freeze();
  vm.powerdown();
  assert.is(sleeper.output, "");
  assert.is(sleeper.drops, 1, "nobody hangs up while the connection is saved");
  sleeper.session.thaw();
  vm.powerdown();
  assert.is(sleeper.drops, 2);
});

test("a client that half-closes gets all its replies", async () => {
  const client = await TestClient.negotiated(new FakeTarget());
  client.session.receive(bytesOf('{"execute":"query-name"}{"execute":"query-status"}12'));
  client.session.endInput();
  assert.is(
    await client.take(),
    [
      '{"return": {"name": "vm1"}}',
      '{"return": {"status": "running", "running": true}}',
      '{"error": {"class": "GenericError", "desc": "QMP input must be a JSON object"}}',
      "",
    ].join("\r\n"),
  );
});

test("a closed session is silent", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  const gate = Promise.withResolvers<void>();
  vm.stopGate = gate.promise;
  client.session.receive(bytesOf('{"execute":"stop"}{"execute":"quit"}'));
  client.session.close();
  gate.resolve();
  assert.is(await client.take(), "");
  assert.equal(vm.calls, ["stop"]);
});

test("pretty", async () => {
  const client = new TestClient(new FakeTarget(), { pretty: true });
  client.output = "";
  await client.execute({ execute: "qmp_capabilities" });
  assert.is(await client.send('{"execute":"query-name"}'), '{\n    "return": {\n        "name": "vm1"\n    }\n}\r\n');
});

test("freeze lets the running command end and starts no other; thaw goes on", async () => {
  const vm = new FakeTarget();
  const client = await TestClient.negotiated(vm);
  const gate = Promise.withResolvers<void>();
  vm.stopGate = gate.promise;
  client.session.receive(bytesOf('{"execute":"stop","id":1}{"execute":"query-name","id":2}'));
  const frozen = client.session.freeze();
  assert.throws(() => client.session.save());
  gate.resolve();
  await frozen;
  await client.session.idle();
  assert.match(client.output, /"id": 1/);
  assert.not.match(client.output, /"id": 2/);
  assert.is(client.session.inputSpaceBytes, 0);
  client.session.thaw();
  assert.match(await client.take(), /"id": 2/);
});

const COMMANDS = [
  '{"execute":"query-status", "id": 1}\r\n',
  '{"execute":"qmp_capabilities"}',
  "nul ",
  '{"execute":"query-name","id":{"é":[12345678901234567890]}} {"execute":"query-name"}{x: [1, 2]}',
  '\n"\x01 {\n\xff\n',
  "{'execute':'human-monitor-command','arguments':{'command-line':'info status'}}",
  '{"execute":"query-memory-size-summary"}12\n',
].join("");

async function replies(vm: FakeTarget, pieces: Uint8Array[], hop: boolean): Promise<string> {
  let client = new TestClient(vm);
  let output = client.output;
  for (const piece of pieces) {
    client.output = "";
    client.session.receive(piece);
    if (!hop) {
      output += await client.take();
      continue;
    }
    // At once: what has not been begun must travel in the state.
    await client.session.freeze();
    const state: QmpSessionState = JSON.parse(JSON.stringify(client.session.save()));
    client.session.close();
    output += client.output;
    client = new TestClient(vm, { state });
    client.session.thaw();
    output += await client.take();
  }
  return output;
}

test("a session that is saved and restored at every byte gives the same replies", async () => {
  const input = bytesOf(COMMANDS);
  const expected = await replies(new FakeTarget(), [input], false);
  assert.match(expected, /VM status: running/);
  const single = [...input].map((byte) => Uint8Array.of(byte));
  assert.is(await replies(new FakeTarget(), single, false), expected);
  assert.is(await replies(new FakeTarget(), single, true), expected);
  for (let cut = 0; cut <= input.length; cut++) {
    const pieces = [input.subarray(0, cut), input.subarray(cut)];
    assert.is(await replies(new FakeTarget(), pieces, true), expected, `cut at ${cut}`);
  }
});

const hostile = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.string({ unit: fc.constantFrom(..."{}[]:,\"'\\ \n\xff\x01etrunl01-."), maxLength: 200 }).map(bytesOf),
  fc
    .array(fc.constantFrom('{"execute":', '"stop"', '"query-status"', ',"id":', "1", ',"arguments":{', "}", "\n"), {
      maxLength: 30,
    })
    .map((parts) => bytesOf(parts.join(""))),
);

test("random bytes neither throw nor hang, and the session recovers", async () => {
  await fc.assert(
    fc.asyncProperty(hostile, async (input) => {
      const client = await TestClient.negotiated(new FakeTarget());
      client.session.receive(input);
      await client.take();
      const output = await client.send('\n{"execute":"query-name","id":"end"}\n');
      const recovered = output.endsWith('{"return": {"name": "vm1"}, "id": "end"}\r\n');
      if (recovered) return;
      client.session.receive(bytesOf("\xff\n"));
      await client.take();
      assert.match(await client.send('{"execute":"query-name","id":"end"}'), /"vm1"}, "id": "end"}\r\n$/);
    }),
    { numRuns: 1000 },
  );
});

test("every line a client gets is one JSON object of ASCII", async () => {
  await fc.assert(
    fc.asyncProperty(hostile, async (input) => {
      const client = await TestClient.negotiated(new FakeTarget());
      client.session.receive(input);
      client.session.endInput();
      const output = await client.take();
      assert.match(output, /^[\r\n\x20-\x7e]*$/);
      const lines = output.split("\r\n");
      assert.is(lines.pop(), "");
      for (const line of lines) assert.type(JSON.parse(line), "object");
    }),
    { numRuns: 500 },
  );
});

test.run();
