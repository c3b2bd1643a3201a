#!/bin/busybox sh
# Init of a staged kernel's initrd: finds the host's root, has the host guarded, and hands over to the
# host's own init. What can't be done ends in a reboot, and so in production.
# /kgate/config sets: guard, the seconds after which a host without a controller reboots; stage, the
# directory of what is staged on the root; fs, the root's file system; patience, the seconds in which a
# disk has to appear.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
. /kgate/config

say() { echo "<4>kgate: initrd: $*" >/dev/kmsg; }
give_up() {
    say "$*: rebooting"
    $b sleep 1
    $b sync
    $b reboot -f
    $b sleep 10
    echo b >/proc/sysrq-trigger
    while :; do $b sleep 10; done
}

# The first guard watches until there is a root, the second from there on. By its name a shutdown by
# systemd lets it be to the end.
PATH=/kgate:/bin
@kgate-guard --guard "$guard" &
first=$!

root='' init=/sbin/init mode=ro flags=''
set -f
for word in $($b cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) fs=${word#rootfstype=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    init=*) init=${word#init=} ;;
    ro | rw) mode=$word ;;
    esac
done
set +f

for module in $($b cat /kgate/load); do
    $b insmod "/kgate/modules/$module.ko" || say "module $module could not be loaded"
done

# Prints the root's device, if it is there.
device() {
    case $root in
    UUID=* | LABEL=*) $b findfs "$root" 2>/dev/null ;;
    PARTUUID=* | PARTLABEL=*)
        key=${root%%=*} value=${root#*=}
        [ "$key" = PARTLABEL ] && key=PARTNAME
        for block in /sys/class/block/*; do
            $b grep -qix "$key=$value" "$block/uevent" && echo "/dev/${block##*/}" && return
        done
        ;;
    *) [ -b "$root" ] && echo "$root" ;;
    esac
}
tries=$((patience * 10))
until found=$(device) && [ -n "$found" ]; do
    [ $tries -gt 0 ] || give_up "no root $root"
    tries=$((tries - 1))
    $b sleep 0.1
done
$b mount -t "$fs" -o "$mode$flags" "$found" /sysroot || give_up "can't mount $found as $fs"

# The modules of this kernel take the place of the host's own, which stay as they are.
if [ -d "/sysroot$stage/lib/modules" ]; then
    $b mount --bind "/sysroot$stage/lib/modules" /sysroot/lib/modules || say "no modules"
fi

@kgate-guard --guard "$guard" --root /sysroot &
tries=100
until [ "$($b readlink /proc/$!/root)" = /sysroot ]; do
    [ $tries -gt 0 ] || give_up "no guard"
    tries=$((tries - 1))
    $b sleep 0.1
done
kill "$first"

for dir in dev proc sys; do $b mount --move "/$dir" "/sysroot/$dir"; done
# Without such an init this ends PID 1, and so in a panic.
exec $b switch_root /sysroot "$init" "$@"
