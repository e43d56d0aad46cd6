#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Usage: workload CPU
# Endless rounds that would notice lost or changed memory, registers or time. Each round writes a file and checks it,
# checks an older one, and computes two values that were computed outside (/known). Prints
#   guest: round N ok (cpu C)
#   guest: CORRUPT (cpu C) WHAT GOT WANTED
#   guest: clock BACKWARDS|JUMP (cpu C) WHAT FROM TO
cpu=$1
dir=/tmp/work$cpu
mkdir -p $dir
# known_sum: SHA-256 of `seq 1 5000`; known_series: the sum of 1/i for i below 2000, in floating point.
. /known

corrupt() {
  echo "guest: CORRUPT (cpu $cpu) $*"
}

# The sum of a file in $sum.
sum_file() {
  set -- $(sha256sum < $1)
  sum=$1
}

# Uptime in hundredths of a second in $uptime.
read_uptime() {
  read uptime rest < /proc/uptime
  # The 1 keeps "08" from being read as an octal number.
  uptime=$((${uptime%.*} * 100 + 1${uptime#*.} - 100))
}

# $uptime, and seconds since 1970 in $wall, read close together: else a pause between the two would pass for a jump.
read_clocks() {
  while true; do
    read_uptime
    before=$uptime
    wall=$(date +%s)
    read_uptime
    [ $((uptime - before)) -gt 50 ] || break
  done
}

# A round takes well under a second, on a host that has other things to do perhaps many: a jump is what is longer than that
# (LONGEST_PAUSE= in the kernel's command line, hundredths of a second). Whether the guest's clock went as far as the host's is compared
# outside. The two clocks here have no reason to disagree by more than the second that one of them counts in.
check_clocks() {
  last_uptime=$uptime last_wall=$wall
  read_clocks
  moved=$((uptime - last_uptime)) moved_wall=$(((wall - last_wall) * 100))
  [ $moved -ge 0 ] || echo "guest: clock BACKWARDS (cpu $cpu) uptime $last_uptime $uptime"
  [ $moved_wall -ge 0 ] || echo "guest: clock BACKWARDS (cpu $cpu) wall $last_wall $wall"
  [ $moved -le ${LONGEST_PAUSE:-6000} ] || echo "guest: clock JUMP (cpu $cpu) uptime $last_uptime $uptime"
  apart=$((moved - moved_wall))
  [ ${apart#-} -le 200 ] || echo "guest: clock JUMP (cpu $cpu) wall-against-uptime $moved_wall $moved"
}

read_clocks
round=0
while true; do
  slot=$((round % 8))
  file=$dir/$slot
  if [ -e $file ]; then
    sum_file $file
    eval wanted=\$sum_$slot
    [ $sum = $wanted ] || corrupt old-file $sum $wanted
  fi

  # The sum is of the data on its way to the file, so a bad write cannot vouch for itself.
  set -- $(seq $((round * 1000)) $((round * 1000 + 1999)) | tee $file | sha256sum)
  eval sum_$slot=$1
  dd if=$file of=$dir/copy bs=4096 2>/dev/null
  sum_file $dir/copy
  [ $sum = $1 ] || corrupt new-file $sum $1

  set -- $(seq 1 5000 | sha256sum)
  [ $1 = $known_sum ] || corrupt sum $1 $known_sum
  series=$(awk 'BEGIN { for (i = 1; i < 2000; i++) s += 1 / i; printf "%.12f", s }')
  [ $series = $known_series ] || corrupt series $series $known_series

  check_clocks
  echo "guest: round $round ok (cpu $cpu)"
  round=$((round + 1))
  # Time for the idle loop and its timers; how much, in microseconds, may be said on the kernel's command line.
  usleep ${REST:-20000}
done
