// SPDX-License-Identifier: Apache-2.0
// The engine's decoder against disassemblers: lengths, and what is no instruction. README.md, "The decoder".
import { readFileSync } from "node:fs";
import { brotliDecompressSync } from "node:zlib";
import {
  CPU_CR2,
  CPU_ERROR_CODE,
  CPU_EXCEPTION,
  CPU_GPRS,
  CPU_RIP,
  CPU_X87_CONTROL,
} from "../../../assembly/cpu/layout.ts";
import { assert, describe } from "../../harness.ts";
import { loadEngine } from "./engine.ts";
import { PRESENT, Rig, USER } from "./rig.ts";

const test = describe("cpu decoder");

const CODE = 0x1000_0000;
/** Each run has its code in another page, of which the engine knows nothing yet. */
const PLACES = 0x10_0000;
const PLACE_COUNT = 256;
const PAGE_SIZE_BYTES = 0x1000;
const ILLEGAL = 0x80;
const UD = 6;
const PAGE_FAULT = 14;
const PF_FETCH = 16;
const SHOWN = 20;

const rig = new Rig(loadEngine());
for (let place = 0; place < PLACE_COUNT; place++) {
  rig.map(BigInt(CODE + 2 * place * PAGE_SIZE_BYTES), PLACES + place * PAGE_SIZE_BYTES, PRESENT | USER);
}
let place = 0;

/** Runs the bytes at the end of a page. */
function run(bytes: Uint8Array): void {
  if (place === 0) rig.engine.stateChanged();
  const end = CODE + 2 * place * PAGE_SIZE_BYTES + PAGE_SIZE_BYTES;
  rig.ram.set(bytes, PLACES + (place + 1) * PAGE_SIZE_BYTES - bytes.length);
  place = (place + 1) % PLACE_COUNT;
  // Addresses that are mapped nowhere, so that nothing is written.
  for (let n = 0; n < 16; n++) rig.view.setBigUint64(CPU_GPRS + 8 * n, 0x4000_0000n, true);
  rig.view.setUint16(CPU_X87_CONTROL, 0x37f, true);
  rig.setRflags(0x202);
  rig.view.setBigUint64(CPU_RIP, BigInt(end - bytes.length), true);
  rig.engine.step();
}

/** Whether the engine has looked behind the end of the page for more bytes. */
function wantedMore(): boolean {
  const end = BigInt(CODE + (2 * (place === 0 ? PLACE_COUNT : place) - 1) * PAGE_SIZE_BYTES);
  return (
    rig.view.getUint32(CPU_EXCEPTION, true) === PAGE_FAULT &&
    (rig.view.getUint32(CPU_ERROR_CODE, true) & PF_FETCH) !== 0 &&
    rig.view.getBigUint64(CPU_CR2, true) === end
  );
}

/** What is wrong with the engine's view of these bytes; undefined for nothing. */
function problemOf(bytes: Uint8Array, isLegal: boolean): string | undefined {
  run(bytes);
  const isUndefined = rig.view.getUint32(CPU_EXCEPTION, true) === UD;
  if (!isLegal) return isUndefined ? undefined : "is none";
  if (isUndefined) return "is one";
  if (wantedMore()) return `has ${bytes.length} bytes, and the engine wants more`;
  run(bytes.subarray(0, bytes.length - 1));
  return wantedMore() ? undefined : `has ${bytes.length} bytes, and the engine is content with less`;
}

test("every string of bytes is an instruction of the right length, or none", () => {
  const corpus = new Uint8Array(brotliDecompressSync(readFileSync(new URL("decoder/corpus.bin", import.meta.url))));
  const problems: string[] = [];
  let count = 0;
  for (let at = 0; at < corpus.length; count++) {
    const head = corpus[at++]!;
    const bytes = corpus.subarray(at, at + (head & 0x7f));
    at += bytes.length;
    const problem = problemOf(bytes, (head & ILLEGAL) === 0);
    if (problem !== undefined) problems.push(`${Buffer.from(bytes).toString("hex")} ${problem}`);
  }
  assert.ok(count > 10_000);
  assert.is(problems.length, 0, `${problems.length} of ${count}:\n${problems.slice(0, SHOWN).join("\n")}`);
});

test.run();
