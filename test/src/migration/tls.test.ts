// SPDX-License-Identifier: Apache-2.0
// Migration of a running guest over TLS: it arrives, and whatever is wrong with certificates or peers, it stays where it is.
import { cpSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { MigrateSetParameters } from "../../../src/qmp/schema/migration.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, thisRuntime } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { over } from "./transfers.ts";

const test = describe("migration over TLS");
const fixtures = fileURLToPath(new URL("../../fixtures/tls", import.meta.url));

const credentials = (endpoint: string, authority = "trusted"): string[] => [
  "-object",
  `tls-creds-x509,id=tls0,endpoint=${endpoint},dir=${resolve(fixtures, authority)}`,
];

const TLS: MigrateSetParameters = { "tls-creds": "tls0" };

interface Pair extends AsyncDisposable {
  old: GuestProcess;
  next: GuestProcess;
  qmp: QmpClient;
  nextQmp: QmpClient;
  /** `migrate-incoming` at `uri`, `migrate` to it; how it ended there and here. */
  migrate(uri?: string): Promise<{ here: string; there: string }>;
}

interface PairOptions {
  client?: string;
  server?: string;
  from?: MigrateSetParameters;
  to?: MigrateSetParameters;
  multifd?: boolean;
}

async function pair({ client, server, from = TLS, to = TLS, multifd = false }: PairOptions = {}): Promise<Pair> {
  const old = await GuestProcess.start({ runtime: thisRuntime, extra: credentials("client", client) });
  const extra = ["-incoming", "defer", ...credentials("server", server)];
  const next = new GuestProcess({ runtime: thisRuntime, bare: true, extra });
  const [qmp, nextQmp] = [await old.qmp(), await next.qmp()];
  await qmp.execute("migrate-set-parameters", from);
  await nextQmp.execute("migrate-set-parameters", to);
  if (multifd) {
    for (const each of [qmp, nextQmp]) {
      await each.execute("migrate-set-capabilities", { capabilities: [{ capability: "multifd", state: true }] });
    }
  }
  const end = async (each: QmpClient): Promise<string> => {
    const info = await over(each);
    return info["error-desc"] ?? info.status!;
  };
  return {
    old,
    next,
    qmp,
    nextQmp,
    async migrate(uri = "tcp:127.0.0.1:0") {
      await nextQmp.execute("migrate-incoming", { uri, "exit-on-error": false });
      const address = await next.until("the other side to listen", async () => {
        return (await nextQmp.execute("query-migrate"))["socket-address"]?.[0];
      });
      await qmp.execute("migrate", { uri: address.type === "inet" ? `tcp:127.0.0.1:${address.port}` : uri });
      const [here, there] = await Promise.all([end(qmp), end(nextQmp)]);
      return { here, there };
    },
    async [Symbol.asyncDispose]() {
      qmp.close();
      nextQmp.close();
      await old[Symbol.asyncDispose]();
      await next[Symbol.asyncDispose]();
    },
  };
}

test("a running guest arrives over tcp:", async () => {
  await using both = await pair();
  assert.equal(await both.migrate(), { here: "completed", there: "completed" });
  await both.next.runsOn();
  assert.is((await both.qmp.execute("query-status")).status, "postmigrate");
});

test("a running guest arrives over unix:, for which tls-hostname is needed", async () => {
  await using both = await pair();
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  const error = await rejection(() => both.qmp.execute("migrate", { uri }));
  assert.match(error.message, /No hostname for certificate validation.*tls-hostname/);
  await both.qmp.execute("migrate-set-parameters", { "tls-hostname": "vm.example" });
  assert.equal(await both.migrate(uri), { here: "completed", there: "completed" });
  await both.next.runsOn();
});

test("multifd has TLS on every connection", async () => {
  await using both = await pair({ multifd: true });
  assert.equal(await both.migrate(), { here: "completed", there: "completed" });
  await both.next.runsOn();
});

function withoutCertificate(): string {
  const dir = temporaryDirectory();
  cpSync(join(fixtures, "trusted/ca-cert.pem"), join(dir, "ca-cert.pem"));
  return dir;
}

interface Refusal extends PairOptions {
  here: RegExp;
  there: RegExp;
}

const REFUSALS: Record<string, Refusal> = {
  "a server of another authority": {
    server: "stranger",
    here: /server's certificate is not trusted/,
    there: /TLS with/,
  },
  "a client without certificate": {
    client: withoutCertificate(),
    here: /The other side refused: the client has sent no certificate/,
    there: /the client has sent no certificate/,
  },
  "a server for another host": {
    from: { ...TLS, "tls-hostname": "other.example" },
    here: /certificate is for another host: set tls-hostname/,
    there: /TLS with/,
  },
  "a server without TLS": {
    to: {},
    here: /does not speak TLS: set tls-creds there too/,
    there: /load of migration failed/,
  },
  "a client without TLS": { from: {}, here: /tcp:127/, there: /does not speak TLS: set tls-creds there too/ },
};

for (const [name, { here, there, ...options }] of Object.entries(REFUSALS)) {
  test(`${name}: both fail, and the guest runs on`, async () => {
    await using both = await pair(options);
    const ends = await both.migrate();
    assert.match(ends.here, here);
    assert.match(ends.there, there);
    assert.is((await both.qmp.execute("query-status")).status, "running");
    await both.old.runsOn();
  });
}

test("a connection cut in the middle leaves the guest where it was", async () => {
  await using both = await pair();
  await both.qmp.execute("migrate-set-parameters", { "max-bandwidth": 1 << 20 });
  const ended = both.migrate().catch(() => undefined);
  await both.next.until("RAM to come", async () => (await both.nextQmp.execute("query-migrate")).status === "active");
  both.next.child.kill("SIGKILL");
  const info = await over(both.qmp);
  assert.is(info.status, "failed");
  await ended;
  await both.old.runsOn();
});

test("refuses what would go without TLS", async () => {
  await using both = await pair();
  const { qmp, nextQmp } = both;
  const refused = async (uri: string): Promise<string> =>
    (await rejection(() => qmp.execute("migrate", { uri }))).message;
  assert.match(await refused("exec:cat"), /TLS cannot be used with exec:.*but with tcp: and unix: only/);
  assert.match(await refused("fd:main"), /TLS cannot be used with fd:main/);
  assert.match(await refused("file:/tmp/state"), /TLS cannot be used with file:/);
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "x-ignore-shared", state: true }] });
  assert.match(await refused("tcp:127.0.0.1:1"), /TLS cannot be used with x-ignore-shared/);
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "x-ignore-shared", state: false }] });
  await qmp.execute("migrate-set-parameters", { "tls-creds": "nobody" });
  assert.match(await refused("tcp:127.0.0.1:1"), /No TLS credentials with id 'nobody'/);
  await qmp.execute("migrate-set-parameters", { ...TLS, mode: "cpr-exec", "cpr-exec-command": ["/bin/false"] });
  const exec = await rejection(() => qmp.execute("migrate", {}));
  assert.match(exec.message, /TLS cannot be used with mode cpr-exec/);
  await nextQmp.execute("migrate-set-parameters", { "tls-creds": "nobody" });
  const incoming = await rejection(() => nextQmp.execute("migrate-incoming", { uri: "tcp:127.0.0.1:0" }));
  assert.match(incoming.message, /No TLS credentials with id 'nobody'/);
  await both.old.runsOn();
});

test.run();
