#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: watch-kernel
# Prints what the kernel complains about from now on, for a console on which nobody can ask, and the time:
#   guest: kernel COMPLAINT
#   guest: uptime SECONDS
# An emulated CPU that gets no time of the machine's may look locked up to the kernel, without any update; that one really is
# locked up can be seen by its rounds.
dmesg -c > /dev/null
while true; do
  dmesg -c | complaints | grep -viE 'lockup|rcu' | sed 's/^/guest: kernel /'
  read uptime rest < /proc/uptime
  echo "guest: uptime $uptime"
  sleep 1
done
