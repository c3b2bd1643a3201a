//! What is read of each kind of line and of stacks.

use std::fmt::Write;

use kgate_model::finding::Severity;

use super::*;

fn filled(kind: FindingKind, excerpt: &str) -> Finding {
    let excerpt = excerpt.to_owned();
    let mut finding = Finding { excerpt, ..Finding::new(kind, Severity::Severe, "title") };
    fill(&mut finding);
    finding
}

/// What was filled in, a line each.
fn show(finding: &Finding) -> String {
    let mut text = String::new();
    let some = |text: &Option<String>| text.as_ref().map_or("-".to_owned(), |t| format!("{t:?}"));
    let number = |number: Option<u32>| number.map_or("-".to_owned(), |n| n.to_string());
    let Finding { cpu, pid, command, taint, release, modules, access, .. } = finding;
    writeln!(text, "cpu {} pid {} {}", number(*cpu), number(*pid), some(command)).unwrap();
    writeln!(text, "taint {} release {}", some(taint), some(release)).unwrap();
    if !modules.is_empty() {
        writeln!(text, "modules {}", modules.join(" ")).unwrap();
    }
    if let Some(Access { operation, size, address }) = access {
        writeln!(text, "access {operation:?} {size:?} {address:x?}").unwrap();
    }
    let mut stack = |label: &str, frames: &[Frame]| {
        writeln!(text, "{label}").unwrap();
        for frame in frames {
            let mark = if frame.reliable { "" } else { "? " };
            let offset = frame.offset.map_or(String::new(), |offset| format!("+{offset:x}"));
            let module = frame.module.as_ref().map_or(String::new(), |m| format!(" [{m}]"));
            writeln!(text, "  {mark}{}{offset}{module}", frame.function).unwrap();
        }
    };
    stack("frames", &finding.frames);
    finding.stacks.iter().for_each(|one| stack(&one.label, &one.frames));
    text
}

#[test]
fn taint_and_release() {
    let cases = [
        (
            "CPU: 0 PID: 83 Comm: insmod Not tainted 6.1.0-47-cloud-amd64 #1  Debian 6.1.170-3",
            "",
            "6.1.0-47-cloud-amd64",
        ),
        ("CPU: 0 PID: 83 Comm: x Tainted: G        W  OE      6.1.0 #1", "WOE", "6.1.0"),
        (
            "CPU: 1 UID: 0 PID: 3 Comm: a b Kdump: loaded Tainted: P    B   syzkaller #0 PREEMPT(full) ",
            "PB",
            "syzkaller",
        ),
        (
            "CPU: 1 PID: 42 Comm: kswapd0 Tainted: PF   B   WC O 3.10.4-100.fc18.x86_64 #1",
            "PFBWCO",
            "3.10.4-100.fc18.x86_64",
        ),
        (
            "CPU: 0 PID: 3 Comm: x Tainted: GF          O--------------   3.10.0-54.el7.s390x #1",
            "FO",
            "3.10.0-54.el7.s390x",
        ),
        (
            "Pid: 598, comm: wpa_supplicant Tainted: P         C O 3.6.1-1.fc17.i686.PAE #1 HP Mini",
            "PCO",
            "3.6.1-1.fc17.i686.PAE",
        ),
        ("      Not tainted 6.12.1 #2", "", "6.12.1"),
        ("      Tainted: G             L      syzkaller #0", "L", "syzkaller"),
        ("3.6.0-rc1-wl+ #296 Tainted: G        W", "W", "3.6.0-rc1-wl+"),
        ("6.12.1 #2 Not tainted", "", "6.12.1"),
        ("Tainted: [W]=WARN, [O]=OOT_MODULE", "WO", "-"),
        ("BUG kmalloc-64 (Tainted: G    B      OE     ): Poison overwritten", "BOE", "-"),
        (
            "REGS: c000000010f92e30 TRAP: 0700   Not tainted  (3.10.0-33.el7.ppc64)",
            "",
            "3.10.0-33.el7.ppc64",
        ),
        ("EIP:    0060:[<c01a2b3c>]    Tainted: P      VLI", "P", "-"),
        ("the well was tainted", "-", "-"),
    ];
    for (line, taint, release) in cases {
        let finding = filled(FindingKind::Bug, &format!("BUG\n{line}\n"));
        let got = (finding.taint.as_deref().unwrap_or("-"), finding.release.as_deref());
        assert_eq!(got, (taint, Some(release).filter(|text| *text != "-")), "{line}");
    }
}

#[test]
fn processes() {
    use FindingKind::{Bug, HungTask, Lockdep, OomKill, SchedulingWhileAtomic, SoftLockup};
    let cases = [
        (
            Bug,
            "CPU: 3 PID: 83 Comm: Web Content Not tainted 6.1.0 #1",
            Some(3),
            Some(83),
            "Web Content",
        ),
        (
            Bug,
            "CPU: 3 UID: 1000 PID: 83 Comm: a Kdump: loaded Not tainted 6.1.0 #1",
            Some(3),
            Some(83),
            "a",
        ),
        (
            Bug,
            "Pid: 598, comm: wpa_supplicant Tainted: P 3.6.1 #1",
            None,
            Some(598),
            "wpa_supplicant",
        ),
        (Bug, "CPU 1", Some(1), None, "-"),
        (Bug, "CPU 1 will stop doing anything useful", None, None, "-"),
        (
            Bug,
            "Process systemd-logind (pid: 431, stack limit = 0xe8a58248)",
            None,
            Some(431),
            "systemd-logind",
        ),
        (
            Bug,
            "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 11, name: a b",
            None,
            Some(11),
            "a b",
        ),
        (Bug, "  comm \"syz-executor\", pid 77, jiffies 4294", None, Some(77), "syz-executor"),
        (Bug, "WARNING: CPU: 2 PID: 83 at a.c:1 f+0x1/0x2", Some(2), Some(83), "-"),
        (
            Bug,
            "WARNING: net/a.c:3 at f+0x1/0x2, CPU#2: kworker/1:2/45",
            Some(2),
            Some(45),
            "kworker/1:2",
        ),
        (
            HungTask,
            "INFO: task kworker/0:1:83 blocked for more than 6 seconds.",
            None,
            Some(83),
            "kworker/0:1",
        ),
        (
            SoftLockup,
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:b:83]",
            Some(1),
            Some(83),
            "a:b",
        ),
        (
            SchedulingWhileAtomic,
            "BUG: scheduling while atomic: swapper/1/0/0x00000003",
            None,
            Some(0),
            "swapper/1",
        ),
        (Lockdep, "ksdioirqd/mmc0/73 is trying to acquire lock:", None, Some(73), "ksdioirqd/mmc0"),
        (OomKill, "Out of memory: Killed process 85 (tail) total-vm:1kB", None, Some(85), "tail"),
        (
            OomKill,
            "Memory cgroup out of memory: Killed process 85 (a b) total-vm:1kB",
            None,
            Some(85),
            "a b",
        ),
    ];
    for (kind, line, cpu, pid, command) in cases {
        let finding = filled(kind, &format!("{line}\n"));
        let got = (finding.cpu, finding.pid, finding.command.as_deref().unwrap_or("-"));
        assert_eq!(got, (cpu, pid, command), "{line}");
    }
}

#[test]
fn accesses() {
    use FindingKind::{GeneralProtection, Kasan, Kcsan, Kfence, Kmsan, NullPointer, PageFault};
    use Operation::{Execute, Free, Read, Write};
    let cases = [
        (
            Kasan,
            "Read of size 8 at addr ffff888000000010 by task a/1",
            Some(Read),
            Some(8),
            Some(0xffff_8880_0000_0010),
        ),
        (Kasan, "Write of size 4 by task a/1", Some(Write), Some(4), None),
        (
            Kasan,
            "Write at addr f7ff000000000010 by task a/1",
            Some(Write),
            None,
            Some(0xf7ff_0000_0000_0010),
        ),
        (
            Kasan,
            "Free of addr ffff888000000010 by task a/1",
            Some(Free),
            None,
            Some(0xffff_8880_0000_0010),
        ),
        (
            Kfence,
            "Out-of-bounds read at 0xffff888000000010 (1B right of kfence-#2):",
            Some(Read),
            None,
            Some(0xffff_8880_0000_0010),
        ),
        (Kfence, "Invalid free of 0x(____ptrval____) (in kfence-#2):", Some(Free), None, None),
        (
            Kcsan,
            "write (marked) to 0xffff888000000010 of 8 bytes by task 7 on cpu 1:",
            Some(Write),
            Some(8),
            Some(0xffff_8880_0000_0010),
        ),
        (
            Kcsan,
            "race at unknown origin, with read to 0xff10 of 4 bytes by interrupt on cpu 0:",
            Some(Read),
            Some(4),
            Some(0xff10),
        ),
        (
            Kmsan,
            "Memory access of size 4 starts at ffff888000000010",
            Some(Read),
            Some(4),
            Some(0xffff_8880_0000_0010),
        ),
        (
            NullPointer,
            "BUG: kernel NULL pointer dereference, address: 0000000000000010\n#PF: supervisor write access in kernel mode",
            Some(Write),
            None,
            Some(16),
        ),
        (
            NullPointer,
            "BUG: unable to handle kernel NULL pointer dereference at 0000000000000010\nOops: 0002 [#1] SMP",
            Some(Write),
            None,
            Some(16),
        ),
        (
            PageFault,
            "BUG: unable to handle page fault for address: ffffc90000000000\n#PF: supervisor instruction fetch in kernel mode",
            Some(Execute),
            None,
            Some(0xffff_c900_0000_0000),
        ),
        (
            PageFault,
            "BUG: unable to handle kernel paging request at ffffc90000000000",
            None,
            None,
            Some(0xffff_c900_0000_0000),
        ),
        (
            PageFault,
            "Unable to handle kernel paging request at virtual address 00000010 when write",
            Some(Write),
            None,
            Some(16),
        ),
        (
            PageFault,
            "Unable to handle kernel paging request at virtual address dead000000000100\n  CM = 0, WnR = 1, TnD = 0",
            Some(Write),
            None,
            Some(0xdead_0000_0000_0100),
        ),
        (
            NullPointer,
            "BUG: Kernel NULL pointer dereference on write at 0x00000010",
            None,
            None,
            Some(16),
        ),
        (
            GeneralProtection,
            "Oops: general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1]",
            None,
            None,
            Some(0xdead_0000_0000_0100),
        ),
    ];
    for (kind, lines, operation, size, address) in cases {
        let got = filled(kind, &format!("{lines}\n")).access;
        assert_eq!(got, Some(Access { operation, size, address }), "{lines}");
    }
    assert_eq!(filled(FindingKind::Bug, "BUG: at 0x10\nRead the manual\nWrite it\n").access, None);
}

#[test]
fn modules() {
    let report = "\
Modules linked in: kfault(OE+) nf-test ext4(-) snd_hda_codec
 videodev joydev(E)
 a+0x1/0x2
Modules linked in: other
";
    let finding = filled(FindingKind::Bug, report);
    let expected = ["kfault", "nf-test", "ext4", "snd_hda_codec", "videodev", "joydev"];
    assert_eq!(finding.modules, expected);
    assert_eq!(finding.frames.len(), 1);
    let unloaded =
        "Modules linked in: a b Unloaded tainted modules: c(O):1 [last unloaded: d(OE)]\n";
    assert_eq!(filled(FindingKind::Bug, unloaded).modules, ["a", "b"]);
    assert!(filled(FindingKind::Bug, "Modules linked in:\n <TASK>\n").modules.is_empty());
}

#[test]
fn stacks_of_the_address_sanitizer() {
    let report = "\
BUG: KASAN: slab-use-after-free in some_read+0x12/0x40 [some]
Read of size 8 at addr ffff888012345678 by task insmod/83

CPU: 1 UID: 0 PID: 83 Comm: insmod Tainted: G           OE      6.12.1 #1
Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 print_report+0x174/0x505
 ? __virt_addr_valid+0x1/0x2
 some_read+0x12/0x40 [some]
 entry_SYSCALL_64_after_hwframe+0x76/0x7e
RIP: 0033:0x47fbe9
Code: 00 <48> 3d
 </TASK>

Allocated by task 83:
 kasan_save_stack+0x33/0x60
 some_alloc+0x10/0x20 [some]

Freed by task 84:
 kfree+0x10/0x20

Last potentially related work creation:
 insert_work+0x32/0x1d0

The buggy address belongs to the object at ffff888012345600
 which belongs to the cache kmalloc-128 of size 128
The buggy address is located 120 bytes inside of
 freed 128-byte region [ffff888012345600, ffff888012345680)
Kernel panic - not syncing: KASAN: panic_on_warn set ...
CPU: 1 UID: 0 PID: 83 Comm: insmod Tainted: G    B      OE      6.12.1 #1
Call Trace:
 <TASK>
 panic+0x1/0x2
 </TASK>
---[ end Kernel panic - not syncing: KASAN: panic_on_warn set ... ]---
";
    insta::assert_snapshot!(show(&filled(FindingKind::Kasan, report)), @r#"
        cpu 1 pid 83 "insmod"
        taint "OE" release "6.12.1"
        access Some(Read) Some(8) Some(ffff888012345678)
        frames
          dump_stack_lvl+5d
          print_report+174
          ? __virt_addr_valid+1
          some_read+12 [some]
          entry_SYSCALL_64_after_hwframe+76
        Allocated by task 83:
          kasan_save_stack+33
          some_alloc+10 [some]
        Freed by task 84:
          kfree+10
        Last potentially related work creation:
          insert_work+32
        Kernel panic - not syncing: KASAN: panic_on_warn set ...
          panic+1
        "#);
}

#[test]
fn stacks_of_the_lock_checker() {
    let report = "\
WARNING: possible circular locking dependency detected
6.12.1 #1 Not tainted
------------------------------------------------------
insmod/83 is trying to acquire lock:
ffffffff81234567 (a){+.+.}-{3:3}, at: f+0x1/0x20

but task is already holding lock:
ffffffff81234568 (b){+.+.}-{3:3}, at: g+0x1/0x20

the existing dependency chain (in reverse order) is:

-> #1 (b){+.+.}-{3:3}:
       lock_acquire+0x1/0x20
       g+0x2/0x20

-> #0 (a){+.+.}-{3:3}:
       lock_acquire+0x1/0x20
       f+0x2/0x20

other info that might help us debug this:
1 lock held by insmod/83:
 #0: ffffffff81234568 (b){+.+.}-{3:3}, at: g+0x1/0x20

stack backtrace:
CPU: 0 UID: 0 PID: 83 Comm: insmod Not tainted 6.12.1 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 f+0x2/0x20
 </TASK>
";
    insta::assert_snapshot!(show(&filled(FindingKind::Lockdep, report)), @r#"
        cpu 0 pid 83 "insmod"
        taint "" release "6.12.1"
        frames
          dump_stack_lvl+5d
          f+2
        -> #1 (b){+.+.}-{3:3}:
          lock_acquire+1
          g+2
        -> #0 (a){+.+.}-{3:3}:
          lock_acquire+1
          f+2
        "#);
}

#[test]
fn stacks_of_other_tasks_and_cpus() {
    let report = "\
INFO: task insmod:83 blocked for more than 6 seconds.
      Not tainted 6.12.1 #1
\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.
task:insmod          state:D stack:0     pid:83    tgid:83    ppid:1      flags:0x00004002
Call Trace:
 <TASK>
 __schedule+0x34d/0x9e0
 some_wait+0x1/0x2 [some]
 </TASK>

Showing all locks held in the system:
1 lock held by khungtaskd/30:
 #0: ffffffff81234567 (rcu_read_lock){....}-{1:2}, at: debug_show_all_locks+0x1/0x2

NMI backtrace for cpu 0
CPU: 0 UID: 0 PID: 30 Comm: khungtaskd Not tainted 6.12.1 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 </TASK>
Sending NMI from CPU 0 to CPUs 1:
NMI backtrace for cpu 1
CPU: 1 UID: 0 PID: 0 Comm: swapper/1 Not tainted 6.12.1 #1
RIP: 0010:default_idle+0xf/0x20
Call Trace:
 <TASK>
 default_idle_call+0x38/0x60
 </TASK>
";
    insta::assert_snapshot!(show(&filled(FindingKind::HungTask, report)), @r#"
        cpu 0 pid 83 "insmod"
        taint "" release "6.12.1"
        frames
          __schedule+34d
          some_wait+1 [some]
        NMI backtrace for cpu 0
          dump_stack_lvl+5d
        NMI backtrace for cpu 1
          default_idle+f
          default_idle_call+38
        "#);
}

/// Where the pointer is repeated, or names the place it returned to, it is one frame; where
/// callers are on the line of the called, offsets come from the line before.
#[test]
fn pointers_and_callers() {
    let report = "\
Unable to handle kernel NULL pointer dereference at virtual address 00000009 when read
CPU: 1 PID: 431 Comm: logind Not tainted 6.1.0 #1
PC is at shmem_write+0x584/0x72c
LR is at shmem_write+0x454/0x72c
pc : [<c0333330>]    lr : [<c0333200>]    psr: 80070113
 shmem_write from generic_write+0xa8/0x1c0
 generic_write from vfs_write+0x31c/0x38c
 vfs_write from ret_fast_syscall+0x0/0x30
Code: ea000005 (e5823000)
---[ end trace 0000000000000000 ]---
PC is at shmem_write+0x584/0x72c
";
    let finding = filled(FindingKind::NullPointer, report);
    insta::assert_snapshot!(show(&finding), @r#"
        cpu 1 pid 431 "logind"
        taint "" release "6.1.0"
        access Some(Read) None Some(9)
        frames
          shmem_write+584
          generic_write+a8
          vfs_write+31c
        "#);
}

/// What is printed twice, or stands in for a stack that was not recorded.
#[test]
fn stand_ins() {
    let report = "\
BUG kmalloc-64 (Tainted: G           OE     ): Poison overwritten
Allocated in some_alloc+0x1c/0x60 [some] age=0 cpu=0 pid=83
 kmalloc_trace+0x26/0x90
 some_alloc+0x1c/0x60 [some]
Freed in some_free+0x27/0x60 [some] age=0 cpu=0 pid=83
Slab 0xffcfb02e400bfe00 objects=16 used=14
CPU: 0 PID: 83 Comm: insmod Tainted: G           OE      6.1.0 #1
Call Trace:
 check_object+0x22b/0x280
";
    insta::assert_snapshot!(show(&filled(FindingKind::SlabCorruption, report)), @r#"
        cpu 0 pid 83 "insmod"
        taint "OE" release "6.1.0"
        frames
          check_object+22b
        Allocated in some_alloc+0x1c/0x60 [some] age=0 cpu=0 pid=83
          kmalloc_trace+26
          some_alloc+1c [some]
        Freed in some_free+0x27/0x60 [some] age=0 cpu=0 pid=83
          some_free+27 [some]
        "#);
}

#[test]
fn bounds() {
    let report = " f+0x1/0x2\n".repeat(2000) + &"Allocated by task 1:\n f+0x1/0x2\n".repeat(2000);
    let finding = filled(FindingKind::Kasan, &report);
    assert_eq!((finding.frames.len(), finding.stacks.len()), (MAX_FRAMES, MAX_STACKS));
    let list = format!("Modules linked in:{}\n", " a".repeat(5000));
    assert_eq!(filled(FindingKind::Bug, &list).modules.len(), MAX_MODULES);
}
