#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: keeper
# Holds a file open that has no name any more: only memory knows it. Each round sums what the file holds, compares that
# with the sum of what was ever written, and writes more. Prints
#   guest: kept N lines ok (keeper PID, uptime SECONDS, boot BOOT_ID)
#   guest: CORRUPT kept N lines GOT WANTED
exec 3<> /tmp/kept
rm /tmp/kept
lines=0
while true; do
  # Appended through the descriptor, whose offset is part of what must last.
  echo "line $lines of process $$" >&3
  lines=$((lines + 1))
  set -- $(sha256sum < /proc/self/fd/3)
  got=$1
  set -- $(seq 0 $((lines - 1)) | sed "s/.*/line & of process $$/" | sha256sum)
  if [ $got = $1 ]; then
    read uptime rest < /proc/uptime
    read boot < /proc/sys/kernel/random/boot_id
    echo "guest: kept $lines lines ok (keeper $$, uptime $uptime, boot $boot)"
  else
    echo "guest: CORRUPT kept $lines lines $got $1"
  fi
  usleep 100000
done
