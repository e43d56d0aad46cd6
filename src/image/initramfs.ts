// SPDX-License-Identifier: Apache-2.0
// The guest's whole file system: busybox, a program that counts, and an init that says hello.
import { gzipSync } from "node:zlib";
import { buildCounter } from "./counter.ts";
import { type CpioEntry, encodeCpio, MODE_CHARACTER_DEVICE, MODE_DIRECTORY, MODE_PROGRAM } from "./cpio.ts";

/**
 * With this word on the kernel's command line init counts on every CPU and numbers lines. It is a shell all the same: what is
 * typed is done in between, in the one shell, and what that says is marked.
 */
export const COUNT_WORD = "baton.count";
/** Before every line of an answer, and after the last one. */
export const ANSWER_MARK = "> ";
export const ANSWER_END = ">.";

const INIT = `#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev 2>/dev/null
export PATH=/bin HOME=/ PS1='guest# '
# Kernel messages go to dmesg only: they would land in the middle of what is typed.
dmesg -n 1

if grep -qw ${COUNT_WORD} /proc/cmdline; then
  cpu=0
  while [ -e /sys/devices/system/cpu/cpu$cpu ]; do
    taskset $(printf '%x' $((1 << cpu))) /bin/counter &
    cpu=$((cpu + 1))
  done
  # What is typed comes back as an answer only. Not read between two lines: a read that is over in the middle of one loses it.
  stty -echo
  while read -r typed; do
    eval "$typed" > /tmp/said 2>&1
    sed 's/^/${ANSWER_MARK}/' /tmp/said
    echo '${ANSWER_END}'
  done < /dev/console &
  echo ready
  line=0
  # A pipe that nobody writes to is a clock that starts no program.
  mkfifo /tmp/never
  exec 3<> /tmp/never
  while true; do
    printf 'tick %08d\\n' $line
    line=$((line + 1))
    read -t 0.1 nothing <&3
  done
fi

echo
echo "Hello from Linux $(uname -r): $(nproc) CPU(s), $(free -m | awk '/^Mem/ { print $2 }') MiB. poweroff -f ends the VM."
while true; do
  setsid cttyhack sh
done
`;

/** Gzipped cpio; equal for equal busyboxes. */
export function buildInitramfs(busybox: Uint8Array): Uint8Array {
  const entries: CpioEntry[] = [
    { path: "bin", mode: MODE_DIRECTORY },
    { path: "dev", mode: MODE_DIRECTORY },
    // Init's own input and output, before it has mounted anything.
    { path: "dev/console", mode: MODE_CHARACTER_DEVICE, device: [5, 1] },
    { path: "bin/busybox", mode: MODE_PROGRAM, data: busybox },
    { path: "bin/counter", mode: MODE_PROGRAM, data: buildCounter() },
    { path: "init", mode: MODE_PROGRAM, data: new TextEncoder().encode(INIT) },
  ];
  return gzipSync(encodeCpio(entries));
}
