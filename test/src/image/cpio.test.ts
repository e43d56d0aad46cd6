// SPDX-License-Identifier: Apache-2.0

import { encodeCpio, MODE_CHARACTER_DEVICE, MODE_DIRECTORY, MODE_FILE } from "../../../src/image/cpio.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("encodeCpio()");

/** One field of the header at `offset`, counted from 0 after the magic. */
function readField(archive: Uint8Array, offset: number, index: number): number {
  const begin = offset + 6 + index * 8;
  return Number.parseInt(new TextDecoder().decode(archive.subarray(begin, begin + 8)), 16);
}

test("pads names and data to 4 bytes and ends with a trailer", () => {
  const archive = encodeCpio([
    { path: "d", mode: MODE_DIRECTORY },
    { path: "d/file", mode: MODE_FILE, data: new TextEncoder().encode("12345") },
  ]);
  const text = new TextDecoder("latin1").decode(archive);
  // 110 bytes of header and "d\0" make 112; 110 and "d/file\0" make 117, so 120, and 5 bytes of data take 8.
  assert.equal(
    [...text.matchAll(/070701/g)].map((match) => match.index),
    [0, 112, 240],
  );
  assert.is(text.slice(232, 237), "12345");
  assert.ok(text.slice(240 + 110).startsWith("TRAILER!!!\0"));
  assert.is(archive.length % 4, 0);
});

test("gives each entry its mode, size, name length, links and inode", () => {
  const archive = encodeCpio([
    { path: "d", mode: MODE_DIRECTORY },
    { path: "d/file", mode: MODE_FILE, data: new Uint8Array(5) },
  ]);
  const [inode, mode, links, sizeBytes, nameBytes] = [0, 1, 4, 6, 11];
  assert.equal(
    [inode, mode, links, sizeBytes, nameBytes].map((field) => readField(archive, 0, field!)),
    [1, MODE_DIRECTORY, 2, 0, 2],
  );
  assert.equal(
    [inode, mode, links, sizeBytes, nameBytes].map((field) => readField(archive, 112, field!)),
    [2, MODE_FILE, 1, 5, 7],
  );
});

test("numbers device nodes", () => {
  const archive = encodeCpio([{ path: "console", mode: MODE_CHARACTER_DEVICE, device: [5, 1] }]);
  assert.equal([readField(archive, 0, 9), readField(archive, 0, 10)], [5, 1]);
});

test.run();
