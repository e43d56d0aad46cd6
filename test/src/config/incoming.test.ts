// SPDX-License-Identifier: Apache-2.0
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveOptions } from "../../../src/config/resolve.ts";
import type { IncomingSpec } from "../../../src/config/types.ts";
import type { VmmError } from "../../../src/errors.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("incoming");

const incoming = (...values: string[]): IncomingSpec[] =>
  resolveOptions(parseArguments(values.flatMap((value) => ["-incoming", value])).options).incoming;
const refusal = async (...values: string[]): Promise<string> => {
  const error = await rejection(() => incoming(...values));
  assert.is((error as VmmError).code, "usage", error.message);
  return error.message;
};

const cpr = { channel: "cpr", address: { transport: "socket", type: "unix", path: "cpr.sock" } };
const cprJson = '{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"cpr.sock"}}';
const cprDotted = "cpr,addr.transport=socket,addr.type=unix,addr.path=cpr.sock";

test("a URI names the main channel", () => {
  assert.equal(incoming("file:vm.state"), [
    { channel: "main", address: { transport: "file", filename: "vm.state", offset: 0 } },
  ]);
  assert.equal(incoming("unix:main.sock"), [
    { channel: "main", address: { transport: "socket", type: "unix", path: "main.sock" } },
  ]);
  assert.equal(incoming("exec:cat a,b=c"), [
    { channel: "main", address: { transport: "exec", args: ["/bin/sh", "-c", "cat a,b=c"] } },
  ]);
  assert.equal(incoming("defer"), [{ channel: "main", defer: true }]);
});

test("the cpr channel comes as JSON or in dotted form, and the main one stands first", () => {
  const main = { channel: "main", address: { transport: "socket", type: "unix", path: "main.sock" } };
  assert.equal(incoming("unix:main.sock", cprJson), [main, cpr]);
  assert.equal(incoming(cprDotted, "unix:main.sock"), [main, cpr]);
  assert.equal(incoming("defer", "channel-type=cpr,addr.transport=socket,addr.type=fd,addr.str=5")[1], {
    channel: "cpr",
    address: { transport: "socket", type: "fd", str: "5" },
  });
});

test("the dotted form has lists and escaped commas", () => {
  assert.equal(incoming("main,addr.transport=exec,addr.args.1=b,,c,addr.args.0=a"), [
    { channel: "main", address: { transport: "exec", args: ["a", "b,c"] } },
  ]);
});

test("a later channel of the same type replaces the earlier", () => {
  assert.equal(incoming("file:a", cprJson, "defer", cprJson.replace("cpr.sock", "b")), [
    { channel: "main", defer: true },
    { channel: "cpr", address: { transport: "socket", type: "unix", path: "b" } },
  ]);
});

test("what is no source is refused", async () => {
  assert.is(await refusal("foo:bar"), "-incoming foo:bar: unknown migration protocol: foo:bar");
  assert.is(await refusal('{"channel-type"'), '-incoming {"channel-type": JSON parse error');
  assert.is(
    await refusal("cpr,addr.transport"),
    "-incoming cpr,addr.transport: Expected '=' after parameter 'addr.transport'",
  );
  assert.is(
    await refusal("cpr,addr=a,addr.b=c"),
    "-incoming cpr,addr=a,addr.b=c: Parameters 'addr' and 'addr.b' conflict",
  );
  assert.is(
    await refusal("cpr,addr.b=c,addr=a"),
    "-incoming cpr,addr.b=c,addr=a: Parameters 'addr' and 'addr.…' conflict",
  );
  assert.is(
    await refusal("cpr,a.a.a.a.a.a.a.a.a=1"),
    "-incoming cpr,a.a.a.a.a.a.a.a.a=1: Parameter 'a.a.a.a.a.a.a.a.a' is nested too deeply",
  );
  assert.match(await refusal(`${cprDotted},foo=1`), /-incoming cpr.*foo/);
  assert.match(await refusal("cpr,addr.transport=socket,addr.type=unix"), /path/);
  assert.match(await refusal("main"), /-incoming main: .*addr/);
  assert.match(await refusal("rdma,addr.transport=file"), /rdma/);
});

test("a cpr channel must be a socket, and needs a main channel that is a stream", async () => {
  const file = "cpr,addr.transport=file,addr.filename=f,addr.offset=0";
  assert.is(
    await refusal("defer", file),
    `-incoming ${file}: Bad cpr channel address; must be a socket of type unix or fd`,
  );
  assert.is(
    await refusal(cprJson),
    "-incoming with a cpr channel needs a main channel too: -incoming URI or -incoming defer",
  );
  assert.is(
    await refusal(cprJson, "file:a"),
    "With a cpr channel the main channel of -incoming must be a stream, not a file",
  );
  assert.is(
    await refusal(cprJson, "tcp:localhost:0"),
    "With a cpr channel the main channel of -incoming needs a port other than 0",
  );
});

test.run();
