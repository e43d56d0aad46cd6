#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: health NONCE
# Prints what the kernel complained about, and a closing line with the number of complaints and the uptime.
dmesg | grep -iE 'soft lockup|hard lockup|rcu.*(stall|self-detected)|clocksource.*unstable|watchdog.*(skew|clocksource)|time jumped|lost interrupt|nobody cared|not responding|hung_task|blocked for more than|BUG:|Oops|WARNING:|general protection|segfault|machine check|hardware error|APIC error' > /tmp/complaints
sed "s/^/$1! /" /tmp/complaints
read uptime rest < /proc/uptime
echo "$1:$(wc -l < /tmp/complaints):$uptime"
