// SPDX-License-Identifier: Apache-2.0
// Guest RAM to a file and back.
import { statSync } from "node:fs";
import { join } from "node:path";
import { close, O_CREAT, O_RDONLY, O_RDWR, open, pwrite, truncate } from "../../../../ffi/fd.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { hashPages, pageChecks, RamFileWriter, readRam, writeRam } from "../../../../src/migration/ram/ram-file.ts";
import { temporaryDirectory } from "../../../ffi/support.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { BITMAP, OTHER_BITMAP, PAGE, Ram, range } from "./support.ts";

const test = describe("RAM in files");

const PAGES = 5000;
const FILE_OFFSET = 1 << 20;

class File implements Disposable {
  readonly path = join(temporaryDirectory(), "ram");
  readonly fd: number = open(this.path, O_RDWR | O_CREAT, 0o600);

  [Symbol.dispose](): void {
    close(this.fd);
  }
}

for (const streams of [1, 2]) {
  test(`${streams} streams: RAM comes back as it was, zero pages take no room, and a later round wins`, async () => {
    using from = new Ram(PAGES);
    using to = new Ram(PAGES);
    using file = new File();
    const options = { ...from, fd: file.fd, fileOffset: FILE_OFFSET, streams, checks: pageChecks(PAGES * PAGE) };
    const normal = [...range(0, 300), 2047, 2048, PAGES - 1];
    from.fill(normal);
    from.setBits(BITMAP, range(0, PAGES));
    {
      await using writer = new RamFileWriter(options);
      const first = await writer.writeRound(BITMAP, OTHER_BITMAP);
      assert.is(first.normalPages, normal.length);
      assert.is(first.zeroPages, PAGES - normal.length);
      assert.is(first.bytes, normal.length * PAGE);
      assert.equal(from.bits(OTHER_BITMAP), normal);
      assert.equal(from.bits(BITMAP), []);
      const { size, blocks } = statSync(file.path);
      assert.is(size, FILE_OFFSET + PAGES * PAGE);
      assert.ok(blocks * 512 < 2 * normal.length * PAGE, "sparse");
      from.fill([1, 3000], 2);
      from.page(2).fill(0);
      from.setBits(BITMAP, [1, 2, 3000]);
      await writer.writeRound(BITMAP, OTHER_BITMAP);
      assert.equal(writer.progress, {
        normalPages: normal.length + 2,
        zeroPages: PAGES - normal.length + 1,
        bytes: (normal.length + 2) * PAGE,
      });
    }
    const present = from.bits(OTHER_BITMAP);
    assert.ok(!present.includes(2) && present.includes(3000));
    to.setBits(BITMAP, present);
    const read = await readRam({ ...options, ...to, fd: file.fd }, BITMAP);
    assert.is(read.normalPages, present.length);
    assert.equal(from.differing(to), []);
    assert.equal(to.bits(BITMAP), present, "the bitmap is the caller's");
    const samples = [0, 1, 2, 2048, 3000, PAGES - 1];
    assert.equal(hashPages(from, samples), hashPages(to, samples));
    assert.is.not(hashPages(from, [0])[0], hashPages(from, [1])[0]);
    assert.instance(await rejection(() => hashPages(from, [PAGES])), RangeError);
  });
}

test("a page that is not what was written is found, wherever it is", async () => {
  using from = new Ram(PAGES);
  using file = new File();
  const options = { ...from, fd: file.fd, fileOffset: FILE_OFFSET, streams: 2, checks: pageChecks(PAGES * PAGE) };
  const pages = [0, 7, 2048, PAGES - 1];
  from.fill(pages);
  from.setBits(BITMAP, pages);
  await writeRam(options, BITMAP, OTHER_BITMAP);
  for (const page of pages) {
    const at = FILE_OFFSET + page * PAGE + 4095;
    const last = Uint8Array.of(from.page(page)[4095]! ^ 1);
    pwrite(file.fd, last, at);
    using to = new Ram(PAGES);
    to.setBits(BITMAP, pages);
    const damaged = (await rejection(() => readRam({ ...options, ...to, fd: file.fd }, BITMAP))) as VmmError;
    assert.is(damaged.code, "ram-file");
    assert.is(damaged.message, `Page ${page} of guest RAM, at byte ${at - 4095} of the file, is damaged`);
    last[0]! ^= 1;
    pwrite(file.fd, last, at);
  }
});

test("reading can be cancelled", async () => {
  using ram = new Ram(PAGES);
  using file = new File();
  const options = { ...ram, fd: file.fd, fileOffset: 0, streams: 2, checks: pageChecks(PAGES * PAGE) };
  ram.fill(range(0, PAGES));
  ram.setBits(BITMAP, range(0, PAGES));
  await writeRam(options, BITMAP, OTHER_BITMAP);
  const abort = new AbortController();
  const reading = rejection(() => readRam({ ...options, signal: abort.signal }, OTHER_BITMAP));
  abort.abort();
  assert.is(((await reading) as VmmError).code, "ram-cancelled");
});

test("a file that is too short, or that cannot be written, is named", async () => {
  using ram = new Ram(PAGES);
  using file = new File();
  const options = { ...ram, fd: file.fd, fileOffset: 0, streams: 2, checks: pageChecks(PAGES * PAGE) };
  ram.fill(range(0, 100));
  ram.setBits(BITMAP, range(0, 100));
  await writeRam(options, BITMAP, OTHER_BITMAP);
  truncate(file.fd, 99 * PAGE + 1);
  ram.fill([0], 9);
  const before = hashPages(ram, [0]);
  const short = (await rejection(() => readRam(options, OTHER_BITMAP))) as VmmError;
  assert.is(short.code, "ram-file");
  assert.match(short.message, /has 405505 bytes, and its pages need 409600/);
  assert.equal(hashPages(ram, [0]), before, "nothing was read");
  const readOnly = open(file.path, O_RDONLY);
  try {
    ram.setBits(BITMAP, [1]);
    const refused = (await rejection(() => writeRam({ ...options, fd: readOnly }, BITMAP, OTHER_BITMAP))) as VmmError;
    assert.match(refused.message, /pwritev\(fd \d+, 4096 bytes\) failed: EBADF/);
  } finally {
    close(readOnly);
  }
});

test.run();
