#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Init of the guest: a workload that checks itself on every CPU, and a shell on the console.
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev 2>/dev/null
mount -t tmpfs none /tmp
export PATH=/bin HOME=/ PS1='guest# '
# Kernel messages go to dmesg only: they would land in the middle of answers on the console.
dmesg -n 1

cpu=0
while [ -e /sys/devices/system/cpu/cpu$cpu ]; do
  taskset $(printf '%x' $((1 << cpu))) /bin/workload $cpu &
  cpu=$((cpu + 1))
done

# WATCH_KERNEL=yes comes from the kernel's command line.
[ -z "$WATCH_KERNEL" ] || /bin/watch-kernel &

echo "guest: ready $(uname -r) cpus $cpu clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
while true; do
  setsid cttyhack sh
done
