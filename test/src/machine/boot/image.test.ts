// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageOfBytes, openImage, readBytes } from "../../../../src/machine/boot/image.ts";
import { assert, describe } from "../../../harness.ts";
import { filler } from "./images.ts";
import { assertRefused } from "./machine.ts";

const test = describe("images");

const folder = mkdtempSync(join(tmpdir(), "baton-image-"));
const path = join(folder, "kernel");
test.before.each(() => writeFileSync(path, filler(10_000)));
test.after(() => rmSync(folder, { recursive: true }));

test("openImage() reads any range, also straight into shared memory", () => {
  using image = openImage(path);
  assert.is(image.name, path);
  assert.is(image.sizeBytes, 10_000);
  const target = new Uint8Array(new SharedArrayBuffer(4096), 100, 2000);
  image.read(target, 7000);
  assert.equal(Uint8Array.from(target), filler(10_000).subarray(7000, 9000));
});

test("openImage() closes its file", () => {
  const openFiles = (): number => readdirSync("/proc/self/fd").length;
  const before = openFiles();
  {
    using _image = openImage(path);
    assert.is(openFiles(), before + 1);
  }
  assert.is(openFiles(), before);
});

test("openImage() refuses what cannot be opened or is no file, and leaves nothing open", async () => {
  const before = readdirSync("/proc/self/fd").length;
  await assertRefused(() => openImage(join(folder, "missing")), "image-unreadable", "Cannot open the image");
  await assertRefused(() => openImage(folder), "image-unreadable", "Not a regular file");
  await assertRefused(() => openImage("/dev/zero"), "image-unreadable", "Not a regular file");
  assert.is(readdirSync("/proc/self/fd").length, before);
});

test("a file that shrinks while it is read is a truncated one", async () => {
  using image = openImage(path);
  truncateSync(path, 100);
  await assertRefused(() => image.read(new Uint8Array(200), 0), "image-truncated", "0x0-0xc8");
});

test("reads beyond the end name what was to be read", async () => {
  const image = imageOfBytes("k", filler(10));
  assert.equal(readBytes(image, "a header", 4, 6), filler(10).slice(4));
  await assertRefused(
    () => readBytes(image, "a header", 4, 7),
    "image-truncated",
    "k: Truncated: a header is at 0x4-0xb",
  );
  await assertRefused(() => image.read(new Uint8Array(1), 10), "image-truncated", "the file ends at 0xa");
});

test.run();
