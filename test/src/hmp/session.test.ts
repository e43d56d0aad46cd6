// SPDX-License-Identifier: Apache-2.0
import * as fc from "fast-check";
import { MAX_LINE_BYTES } from "../../../src/hmp/line-editor.ts";
import { HmpSession, type HmpSessionOptions, type HmpSessionState } from "../../../src/hmp/session.ts";
import { INPUT_WINDOW_BYTES } from "../../../src/qmp/session.ts";
import type { QmpTarget } from "../../../src/qmp/target.ts";
import { assert, describe } from "../../harness.ts";
import { FakeTarget, utf8 } from "../qmp/fake-target.ts";

const PROMPT = "(baton) ";
const GREETING = `Baton 0.1.0 monitor - type 'help' for more information\r\n${PROMPT}`;

const decoder = new TextDecoder();

class Terminal {
  readonly session: HmpSession;
  output = "";
  acceptedInput = 0;

  constructor(target: QmpTarget, options: HmpSessionOptions = {}) {
    const port = {
      send: (bytes: Uint8Array) => {
        this.output += decoder.decode(bytes, { stream: true });
      },
      acceptInput: () => {
        this.acceptedInput++;
      },
    };
    this.session = new HmpSession(target, port, options);
  }

  async type(text: string): Promise<string> {
    this.session.receive(utf8(text));
    return await this.take();
  }

  async take(): Promise<string> {
    await this.session.idle();
    const output = this.output;
    this.output = "";
    return output;
  }
}

/** A terminal whose greeting has been read. */
function terminal(vm: QmpTarget = new FakeTarget()): Terminal {
  const result = new Terminal(vm);
  result.output = "";
  return result;
}

const test = describe("hmp session");

test("greets, echoes, answers, prompts", async () => {
  const term = new Terminal(new FakeTarget());
  assert.is(await term.take(), GREETING);
  assert.is(await term.type("info st"), "info st");
  assert.is(await term.type("atus\r"), `atus\r\nVM status: running\r\n${PROMPT}`);
  assert.is(await term.type("\r"), `\r\n${PROMPT}`);
});

test("return, newline and both end one line", async () => {
  const answer = `info name\r\nvm1\r\n${PROMPT}`;
  for (const end of ["\r", "\n", "\r\n"]) assert.is(await terminal().type(`info name${end}`), answer);
});

test("several lines at once are executed in order", async () => {
  const vm = new FakeTarget();
  const term = terminal(vm);
  assert.is(
    await term.type("stop\ninfo status\nc\ninfo status\n"),
    `stop\r\n${PROMPT}info status\r\nVM status: paused\r\n${PROMPT}c\r\n${PROMPT}info status\r\nVM status: running\r\n${PROMPT}`,
  );
  assert.equal(vm.calls, ["stop", "cont"]);
});

test("editing: erase, clear, kill, ignored keys", async () => {
  const vm = new FakeTarget();
  const term = terminal(vm);
  assert.is(await term.type("stox\x7fp"), "stox\b \bp");
  assert.is(await term.type("\x04\t\x1b[3~\x1b[C\x1bOP"), "");
  assert.is(await term.type("\x15"), `\r\x1b[K${PROMPT}`);
  assert.is(await term.type("\x08"), "");
  assert.is(await term.type("quit\x03"), `quit^C\r\n${PROMPT}`);
  assert.is(await term.type("\r"), `\r\n${PROMPT}`);
  assert.equal(vm.calls, []);
});

test("erasing takes whole characters", async () => {
  assert.is(await terminal().type("é€😀\x7f\x7fx\r"), `é€😀\b \b\b \bx\r\nunknown command: 'éx'\r\n${PROMPT}`);
});

test("arrows go through the history", async () => {
  const term = terminal();
  await term.type("info name\rinfo kvm\rinfo kvm\r");
  const line = (text: string): string => `\r\x1b[K${PROMPT}${text}`;
  assert.is(await term.type("\x1b[A"), line("info kvm"));
  assert.is(await term.type("\x1b[A"), line("info name"));
  assert.is(await term.type("\x1b[A"), "");
  assert.is(await term.type("\x1b[B"), line("info kvm"));
  assert.is(await term.type("\x1b[B"), line(""));
  assert.is(await term.type("\x1b[B"), "");
  assert.is(await term.type("\x1bOA\r"), `${line("info kvm")}\r\nkvm support: enabled\r\n${PROMPT}`);
});

test("a line that is too long is cut with a bell, never longer", async () => {
  const term = terminal();
  const echo = await term.type("x".repeat(MAX_LINE_BYTES + 10));
  assert.is(echo, "x".repeat(MAX_LINE_BYTES) + "\x07".repeat(10));
  assert.is(await term.type("\r"), `\r\nline too long\r\n${PROMPT}`);
  assert.is(await term.type("info name\r"), `info name\r\nvm1\r\n${PROMPT}`);
});

test("migrate waits for the end, migrate -d does not", async () => {
  const vm = new FakeTarget();
  const term = terminal(vm);
  assert.is(await term.type("migrate -d file:a\r"), `migrate -d file:a\r\n${PROMPT}`);
  vm.migration.info = {};
  term.session.receive(utf8("migrate file:b\rinfo name\r"));
  while (vm.migration.started.length < 2) await new Promise((resolve) => setTimeout(resolve, 0));
  assert.is(term.session.inputSpaceBytes, 0);
  vm.migration.enter("active");
  vm.migration.info = { "error-desc": "Disk full" };
  assert.is(term.output, "migrate file:b\r\n");
  vm.migration.enter("failed");
  assert.is(await term.take(), `migrate file:b\r\nError: Disk full\r\n${PROMPT}info name\r\nvm1\r\n${PROMPT}`);
  assert.is(term.acceptedInput, 1);
});

test("a migration that does not start is not waited for", async () => {
  const vm = new FakeTarget();
  vm.migration.blocker = "No";
  assert.is(await terminal(vm).type("migrate file:b\r"), `migrate file:b\r\nError: No\r\n${PROMPT}`);
});

test("freeze does not wait for a command that waits for the migration; the restored session prompts", async () => {
  const vm = new FakeTarget();
  const term = terminal(vm);
  term.session.receive(utf8("migrate file:b\rinfo na"));
  await term.session.freeze();
  const state: HmpSessionState = JSON.parse(JSON.stringify(term.session.save()));
  assert.is(term.output, "migrate file:b\r\n");
  // The old process may still hear of the end, and must not answer then.
  vm.migration.enter("completed");
  assert.is(await term.take(), "migrate file:b\r\n");
  term.session.close();
  const next = new Terminal(vm, { state });
  assert.is(next.output, "");
  next.session.thaw();
  assert.is(await next.type("me\r"), `${PROMPT}info name\r\nvm1\r\n${PROMPT}`);
});

test("after a failed update the same session goes on", async () => {
  const vm = new FakeTarget();
  const term = terminal(vm);
  term.session.receive(utf8("migrate file:b\r"));
  await term.session.freeze();
  term.session.save();
  vm.migration.enter("failed");
  await term.session.idle();
  assert.is(term.output, "migrate file:b\r\n");
  term.session.thaw();
  assert.is(await term.take(), `migrate file:b\r\n${PROMPT}`);
});

test("input is bounded while a command runs", async () => {
  const vm = new FakeTarget();
  const gate = Promise.withResolvers<void>();
  vm.stopGate = gate.promise;
  const term = terminal(vm);
  assert.is(term.session.inputSpaceBytes, INPUT_WINDOW_BYTES);
  term.session.receive(utf8("stop\r"));
  assert.is(term.session.inputSpaceBytes, 0);
  gate.resolve();
  await term.session.idle();
  assert.is(term.acceptedInput, 1);
});

test("a closed session is silent", async () => {
  const vm = new FakeTarget();
  const term = terminal(vm);
  term.session.receive(utf8("info name\rquit\r"));
  term.output = "";
  term.session.close();
  assert.is(await term.take(), "");
  assert.equal(vm.calls, []);
});

async function transcript(input: Uint8Array, pieceBytes: number, hop: boolean): Promise<string> {
  const vm = new FakeTarget();
  let term = new Terminal(vm);
  let output = "";
  for (let at = 0; at < input.length; at += pieceBytes) {
    term.session.receive(input.subarray(at, at + pieceBytes));
    if (!hop) continue;
    await term.session.freeze();
    const state: HmpSessionState = JSON.parse(JSON.stringify(term.session.save()));
    output += term.output;
    term.session.close();
    term = new Terminal(vm, { state });
    term.session.thaw();
  }
  return output + (await term.take());
}

test("saved and restored at every byte, the transcript is the same", async () => {
  const input = utf8("info name\r\ninfo st\x7ftatus\rin\x03stop\n\x1b[A\x1b[B\x1b[Ainfo kvm\x15héx\x7f\r");
  const expected = await transcript(input, input.length, false);
  assert.is(await transcript(input, 1, false), expected);
  for (const pieceBytes of [1, 2, 3, 7, 20]) assert.is(await transcript(input, pieceBytes, true), expected);
});

test("random bytes neither throw nor hang, and the session recovers", async () => {
  const keys = fc.constantFrom("stop", "info ", "\x1b", "[A", "\r", "\n", "\x7f", '"', "migrate ", "-d", "\x03", "é");
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.uint8Array({ maxLength: 100 }),
        fc.array(keys, { maxLength: 30 }).map((parts) => utf8(parts.join(""))),
      ),
      async (input) => {
        const term = terminal();
        term.session.receive(input);
        await term.take();
        await term.type("\x1b~\x03");
        assert.is(await term.type("info name\r"), `info name\r\nvm1\r\n${PROMPT}`);
      },
    ),
    { numRuns: 500 },
  );
});

test.run();
