#!/bin/bash
# Records failures on real kernels: record.sh KERNEL.deb KFAULT.ko OUTPUT COUNT [NAME…]
#
# KFAULT.ko is kfault.c built for that kernel:
#   make -C /usr/src/linux-headers-RELEASE M=$PWD CONFIG_DEBUG_INFO_BTF_MODULES= modules
# OUTPUT/NAME/RELEASE-N.txt is the console of boot N; one that is there already is kept. Every boot
# has its own address layout; CPUs and memory differ between boots. KGATE is the program to use.
set -eu
kernel=$1 module=$2 output=$3 count=$4
shift 4
failures=$(dirname "$0")/failures.txt
release=$(modinfo -F vermagic "$module" | cut -d' ' -f1)

# What goes into the guest: the module, and a file system with a file whose inode is gone.
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp "$module" "$work/kfault.ko"
mkdir -p "$work/root/d"
echo text > "$work/root/d/f"
mke2fs -q -t ext4 -d "$work/root" "$work/ext4" 4M > "$work/mke2fs.log"
debugfs -w -R 'clri /d/f' "$work/ext4" 2> "$work/debugfs.log"
# shellcheck disable=SC2016 # the guest expands them
prepare='tar x -C / && mkdir -p /mnt; kfault() { insmod /kfault.ko fault=$1; sleep 0.2; }'

for n in $(seq "$count"); do
  while IFS='|' read -r name options command; do
    name=${name%% *}
    console=$output/$name/$release-$n.txt
    case $name in '#'* | '') continue ;; esac
    [ $# = 0 ] || [[ " $* " == *" $name "* ]] || continue
    [ ! -e "$console" ] || continue
    mkdir -p "${console%/*}"
    # shellcheck disable=SC2086 # the options are words
    tar c -C "$work" kfault.ko ext4 |
      timeout 120 "${KGATE:-kgate}" boot "$kernel" --accel tcg --cpus $((1 + n % 2)) \
        --memory $((256 + 64 * n)) --timeout 60 $options --console "$console" \
        -- sh -c "$prepare; $command" 2>&1 | sed -n "s|^kgate: kernel log|$console|p" || true
  done < "$failures"
done
