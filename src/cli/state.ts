// SPDX-License-Identifier: Apache-2.0
// `baton state`: prints a saved state image, or in what two of them differ. It reads what any version wrote: only header,
// checksum and directory have to be right.
import { createReadStream } from "node:fs";
import { buffer } from "node:stream/consumers";
import { didYouMean } from "../config/suggest.ts";
import type { MigrationAddress } from "../config/types.ts";
import { UsageError } from "../config/usage.ts";
import { VmmError } from "../errors.ts";
import { parseMigrationUri } from "../qmp/migration-address.ts";
import {
  ARCHITECTURE,
  type Directory,
  FORMAT_VERSION,
  MAX_IMAGE_SIZE_BYTES,
  type PartEntry,
  type SectionEntry,
} from "../state/format.ts";
import { readDirectory, readHeader } from "../state/reader.ts";
import { parseVerbArguments } from "./arguments.ts";
import { decodePart, dumpRow, type Line } from "./state/decode.ts";

export const USAGE = `Usage: baton state show [--json] FILE
       baton state diff [--json] A B
Prints a saved state image, as "migrate file:FILE" leaves one, or in what two images differ.

  FILE, A, B  a path, or PATH,offset=N for an image that starts at byte N
  --json      for programs: each part with its bytes (base64) and, if its type is known, its value
  --help

Exit code: 0; of diff, 1 when the images differ. 1 also when an image cannot be read, with an error on stderr, and 2 for
a wrong command line.`;

const SHOW_DUMP_BYTES = 64;
/** More than any struct of KVM has; the output of a console that was not read need not be compared to its end. */
const DIFF_DUMP_BYTES = 2 ** 20;

interface Image {
  bytes: Uint8Array;
  directory: Directory;
}

/** What differs at `where`: a section (`vcpu 0`), or a part (`vcpu 0 regs`). */
interface Change {
  where: string;
  change: "added" | "removed" | "changed";
  /** What is undefined is not there on that side. */
  lines: { label: string; old: string | undefined; new: string | undefined }[];
}

/** Returns the exit code. @throws UsageError, VmmError "state-refused", "state-file" */
export async function state(args: string[], write: (text: string) => void = writeOut): Promise<number> {
  const options = { json: { type: "boolean", default: false } } as const;
  const { values, positionals } = parseVerbArguments("state", args, options, { allowPositionals: true });
  const print = (lines: readonly string[]): void => write(lines.map((line) => `${printable(line)}\n`).join(""));
  const printJson = (value: unknown): void => write(`${JSON.stringify(value, null, 2)}\n`);
  if (values.help) {
    print(USAGE.split("\n"));
    return 0;
  }
  const [verb, ...files] = positionals;
  switch (verb) {
    case "show": {
      const [file] = addresses(verb, files, 1);
      const image = await readImage(file!);
      if (values.json) printJson(describeImage(image));
      else print(showImage(image));
      return 0;
    }
    case "diff": {
      const [oldFile, newFile] = addresses(verb, files, 2);
      const changes = diffImages(await readImage(oldFile!), await readImage(newFile!));
      if (values.json) printJson({ equal: changes.length === 0, changes });
      else print(changes.flatMap(showChange));
      return changes.length === 0 ? 0 : 1;
    }
    case undefined:
      throw new UsageError("state: show or diff is missing; see baton state --help");
    default:
      throw new UsageError(`state: ${verb}: neither show nor diff${didYouMean(verb, ["show", "diff"])}`);
  }
}

function writeOut(text: string): void {
  // `| head` closes the pipe when it has seen enough.
  process.stdout.once("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
  });
  process.stdout.write(text);
}

type FileAddress = Extract<MigrationAddress, { transport: "file" }>;

function addresses(verb: string, files: readonly string[], count: number): FileAddress[] {
  if (files.length !== count) {
    throw new UsageError(`state: ${verb} takes ${count === 1 ? "one file" : "two files"}, not ${files.length}`);
  }
  return files.map((file) => {
    try {
      return parseMigrationUri(`file:${file}`) as FileAddress;
    } catch (error) {
      throw new UsageError(`state: ${verb} '${file}'`, { cause: error });
    }
  });
}

async function readImage({ filename, offset }: FileAddress): Promise<Image> {
  const where = `'${filename}'${offset === 0 ? "" : ` from byte ${offset}`}`;
  let bytes: Uint8Array;
  try {
    // A pipe cannot be read from a place, not even from 0.
    const range = offset === 0 ? {} : { start: offset };
    bytes = await buffer(createReadStream(filename, { ...range, end: offset + MAX_IMAGE_SIZE_BYTES - 1 }));
  } catch (error) {
    throw new VmmError("state-file", `Could not read ${where}`, { cause: error });
  }
  try {
    // RAM may follow the image.
    const image = bytes.subarray(0, readHeader(bytes));
    return { bytes: image, directory: readDirectory(image) };
  } catch (error) {
    throw new VmmError("state-refused", `${where} is no state image that can be read`, { cause: error });
  }
}

/** Names and values are the file's: none of them may control the terminal. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

function bytesOf(image: Image, { offset, sizeBytes }: PartEntry): Uint8Array {
  return image.bytes.subarray(offset, offset + sizeBytes);
}

/** What there is to say of the whole image. `readDirectory` lets no other architecture and format pass. */
function headOf({ bytes, directory }: Image) {
  const { producer } = directory;
  return { producer, architecture: ARCHITECTURE, formatVersion: FORMAT_VERSION, sizeBytes: bytes.length };
}

function describeImage(image: Image) {
  const sections = image.directory.sections.map((section) => ({
    ...section,
    parts: section.parts.map((part) => {
      const bytes = bytesOf(image, part);
      const { value } = decodePart(part.type, bytes, 0);
      return { ...part, value, base64: Buffer.from(bytes).toString("base64") };
    }),
  }));
  return { ...headOf(image), sections };
}

function showImage(image: Image): string[] {
  const { producer, architecture, formatVersion, sizeBytes } = headOf(image);
  const lines = [
    `producer        ${producer}`,
    `architecture    ${architecture}`,
    `format version  ${formatVersion}`,
    `size            ${sizeBytes} bytes`,
  ];
  for (const section of image.directory.sections) {
    lines.push("", titleOf(section));
    for (const part of section.parts) {
      lines.push(`  ${part.name}: ${part.type === "" ? "no fields" : part.type}, ${part.sizeBytes} bytes`);
      lines.push(...showPart(part.type, bytesOf(image, part)).map((line) => `    ${line}`));
    }
  }
  return lines;
}

function titleOf({ id, instance, version, required }: SectionEntry): string {
  return `${id} ${instance}, version ${version}, ${required ? "required" : "optional"}`;
}

function showPart(type: string, bytes: Uint8Array): string[] {
  const { lines, value, omittedBytes } = decodePart(type, bytes, SHOW_DUMP_BYTES);
  if (type === "json" && value !== undefined) return JSON.stringify(value, null, 2).split("\n");
  const shown = lines.map(([label, text]) => `${label} = ${text}`);
  return omittedBytes === 0 ? shown : [...shown, `… ${omittedBytes} more bytes`];
}

/** Order and place of sections and parts mean nothing, and are not compared. */
function diffImages(a: Image, b: Image): Change[] {
  const changes = changed(
    "image",
    diffLines([["producer", a.directory.producer]], [["producer", b.directory.producer]]),
  );
  const key = ({ id, instance }: SectionEntry): string => `${id} ${instance}`;
  for (const [where, before, after] of pairs(a.directory.sections, b.directory.sections, key)) {
    if (before === undefined || after === undefined) {
      changes.push(before === undefined ? oneSided(where, "added", after!) : oneSided(where, "removed", before));
      continue;
    }
    changes.push(...changed(where, diffLines(sectionLines(before), sectionLines(after))));
    for (const [name, oldPart, newPart] of pairs(before.parts, after.parts, (part) => part.name)) {
      const part = `${where} ${name}`;
      if (oldPart === undefined) changes.push({ where: part, change: "added", lines: [] });
      else if (newPart === undefined) changes.push({ where: part, change: "removed", lines: [] });
      else changes.push(...changed(part, diffParts(oldPart, bytesOf(a, oldPart), newPart, bytesOf(b, newPart))));
    }
  }
  return changes;
}

function sectionLines({ version, required }: SectionEntry): Line[] {
  return [
    ["version", `${version}`],
    ["required", `${required}`],
  ];
}

function partLines({ type, sizeBytes }: PartEntry): Line[] {
  return [
    ["type", type],
    ["size", `${sizeBytes} bytes`],
  ];
}

function oneSided(where: string, change: "added" | "removed", { parts }: SectionEntry): Change {
  const names = parts.map(({ name }) => name).join(", ");
  const [old, now] = change === "added" ? [undefined, names] : [names, undefined];
  return { where, change, lines: [{ label: "parts", old, new: now }] };
}

function changed(where: string, lines: Change["lines"]): Change[] {
  return lines.length === 0 ? [] : [{ where, change: "changed", lines }];
}

/** What has the same key on both sides, in the order of `a`; then what only `b` has. */
function pairs<T>(
  a: readonly T[],
  b: readonly T[],
  key: (item: T) => string,
): [string, T | undefined, T | undefined][] {
  const before = new Map(a.map((item) => [key(item), item]));
  const after = new Map(b.map((item) => [key(item), item]));
  return [...new Set([...before.keys(), ...after.keys()])].map((name) => [name, before.get(name), after.get(name)]);
}

function diffParts(oldPart: PartEntry, a: Uint8Array, newPart: PartEntry, b: Uint8Array): Change["lines"] {
  const decode = (type: string, bytes: Uint8Array): Line[] => decodePart(type, bytes, DIFF_DUMP_BYTES).lines;
  // Two comparisons: a device may have a field named `type`.
  const values = diffLines(decode(oldPart.type, a), decode(newPart.type, b));
  const lines = [...diffLines(partLines(oldPart), partLines(newPart)), ...values];
  if (lines.length > 0 || Buffer.compare(a, b) === 0) return lines;
  // Different bytes that read the same: white space in JSON, what lies between two fields, the end of a long dump.
  const at = a.findIndex((byte, index) => byte !== b[index]);
  return diffLines([dumpRow(a, at)], [dumpRow(b, at)]);
}

function diffLines(a: readonly Line[], b: readonly Line[]): Change["lines"] {
  return pairs(a, b, ([label]) => label)
    .map(([label, old, now]) => ({ label, old: old?.[1], new: now?.[1] }))
    .filter((line) => line.old !== line.new);
}

function showChange({ where, change, lines }: Change): string[] {
  const side = (sign: string, label: string, text: string | undefined): string[] =>
    text === undefined ? [] : [`${sign} ${label} = ${text}`];
  return [
    change === "changed" ? where : `${where}: ${change}`,
    ...lines.flatMap(({ label, old, new: now }) => [...side("-", label, old), ...side("+", label, now)]),
  ];
}
