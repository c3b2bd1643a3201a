# What kgate wants to know of a host: sections, each a line `@name` and what was found. It only looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
s() { echo "@$1"; }
s release; uname -r
s version; uname -v
s machine; uname -m
s boot-id; cat /proc/sys/kernel/random/boot_id
s command-line; cat /proc/cmdline
s uptime; cat /proc/uptime
s loaded; cut -d' ' -f1 /proc/modules
s cpus; ls -d /sys/devices/system/cpu/cpu[0-9]*/ | wc -l; cat /sys/devices/system/cpu/online
s memory; grep MemTotal: /proc/meminfo
s clock; date +%s
s distribution; (. /etc/os-release && echo "$PRETTY_NAME") 2>/dev/null
s systemd; [ ! -d /run/systemd/system ] || echo yes
s efi; [ ! -d /sys/firmware/efi ] || echo yes
s programs
for p in grub-editenv grub2-editenv kexec tar gzip sha256sum setsid depmod mkinitramfs dracut chcon unshare; do
    command -v "$p" >/dev/null 2>&1 && echo "$p"
done

# The root file system, and all that its disk is attached to.
while read -r _ _ number _ at rest; do
    [ "$at" = / ] && root_number=$number root_rest=$rest
done </proc/self/mountinfo
s root; echo "$root_rest"
s root-usr; cut -d' ' -f5 /proc/self/mountinfo | grep -x /usr
device=${root_rest#* - }; device=${device#* }; device=${device%% *}
block=$(readlink -f "/sys/dev/block/$root_number")
[ -e "$block/uevent" ] || block=$(readlink -f "/sys/class/block/$(basename "$(readlink -f "$device")")")
name=$(basename "$block")
[ -e "/dev/$name" ] && device=/dev/$name
s root-device; [ ! -b "$device" ] || echo "$device"
s root-block; [ ! -e "$block/uevent" ] || echo "$block"
s root-dm; cat "$block/dm/uuid" 2>/dev/null
s root-uuid
for link in /dev/disk/by-uuid/*; do
    [ "$(readlink -f "$link")" = "$device" ] && basename "$link"
done
blkid -o value -s UUID "$device" 2>/dev/null
for word in $(cat /proc/cmdline); do
    case $word in root=UUID=*) echo "${word#root=UUID=}" ;; esac
done
s root-drivers
case $block in
*/virtual/nvme-subsystem/*)
    echo "driver nvme"
    for alias in /sys/class/nvme/*/device/modalias; do echo "alias $(cat "$alias")"; done
    ;;
esac
while [ -n "$block" ] && [ "$block" != /sys/devices ]; do
    [ ! -e "$block/modalias" ] || echo "alias $(cat "$block/modalias")"
    [ ! -e "$block/driver/module" ] || echo "driver $(basename "$(readlink -f "$block/driver/module")")"
    block=${block%/*}
done

s grub
for d in "$grub" /boot/grub /boot/grub2; do
    [ -n "$d" ] && [ -f "$d/grub.cfg" ] && grub=$d && echo "$d" && break
done
s directories
for d in "$directory" "$grub"; do
    [ -n "$d" ] || continue
    e=$d
    while [ ! -d "$e" ]; do e=${e%/*}; e=${e:-/}; done
    w=no; [ -w "$e" ] && w=yes
    # Free KiB and where it is mounted are the fourth and the last.
    set -- $(df -Pk "$e" | tail -n 1)
    free=$4
    while [ $# -gt 1 ]; do shift; done
    echo "$free $w $1 $d"
done
