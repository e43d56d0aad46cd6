// SPDX-License-Identifier: Apache-2.0
import { Buffer } from "node:buffer";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { decodePart } from "../../../src/cli/state/decode.ts";
import { state } from "../../../src/cli/state.ts";
import { describeError, VmmError } from "../../../src/errors.ts";
import type { StateWriter } from "../../../src/state/writer.ts";
import { bytes, temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { changed, makeImage, REGS, withDirectory } from "../state/images.ts";

const test = describe("baton state");

const FIXTURE = fileURLToPath(new URL("../../fixtures/state-v1-microvm.bin", import.meta.url));
const UART = "ier:u8@0 divisor:u16@2 clock:i64@8 fifo:u8x4@16 cmos:u8x32@20";
const directory = temporaryDirectory();
let files = 0;

function fileOf(...contents: Uint8Array[]): string {
  const path = join(directory, `image-${files++}`);
  writeFileSync(path, Buffer.concat(contents));
  return path;
}

/** A Buffer's slice is not a copy, as `changed` needs it. */
function contentsOf(path: string): Uint8Array {
  return Uint8Array.from(readFileSync(path));
}

/** A file with what `makeImage` has, and a part of each type that is decoded. */
function imageFile({ ier = 1, msr = 0x10n, more = (_: StateWriter): void => {} } = {}): string {
  const fields = new DataView(new ArrayBuffer(52));
  fields.setUint8(0, ier);
  fields.setUint16(2, 0x180, true);
  fields.setBigInt64(8, -5n, true);
  const msrs = new DataView(new ArrayBuffer(24));
  msrs.setUint32(0, 1, true);
  msrs.setUint32(8, 0xc0000080, true);
  msrs.setBigUint64(16, msr, true);
  return fileOf(
    makeImage((writer) => {
      writer.add({ id: "device/uart", version: 1 }, [
        { name: "fields", type: UART, bytes: new Uint8Array(fields.buffer) },
        { name: "output", type: "u32 count, u8[]", bytes: Uint8Array.of(2, 0, 0, 0, 0x68, 0x69) },
      ]);
      writer.add({ id: "other", version: 1, required: false }, [
        { name: "msrs", type: "struct kvm_msrs", bytes: new Uint8Array(msrs.buffer) },
        { name: "stamps", type: "f64 ms[]", bytes: new Uint8Array(Float64Array.of(0.5, -2).buffer) },
        { name: "holder", type: "i32", bytes: Uint8Array.of(0xff, 0xff, 0xff, 0xff) },
        { name: "opaque", type: "struct unheard_of", bytes: new Uint8Array(100).fill(7) },
      ]);
      more(writer);
    }),
  );
}

/** Exit code and output. */
async function run(...args: string[]): Promise<{ exitCode: number; output: string }> {
  let output = "";
  const exitCode = await state(args, (text) => {
    output += text;
  });
  return { exitCode, output };
}

async function failure(...args: string[]): Promise<{ code: string; message: string }> {
  const error = await rejection(() => run(...args));
  assert.instance(error, VmmError);
  return { code: (error as VmmError).code, message: describeError(error) };
}

function lines(output: string): string[] {
  return output.split("\n").map((line) => line.trim());
}

function includesAll(output: string, expected: readonly string[]): void {
  const present = new Set(lines(output));
  for (const line of expected) assert.ok(present.has(line), `no line "${line}"`);
}

test("show prints head, sections and every part by its type", async () => {
  const { exitCode, output } = await run("show", imageFile());
  assert.is(exitCode, 0);
  includesAll(output, [
    ...["producer        baton 0.1.0", "architecture    x86_64", "format version  1"],
    ...["vcpu 1, version 2, required", "other 0, version 1, optional"],
    ...["value: json, 31 bytes", '"cpuCount": 2,', '"name": "größe"'],
    ...["regs: struct kvm_regs, 144 bytes", "rax = 0x706050403020100", "rflags = 0x8f8e8d8c8b8a8988"],
    ...["ier = 0x1", "divisor = 0x180", "clock = -5", "fifo = 00 00 00 00", "cmos[0x10] =" + " 00".repeat(16)],
    ...["count = 2", "[0x0004] = 68 69"],
    ...["0xc0000080 = 0x10", "ms[0] = 0.5", "ms[1] = -2", "value = -1"],
    ...["opaque: struct unheard_of, 100 bytes", "[0x0030] =" + " 07".repeat(16), "… 36 more bytes"],
  ]);
});

test("show prints the image that is kept of format 1", async () => {
  const { output } = await run("show", FIXTURE);
  includesAll(output, [
    ...["machine 0, version 1, required", "vcpu 1, version 1, required", "device/uart16550 0, version 1, required"],
    ...['"runState": "running"', "rip = 0x100bad", "0x175 = 0x2105", "monotonic_ns = 4674632350295", "ier = 0x1"],
  ]);
});

test("show finds an image that starts at an offset, written as for migrate", async () => {
  const image = readFileSync(FIXTURE);
  const { output } = await run("show", FIXTURE);
  const path = fileOf(new Uint8Array(4096), image);
  assert.is((await run("show", `${path},offset=4096`)).output, output);
  assert.is((await run("show", `${path},offset=4k`)).output, output);
  assert.is((await run("diff", FIXTURE, `${path},offset=0x1000`)).exitCode, 0);
});

test("show --json has every byte of every part, and the value of those that are decoded", async () => {
  for (const path of [imageFile(), FIXTURE]) {
    const { exitCode, output } = await run("show", "--json", path);
    assert.is(exitCode, 0);
    const image = readFileSync(path);
    const shown = JSON.parse(output);
    assert.is(shown.sizeBytes, image.length);
    assert.equal([shown.producer, shown.architecture, shown.formatVersion], ["baton 0.1.0", "x86_64", 1]);
    for (const { parts } of shown.sections) {
      for (const { offset, sizeBytes, base64 } of parts) {
        assert.is(base64, image.subarray(offset, offset + sizeBytes).toString("base64"));
      }
    }
  }
  const { sections } = JSON.parse((await run("--json", "show", imageFile())).output);
  assert.equal(sections[0].parts[0].value, { cpuCount: 2, name: "größe" });
  assert.is(sections[1].parts[0].value.rbx, "0xf0e0d0c0b0a0908");
  assert.equal(sections[4].parts[0].value, { "0xc0000080": "0x10" });
  assert.is(sections[4].parts[3].value, undefined);
});

test("show prints sections and versions that this program does not know, though they are required", async () => {
  const path = imageFile({ more: (writer) => writer.addJson({ id: "future", instance: 3, version: 99 }, [1]) });
  includesAll((await run("show", path)).output, ["future 3, version 99, required"]);
});

test("show lets no name or value control the terminal", async () => {
  const path = imageFile({ more: (writer) => writer.addJson({ id: "a\x1b[2J\nb", version: 1 }, "\x9b2J") });
  const { output } = await run("show", path);
  assert.not.match(output.replaceAll("\n", ""), /\p{Cc}/u);
  includesAll(output, ["a\\u{1b}[2J\\u{a}b 0, version 1, required", '"\\u{9b}2J"']);
});

test("decodePart dumps what does not have the size or the text that its type says", () => {
  const wrong: [type: string, bytes: Uint8Array][] = [
    ["json", bytes("{")],
    ["json", Uint8Array.of(0x22, 0xff, 0x22)],
    ["json", bytes("[".repeat(200_000) + "]".repeat(200_000))],
    ["struct kvm_regs", REGS.subarray(8)],
    ["struct kvm_msrs", Uint8Array.of(1, 0, 0, 0)],
    ["struct kvm_msrs", Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0)],
    ["control:u8@1", Uint8Array.of(1)],
    ["", Uint8Array.of(1)],
    ["u64", new Uint8Array(9)],
    ["f64 ms[]", new Uint8Array(9)],
    ["u32[], u8", new Uint8Array(5)],
  ];
  for (const [type, part] of wrong) {
    const { lines, value, omittedBytes } = decodePart(type, part, 64);
    assert.is(value, undefined, type);
    assert.is(lines[0]![0], "[0x0000]", type);
    assert.is(omittedBytes, Math.max(0, part.length - 64), type);
  }
  assert.equal(decodePart("", new Uint8Array(0), 64), { lines: [], value: {}, omittedBytes: 0 });
});

test("decodePart names the leaves of JSON by their path", () => {
  const { lines } = decodePart("json", bytes('{"a":[{"b-c":1},[]],"d.e":{"f":null},"g":{}}'), 64);
  assert.equal(lines, [
    ...[["a[0].b-c", "1"] as const, ["a[1]", "[]"] as const],
    ...[['["d.e"].f', "null"] as const, ["g", "{}"] as const],
  ]);
});

test("diff of equal images prints nothing and ends with 0", async () => {
  assert.equal(await run("diff", FIXTURE, FIXTURE), { exitCode: 0, output: "" });
  assert.equal(await run("diff", imageFile(), imageFile()), { exitCode: 0, output: "" });
  const { exitCode, output } = await run("diff", "--json", FIXTURE, FIXTURE);
  assert.is(exitCode, 0);
  assert.equal(JSON.parse(output), { equal: true, changes: [] });
});

test("diff prints fields, registers, MSRs and JSON paths that differ, and nothing else", async () => {
  const a = imageFile();
  const b = fileOf(
    changed(contentsOf(imageFile({ ier: 0xf, msr: 0x20n })), (view, image) => {
      const at = Buffer.from(image).indexOf(REGS);
      view.setBigUint64(at + 128, 0xfff0n, true);
      image.set(bytes('"cpuCount":3'), Buffer.from(image).indexOf('"cpuCount":2'));
    }),
  );
  const { exitCode, output } = await run("diff", a, b);
  assert.is(exitCode, 1);
  assert.equal(lines(output), [
    ...["machine 0 value", "- cpuCount = 2", "+ cpuCount = 3"],
    ...["vcpu 0 regs", "- rip = 0x8786858483828180", "+ rip = 0xfff0"],
    ...["device/uart 0 fields", "- ier = 0x1", "+ ier = 0xf"],
    ...["other 0 msrs", "- 0xc0000080 = 0x10", "+ 0xc0000080 = 0x20", ""],
  ]);
});

test("diff prints sections and parts that were added, removed or have another version, type or size", async () => {
  const part = (name: string, type: string, value: number[]) => ({ name, type, bytes: Uint8Array.from(value) });
  const a = imageFile({
    more: (writer) => {
      writer.add({ id: "x", version: 1 }, [part("gone", "u8[]", []), part("kept", "ier:u8@0", [1])]);
      writer.add({ id: "old", version: 1 }, [part("p", "u8[]", [])]);
    },
  });
  const b = imageFile({
    more: (writer) => {
      writer.add({ id: "new", version: 1 }, [part("p", "u8[]", []), part("q", "u8[]", [])]);
      writer.add({ id: "x", version: 2, required: false }, [
        part("kept", "ier:u8@0 lcr:u8@1", [1, 3]),
        part("come", "u8", [0]),
      ]);
    },
  });
  const { exitCode, output } = await run("diff", a, b);
  assert.is(exitCode, 1);
  assert.equal(lines(output), [
    ...["x 0", "- version = 1", "+ version = 2", "- required = true", "+ required = false"],
    ...["x 0 gone: removed", "x 0 kept", "- type = ier:u8@0", "+ type = ier:u8@0 lcr:u8@1"],
    ...["- size = 1 bytes", "+ size = 2 bytes", "+ lcr = 0x3", "x 0 come: added"],
    ...["old 0: removed", "- parts = p", "new 0: added", "+ parts = p, q", ""],
  ]);
  const { changes, equal } = JSON.parse((await run("diff", "--json", a, b)).output);
  assert.is(equal, false);
  assert.equal(changes[3], { where: "x 0 come", change: "added", lines: [] });
  assert.equal(changes[0].lines[0], { label: "version", old: "1", new: "2" });
});

test("diff tells bytes that differ where no type explains them, and where the values read the same", async () => {
  const json = (text: string) => (writer: StateWriter) =>
    writer.add({ id: "j", version: 1 }, [{ name: "value", type: "json", bytes: bytes(text) }]);
  const spaced = await run("diff", imageFile({ more: json("[1, 2]") }), imageFile({ more: json("[1,2 ]") }));
  assert.is(spaced.exitCode, 1);
  includesAll(spaced.output, ["- [0x0003] = 20 32 5d", "+ [0x0003] = 32 20 5d"]);
  const image = contentsOf(imageFile());
  const other = changed(image, (_, copy) => {
    copy[Buffer.from(copy).indexOf(new Uint8Array(100).fill(7)) + 99] = 8;
  });
  const { output } = await run("diff", fileOf(image), fileOf(other));
  assert.equal(lines(output), ["other 0 opaque", "- [0x0060] = 07 07 07 07", "+ [0x0060] = 07 07 07 08", ""]);
});

test("an image that cannot be read is refused by the name of its file, with the reason", async () => {
  const image = readFileSync(FIXTURE);
  const damaged = image.map((byte, index) => (index === image.length - 1 ? byte ^ 1 : byte));
  const cases: [Uint8Array, RegExp][] = [
    [damaged, /damaged: its CRC-32/],
    [image.subarray(0, 1000), /cut short/],
    [new Uint8Array(0), /cut short/],
    [bytes("QEVM".padEnd(100)), /wrong magic/],
    [withDirectory("{}"), /directory without producer/],
    [new Uint8Array(2 ** 26 + 1), /wrong magic/],
  ];
  for (const [contents, reason] of cases) {
    const path = fileOf(contents);
    for (const args of [
      ["show", path],
      ["diff", FIXTURE, path],
      ["show", "--json", path],
    ]) {
      const { code, message } = await failure(...args);
      assert.is(code, "state-refused");
      assert.match(message, path);
      assert.match(message, reason);
    }
  }
  const { message } = await failure("show", `${FIXTURE},offset=64`);
  assert.match(message, `'${FIXTURE}' from byte 64`);
});

test("a file that is not there, or is a directory, is named", async () => {
  const missing = join(directory, "missing");
  const { code, message } = await failure("diff", FIXTURE, missing);
  assert.is(code, "state-file");
  assert.match(message, `Could not read '${missing}'`);
  assert.match(message, "ENOENT");
  assert.is((await failure("show", directory)).code, "state-file");
});

test("a wrong command line is a usage error", async () => {
  const wrong: [string[], string][] = [
    [[], "show or diff is missing"],
    [["shwo", FIXTURE], "did you mean 'show'"],
    [["show"], "one file"],
    [["show", FIXTURE, FIXTURE], "one file"],
    [["diff", FIXTURE], "two files"],
    [["show", "--frob", FIXTURE], "--frob"],
    [["show", `${FIXTURE},offset=x`], "bad offset x"],
    [["show", ""], "no file name"],
  ];
  for (const [args, expected] of wrong) {
    const { code, message } = await failure(...args);
    assert.is(code, "usage", args.join(" "));
    assert.ok(message.includes(expected), message);
  }
});

test("--help prints the usage", async () => {
  const { exitCode, output } = await run("--help");
  assert.is(exitCode, 0);
  assert.match(output, "Usage: baton state show");
});

test.run();
