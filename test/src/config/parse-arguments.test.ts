// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { OPTIONS } from "../../../src/config/options.ts";
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveOptions } from "../../../src/config/resolve.ts";
import { VmmError } from "../../../src/errors.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("parse-arguments");

const noFile = (): string => {
  throw new Error("no such file");
};
const refusal = async (...argv: string[]): Promise<string> => {
  const error = await rejection(() => parseArguments(argv, noFile));
  assert.is((error as VmmError).code, "usage");
  return error.message;
};

test("one dash and two are the same, and the order is kept", () => {
  const { options, show } = parseArguments(["-m", "1G", "--smp", "2", "-M", "q35", "-S", "--nodefaults"]);
  assert.is(show, undefined);
  assert.equal(
    options.map(({ flag, value }) => [flag, value]),
    [
      ["m", "1G"],
      ["smp", "2"],
      ["machine", "q35"],
      ["S", true],
      ["nodefaults", true],
    ],
  );
  assert.is(options[0]!.origin, "-m 1G");
});

test("a value may look like an option", () => {
  assert.is(parseArguments(["-append", "-S"]).options[0]!.value, "-S");
});

test("help and version end the reading", () => {
  assert.is(parseArguments(["-S", "-h", "-nonsense"]).show, "help");
  assert.is(parseArguments(["--help"]).show, "help");
  assert.is(parseArguments(["-version"]).show, "version");
});

test("what is no option is refused, with a suggestion", async () => {
  assert.is(await refusal("-machin", "q35"), "-machin: Invalid option (did you mean 'machine'?)");
  assert.is(await refusal("--foo"), "--foo: Invalid option");
  assert.is(await refusal("-x"), "-x: Invalid option");
  assert.is(await refusal("-m"), "-m: Requires an argument: [size=]N[k|M|G]");
  assert.is(await refusal("-m=1G"), "-m=1G: Write the value as an argument of its own: -m 1G");
  assert.is(await refusal("disk.img"), "Unexpected argument 'disk.img': options start with a dash");
  assert.is(
    await refusal("machine"),
    "Unexpected argument 'machine' (did you mean '-machine'?): options start with a dash",
  );
  assert.is(await refusal(""), "Unexpected argument '': options start with a dash");
  assert.is(await refusal("-"), "Unexpected argument '-': options start with a dash");
  assert.is(await refusal("-nographic"), "-nographic: Invalid option: use -serial stdio; there never is a display");
  assert.is(await refusal("-constructor"), "-constructor: Invalid option");
});

test("--config puts the options of a JSON file in its place", async () => {
  const files: Record<string, string> = {
    "vm.json": '{"m": 512, "smp": 2, "S": true, "no-reboot": false, "serial": ["none", "null"]}',
    "list.json": "[1]",
    "bad.json": "{",
  };
  const read = (path: string): string => files[path] ?? noFile();
  const { options } = parseArguments(["-m", "1G", "--config", "vm.json", "-m", "2G"], read);
  assert.equal(
    options.map(({ flag, value }) => [flag, value]),
    [
      ["m", "1G"],
      ["m", "512"],
      ["smp", "2"],
      ["S", true],
      ["serial", "none"],
      ["serial", "null"],
      ["m", "2G"],
    ],
  );
  assert.is(options[5]!.origin, "vm.json: serial[1]");
  const message = async (path: string): Promise<string> =>
    (await rejection(() => parseArguments(["--config", path], read))).message;
  assert.is(await message("absent.json"), "--config absent.json: Cannot read the file");
  assert.is(await message("bad.json"), "bad.json: JSON parse error");
  assert.is(await message("list.json"), "list.json: Expected an object whose keys are option names");
});

test("--config reads a real file", () => {
  const path = new URL("../../../package.json", import.meta.url).pathname;
  assert.throws(() => parseArguments(["--config", path]), /Invalid option 'version'/);
});

test("any command line is a machine or a VmmError", () => {
  const flags = OPTIONS.flatMap(({ flag }) => [`-${flag}`, `--${flag}`]);
  const words = fc.constantFrom(
    ...[
      "microvm",
      "stdio",
      "null",
      "unix:",
      "tcp:",
      "tcp:[::1]:1",
      "file:x",
      "pipe:",
      "mon:stdio",
      "chardev:a",
      "none",
    ],
    ...["host", "+a", "-b", "kvm", "kvm:tcg", "defer", "cpr", "addr.type=unix", "addr.args.0=a", "channel-type=main"],
    ...[
      "memory-backend-memfd",
      "id=a",
      "size=1M",
      "share",
      "noshare",
      "size=",
      "1.5G",
      "0x1",
      "=",
      "a.b.c=1",
      "cpus=3",
    ],
    ...["cores=2", "threads=2", "isa-debug-exit", "iobase=0xf4", "socket", "path=p", "host=h", "port=1", "server"],
    ...["__proto__=1", "addr.__proto__.x=1", "constructor", "a.".repeat(600), '{"a":{"toString":1}}', "\0", "none"],
  );
  const value = fc.oneof(
    fc.array(fc.oneof(words, fc.string()), { maxLength: 6 }).map((parts) => parts.join(",")),
    fc.string(),
    fc.json(),
    fc.object().map((object) => JSON.stringify({ "qom-type": "memory-backend-ram", ...object })),
  );
  const option = fc.tuple(fc.constantFrom(...flags), value);
  const argv = fc.oneof(
    fc.array(option, { maxLength: 6 }).map((pairs) => pairs.flat()),
    fc.array(fc.oneof(fc.constantFrom(...flags), value, fc.string())),
  );
  fc.assert(
    fc.property(argv, fc.json(), (args, file) => {
      try {
        resolveOptions(parseArguments(args, () => file).options);
      } catch (error) {
        if (!(error instanceof VmmError)) throw error;
        assert.ok(error.message.length < 1000, error.message);
      }
    }),
    { numRuns: 3000 },
  );
});

test.run();
