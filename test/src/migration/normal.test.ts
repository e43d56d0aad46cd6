// SPDX-License-Identifier: Apache-2.0
// Migration of a running guest whose RAM is copied: every way there is, every back end of RAM, every state of the guest.
import { existsSync, statSync, writeFileSync } from "node:fs";
import { close } from "../../../ffi/fd.ts";
import { socketPair } from "../../../ffi/socket.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import {
  type GuestOptions,
  GuestProcess,
  onlyOnBun,
  programMissing,
  type Runtime,
  recordEvents,
  settled,
  thisRuntime,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { freePath, giveFd, listening, migrated, moveOn, RINGS, set, waiting } from "./streams.ts";
import { over } from "./transfers.ts";

const test = describe("normal migration");

function startGuest(options: GuestOptions = {}): Promise<GuestProcess> {
  return GuestProcess.start({ runtime: thisRuntime, ...options });
}

async function ramOf(qmp: QmpClient) {
  return (await qmp.execute("query-migrate")).ram!;
}

test("moves a running guest over a unix socket, with the events of QEMU on both sides", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  await using next = waiting("defer");
  await using nextQmp = await next.qmp();
  const nextEvents = await recordEvents(nextQmp);
  await nextQmp.execute("migrate-incoming", { uri: `unix:${freePath()}` });
  const uri = await listening(next, nextQmp);
  const info = await migrated(qmp, uri);
  assert.is((await over(nextQmp)).status, "completed");
  await next.runsOn();
  await settled();
  assert.equal(
    [...new Set(events)],
    ["MIGRATION setup", "MIGRATION active", "MIGRATION_PASS", "STOP", "MIGRATION device", "MIGRATION completed"],
  );
  assert.equal(nextEvents, ["MIGRATION setup", "MIGRATION active", "RESUME", "MIGRATION completed"]);
  assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
  assert.equal(await nextQmp.execute("query-status"), { running: true, status: "running" });

  const ram = info.ram!;
  assert.is(ram.total, 32 << 20);
  assert.is(ram.remaining, 0);
  assert.is(ram["page-size"], 4096);
  assert.is(ram["normal-bytes"], ram.normal * 4096);
  assert.ok((ram.normal + ram.duplicate) * 4096 >= ram.total, "every page was accounted for");
  assert.ok((ram.normal + ram.duplicate) * 4096 < ram.total + (8 << 20), "and not sent again without need");
  assert.ok(ram.transferred > ram["normal-bytes"], "headers included");
  assert.is(ram["precopy-bytes"] + ram["downtime-bytes"], ram.transferred);
  assert.ok(ram["dirty-sync-count"] >= 1 && ram["multifd-bytes"] === 0);
  assert.equal(await ramOf(qmp), ram, "nothing changes afterwards");
  assert.ok(info["total-time"]! >= info["setup-time"]! && info.downtime! <= info["total-time"]!);
  assert.is(info.phases!.length, 5);
  assert.match((await rejection(() => qmp.execute("cont"))).message, /has moved to another VMM/);
});

test("goes over TCP on several connections, packed, with several vCPUs and dirty rings", async () => {
  await using old = await startGuest({
    ...RINGS,
    memory: "48M",
    payload: { ...RINGS.payload, cpuCount: 2, touchBytes: 24 << 20 },
  });
  await using next = await moveOn(old, {
    incoming: "tcp:127.0.0.1:0",
    capabilities: { multifd: true },
    parameters: { "multifd-channels": 3, "multifd-compression": "zstd", "multifd-zstd-level": 3 },
  });
  await next.runsOn();
  // The machine came along, rings included; the guest goes on to be moved.
  await using last = await moveOn(next, { capabilities: { multifd: true }, parameters: { "multifd-channels": 1 } });
  await last.runsOn();
});

test("goes over descriptors that a monitor was given", async () => {
  await using old = await startGuest();
  await using next = waiting("defer");
  await using qmp = await old.qmp();
  const [here, there] = socketPair();
  try {
    await giveFd(old, "way", here);
    await giveFd(next, "way", there);
  } finally {
    close(here);
    close(there);
  }
  await using nextQmp = await next.qmp();
  await nextQmp.execute("migrate-incoming", { uri: "fd:way" });
  await migrated(qmp, "fd:way");
  await next.runsOn();
});

test("goes through commands, and what they keep can be read later", async () => {
  await using old = await startGuest({ payload: { touchBytes: 24 << 20 } });
  await using qmp = await old.qmp();
  const file = freePath("vm.gz");
  await migrated(qmp, `exec:gzip -1 > ${file}`);
  assert.ok(statSync(file).size < 16 << 20);
  assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
  assert.match((await rejection(() => qmp.execute("cont"))).message, /exec:gzip/);
  await qmp.execute("quit");
  for (let time = 0; time < 2; time++) {
    await using next = waiting(`exec:gunzip < ${file}`);
    await next.runsOn();
  }
});

const privateRam = ["-object", "memory-backend-ram,id=ram0,size=32M"];

test("the RAM of each side is its own affair, and nothing of an older guest shines through", async () => {
  await using old = await startGuest();
  await using hidden = await moveOn(old, { extra: [...privateRam, "-machine", "memory-backend=ram0"] });
  const ramFile = freePath("ram");
  writeFileSync(ramFile, new Uint8Array(32 << 20).fill(0xa5));
  await using next = await moveOn(hidden, {
    ramFile,
    extra: [
      ...["-object", `memory-backend-file,id=ram0,size=32M,share=on,mem-path=${ramFile}`],
      ...["-machine", "memory-backend=ram0"],
    ],
  });
  await next.runsOn();
  assert.ok(statSync(ramFile).blocks * 512 < 32 << 20, "zero pages are holes");
  await using last = await moveOn(next, {
    extra: ["-object", "memory-backend-memfd,id=ram0,size=32M,share=on", "-machine", "memory-backend=ram0"],
  });
  await last.runsOn();
});

test("RAM that a running VM has is not emptied for another", async () => {
  const ramFile = freePath("ram");
  await using old = await startGuest({ ramFile });
  await using qmp = await old.qmp();
  await using next = waiting("defer", {
    extra: [
      ...["-object", `memory-backend-file,id=ram0,size=32M,share=on,mem-path=${ramFile}`],
      ...["-machine", "memory-backend=ram0"],
    ],
  });
  await using nextQmp = await next.qmp();
  await nextQmp.execute("migrate-incoming", { uri: `unix:${freePath()}`, "exit-on-error": false });
  const uri = await listening(next, nextQmp);
  await qmp.execute("migrate", { uri });
  const info = await over(qmp);
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, `${ramFile} is the RAM of another VM`);
  await old.runsOn();
});

test("a guest that does not run does not run afterwards either", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  await qmp.execute("stop");
  await using next = await moveOn(old);
  await using nextQmp = await next.qmp();
  assert.is((await nextQmp.execute("query-status")).status, "paused");
  await nextQmp.execute("cont");
  await next.runsOn();

  await using fresh = new GuestProcess({ runtime: thisRuntime, extra: ["-S"] });
  await using started = await moveOn(fresh);
  await using startedQmp = await started.qmp();
  assert.is((await startedQmp.execute("query-status")).status, "prelaunch");
  await startedQmp.execute("cont");
  await started.runsOn();
});

test("-S on the other side keeps a guest that ran from running", async () => {
  await using old = await startGuest();
  await using next = await moveOn(old, { extra: ["-S"] });
  await using nextQmp = await next.qmp();
  assert.is((await nextQmp.execute("query-status")).status, "paused");
  await nextQmp.execute("cont");
  await next.runsOn();
});

test("what a transport cannot do is refused before anything begins", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const refused = async (uri: string, message: string): Promise<void> => {
    assert.is((await rejection(() => qmp.execute("migrate", { uri }))).message, message);
  };
  await set(qmp, { capabilities: { multifd: true } });
  await refused("exec:cat > /dev/null", "Migration requires multi-channel URIs (e.g. tcp)");
  await refused("fd:none", "Migration requires multi-channel URIs (e.g. tcp)");
  await set(qmp, { capabilities: { multifd: false, "mapped-ram": true } });
  await refused("tcp:127.0.0.1:1", "Migration requires seekable transport (e.g. file)");
  assert.equal(await qmp.execute("query-migrate"), {});
});

const RUNTIMES: readonly Runtime[] = ["bun", "deno", "compiled"];
const skipMatrix = onlyOnBun ?? RUNTIMES.map(programMissing).find((missing) => missing !== undefined);

test.skipIf(skipMatrix, "every runtime takes a guest from every other", async () => {
  let guest = await GuestProcess.start({ runtime: "bun" });
  try {
    for (const runtime of ["deno", "compiled", "bun", "compiled", "deno", "bun"] as const) {
      const next = await moveOn(guest, { runtime });
      await guest[Symbol.asyncDispose]();
      guest = next;
      await guest.runsOn();
    }
  } finally {
    await guest[Symbol.asyncDispose]();
  }
  assert.ok(existsSync(guest.dir));
});

test.run();
