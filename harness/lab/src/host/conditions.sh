# State of a host that changes what it measures: sections, each a line `@name` and what was found. Of
# what there is for each CPU the lines are counted. What a kernel chooses by itself, such as its drivers, is
# not the host's state: that it chooses another is what a comparison is to show.
c=/sys/devices/system/cpu
s() { echo "@$1"; shift; [ $# = 0 ] || cat "$@" 2>/dev/null; }
counted() { s "$1"; shift; cat "$@" 2>/dev/null | sort | uniq -c | while read -r n v; do echo "$v on $n CPUs"; done; }
s cpu; grep -m 1 '^model name' /proc/cpuinfo | cut -d: -f2
s cpus-online $c/online
s cpus-isolated $c/isolated
s cpus-nohz-full $c/nohz_full
s smt $c/smt/control
s microcode; grep '^microcode' /proc/cpuinfo | sort -u | cut -d: -f2
counted governor $c/cpu[0-9]*/cpufreq/scaling_governor
counted frequency-min $c/cpu[0-9]*/cpufreq/scaling_min_freq
counted frequency-max $c/cpu[0-9]*/cpufreq/scaling_max_freq
counted energy-preference $c/cpu[0-9]*/cpufreq/energy_performance_preference
s turbo
case $(cat $c/intel_pstate/no_turbo 2>/dev/null) in 0) echo on ;; 1) echo off ;; esac
case $(cat $c/cpufreq/boost 2>/dev/null) in 1) echo on ;; 0) echo off ;; esac
s clocksource /sys/devices/system/clocksource/clocksource0/current_clocksource
s numa-nodes /sys/devices/system/node/online
s numa-balancing /proc/sys/kernel/numa_balancing
s huge-pages /proc/sys/vm/nr_hugepages
s transparent-huge-pages; sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null
s swap; tail -n +2 /proc/swaps | cut -d' ' -f1
s irq-affinity
if [ -n "$(pidof irqbalance)" ]; then
    echo "left to irqbalance"
else
    # By the names of the devices, without numbers, which may be others at the next boot.
    for irq in /proc/irq/[0-9]*; do
        for action in "$irq"/*/; do
            [ -d "$action" ] && echo "$(basename "$action" | tr -d 0-9) $(cat "$irq/smp_affinity_list")"
        done
    done | sort -u | sha256sum | cut -c1-16
fi
