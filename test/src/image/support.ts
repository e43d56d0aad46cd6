// SPDX-License-Identifier: Apache-2.0
// A machine as `baton image` finds it: programs that act as apt does, and nothing else.
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { temporaryDirectory } from "../../ffi/support.ts";
import { program, thisRuntime } from "../../guest.ts";
import { bzImage, elf } from "../machine/boot/images.ts";

export interface Outcome {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

export const KERNEL = bzImage();
export const BUSYBOX = elf({ bits: 64 });

/** `apt-get download NAME` and `dpkg-deb --extract FILE DIRECTORY`, with the packages of `$PACKAGES`. */
const PROGRAMS = {
  "apt-cache": `case $2 in
  linux-image-cloud-amd64) printf '%s\\n' "$2" '  Depends: linux-image-6.1.0-9-cloud-amd64' ;;
  *) echo "E: No packages found" >&2; exit 100 ;;
esac`,
  "apt-get": `test -d "$PACKAGES/$3" || { echo "E: Failed to fetch $3  Temporary failure resolving" >&2; exit 100; }
echo "$3" > "$3_1%3a6.1.9-1_amd64.deb"`,
  "dpkg-deb": `read -r package < "$2"
cp -r "$PACKAGES/$package" "$3"`,
};

export class FakeMachine {
  readonly dir = temporaryDirectory();
  readonly cacheHome = join(this.dir, "cache");
  readonly #path: string;

  /** @param programs those it has */
  constructor(programs: readonly (keyof typeof PROGRAMS)[] = ["apt-cache", "apt-get", "dpkg-deb"]) {
    this.#path = join(this.dir, "bin");
    mkdirSync(this.#path);
    mkdirSync(join(this.dir, "packages"));
    for (const name of programs) this.addProgram(name, `#!/bin/sh\nPATH=/usr/bin:/bin\n${PROGRAMS[name]}\n`);
  }

  addProgram(name: string, contents: string | Uint8Array): void {
    writeFileSync(join(this.#path, name), contents);
    chmodSync(join(this.#path, name), 0o755);
  }

  addPackage(name: string, path: string, contents: Uint8Array): void {
    this.write(join("packages", name, path), contents);
  }

  write(path: string, contents: string | Uint8Array): string {
    const full = join(this.dir, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, contents);
    return full;
  }

  get env(): NodeJS.ProcessEnv {
    const own = { PATH: this.#path, PACKAGES: join(this.dir, "packages"), XDG_CACHE_HOME: this.cacheHome };
    return { ...process.env, ...own };
  }

  /** `baton image` there. */
  image(...args: string[]): Promise<Outcome> {
    return runImage(args, this.env);
  }
}

export function runImage(args: readonly string[], env: NodeJS.ProcessEnv): Promise<Outcome> {
  const [command, ...rest] = [...program(thisRuntime), "image", ...args];
  const child = spawn(command!, rest, { env, stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  return new Promise((resolve) => child.once("close", (exitCode) => resolve({ exitCode, stdout, stderr })));
}

/** Why apt cannot be asked here. */
export function whyNoApt(): string | undefined {
  if (process.versions.bun === undefined) return "apt is the same whoever asks: asked on Bun only";
  const [command, ...args] = ["apt-get", "download", "-q", "busybox-static"];
  const { error, status, stderr } = spawnSync(command!, args, {
    cwd: temporaryDirectory(),
    encoding: "utf8",
    timeout: 60_000,
  });
  if (error === undefined && status === 0) return undefined;
  return `apt-get cannot fetch busybox-static here: ${error?.message ?? stderr.trim().split("\n").at(-1)}`;
}
