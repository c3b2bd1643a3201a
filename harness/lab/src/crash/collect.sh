# Packs what crashes left: records of pstore, where they are or where systemd has put them, and of kdump
# the kernel log of each crash that was not collected yet. Prints nothing when there is nothing.
mark=.kgate-collected
[ -d /sys/fs/pstore ] && [ -z "$(ls /sys/fs/pstore)" ] && mount -t pstore pstore /sys/fs/pstore 2>/dev/null
found=$(
    ls -d /sys/fs/pstore/* 2>/dev/null
    find /var/lib/systemd/pstore -type f 2>/dev/null
    for dump in /var/crash/*/; do
        [ -d "$dump" ] && [ ! -e "$dump$mark" ] || continue
        ls -d "$dump"*dmesg* 2>/dev/null
    done
)
[ -n "$found" ] || exit 0
# Many of one crash: what is newest is most.
cd / || exit
tar -cf - $(echo "$found" | head -n 200 | sed 's|^/||')
