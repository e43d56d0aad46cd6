// SPDX-License-Identifier: Apache-2.0
// `baton image`: gets a Linux guest, a kernel and a small file system, and says how to start it.
import { resolve } from "node:path";
import { makeImage } from "../image/make.ts";
import { APPEND, cacheDir, type GuestImage } from "../image/store.ts";
import { programBefore } from "../runtime/program.ts";
import { parseVerbArguments } from "./arguments.ts";

const USAGE = `Usage: baton image [OPTION…]
Gets a Linux guest to boot: a kernel, and an initramfs with busybox that gives a shell on ttyS0. On Debian and Ubuntu
apt fetches both, without root and without installing them; elsewhere, or offline, what this machine has is taken. What
has been got is kept, and the next call only names it.

  --kernel WHAT    latest: the newest that apt has for virtual machines (default), else as boot;
                   boot: the newest /boot/vmlinuz-* that you may read; everything else is a file
  --busybox FILE   a busybox that is linked statically (default: apt's busybox-static, else the one on PATH)
  --dir DIR        where they are kept (default: $XDG_CACHE_HOME/baton, ~/.cache/baton)
  --json           for programs: kernel, initrd, append, command, and where they came from
  --help`;

const OPTIONS = {
  kernel: { type: "string" },
  busybox: { type: "string" },
  dir: { type: "string" },
  json: { type: "boolean", default: false },
} as const;

/** Returns the exit code. @throws UsageError, VmmError */
export async function image(args: readonly string[]): Promise<number> {
  const { values } = parseVerbArguments("image", args, OPTIONS);
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const found = makeImage({
    dir: resolve(values.dir ?? cacheDir()),
    kernel: values.kernel,
    busybox: values.busybox,
    log: (line) => process.stderr.write(`image: ${line}\n`),
  });
  const command = [
    ...programBefore(args.length + 1),
    "-m",
    "512M",
    "-kernel",
    found.kernel,
    "-initrd",
    found.initrd,
    "-append",
    APPEND,
  ];
  process.stdout.write(
    values.json ? `${JSON.stringify({ ...found, append: APPEND, command })}\n` : describe(found, command),
  );
  return 0;
}

function describe({ kernel, initrd, kernelFrom, busyboxFrom }: GuestImage, command: readonly string[]): string {
  const from = (path: string, origin: string): string => (origin === path ? path : `${path}  (${origin})`);
  return [
    `kernel  ${from(kernel, kernelFrom)}`,
    `initrd  ${initrd}  (${busyboxFrom})`,
    "",
    command.map(quote).join(" "),
    "",
  ].join("\n");
}

/** As a shell takes it. */
function quote(word: string): string {
  return /^[\w./:=,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
