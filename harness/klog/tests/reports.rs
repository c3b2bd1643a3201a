//! Reports that run into each other, into other output, or into the end of the log: one short log
//! for each way, written after the kernel's formats.

use kgate_klog::{Parser, Source, parse};
use kgate_model::finding::Finding;

/// Title and what is wrong with it, of each finding.
fn told(log: &str) -> Vec<String> {
    let findings = parse(Source::Console, log.as_bytes());
    // However it comes in.
    for size in [1, 7, 100] {
        let mut parser = Parser::new(Source::Console);
        let chunks = log.as_bytes().chunks(size);
        let mut again: Vec<Finding> = chunks.flat_map(|chunk| parser.push(chunk)).collect();
        again.extend(parser.finish());
        assert_eq!(findings, again);
    }
    let tell = |finding: &Finding| {
        let panicked = if finding.panicked { ", panicked" } else { "" };
        let damaged = finding.corrupted.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
        format!("{}{panicked}{damaged}", finding.title)
    };
    findings.iter().map(tell).collect()
}

/// A report of each sort as lines without prefix.
const LEFT: &[&str] = &[
    "BUG: KASAN: slab-out-of-bounds in left+0x1/0x20",
    "Read of size 8 at addr ffff888000000000 by task left/1",
    "CPU: 0 PID: 1 Comm: left Not tainted 6.12.1 #1",
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x1/0x2",
    " left+0x1/0x20",
    " ? doubtful+0x1/0x2",
    " do_syscall_64+0x1/0x2",
    " </TASK>",
    "==================================================================",
];
const RIGHT: &[&str] = &[
    "------------[ cut here ]------------",
    "WARNING: CPU: 1 PID: 2 at kernel/right.c:12 right+0x1/0x20",
    "Modules linked in:",
    "CPU: 1 PID: 2 Comm: right Not tainted 6.12.1 #1",
    "RIP: 0010:right+0x1/0x20",
    "Call Trace:",
    " <TASK>",
    " right_caller+0x1/0x2",
    " do_syscall_64+0x1/0x2",
    " </TASK>",
    "---[ end trace 0000000000000000 ]---",
];

fn lines<'a>(prefix: &str, lines: impl IntoIterator<Item = &'a &'a str>) -> Vec<String> {
    lines.into_iter().map(|line| format!("{prefix}{line}\n")).collect()
}

/// Takes lines in turn.
fn interleave(left: &[String], right: &[String]) -> String {
    let longest = left.len().max(right.len());
    let pairs = (0..longest).flat_map(|at| [left.get(at), right.get(at)]);
    pairs.flatten().map(String::as_str).collect()
}

#[test]
fn tasks_and_cpus_that_report_at_once() {
    let task = lines("[    1.000000][    T1] ", LEFT);
    let other = lines("[    1.000000][    T2] ", RIGHT);
    let cpu = lines("[    1.000000][    C1] ", RIGHT);
    let both = ["KASAN: slab-out-of-bounds Read in left", "WARNING in right"];
    assert_eq!(told(&interleave(&task, &other)), both);
    assert_eq!(told(&interleave(&task, &cpu)), both);
    let [first, second] = both;
    assert_eq!(told(&interleave(&other, &task)), [first, second]);
    // Where the kernel does not tell who prints, the first one is cut where the second begins.
    let unknown = [lines("[    1.000000] ", LEFT), lines("[    1.000000] ", RIGHT)];
    let [told, _] = &told(&interleave(&unknown[0], &unknown[1]))[..] else { panic!() };
    assert!(told.contains("slab-out-of-bounds"), "{told}");
}

#[test]
fn one_after_the_other() {
    let log = [lines("[    1.000000] ", LEFT), lines("[    2.000000] ", RIGHT)].concat().concat();
    assert_eq!(told(&log), ["KASAN: slab-out-of-bounds Read in left", "WARNING in right"]);
    // User space between the lines of a report, and bytes that are no text.
    let noisy = log.replace("[    1", "WARNING: user \u{fffd}\n[    1");
    assert_eq!(told(&noisy), ["KASAN: slab-out-of-bounds Read in left", "WARNING in right"]);
}

#[test]
fn the_same_again_at_once_is_one() {
    let hung = [
        "INFO: task a:1 blocked for more than 120 seconds.",
        "task:a state:D stack:0 pid:1 ppid:2 flags:0x00004000",
        "Call Trace:",
        " __schedule+0x1/0x2",
        " schedule+0x1/0x2",
        " stuck_here+0x1/0x2",
    ];
    let twice = lines("[  120.000000] ", hung.iter().chain(&hung)).concat();
    assert_eq!(told(&twice), ["INFO: task hung in stuck_here"]);
}

#[test]
fn lines_that_are_split_or_run_together() {
    let log = "\
[    1.000000] kasan: GPF could be caused by NULL-ptr deref or user memory accessgeneral protection fault: 0000 [#1]
[    1.000000] CPU: 0 PID: 1 Comm: a Not tainted 4.4.1 #1
[    1.000000] RIP: 0010:[<ffffffff81000000>]  [<ffffffff81000000>] faulty+0x1/0x2
[    1.000000] Call Trace:
[    1.000000]  [<ffffffff81000000>] caller+0x1/0x2
[    1.000000]  [<ffffffff81000000>] entry_SYSCALL_64_fastpath+0x1/0x2
";
    assert_eq!(told(log), ["general protection fault in faulty"]);
    let log = "\
[  143.000000][   T41] INFO: task bad
[  143.000000][   T41] name:88 blocked for more than 143 seconds.
[  143.000000][   T41] Call Trace:
[  143.000000][   T41]  schedule+0x1/0x2
[  143.000000][   T41]  stuck_here+0x1/0x2
[  143.000000][   T41]  kthread+0x1/0x2
";
    assert_eq!(told(log), ["INFO: task hung in stuck_here"]);
    // What the console missed is printed again, from where it had been cut.
    let log = "\
[    1.000000] WARNING: CPU: 0 PID: 1 at a/b.c:1 first+0x1/0x2
** replaying previous printk message **
[    1.000000] WARNING: CPU: 0 PID: 1 at a/b.c:1 first+0x1/0x2
[    1.000000] RIP: 0010:first+0x1/0x2
[    1.000000] Call Trace:
[    1.000000]  caller+0x1/0x2
[    1.000000] ---[ end trace 0000000000000000 ]---
";
    assert_eq!(told(log), ["WARNING in first"]);
}

#[test]
fn what_follows_belongs_to_its_cause() {
    let mut log = lines("[    1.000000][    T2] ", RIGHT);
    log.push(
        "[    1.100000][    T2] Kernel panic - not syncing: kernel: panic_on_warn set ...\n"
            .to_owned(),
    );
    log.push("[    1.200000][    T2] Rebooting in 1 seconds..\n".to_owned());
    assert_eq!(told(&log.concat()), ["WARNING in right, panicked"]);
    // After it, another CPU may have something to say.
    log.extend(lines("[    1.300000][    C0] ", LEFT));
    let both = ["WARNING in right, panicked", "KASAN: slab-out-of-bounds Read in left"];
    assert_eq!(told(&log.concat()), both);
}

#[test]
fn resets() {
    const FIRMWARE: &str = "\
SeaBIOS (version 1.16.2-debian-1.16.2-1)
Booting from Hard Disk...

Decompressing Linux... Parsing ELF... done.
Booting the kernel.
[    0.000000] Linux version 6.12.1
";
    let boot = "[    0.000000] Linux version 6.12.1\n[    3.000000] systemd[1]: Started.\n";
    assert_eq!(told(FIRMWARE), [""; 0]);
    assert_eq!(told(&format!("{boot}{FIRMWARE}")), ["unexpected kernel reboot"]);
    let orderly = format!("{boot}[    4.000000] reboot: Restarting system\n{FIRMWARE}");
    assert_eq!(told(&orderly), [""; 0]);
    // And in the middle of a report.
    let report = lines("[    1.000000] ", &LEFT[..4]).concat();
    assert_eq!(
        told(&format!("{report}{FIRMWARE}")),
        [
            "KASAN: slab-out-of-bounds Read in left, the log ends within a stack",
            "unexpected kernel reboot"
        ]
    );
}

#[test]
fn reports_that_lack_something() {
    let warning = lines("[    1.000000] ", &RIGHT[1..4]).concat();
    assert_eq!(told(&warning), ["WARNING in corrupted, no function of a stack can be charged"]);
    let deadlock = "[    1.000000] WARNING: possible circular locking dependency detected\n";
    assert_eq!(
        told(deadlock),
        [
            "WARNING: possible circular locking dependency detected, lines that such a report has are missing"
        ]
    );
    let panic = "[    1.000000] Kernel panic - not syncing: Fatal exception in interrupt\n";
    assert_eq!(
        told(panic),
        ["kernel panic: Fatal exception, panicked, the report's first lines are lost"]
    );
    let mut mixed = lines("[    1.000000] ", LEFT);
    mixed.insert(5, "[    1.000000]  should_fail+0x1/0x2\n".to_owned());
    let [told] = &told(&mixed.concat())[..] else { panic!() };
    assert!(told.ends_with(", no function of a stack can be charged"), "{told}");
}

#[test]
fn what_servers_live_on_does_not_end_a_report() {
    let mut log = lines("[    1.000000] ", RIGHT);
    log.insert(
        6,
        "[    1.000000] EXT4-fs error (device vda1): ext4_lookup:1: inode #2: x\n".to_owned(),
    );
    log.insert(
        8,
        "[    1.000000] stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0\n"
            .to_owned(),
    );
    log.push("[    1.000000] Out of memory: Killed process 12 (stress) total-vm:1kB\n".to_owned());
    assert_eq!(
        told(&log.concat()),
        ["WARNING in right", "EXT4-fs error in ext4_lookup", "Out of memory: killed stress"]
    );
}

#[test]
fn a_report_without_the_line_that_names_it_has_a_title() {
    let log = "[    1.000000] rust_kernel: panicked at a.rs:1:2:\n[    1.000100] \n\
               [    1.000200] Call Trace:\n[    1.000300]  ? f+0x1/0x2\n";
    assert_eq!(told(log), ["rust_kernel: panicked at a.rs:LINE:"]);
}

#[test]
fn errors_of_hardware_and_storage() {
    let cases: &[(&str, &str)] = &[
        (
            "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 5: be00000000800400",
            "Machine Check: uncorrected error",
        ),
        (
            "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 5: 9c00000000800400",
            "Machine Check: corrected error",
        ),
        ("{1}[Hardware Error]: event severity: fatal", "Hardware Error: fatal"),
        ("{1}[Hardware Error]: event severity: corrected", ""),
        (
            "pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:00:01.0",
            "PCIe: uncorrected error (Fatal)",
        ),
        ("pcieport 0000:00:01.0: AER: enabled with IRQ 24", ""),
        (
            "BTRFS: error (device sda2: state A) in btrfs_finish_ordered_io:3319: errno=-5 IO failure",
            "BTRFS: file system error",
        ),
        ("BTRFS critical (device sda2): corrupt leaf", "BTRFS: file system error"),
        ("XFS (dm-0): log I/O error -5", "XFS: file system shut down"),
        (
            "XFS (dm-0): Filesystem has been shut down due to log error (0x2).",
            "XFS: file system shut down",
        ),
        ("XFS (dm-0): Mounting V5 Filesystem", ""),
        ("EXT4-fs (sda1): Remounting filesystem read-only", "file system remounted read-only"),
        ("EXT4-fs (sda1): re-mounted. Opts: (null)", ""),
        ("Aborting journal on device sda1-8.", "journal aborted"),
        (
            "critical medium error, dev sda, sector 1 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
            "block device I/O error",
        ),
        ("blk_update_request: I/O error, dev sdb, sector 8", "block device I/O error"),
        (
            "operation not supported error, dev loop0, sector 8 op 0x9:(WRITE_ZEROES) flags 0x800",
            "",
        ),
        (
            "Buffer I/O error on dev sda1, logical block 0, lost sync page write",
            "block device lost a write",
        ),
        (
            "Buffer I/O error on dev sda1, logical block 0, async page read",
            "block device I/O error",
        ),
        ("md/raid1:md0: Disk failure on sda1, disabling device.", "md: disk failure"),
        (
            "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0xffff",
            "nvme: controller is down",
        ),
        ("ata1.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen", "ata: exception"),
    ];
    for (line, title) in cases {
        let log = format!("[    1.000000] Linux version 6.1.2\n[    5.000000] {line}\n");
        assert_eq!(told(&log).concat(), *title, "{line}");
        // A program may say the same.
        let log = format!("[    1.000000] Linux version 6.1.2\nsyslog: {line}\n");
        assert_eq!(told(&log).concat(), "", "{line}");
    }
}

#[test]
fn a_slab_report_of_older_kernels_is_one() {
    let report = [
        "BUG kmalloc-64 (Not tainted): Poison overwritten",
        "INFO: 0xffff88003c0e7d10-0xffff88003c0e7d10. First byte 0x6a instead of 0x6b",
        "INFO: Allocated in maker+0x1/0x20 age=1 cpu=0 pid=10",
        "INFO: Freed in breaker+0x1/0x20 age=1 cpu=0 pid=10",
        "INFO: Slab 0xffffea0000f03800 objects=64 used=64 fp=0x          (null) flags=0x80",
        "Pid: 1, comm: init Not tainted 3.4.0 #1",
        "Call Trace:",
        " [<ffffffff81123456>] print_trailer+0x1/0x20",
        " [<ffffffff81123456>] bar_do+0x1/0x20",
        "FIX kmalloc-64: Restoring 0xffff88003c0e7d10-0xffff88003c0e7d10=0x6b",
    ];
    let log = lines("[    1.000000] ", &report).concat();
    assert_eq!(told(&log), ["BUG: Poison overwritten in maker"]);
}
