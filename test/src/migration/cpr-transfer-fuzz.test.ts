// SPDX-License-Identifier: Apache-2.0
// One guest, transferred again and again, with a kill at a random moment every third time. BATON_TEST_TRANSFERS=200 for
// the long run, BATON_TEST_SEED to repeat one.
import { existsSync, readdirSync, readlinkSync } from "node:fs";
import { FENCE_BASE, FENCE_OWNER, FENCE_TAKEN } from "../../../assembly/layout.ts";
import { close, O_RDONLY, open, pread } from "../../../ffi/fd.ts";
import { FRAME_ACCEPTED, FRAME_LISTENING, FRAME_REHEARSED, FRAME_STATE } from "../../../src/migration/messages.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { GuestProcess, onlyOnBun, programMissing } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import {
  ALL_RUNTIMES,
  beginTransfer,
  complaints,
  faulty,
  hasMoved,
  hasStayed,
  over,
  sockets,
  untilListening,
  untilStopped,
  waiting,
} from "./transfers.ts";

const test = describe("cpr-transfer: fuzz");
const skip = onlyOnBun ?? programMissing("compiled");
const transferCount = Number(process.env.BATON_TEST_TRANSFERS ?? 12);
const seed = Number(process.env.BATON_TEST_SEED ?? Date.now() % 2 ** 31);

/** Park and Miller's generator: a run can be repeated, as far as processes run alike. */
let random = (seed % 2147483646) + 1;
function below(limit: number): number {
  random = (random * 48271) % 2147483647;
  return random % limit;
}

const pick = <T>(items: readonly T[]): T => items[below(items.length)]!;

/** Steps at which the new side has not got the guest yet. */
const NEW_SIDE_STEPS = [
  "built",
  `send ${FRAME_ACCEPTED}`,
  `sent ${FRAME_ACCEPTED}`,
  `send ${FRAME_LISTENING}`,
  `sent ${FRAME_LISTENING}`,
  `send ${FRAME_REHEARSED}`,
  `sent ${FRAME_REHEARSED}`,
  "restored",
];
/** When it sends its guest away, the process dies with the last byte. */
const OLD_SIDE_STEP = `shown ${FRAME_STATE}`;

/** Who owns the guest, as the fence between the two says; undefined when there is none, not yet or not any more. */
function readFence(...guests: GuestProcess[]): number | undefined {
  for (const { pid } of guests) {
    const dir = `/proc/${pid}/fd`;
    for (const name of existsSync(dir) ? readdirSync(dir) : []) {
      let fd: number;
      try {
        if (!readlinkSync(`${dir}/${name}`).startsWith("/memfd:baton-fence")) continue;
        fd = open(`${dir}/${name}`, O_RDONLY);
      } catch {
        // It has been closed meanwhile.
        continue;
      }
      const word = new Int32Array(1);
      pread(fd, new Uint8Array(word.buffer), FENCE_OWNER - FENCE_BASE);
      close(fd);
      return word[0]!;
    }
  }
  return undefined;
}

async function killed(guest: GuestProcess): Promise<void> {
  guest.signal("SIGKILL");
  await guest.ended;
}

/** Kills whoever has not got the guest at this very moment, and returns the one who has. */
async function killTheOther(old: GuestProcess, qmp: QmpClient, next: GuestProcess): Promise<GuestProcess> {
  // A process that is stopped takes nothing: what is read now stays true.
  next.signal("SIGSTOP");
  await untilStopped(next);
  const owner = readFence(next, old);
  const isTaken =
    owner === undefined ? (await qmp.execute("query-migrate")).status === "completed" : owner === FENCE_TAKEN;
  if (!isTaken) {
    await killed(next);
    return old;
  }
  await killed(old);
  next.signal("SIGCONT");
  return next;
}

interface Tally {
  moved: number;
  killedNew: number;
  killedOld: number;
}

test.skipIf(
  skip,
  `${transferCount} transfers with kills: the guest is never lost, never run twice, and clean`,
  async () => {
    const tally: Tally = { moved: 0, killedNew: 0, killedOld: 0 };
    let owner = await GuestProcess.start({ runtime: "bun", payload: { cpuCount: 2 } });
    let diesAsOld = false;
    let durationMs = 1000;
    try {
      for (let round = 1; round <= transferCount; round++) {
        const place = sockets();
        const isFuzzed = round % 3 === 0;
        const newSideStep: string | undefined =
          isFuzzed && !diesAsOld && below(2) === 0 ? pick(NEW_SIDE_STEPS) : undefined;
        const willDieAsOld: boolean = newSideStep === undefined && round % 3 === 2 && below(3) === 0;
        const fault = newSideStep ?? (willDieAsOld ? OLD_SIDE_STEP : undefined);
        const next = waiting(place, fault === undefined ? { runtime: pick(ALL_RUNTIMES) } : faulty(fault));
        const what = `seed ${seed}, round ${round}, ${diesAsOld ? OLD_SIDE_STEP : (newSideStep ?? (isFuzzed ? "random" : "plain"))}`;
        try {
          await untilListening(next, place.cpr);
          const counter = owner.counter();
          const qmp = await owner.qmp();
          const startedMs = performance.now();
          await beginTransfer(qmp, place);
          let winner: GuestProcess;
          if (diesAsOld) {
            await owner.ended;
            winner = next;
          } else if (newSideStep !== undefined) {
            await next.ended;
            winner = owner;
          } else if (isFuzzed) {
            await new Promise((resolve) => setTimeout(resolve, below(Math.ceil(durationMs * 1.2))));
            winner = await killTheOther(owner, qmp, next);
          } else {
            const info = await over(qmp);
            assert.is(info.status, "completed", `${info["error-desc"]} ${complaints(owner, next)}`);
            durationMs = (durationMs * 3 + performance.now() - startedMs) / 4;
            await hasMoved(owner, next);
            winner = next;
          }
          if (winner === owner) {
            await hasStayed(owner, qmp);
            tally.killedNew++;
          } else {
            await using nextQmp = await next.qmp();
            assert.is((await over(nextQmp)).status, "completed");
            assert.equal(await nextQmp.execute("query-status"), { running: true, status: "running" });
            if (owner.hasEnded) tally.killedOld++;
            else tally.moved++;
          }
          qmp.destroy();
          await winner.runsOn();
          assert.ok(winner.counter() > counter, "the guest has counted on");
          const loser = winner === owner ? next : owner;
          await loser[Symbol.asyncDispose]();
          // Nobody else has a hand in the guest: it goes on, and finds nothing changed.
          await winner.runsOn();
          if (winner === next) diesAsOld = willDieAsOld;
          owner = winner;
        } catch (error) {
          await next[Symbol.asyncDispose]();
          throw new Error(`${what}: ${(error as Error).stack} ${complaints(owner, next)}`, { cause: error });
        }
      }
      const { checksRun, counters, errorCount } = owner.report()!;
      console.log(
        `${transferCount} transfers, seed ${seed}: ${tally.moved} went through, in ${tally.killedNew} the new side was ` +
          `killed and in ${tally.killedOld} the old one; the guest's vCPUs counted to ${counters.join(" and ")}, ` +
          `with ${checksRun.join(" and ")} rounds of checks and ${errorCount} errors`,
      );
      assert.is(tally.moved + tally.killedNew + tally.killedOld, transferCount);
      assert.is(errorCount, 0);
    } finally {
      await owner[Symbol.asyncDispose]();
    }
  },
);

test.run();
