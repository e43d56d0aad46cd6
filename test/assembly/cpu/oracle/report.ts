// SPDX-License-Identifier: Apache-2.0
// Differences by their kind, most frequent first, each with an example that can be read.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Bits } from "../rig.ts";
import { type Case, NO_VECTOR } from "./cases.ts";
import type { Difference } from "./replay.ts";
import { STATE_GPRS, STATE_RFLAGS, STATE_RIP, type State } from "./state.ts";
import { type Parsed, parse } from "./tolerance.ts";

interface Kind {
  count: number;
  example: string;
  code: Uint8Array;
  rip: number;
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function nameOf(parsed: Parsed): string {
  const { opcode, modrm, has66, hasF2, hasF3, hasLock, hasRexW } = parsed;
  const prefixes = [hasLock && "lock", has66 && "66", hasF2 && "f2", hasF3 && "f3", hasRexW && "w"].filter(Boolean);
  const map = ["", "0f", "0f38", "0f3a"][opcode >> 8]!;
  const form = modrm >= 0xc0 ? "r" : "m";
  return [...prefixes, `${map}${(opcode & 0xff).toString(16).padStart(2, "0")}/${(modrm >> 3) & 7}${form}`].join(" ");
}

/** What was before, of the registers that one may want to know. */
function describe(state: State): string {
  const names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");
  const gprs = names.map((name, n) => `${name}=${state.view.getBigUint64(STATE_GPRS + 8 * n, true).toString(16)}`);
  return `rflags=${state.words[STATE_RFLAGS / 4]!.toString(16)} ${gprs.join(" ")}`;
}

/** AT&T disassembly, when objdump is there. */
function disassemble(code: Uint8Array, rip: number, bits: Bits): string {
  const directory = mkdtempSync(join(tmpdir(), "oracle-"));
  try {
    const file = join(directory, "code");
    writeFileSync(file, code);
    const machine = { 64: "i386:x86-64", 32: "i386", 16: "i8086" }[bits];
    const args = ["-D", "-b", "binary", "-m", machine, `--adjust-vma=${rip}`, file];
    const { status, stdout } = spawnSync("objdump", args, { encoding: "utf8" });
    if (status !== 0) return "";
    return /:\t[0-9a-f ]+\t(.*)/.exec(stdout)?.[1]?.trim() ?? "";
  } catch {
    return "";
  } finally {
    rmSync(directory, { recursive: true });
  }
}

export class Report {
  total = 0;
  failed = 0;
  readonly #bits: Bits;
  readonly #kinds = new Map<string, Kind>();

  constructor(bits: Bits) {
    this.#bits = bits;
  }

  add(found: Case, differences: readonly Difference[]): void {
    this.total++;
    if (differences.length === 0) return;
    this.failed++;
    const { code, before, seed, profile, vector } = found;
    const whats = differences.map(({ what, expected, got }) =>
      what === "exception" ? `${expected} not ${got}` : what,
    );
    // With another exception, everything else is other, too.
    const summary =
      differences[0]!.what === "exception" ? whats[0]! : whats.join(" ").replace(/\bx(mm|87\.r)\d+/g, "x$1");
    const key = `${nameOf(parse(code, this.#bits))}: ${summary}`;
    const kind = this.#kinds.get(key);
    if (kind !== undefined) {
      kind.count++;
      return;
    }
    const lines = differences.map(({ what, expected, got }) => `    ${what}: expected ${expected}, got ${got}`);
    const rip = before.words[STATE_RIP / 4]!;
    const expected = vector === NO_VECTOR ? "" : ` (expects exception ${vector})`;
    lines.unshift(`    seed ${seed}, profile ${profile}, ${describe(before)}${expected}`);
    this.#kinds.set(key, { count: 1, example: lines.join("\n"), code: code.slice(), rip });
  }

  /** The text of the most frequent kinds. */
  text(count: number): string {
    const kinds = [...this.#kinds].sort(([, a], [, b]) => b.count - a.count).slice(0, count);
    const texts = kinds.map(
      ([key, { count, code, rip, example }]) =>
        `${count} x ${key}\n    ${hexOf(code)}  ${disassemble(code, rip, this.#bits)}\n${example}`,
    );
    return [`${this.failed} of ${this.total} cases differ, in ${this.#kinds.size} ways`, ...texts].join("\n");
  }

  print(count: number): void {
    console.log(this.text(count));
  }
}
