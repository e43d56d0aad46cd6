#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: watch-kernel
# Prints what the kernel complains about from now on, for a console on which nobody can ask:
#   guest: kernel COMPLAINT
dmesg -c > /dev/null
while true; do
  dmesg -c | complaints | sed 's/^/guest: kernel /'
  sleep 1
done
