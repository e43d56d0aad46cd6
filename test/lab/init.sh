#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Init of the lab machine: enters the outer machine's file tree, mounted read-only, runs /command there and reports
# its exit code. LAB_STAGE, when it is on the kernel's command line, is in the command's environment.
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /kept
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
# KVM reports every MSR it does not know, at error level.
dmesg -n 3
modules=/modules/$(uname -r)
while read module; do insmod $modules/$module.ko; done < $modules/order

# The persistent memory is a block device at first. What makes it /dev/dax0.0, a character device that is nothing but
# memory, is written into it: after a kexec the kernel finds it there.
if [ -e /sys/bus/nd ] && [ ! -e /dev/dax0.0 ]; then
  nd=/sys/bus/nd
  echo namespace0.0 > $nd/drivers/nd_pmem/unbind
  read dax < $nd/devices/region0/dax_seed
  cat /proc/sys/kernel/random/uuid > $nd/devices/$dax/uuid
  echo 2097152 > $nd/devices/$dax/align
  echo ram > $nd/devices/$dax/mode
  echo namespace0.0 > $nd/devices/$dax/namespace
  echo $dax > $nd/drivers/dax_pmem/bind
fi

mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576 host /host || poweroff -f
# A checkout may lie in /tmp or /run, which get file systems of their own: hold it first, put it back after.
index=0
while read folder; do
  index=$((index + 1))
  mkdir -p /kept/$index
  mount --bind "/host$folder" /kept/$index
done < /folders
mount --bind /dev /host/dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs none /dev/shm
mount -t devpts none /dev/pts
mount --bind /dev/shm /host/dev/shm
mount --bind /dev/pts /host/dev/pts
mount -t proc none /host/proc
mount -t sysfs none /host/sys
mount -t tmpfs none /host/run
mount -t tmpfs none /host/tmp
# Nothing of it is cached: a kexec writes nothing back.
mkdir /host/run/lab
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=1048576 work /host/run/lab || poweroff -f
index=0
while read folder; do
  index=$((index + 1))
  mkdir -p "/host$folder"
  mount --bind /kept/$index "/host$folder"
done < /folders
# The scenarios talk over UNIX sockets and, later, over the loopback interface.
ip link set lo up

if [ -e /interactive ]; then
  setsid cttyhack chroot /host /bin/bash -c "$(cat /command)"
else
  chroot /host /bin/bash -c "$(cat /command)" < /dev/null
fi
echo "lab: exit $?"
poweroff -f
