#!/bin/busybox sh
# The guest's first process: mounts the host's root, read-only, under an overlay in memory and goes
# on from there. Parameters come as kernel arguments sluice.<name>=<value>.
set -eu
/bin/busybox --install -s /bin
export PATH=/bin

stop() {
    echo "sluice-guest: $1"
    poweroff -f
}

parameter() {
    sed -n "s/.*sluice\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    insmod "$module" || stop "cannot load $module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=loose,ro host /host ||
    stop "cannot mount the host's root"
mount -t tmpfs tmpfs /overlay
mkdir /overlay/upper /overlay/work
mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work overlay /root ||
    stop "cannot mount the overlay"
release=$(uname -r)
mkdir -p "/root/lib/modules/$release"
mount --bind "/host$(parameter modules)" "/root/lib/modules/$release"
for each in proc sys dev; do
    mount --move "/$each" "/root/$each"
done
mount -t tmpfs tmpfs /root/run
ln -s /proc/self/fd /root/dev/fd
ln -s /proc/self/fd/0 /root/dev/stdin
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
exec switch_root /root /bin/sh "$(sed -n 's/.*sluice\.script=\([^ ]*\).*/\1/p' /root/proc/cmdline)"
