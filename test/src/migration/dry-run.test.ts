// SPDX-License-Identifier: Apache-2.0
// Dry runs of updates: what they find, and that the guest does not notice.
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findMemoryFile } from "../../../src/meter/guest-ram.ts";
import { splitCommand } from "../../../src/migration/dry-run.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { DryRunInfo, MigMode } from "../../../src/qmp/schema/migration.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import {
  GuestProcess,
  privateRam,
  program,
  programMissing,
  recordEvents,
  settled,
  thisRuntime,
  until,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { holdsNoMore, resting, sockets, variant, waiting } from "./transfers.ts";

const test = describe("dry run");

const startGuest = (options = {}) => GuestProcess.start({ runtime: thisRuntime, payload: { cpuCount: 2 }, ...options });

async function begin(qmp: QmpClient, command: string[], mode: MigMode = "cpr-exec"): Promise<void> {
  await qmp.execute("migrate-set-parameters", { mode, "cpr-exec-command": command });
  await qmp.execute("migrate", { "dry-run": true });
}

async function outcome(qmp: QmpClient): Promise<DryRunInfo> {
  return until("the end of the dry run", async () => {
    const { "dry-run": info } = await qmp.execute("query-migrate");
    return info!.status === "active" ? undefined : info!;
  });
}

async function dryRun(qmp: QmpClient, command: string[] = [], mode?: MigMode): Promise<DryRunInfo> {
  await begin(qmp, command, mode);
  return outcome(qmp);
}

const NOTHING_DONE = `echo '{"image":"x","problems":[],"phases":[]}'`;

/** A program that does what a shell script says. */
function script(text: string): string {
  const path = join(temporaryDirectory(), "script");
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

test("an update that would work is predicted, and nothing is updated", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const image = guest.imageIdentity();
  await dryRun(qmp);
  const before = await resting(guest);
  for (const [mode, phases] of [
    ["cpr-exec", ["quiesce", "save", "carry", "exec", "boot", "kvm", "restore"]],
    ["cpr-transfer", ["quiesce", "save", "carry", "restore"]],
  ] as const) {
    const info = await dryRun(qmp, [], mode);
    assert.equal([info.status, info.mode, info.problems], ["would-work", mode, []], JSON.stringify(info));
    assert.match(info.image!, /^baton \d/);
    assert.equal(
      info.phases!.map(({ phase }) => phase),
      phases,
    );
    const sum = info.phases!.reduce((total, { "duration-us": us }) => total + us, 0);
    assert.is(info["predicted-downtime-us"], sum);
    assert.ok(info.phases!.every(({ "duration-us": us }) => us > 0));
    assert.ok(info["standstill-us"]! > 0);
    await guest.runsOn();
  }
  const { status, updates } = await qmp.execute("query-migrate");
  assert.equal([status, updates], [undefined, undefined]);
  assert.is(guest.imageIdentity(), image);
  await settled();
  assert.equal(events, [], "nobody hears of it");
  holdsNoMore(await resting(guest), before, "the VM");
});

test("a guest that is paused stays so, with every byte of its RAM", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("stop");
  const ram = (): Uint8Array => readFileSync(findMemoryFile(guest.pid, ["ram0"])!);
  const before = Buffer.from(ram());
  for (const mode of ["cpr-exec", "cpr-transfer"] as const) {
    assert.is((await dryRun(qmp, [], mode)).status, "would-work");
    assert.is((await qmp.execute("query-status")).status, "paused");
  }
  assert.ok(before.equals(ram()));
  await qmp.execute("cont");
  await guest.runsOn();
});

test("names everything that a new program cannot read", async () => {
  const older = variant("refusing-baton.ts", { BATON_TEST_REFUSE: "vcpu:0" });
  await using guest = await startGuest({ env: older.env! });
  await using qmp = await guest.qmp();
  const info = await dryRun(qmp, older.program!);
  assert.is(info.status, "would-fail", JSON.stringify(info));
  assert.equal(
    info.problems.map(({ code, device }) => [code, device]),
    [
      ["state-refused", "vcpu 0"],
      ["state-refused", "vcpu 1"],
    ],
  );
  assert.match(
    info.problems[0]!.text,
    /^State section vcpu 0 has version 1, written by baton .*, which does not know it$/,
  );
  assert.match(info.problems[0]!.fix!, /not older/);
  await guest.runsOn();
});

test("names everything that a new command line says otherwise", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const command = [...program(thisRuntime), "-smp", "3", "-uuid", "3d2f9d7a-5b0f-4b57-9d3c-0c2d7a0a4f11"];
  const info = await dryRun(qmp, command);
  assert.is(info.status, "would-fail", JSON.stringify(info));
  assert.equal(
    info.problems.map(({ code, device }) => [code, device]),
    [
      ["machine-differs", "number of CPUs"],
      ["machine-differs", "UUID"],
    ],
  );
  const unknown = await dryRun(qmp, [...program(thisRuntime), "-smp", "many"]);
  assert.equal([unknown.status, unknown.problems[0]!.code], ["would-fail", "usage"]);
  await guest.runsOn();
});

test("tells of blockers beside what the new program says", async () => {
  await using guest = new GuestProcess({
    runtime: thisRuntime,
    ram: privateRam(),
  });
  await using qmp = await guest.qmp();
  const info = await dryRun(qmp);
  assert.equal([info.status, info.problems.length], ["would-fail", 1]);
  const [{ code, device, fix }] = info.problems as [DryRunInfo["problems"][number]];
  assert.equal([code, device], ["ram-not-shared", "ram0"]);
  assert.match(fix!, "share=on");
  assert.match(info.image!, /^baton \d/, "it was asked all the same");
  assert.is((await qmp.execute("query-status")).status, "running");
});

test("programs that are not there, are not Baton, fail or make no sense", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const says = (answer: string): string => `[ "$1" = --version ] && echo baton 9.9.9 || ${answer}`;
  const outcomes: [command: string, code: string, text: RegExp][] = [
    ["/no/baton", "exec-failed", /execvp \/no\/baton failed: No such file or directory/],
    ["/bin/true", "not-baton", /'\/bin\/true --version' printed/],
    ["/bin/false", "not-baton", /\/bin\/false is not Baton, or cannot run here: it ended with 1/],
    [script(says("{ echo no such verb >&2; exit 2; }")), "no-answer", /it ended with 2: no such verb$/],
    [script(says("kill -9 $$")), "no-answer", /it ended with SIGKILL$/],
  ];
  for (const [command, code, text] of outcomes) {
    const info = await dryRun(qmp, [command]);
    assert.equal([info.status, info.problems.length], ["would-fail", 1], JSON.stringify(info));
    assert.is(info.problems[0]!.code, code);
    assert.match(info.problems[0]!.text, text);
  }
  for (const answer of ["echo {", "echo '{}'", `echo '{"image":"x","problems":[],"phases":[1]}'`, NOTHING_DONE]) {
    const info = await dryRun(qmp, [script(says(answer))]);
    assert.is(info.status, "failed", JSON.stringify(info));
    assert.match(info["error-desc"]!, "answer to the dry run makes no sense");
  }
  await guest.runsOn();
});

test("can be cancelled, and is in nobody's way afterwards", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const slow = script('[ "$1" = --version ] && echo baton 9.9.9 || exec sleep 1000');
  await begin(qmp, [slow]);
  const place = sockets();
  await until("the program to be asked", () => guest.children().length > 0);
  for (const args of [{ "dry-run": true }, { uri: `unix:${place.main}` }]) {
    assert.match((await rejection(() => qmp.execute("migrate", args))).message, "There's a dry run in progress");
  }
  await guest.runsOn();
  await qmp.execute("migrate_cancel");
  assert.is((await outcome(qmp)).status, "cancelled");
  await until("the program to be gone", () => guest.children().length === 0);
  assert.is((await dryRun(qmp)).status, "would-work");
  await guest.runsOn();
});

test("what no dry run is possible of is refused at once", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const refused = async (mode: MigMode, args: Record<string, unknown> = {}): Promise<string> => {
    await qmp.execute("migrate-set-parameters", { mode });
    return (await rejection(() => qmp.execute("migrate", { "dry-run": true, ...args }))).message;
  };
  for (const mode of ["normal", "cpr-reboot"] as const) {
    assert.match(await refused(mode), `set mode to cpr-exec or cpr-transfer, not ${mode}`);
  }
  assert.match(await refused("cpr-exec", { uri: "tcp:localhost:1" }), "neither 'uri' nor 'channels'");
  assert.is((await qmp.execute("query-migrate"))["dry-run"], undefined);

  await using next = waiting(sockets());
  await using nextQmp = await next.qmp();
  await nextQmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  const error = await rejection(() => nextQmp.execute("migrate", { "dry-run": true }));
  assert.is(error.message, "There's a migration process in progress");
});

test.skipIf(programMissing("compiled"), "one program can be tried while another one runs", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  for (const command of [guest.command("compiled"), program("compiled")]) {
    const info = await dryRun(qmp, command);
    assert.is(info.status, "would-work", JSON.stringify(info));
  }
  await guest.runsOn();
});

test("a command line is split where Baton's own options begin", () => {
  const split = (...command: string[]) => Object.values(splitCommand(command)).map((words) => words.join(" "));
  assert.equal(split("baton"), ["baton", ""]);
  assert.equal(split("/opt/baton", "-m", "1G", "--kernel", "bun"), ["/opt/baton", "-m 1G --kernel bun"]);
  assert.equal(split("bun", "run", "main.ts"), ["bun run main.ts", ""]);
  assert.equal(split("deno", "run", "-A", "main.ts", "--smp", "2"), ["deno run -A main.ts", "--smp 2"]);
});

test.run();
