#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: answer NONCE COUNT
# Prints COUNT numbered lines over some time, so that an update can fall between them.
line=0
while [ $line -lt $2 ]; do
  line=$((line + 1))
  echo "$1:$line:$((line * 7919))"
  usleep 10000
done
