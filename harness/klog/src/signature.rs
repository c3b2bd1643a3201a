//! The signature: equal for the same failure on another boot, CPU, address layout and point
//! release, and short enough to be written in a waiver.
//!
//! `kind/title`, the title without anything that differs between boots and builds, and in
//! parentheses what else tells two failures of one title apart. That is as little as possible:
//! one failure is met on many paths, and which functions a compiler inlines changes with the
//! smallest fix.

use kgate_model::finding::{Finding, FindingKind, Frame, Operation};

use crate::frame::is_address;
use crate::table::TABLE;

/// So many functions besides the title's tell who called a function that checks its callers.
const MAX_CALLERS: usize = 2;
/// A function that is so often on a stack that overflowed has filled it.
const MIN_RECURSION: usize = 4;

/// Names of slab caches are shorter.
const MAX_CACHE: usize = 64;

/// Functions that stand between a caller and what it waits for, without leading underscores.
const WAITING: &[&str] = &["schedule", "preempt_schedule", "io_schedule", "cond_resched", "rwsem_"];
/// Functions that begin what any code may be called from, without leading underscores.
const ENTRIES: &[&str] = &[
    "asm_",
    "common_interrupt",
    "cpu_startup_entry",
    "do_init_module",
    "do_one_initcall",
    "do_syscall",
    "do_sys",
    "el0",
    "entry_",
    "handle_softirqs",
    "invoke_syscall",
    "kthread",
    "process_one_work",
    "process_scheduled_works",
    "ret_from",
    "run_timers",
    "start_kernel",
    "sysvec_",
    "worker_thread",
    "x64_sys",
    "ia32_sys",
    "arm64_sys",
    "se_sys",
    "sys_",
    "SyS_",
    "call_timer_fn",
    "do_softirq",
    "irq_exit",
];

/// The signature of a finding whose other fields are filled in.
pub(crate) fn of(finding: &Finding) -> String {
    let mut signature = format!("{}/", finding.kind);
    let (title, evidence) = evidence(finding);
    normalise(title.strip_suffix(" in corrupted").unwrap_or(title), &mut signature);
    if !evidence.is_empty() {
        signature.push_str(" (");
        signature.push_str(&evidence);
        signature.push(')');
    }
    signature
}

/// The title as far as it is stable, and what tells failures with that title apart.
fn evidence(finding: &Finding) -> (&str, String) {
    use FindingKind::{
        AllocFailure, Bug, HardLockup, ListCorruption, Lockdep, NullPointer, OomKill, PageFault,
        RcuStall, RefCount, SchedulingWhileAtomic, SlabCorruption, SleepInAtomic, SoftLockup,
        StackOverflow, Ubsan, Warning,
    };
    let title = finding.title.as_str();
    let text = match finding.kind {
        NullPointer | PageFault => jump(finding).or_else(|| {
            let operation = finding.access.and_then(|access| access.operation);
            operation.map(|operation| operation_name(operation).to_owned())
        }),
        // Functions that check are charged where their callers are at fault.
        Bug
        | Warning
        | RefCount
        | ListCorruption
        | SchedulingWhileAtomic
        | SleepInAtomic
        | AllocFailure
        | Ubsan => callers(finding),
        Lockdep => locks(&finding.excerpt).or_else(|| callers(finding)),
        // Found long after the fact, by whoever uses the memory next: the object's owner counts.
        SlabCorruption => match owner(finding) {
            Some(owner) => {
                let place = title.rsplit_once(" in ").filter(|(_, place)| {
                    finding.function.as_deref() == Some(*place) || *place == "corrupted"
                });
                return (place.map_or(title, |(what, _)| what), format!("allocated in {owner}"));
            }
            None => cache(&finding.excerpt).map(|cache| format!("cache {cache}")),
        },
        // Where exactly differs from time to time; which module is busy does not.
        SoftLockup | HardLockup | RcuStall => {
            let outermost = finding.frames.iter().rev().find(|f| f.reliable && f.module.is_some());
            outermost.map(|frame| name(&frame.function))
        }
        StackOverflow => recursion(&finding.frames).map(|name| format!("recursion of {name}")),
        OomKill => finding
            .excerpt
            .lines()
            .any(|line| line.starts_with("Memory cgroup out of memory"))
            .then(|| "memory cgroup".to_owned()),
        _ => None,
    };
    (title, text.unwrap_or_default())
}

/// Who sent the CPU to a place that is no code.
fn jump(finding: &Finding) -> Option<String> {
    if !is_address(&finding.frames.first()?.function) {
        return None;
    }
    let named = |frame: &&Frame| !is_address(&frame.function) && !frame.inlined;
    let frames = || finding.frames.iter().filter(named);
    let caller = frames().find(|frame| frame.reliable).or_else(|| frames().next())?;
    Some(format!("jump from {}", name(&caller.function)))
}

/// Who called the title's function, up to the first function of a module: with that, the failure
/// has its name. Where the title's function is not met, the innermost ones.
fn callers(finding: &Finding) -> Option<String> {
    let mut names = Vec::new();
    for frame in own(&finding.frames) {
        let name = name(&frame.function);
        let plain = name.trim_start_matches('_');
        if ENTRIES.iter().any(|entry| plain.starts_with(entry)) && frame.module.is_none() {
            break;
        }
        let charged =
            finding.function.as_deref().is_some_and(|f| f.trim_start_matches('_') == plain);
        if charged {
            // What it called is the checking code.
            names.clear();
        } else if names.last() != Some(&name) {
            names.push(name);
        }
        if names.len() == MAX_CALLERS || frame.module.is_some() {
            break;
        }
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// The frames that neither report, nor check, nor wait for others. Those of modules count all:
/// the helpers are in the kernel's image.
fn own(frames: &[Frame]) -> impl Iterator<Item = &Frame> {
    frames
        .iter()
        .filter(|frame| frame.reliable && !frame.inlined && !is_address(&frame.function))
        .filter(|frame| {
            let plain = frame.function.trim_start_matches('_');
            let helps = || {
                WAITING.iter().any(|wait| plain.starts_with(wait))
                    || TABLE.helper.is_match(frame.function.as_bytes())
            };
            frame.module.is_some() || !helps()
        })
}

/// Who allocated the object that is damaged.
fn owner(finding: &Finding) -> Option<String> {
    let is_allocation =
        |label: &str| label.trim_start_matches("INFO: ").starts_with("Allocated in ");
    let stack = finding.stacks.iter().find(|stack| is_allocation(&stack.label))?;
    own(&stack.frames).next().map(|frame| name(&frame.function))
}

/// The slab cache of `BUG kmalloc-64 (Tainted: …): …`.
fn cache(excerpt: &str) -> Option<&str> {
    let (name, _) = excerpt.lines().next()?.strip_prefix("BUG ")?.split_once(" (")?;
    let is_name = |byte: u8| matches!(byte, b' '..=b'~');
    (name.len() <= MAX_CACHE && name.bytes().all(is_name)).then_some(name)
}

/// The function that fills most of a stack.
fn recursion(frames: &[Frame]) -> Option<String> {
    let count = |frame: &&Frame| frames.iter().filter(|f| f.function == frame.function).count();
    let most = frames.iter().take(32).max_by_key(count)?;
    (count(&most) >= MIN_RECURSION).then(|| name(&most.function))
}

/// A function's name without suffixes of the compiler.
fn name(function: &str) -> String {
    let mut name = String::new();
    normalise(function, &mut name);
    name
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Execute => "execute",
        Operation::Free => "free",
    }
}

/// The classes of the locks that a report of the lock checker is about: the one wanted, the one
/// held. They are printed as `ffff8880 (&sb->s_type->i_mutex_key#8){+.+.}-{3:3}, at: …`.
fn locks(excerpt: &str) -> Option<String> {
    let mut classes: Vec<String> = Vec::new();
    let mut due = 0;
    for line in excerpt.lines() {
        if line.contains(" is trying to ")
            || line.starts_with("but task is already holding")
            || line.starts_with("and this task is already holding")
            || line.ends_with(" takes:")
        {
            // Before the lock may stand an empty line.
            due = 2;
        } else if due > 0 {
            due -= 1;
            if let Some(class) = class(line) {
                classes.push(class);
                due = 0;
                if classes.len() == 2 {
                    break;
                }
            }
        }
    }
    (!classes.is_empty()).then(|| classes.join(" after "))
}

/// The name of a lock's class, without the numbers that tell instances of one key apart.
fn class(line: &str) -> Option<String> {
    let line = &line[..line.find("){")?];
    let name = &line[line.find('(')? + 1..];
    let name = name.split(['#', '/', ':']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Appends `text` without addresses, numbers, offsets, suffixes of the compiler and ids of
/// kernel threads.
fn normalise(text: &str, out: &mut String) {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(len);
        rest = after;
        // An offset in a function: `+0x12`, `/0x34`.
        if matches!(token, "+" | "/")
            && let Some(offset) = rest.strip_prefix("0x")
            && out.ends_with(is_word)
        {
            rest = offset.trim_start_matches(|c: char| c.is_ascii_hexdigit());
            continue;
        }
        word(token, out);
        if token == "kworker"
            && let Some(ids) = rest.strip_prefix('/')
        {
            let is_id = |c: char| c.is_ascii_alphanumeric() || c == ':';
            rest = ids.trim_start_matches(is_id);
        }
    }
}

/// Appends one word, normalised.
fn word(token: &str, out: &mut String) {
    let digits = token.strip_prefix("0x");
    let hex = digits.unwrap_or(token);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let is_long = hex.len() >= 8 && hex.bytes().any(|b| b.is_ascii_digit());
    if token.bytes().all(|b| b.is_ascii_digit()) && !token.is_empty() {
        out.push_str("NUM");
    } else if is_hex && (digits.is_some() || is_long) {
        out.push_str("ADDR");
    } else {
        // Suffixes come in any number and order: `f.isra.0.cold`.
        const SUFFIXES: &[&str] =
            &[".isra.", ".constprop.", ".part.", ".llvm.", ".lto_priv.", ".clone."];
        let cut = token.find('.').and_then(|dot| {
            SUFFIXES.iter().filter_map(|suffix| token[dot..].find(suffix)).min().map(|at| dot + at)
        });
        let name = &token[..cut.unwrap_or(token.len())];
        out.push_str(name.strip_suffix(".cold").unwrap_or(name));
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use kgate_model::finding::{Access, Severity, Stack};
    use proptest::prelude::*;

    use super::*;
    use crate::frame;

    fn finding(kind: FindingKind, title: &str, excerpt: &str) -> Finding {
        let excerpt = excerpt.to_owned();
        Finding { excerpt, ..Finding::new(kind, Severity::Severe, title) }
    }

    fn frames(lines: &[&str]) -> Vec<Frame> {
        fn parse(line: &str) -> Option<frame::RawFrame<'_>> {
            frame::pointer(line).or_else(|| frame::trace(line))
        }
        lines.iter().map(|line| parse(line).unwrap().to_frame()).collect()
    }

    #[test]
    fn titles() {
        let cases = [
            ("WARNING in tcp_ack", "WARNING in tcp_ack"),
            ("WARNING in tcp_ack.isra.0", "WARNING in tcp_ack"),
            ("WARNING in f.part.0.isra.3.cold", "WARNING in f"),
            ("BUG: soft lockup in f+0x12/0x34", "BUG: soft lockup in f"),
            ("fault in 0xffffffffc0a01000", "fault in ADDR"),
            ("bug at ffff888012345678", "bug at ADDR"),
            ("deadbeef is no address, decade neither", "deadbeef is no address, decade neither"),
            ("kernel panic: VFS: unknown-block(8,1)", "kernel panic: VFS: unknown-block(NUM,NUM)"),
            ("CPU#3 stuck in x64_sys_call", "CPU#NUM stuck in x64_sys_call"),
            ("Out of memory: killed kworker/u8:3-events", "Out of memory: killed kworker-events"),
            ("Out of memory: killed Web Content", "Out of memory: killed Web Content"),
            ("EXT4-fs error in ext4_find_entry", "EXT4-fs error in ext4_find_entry"),
            ("a/b c.d…é", "a/b c.d…é"),
        ];
        for (title, expected) in cases {
            let signature = of(&finding(FindingKind::Bug, title, ""));
            assert_eq!(signature, format!("bug/{expected}"));
        }
    }

    #[test]
    fn evidence_by_kind() {
        let mut null = finding(FindingKind::NullPointer, "NULL in f", "");
        assert_eq!(of(&null), "null_pointer/NULL in f");
        null.access =
            Some(Access { operation: Some(Operation::Write), size: None, address: Some(16) });
        assert_eq!(of(&null), "null_pointer/NULL in f (write)");
        null.frames =
            frames(&["RIP: 0010:0x0", " ? g+0x1/0x2", " 0xffffffffc0a01000", " h.isra.0+0x1/0x2"]);
        assert_eq!(of(&null), "null_pointer/NULL in f (jump from h)");
        let lockdep = "\
WARNING: possible circular locking dependency detected
6.12.0 #1 Not tainted
------------------------------------------------------
insmod/83 is trying to acquire lock:
ffff888012345678 (&sb->s_type->i_mutex_key#8/1){+.+.}-{3:3}, at: f+0x1/0x2

but task is already holding lock:
ffffffff81234567 (rtnl_mutex){+.+.}-{3:3}, at: g+0x1/0x2
";
        assert_eq!(
            of(&finding(FindingKind::Lockdep, "possible deadlock in f", lockdep)),
            "lockdep/possible deadlock in f (&sb->s_type->i_mutex_key after rtnl_mutex)"
        );
        let oom = "Memory cgroup out of memory: Killed process 85 (tail)\n";
        assert_eq!(
            of(&finding(FindingKind::OomKill, "Out of memory: killed tail", oom)),
            "oom_kill/Out of memory: killed tail (memory cgroup)"
        );
        let slab = |excerpt: &str| {
            of(&finding(FindingKind::SlabCorruption, "BUG: Redzone overwritten", excerpt))
        };
        let known = slab("BUG kmalloc-64 (Tainted: G    B): Redzone overwritten\n");
        assert_eq!(known, "slab_corruption/BUG: Redzone overwritten (cache kmalloc-64)");
        // A name ends in its line, and is none when it holds what no name does.
        for cut in ["BUG kmalloc-6\0\0ed: G (x)\n", "BUG kmalloc-64\nDisabling lock (x)\n"] {
            assert_eq!(slab(cut), "slab_corruption/BUG: Redzone overwritten");
        }
    }

    /// What is charged with a failed check, and on whose behalf it was called.
    #[test]
    fn evidence_of_stacks() {
        let cases: &[(FindingKind, &str, &[&str], &str)] = &[
            (
                FindingKind::Warning,
                "WARNING in __vunmap",
                &[
                    "RIP: 0010:__vunmap+0x1/0x2",
                    " vfree+0x1/0x2",
                    " some_exit+0x1/0x2 [some]",
                    " x+0x1/0x2",
                ],
                "warning/WARNING in __vunmap (vfree, some_exit)",
            ),
            (
                FindingKind::Warning,
                "WARNING in some_init",
                &["RIP: 0010:some_init+0x1/0x2 [some]", " ? f+0x1/0x2", " do_one_initcall+0x1/0x2"],
                "warning/WARNING in some_init",
            ),
            (
                FindingKind::ListCorruption,
                "BUG: corrupted list in some_init",
                &[
                    "RIP: 0010:__list_add_valid.cold+0x1/0x2",
                    " some_list_add+0x1/0x2 [some]",
                    " some_init+0x1/0x2 [some]",
                ],
                "list_corruption/BUG: corrupted list in some_init (some_list_add)",
            ),
            (
                FindingKind::SchedulingWhileAtomic,
                "BUG: scheduling while atomic in msleep",
                &[
                    " dump_stack+0x1/0x2",
                    " __schedule_bug.cold+0x1/0x2",
                    " __schedule+0x1/0x2",
                    " schedule+0x1/0x2",
                    " msleep+0x1/0x2",
                    " a+0x1/0x2",
                    " b+0x1/0x2",
                    " c+0x1/0x2",
                ],
                "scheduling_while_atomic/BUG: scheduling while atomic in msleep (a, b)",
            ),
            (
                FindingKind::SoftLockup,
                "BUG: soft lockup in finit_module",
                &[
                    "RIP: 0010:some_loop+0x1/0x2 [some]",
                    " some_init+0x1/0x2 [some]",
                    " do_one_initcall+0x1/0x2",
                ],
                "soft_lockup/BUG: soft lockup in finit_module (some_init)",
            ),
            (
                FindingKind::StackOverflow,
                "BUG: stack guard page was hit in corrupted",
                &[
                    "RIP: 0010:deep.isra.0+0x1/0x2",
                    " deep.isra.0+0x2/0x2",
                    " deep.isra.0+0x2/0x2",
                    " deep.isra.0+0x2/0x2",
                ],
                "stack_overflow/BUG: stack guard page was hit (recursion of deep)",
            ),
            (
                FindingKind::PageFault,
                "BUG: unable to handle kernel paging request in f",
                &["RIP: 0010:f+0x1/0x2", " g+0x1/0x2"],
                "page_fault/BUG: unable to handle kernel paging request in f",
            ),
        ];
        for (kind, title, lines, expected) in cases {
            let mut finding = finding(*kind, title, "");
            let function = title.rsplit_once(" in ").map(|(_, function)| function.to_owned());
            finding.function = function.filter(|function| function != "corrupted");
            finding.frames = frames(lines);
            assert_eq!(of(&finding), *expected);
        }
        let mut slab = finding(
            FindingKind::SlabCorruption,
            "BUG: Poison overwritten in get_partial_node",
            "BUG kmalloc-64 (Not tainted): Poison overwritten\n",
        );
        slab.function = Some("get_partial_node".to_owned());
        let with_cache = of(&slab);
        slab.stacks = vec![Stack {
            label: "Allocated in some_alloc+0x1/0x2 [some] age=0 cpu=0 pid=83".to_owned(),
            frames: frames(&[" kmalloc_trace+0x1/0x2", " some_alloc+0x1/0x2 [some]"]),
        }];
        assert_eq!(
            [with_cache, of(&slab)],
            [
                "slab_corruption/BUG: Poison overwritten in get_partial_node (cache kmalloc-64)",
                "slab_corruption/BUG: Poison overwritten (allocated in some_alloc)",
            ]
        );
    }

    /// Reports with `{c}` for CPUs, `{p}` for process ids, `{a}` for addresses and `{o}` for
    /// offsets and sizes.
    const REPORTS: &[&str] = &[
        "\
BUG: kernel NULL pointer dereference, address: 0000000000000010
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
PGD {a} P4D {a} PUD 0 
Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: {c} PID: {p} Comm: insmod Tainted: G           OE      6.1.0-47-cloud-amd64 #1  Debian 6.1.170-3
RIP: 0010:some_write+0x{o}/0x{o} [some]
RSP: 0018:{a} EFLAGS: 00010246
Call Trace:
 <TASK>
 some_init+0x{o}/0x{o} [some]
 ? 0x{a}
 do_one_initcall+0x{o}/0x{o}
 </TASK>
",
        "\
WARNING: CPU: {c} PID: {p} at net/ipv4/tcp_input.c:{p} tcp_ack+0x{o}/0x{o}
Modules linked in:
CPU: {c} PID: {p} Comm: swapper/{c} Not tainted 6.1.0-47-cloud-amd64 #1
RIP: 0010:tcp_ack+0x{o}/0x{o}
Call Trace:
 <IRQ>
 tcp_rcv_established+0x{o}/0x{o}
 </IRQ>
---[ end trace {a} ]---
",
        "\
BUG: KASAN: slab-use-after-free in some_read+0x{o}/0x{o}
Read of size 8 at addr {a} by task insmod/{p}

CPU: {c} UID: 0 PID: {p} Comm: insmod Not tainted 6.12.1 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x{o}/0x{o}
 print_report+0x{o}/0x{o}
 kasan_report+0x{o}/0x{o}
 some_read+0x{o}/0x{o}
 do_one_initcall+0x{o}/0x{o}
 </TASK>

Allocated by task {p}:
 some_alloc+0x{o}/0x{o}
",
        "\
Kernel panic - not syncing: asked for on CPU {c} at 0x{a}
CPU: {c} PID: {p} Comm: insmod Not tainted 6.12.1 #1
Call Trace:
 <TASK>
 panic+0x{o}/0x{o}
 some_panic+0x{o}/0x{o}
 </TASK>
---[ end Kernel panic - not syncing: asked for on CPU {c} at 0x{a} ]---
",
    ];

    /// The console of one boot: every place of a report filled from `numbers` in turn.
    fn boot(report: &str, numbers: &[u64]) -> String {
        let mut numbers = numbers.iter().cycle();
        let mut log = String::new();
        for line in report.lines() {
            let mut number = || *numbers.next().unwrap();
            let stamp = number() % 10_000_000_000;
            let mut line = line.to_owned();
            while let Some(at) = line.find('{') {
                let value = match &line[at..at + 3] {
                    "{c}" => (number() % 256).to_string(),
                    "{p}" => (number() % 4_194_304).to_string(),
                    "{a}" => format!("{:016x}", number() | 0xff00_0000_0000_0000),
                    _ => format!("{:x}", number() % 0xffff + 1),
                };
                line.replace_range(at..at + 3, &value);
            }
            writeln!(log, "[{:5}.{:06}] {line}", stamp / 1_000_000, stamp % 1_000_000).unwrap();
        }
        log
    }

    proptest! {
        #[test]
        fn numbers_do_not_matter(numbers in prop::collection::vec(any::<u64>(), 1..60)) {
            let mut signatures = Vec::new();
            for report in REPORTS {
                let signature = |numbers: &[u64]| {
                    let findings = crate::parse(crate::Source::Console, boot(report, numbers).as_bytes());
                    findings.into_iter().map(|finding| of(&finding)).collect::<Vec<_>>()
                };
                let found = signature(&numbers);
                prop_assert_eq!(found.len(), 1);
                prop_assert_eq!(&found, &signature(&[83]));
                prop_assert!(!signatures.contains(&found));
                signatures.push(found);
            }
        }
    }
}
