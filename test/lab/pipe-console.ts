// SPDX-License-Identifier: Apache-2.0
// A guest's console as a pipe that each VMM writes to, one after the other: a guest that ran twice says a thing twice, and one that
// was lost or set back leaves rounds out or begins again.
import { spawn, spawnSync } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryDirectory } from "../ffi/support.ts";
import { check } from "./scenario.ts";

export interface PipeConsole extends Disposable {
  /** Options of every VMM. */
  backends: string[];
  transcript(): string;
  /** The last of it, for messages. */
  tail(): string;
}

/** A pipe, as a back end of a character device, and what has come out of it. Not a file, whose size a fault limits. */
export function makeConsole(): PipeConsole {
  const path = join(temporaryDirectory(), "console");
  const { status, stderr } = spawnSync("mkfifo", [`${path}.in`, `${path}.out`]);
  check(status === 0, `mkfifo failed: ${stderr}`);
  const kept = openSync(`${path}.txt`, "a");
  // Opened for writing, too: it has no end when a VMM has.
  const reader = spawn("sh", ["-c", `exec cat <>"$0"`, `${path}.out`], { stdio: ["ignore", kept, "inherit"] });
  closeSync(kept);
  const transcript = (): string => readFileSync(`${path}.txt`, "latin1");
  return {
    backends: ["-chardev", `pipe,id=console,path=${path}`, "-serial", "chardev:console"],
    transcript,
    tail: () => transcript().replaceAll("\r", "").split("\n").slice(-30).join("\n"),
    [Symbol.dispose]: () => void reader.kill("SIGKILL"),
  };
}

/**
 * The time of a guest with WATCH_KERNEL has gone on by no more than the host's did since `beginMs`. That it goes on at all can be seen
 * by its rounds.
 */
export function checkUptime(transcript: string, beginMs: number): void {
  const elapsedSeconds = (performance.now() - beginMs) / 1000;
  const [, uptime] = [...transcript.matchAll(/guest: uptime ([\d.]+)\r\n/g)].at(-1) ?? [];
  check(
    uptime !== undefined && Number(uptime) < elapsedSeconds,
    `The guest has been up for ${uptime} s, and its VMM was started ${elapsedSeconds.toFixed(2)} s ago`,
  );
}
