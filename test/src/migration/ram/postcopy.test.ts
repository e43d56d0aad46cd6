// SPDX-License-Identifier: Apache-2.0
// The two threads of post-copy, with a main thread that waits for pages in place of a guest.

import { close } from "../../../../ffi/fd.ts";
import { IoMemory } from "../../../../ffi/iov.ts";
import { send } from "../../../../ffi/socket.ts";
import { FaultableMemory, openUserfaultfd } from "../../../../ffi/userfaultfd/userfaultfd.ts";
import { RamCrew } from "../../../../src/migration/ram/crew.ts";
import {
  encodeRecord,
  RECORD_END_OF_ROUND,
  RECORD_PAGES,
  type RecordKind,
} from "../../../../src/migration/ram/record.ts";
import { POSTCOPY_ROUND } from "../../../../src/migration/ram/record-input.ts";
import { userfaultfdMissing } from "../../../ffi/userfaultfd/support.ts";
import { until } from "../../../guest.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { BITMAP, PAGE, Ram, range, Sockets } from "./support.ts";

const test = describe("post-copy of RAM");
const skip = userfaultfdMissing();

const PAGES = 3000;
/** What the other side has not sent: all but the first pages, some of them zero. */
const MISSING = range(100, PAGES);
const DATA = MISSING.filter((page) => page % 7 !== 0);

/** One side that lacks pages, and the connections to it. */
class Destination implements AsyncDisposable {
  readonly ram = new Ram(PAGES);
  readonly sockets = new Sockets(2);
  readonly faultFd = openUserfaultfd();
  readonly crew: RamCrew;

  constructor() {
    const [urgentFd, backgroundFd] = this.sockets.far as [number, number];
    const { faultFd } = this;
    this.crew = new RamCrew(this.ram, [backgroundFd], { kind: "fetch-pages", urgentFd, faultFd });
  }

  /** Settles with what `fetch` ends with. */
  begin(missing: readonly number[]): Promise<unknown> {
    this.ram.setBits(BITMAP, missing);
    new FaultableMemory(this.faultFd, new IoMemory(this.ram.bytes)).register();
    return this.crew.run({ bitmap: BITMAP }).catch((error: unknown) => error);
  }

  /** Blocks this thread until the page is there. */
  firstWord(page: number): number {
    return new Uint32Array(this.ram.memory.buffer, this.ram.ramBase + page * PAGE, 1)[0]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.crew.close();
    close(this.faultFd);
    this.sockets[Symbol.dispose]();
    this.ram[Symbol.dispose]();
  }
}

test.skipIf(skip, "pages that are waited for come at once, the others after the commit", async () => {
  await using to = new Destination();
  using from = new Ram(PAGES);
  from.fill(range(0, 100));
  to.ram.fill(range(0, 100));
  from.fill(DATA);
  from.setBits(BITMAP, MISSING);
  const [urgentFd, backgroundFd] = to.sockets.near as [number, number];
  const server = new RamCrew(from, [backgroundFd], { kind: "serve-pages", urgentFd });
  const served = server.run({ bitmap: BITMAP }).catch((error: unknown) => error);
  const fetched = to.begin(MISSING);
  const wordAt = (page: number): number => new Uint32Array(from.memory.buffer, from.ramBase + page * PAGE, 1)[0]!;
  for (const page of [2999, 101, 1500]) assert.is(to.firstWord(page), wordAt(page), `page ${page}`);
  assert.is(to.firstWord(700), 0, "a zero page");
  assert.is(server.shared.requests, 4);
  assert.is(to.crew.shared.requests, 4);
  const isLeft = (page: number): boolean => ![2999, 101, 1500, 700].includes(page);
  assert.equal(from.bits(BITMAP), MISSING.filter(isLeft), "nobody has asked for the others");
  assert.ok(server.shared.commit());
  assert.ok(to.crew.shared.commit());
  const end = (await fetched) as { normalPages: number; zeroPages: number };
  assert.is(end.normalPages, DATA.length, String(end));
  assert.is(end.zeroPages, MISSING.length - DATA.length);
  assert.equal(to.ram.bits(BITMAP), []);
  assert.equal(from.differing(to.ram), []);
  server.cancel();
  assert.is(((await served) as { code: string }).code, "ram-cancelled");
  await server.close();
});

test.skipIf(skip, "a page of nobody is zero without being asked for", async () => {
  await using to = new Destination();
  const fetched = to.begin([5]);
  assert.is(to.firstWord(17), 0);
  assert.is(to.crew.shared.requests, 0);
  to.crew.cancel();
  await fetched;
});

test.skipIf(skip, "the connection is lost before the commit: nobody waits any more", async () => {
  await using to = new Destination();
  const fetched = to.begin(MISSING);
  to.sockets.close(to.sockets.near[0]!);
  assert.is(((await fetched) as { code: string }).code, "ram-peer");
  assert.is(to.firstWord(2000), 0);
  assert.not.ok(to.crew.shared.commit(), "this side may not have the guest");
});

/** Sends a record with `pages` on a connection of the other side. */
function sendRecord(
  fd: number,
  kind: RecordKind,
  firstPage: number,
  pageCount: number,
  sequence: number,
  size = 0,
): void {
  const words = new Uint32Array(8 + size / 4).fill(0xabcd, 8);
  encodeRecord(words, 0, { kind, firstPage, pageCount, payloadSizeBytes: size, sequence, round: POSTCOPY_ROUND });
  assert.is(send(fd, new Uint8Array(words.buffer)), words.byteLength);
}

test.skipIf(skip, "a page that comes twice is the guest's after the first time", async () => {
  await using to = new Destination();
  const fetched = to.begin([5, 6]);
  const [urgent, background] = to.sockets.near as [number, number];
  sendRecord(urgent, RECORD_PAGES, 5, 1, 0, PAGE);
  await until("the page", () => to.ram.bits(BITMAP).length === 1);
  to.ram.page(5).fill(1);
  sendRecord(background, RECORD_PAGES, 5, 2, 0, 2 * PAGE);
  sendRecord(background, RECORD_END_OF_ROUND, 0, 2, 1);
  assert.equal(await fetched, { ...((await fetched) as object), normalPages: 2, zeroPages: 0 });
  assert.is(to.ram.page(5)[0], 1);
  assert.is(to.firstWord(6), 0xabcd);
});

test.skipIf(skip, "damaged streams are refused", async () => {
  const cases: [text: RegExp, put: (urgent: number, background: number) => void][] = [
    [/in the background instead of 9/, (_, background) => sendRecord(background, RECORD_END_OF_ROUND, 0, 9, 0)],
    [/record of kind 4 with 0 bytes came in post-copy/, (urgent) => sendRecord(urgent, RECORD_END_OF_ROUND, 0, 0, 0)],
    [/record of kind 1 with 8192 bytes/, (urgent) => sendRecord(urgent, RECORD_PAGES, 5, 2, 0, 2 * PAGE)],
    [/record 3 came in place of 0/, (_, background) => sendRecord(background, RECORD_PAGES, 5, 1, 3, PAGE)],
    [/do not lie in RAM/, (_, background) => sendRecord(background, RECORD_PAGES, PAGES, 1, 0, PAGE)],
  ];
  for (const [text, put] of cases) {
    await using to = new Destination();
    const fetched = to.begin([5, 6]);
    put(to.sockets.near[0]!, to.sockets.near[1]!);
    const error = (await fetched) as Error;
    assert.match(error.message, text);
    await rejection(() => to.crew.run({ bitmap: BITMAP }));
  }
});

test.run();
