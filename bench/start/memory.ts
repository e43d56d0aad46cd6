// SPDX-License-Identifier: Apache-2.0
// What of a process's memory is its own, from /proc/PID/smaps.

/** Sum of the PSS of all mappings but those of the memory file `ramName`. */
export function ownMemoryKiB(smaps: string, ramName: string): number {
  let isRam = false;
  let sumKiB = 0;
  for (const line of smaps.split("\n")) {
    // `7f0000000000-7f0008000000 rw-s 00000000 00:01 1024  /memfd:ram0 (deleted)`
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isRam = line.includes(`/memfd:${ramName} (deleted)`);
    const pss = /^Pss: +(\d+) kB$/.exec(line);
    if (pss !== null && !isRam) sumKiB += Number(pss[1]);
  }
  return sumKiB;
}
