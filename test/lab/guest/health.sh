#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: health NONCE
# Prints what the kernel complained about, and a closing line with the number of complaints and the uptime.
dmesg | complaints > /tmp/complaints
sed "s/^/$1! /" /tmp/complaints
read uptime rest < /proc/uptime
echo "$1:$(wc -l < /tmp/complaints):$uptime"
