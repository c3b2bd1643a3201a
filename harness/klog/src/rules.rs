//! The rule table: how each kind of kernel report begins, what it is called and where to find the
//! function to charge it to. Data; `table`, `blame` and `report` read it.
//!
//! Titles follow the convention of the syzbot dashboard, so that a finding here can be looked up
//! there: `convention` says what is on top of it.

use kgate_model::finding::FindingKind::{self, *};
use kgate_model::finding::Severity::{self, Severe, Warning};

/// What a header means when another report is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// It begins a report of its own and ends the one that the same task or CPU was printing.
    Never,
    /// It continues an open report that is severe, because that is what leads to it.
    Severe,
    /// It continues any open report: it is only ever printed as a consequence.
    Any,
    /// It stands for itself, and what else is open goes on.
    Aside,
}

/// One step on the way from a header to the function to charge. Each takes lines until it is met;
/// functions met on the way count in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The function that the header names.
    Header,
    /// The instruction pointer.
    Pointer,
    /// The instruction pointer, or on PowerPC the place of the trap.
    Trap,
    /// The heading of a stack.
    CallTrace,
    /// A line with any of these texts.
    Line(&'static [&'static str]),
    /// Where a lock was taken: `at: f+0x1/0x2`.
    Lock,
    /// A function after its address: `[<ffffffff81000000>] f+0x1/0x2`.
    Address,
    /// Access type and size: `Read of size 8`; is `{d}` in the title.
    Access,
    /// The function after this text; is charged whatever it is.
    Named(&'static str),
    /// The whole next line; is `{d}` in the title.
    Next,
    /// The process that `Killed process 12 (name)` names; is `{d}` in the title.
    Victim,
    /// The place in the source that is complained about.
    Source,
    /// The function after `Allocated in `: whose object it is.
    Owner,
    /// The functions of a stack, up to where the next one begins.
    Trace,
}

/// Which of the functions that the steps met the finding is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The first that is not a helper.
    First,
    /// The one that the function which handed out the work had called: a CPU that loops is
    /// somewhere else each time, but below the same system call, timer or work item.
    Looping,
    /// The first that does not wait on behalf of others.
    Waiting,
}

/// The rules for all headers that begin with the same text.
#[derive(Debug)]
pub(crate) struct Group {
    /// What such a header begins with; the search for it is what healthy logs cost.
    pub(crate) literal: &'static str,
    /// Regular expression of lines that are no headers although they contain the literal.
    pub(crate) not: &'static str,
    /// In order: the first rule that matches decides.
    pub(crate) rules: &'static [Rule],
}

/// One way in which a report begins.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Regular expression, anchored at the group's literal. Captures `1` and `2` go into the
    /// title; `FUNC` stands for a function with its offset and captures its name, `PC` for an
    /// address in brackets, `SRC` for a file and line.
    pub(crate) pattern: &'static str,
    pub(crate) kind: FindingKind,
    pub(crate) severity: Severity,
    /// `{1}`, `{2}`: captures of the pattern; `{d}`: what a step caught; `{f}`: the function.
    pub(crate) title: &'static str,
    /// Other titles of the kind, in the same terms.
    pub(crate) alt: &'static [&'static str],
    /// Steps that must all be met, or the report has lost lines.
    pub(crate) needs: &'static [Step],
    /// The way to the function.
    pub(crate) steps: &'static [Step],
    /// Other ways, each for when those before it lead nowhere.
    pub(crate) instead: &'static [&'static [Step]],
    pub(crate) pick: Pick,
    /// Regular expression of functions that are helpers in reports of this rule only.
    pub(crate) skip: &'static str,
    /// Whether such a report may come without a stack.
    pub(crate) stackless: bool,
    /// Why the report is damaged whatever follows; empty when it is not.
    pub(crate) damaged: &'static str,
    pub(crate) join: Join,
    /// How sure the header is.
    pub(crate) sure: Sure,
    /// Text without which, in the lines that follow, it was not a report.
    pub(crate) confirm: &'static str,
    /// Whether the convention has no such report.
    pub(crate) extra: bool,
}

/// What a line must look like for a header in it to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sure {
    /// Nothing but a kernel prints the like: wherever in the line, as lines run into each other.
    Anywhere,
    /// It stands at the line's start or after the name of a subsystem.
    Start,
    /// So, and the line carries the kernel's time stamp: other programs print the like.
    Stamped,
    /// It stands after the names of a driver and its device.
    Device,
    /// It stands anywhere in a line that carries the kernel's time stamp.
    Within,
    /// It stands at the start of a line without the kernel's time stamp, in a log that has none.
    Unstamped,
}

const fn rule(
    pattern: &'static str,
    kind: FindingKind,
    severity: Severity,
    title: &'static str,
) -> Rule {
    Rule {
        pattern,
        kind,
        severity,
        title,
        alt: &[],
        needs: &[],
        steps: &[],
        instead: &[],
        pick: Pick::First,
        skip: "",
        stackless: false,
        damaged: "",
        join: Join::Never,
        sure: Sure::Anywhere,
        confirm: "",
        extra: false,
    }
}

impl Rule {
    const fn alt(mut self, alt: &'static [&'static str]) -> Self {
        self.alt = alt;
        self
    }
    const fn needs(mut self, needs: &'static [Step]) -> Self {
        self.needs = needs;
        self
    }
    const fn steps(mut self, steps: &'static [Step]) -> Self {
        self.steps = steps;
        self
    }
    const fn instead(mut self, instead: &'static [&'static [Step]]) -> Self {
        self.instead = instead;
        self
    }
    const fn pick(mut self, pick: Pick) -> Self {
        self.pick = pick;
        self
    }
    const fn skip(mut self, skip: &'static str) -> Self {
        self.skip = skip;
        self
    }
    const fn stackless(mut self) -> Self {
        self.stackless = true;
        self
    }
    const fn damaged(mut self, why: &'static str) -> Self {
        self.damaged = why;
        self
    }
    const fn join(mut self, join: Join) -> Self {
        self.join = join;
        self
    }
    const fn sure(mut self, sure: Sure) -> Self {
        self.sure = sure;
        self
    }
    const fn confirm(mut self, confirm: &'static str) -> Self {
        self.confirm = confirm;
        self
    }
    const fn extra(mut self) -> Self {
        self.extra = true;
        self
    }
}

use Join::{Any, Aside};
use Pick::{Looping, Waiting};
use Step::{
    Access, Address, CallTrace, Header, Line, Lock, Named, Next, Owner, Pointer, Source, Trace,
    Trap, Victim,
};
use Sure::{Device, Stamped, Start, Unstamped, Within};

/// A `WARN`: newer kernels print where the trap was and then the stack, older ones the stack.
const fn warn(pattern: &'static str, title: &'static str) -> Rule {
    rule(pattern, FindingKind::Warning, Warning, title).steps(TRAP).instead(&[STACK])
}

/// A fault: the instruction pointer, then the stack.
const fn fault(pattern: &'static str, kind: FindingKind, title: &'static str) -> Rule {
    rule(pattern, kind, Severe, title).steps(FAULT)
}

/// A complaint of checking code, which the stack begins with.
const fn check(
    pattern: &'static str,
    kind: FindingKind,
    severity: Severity,
    title: &'static str,
) -> Rule {
    rule(pattern, kind, severity, title).steps(STACK)
}

const fn lockdep(pattern: &'static str, title: &'static str) -> Rule {
    rule(pattern, Lockdep, Warning, title)
}

const TRAP: &[Step] = &[Trap, Trace];
const FAULT: &[Step] = &[Pointer, CallTrace, Trace];
const STACK: &[Step] = &[CallTrace, Trace];
const HEADER: &[Step] = &[Header, CallTrace, Trace];
/// What another CPU was doing, when that is all there is.
const OTHER_CPU: &[Step] = &[
    Line(&["NMI backtrace for cpu", "Stack dump where RCU GP kthread last ran"]),
    Pointer,
    CallTrace,
    Trace,
];
const BAD_ACCESS: &[&str] = &["bad-access in {f}"];
const ORIGIN: &[&str] = &["Local variable ", "Uninit was created at:"];
const TAKING: &str = "is trying to acquire";
const CUT: &str = "the report's first lines are lost";
const EMPTY: &str = "nothing stands after the header";

/// In order of rank: when a line holds several headers, the first group's counts.
#[rustfmt::skip]
pub(crate) static GROUPS: &[Group] = &[
    Group { literal: "BUG:",
        not: r"ODEBUG:|Boot_DEBUG:|xlog_status:|\bDEBUG:|BUG: no syscalls can create resource",
        rules: &[
        // Sanitizers.
        rule(r"BUG: KASAN: (?:double-free or invalid-free|double-free|invalid-free) in FUNC",
            Kasan, Severe, "KASAN: invalid-free in {f}").alt(&["invalid-free in {f}"])
            .steps(HEADER).skip("slab_|kfree|vunmap|vfree"),
        rule(r"BUG: KASAN: ([a-z-]+) in FUNC", Kasan, Severe, "KASAN: {1} {d} in {f}")
            .alt(BAD_ACCESS).needs(&[Access]).steps(HEADER)
            .skip("kernel_fault|tag_check|mem_abort|^el1_|^el1h_"),
        rule(r"BUG: KASAN: ([a-z-]+) on address", Kasan, Severe, "KASAN: {1} {d}")
            .needs(&[Access]),
        rule(r"BUG: KASAN: (.*)", Kasan, Severe, "KASAN: {1}")
            .damaged("the header names no function"),
        rule(r"BUG: KMSAN: kernel-usb-infoleak in FUNC",
            Kmsan, Severe, "KMSAN: kernel-usb-infoleak in {f}").alt(&["KMSAN origin in {g}"])
            .steps(&[Trace, Line(ORIGIN), Trace]).stackless()
            .skip("alloc_skb|usb_submit_urb|usb_start_wait_urb|usb_bulk_msg|usb_interrupt_msg|usb_control_msg"),
        rule(r"BUG: KMSAN: ([a-z-]+) in FUNC", Kmsan, Severe, "KMSAN: {1} in {f}").alt(BAD_ACCESS)
            .steps(&[Trace, Line(ORIGIN), Trace]).stackless()
            .skip("alloc_skb|netlink_ack|netlink_rcv_skb|_encrypt$|^(?:crypto|cipher|drbg|rng)_"),
        rule(r"BUG: KCSAN: (.*)", Kcsan, Warning, "KCSAN: {1}").stackless(),
        rule(r"BUG: KFENCE: ((?:use-after-free|out-of-bounds|invalid) (?:read|write)) in FUNC",
            Kfence, Severe, "KFENCE: {1} in {f}").alt(BAD_ACCESS)
            .steps(&[Header, Trace]),
        rule(r"BUG: KFENCE: invalid free in FUNC", Kfence, Severe, "KFENCE: invalid free in {f}")
            .alt(&["invalid-free in {f}"]).steps(&[Header, Trace]).stackless(),
        rule(r"BUG: KFENCE: memory corruption in FUNC",
            Kfence, Severe, "KFENCE: memory corruption in {f}")
            .steps(&[Header, Trace]).stackless(),
        // Faults.
        fault(r"BUG: (?:unable to handle kernel paging request|unable to handle page fault for address|Unable to handle kernel data access)",
            PageFault, "BUG: unable to handle kernel paging request in {f}").alt(BAD_ACCESS),
        fault(r"BUG: (?:[Uu]nable to handle kernel NULL pointer dereference|[Kk]ernel NULL pointer dereference)",
            NullPointer, "BUG: unable to handle kernel NULL pointer dereference in {f}")
            .alt(BAD_ACCESS),
        // The address comes from another call of printk.
        rule(r"BUG: [Uu]nable to handle kernel", PageFault, Severe, "BUG: unable to handle kernel")
            .damaged("the header is cut"),
        fault(r"BUG: .*stack guard page was hit at", StackOverflow,
            "BUG: stack guard page was hit in {f}").alt(&["stack-overflow in {f}"]).pick(Looping),
        // The lock checkers.
        check(r"BUG: (spinlock|rwlock) (lockup suspected|already unlocked|recursion|cpu recursion|bad magic|wrong owner|wrong CPU|trylock failure on UP)",
            Bug, Severe, "BUG: {1} {2} in {f}").skip("spin_|_lock|_unlock"),
        lockdep(r"BUG: .*still has locks held!", "BUG: still has locks held in {f}")
            .needs(&[Address]),
        lockdep(r"BUG: lock held when returning to user space",
            "BUG: lock held when returning to user space in {f}")
            .needs(&[Line(&["leaving the kernel with locks still held"]), Lock]).stackless(),
        lockdep(r"BUG: bad unlock balance detected!", "BUG: bad unlock balance in {f}")
            .steps(&[Address, CallTrace, Trace]),
        lockdep(r"BUG: held lock freed!", "BUG: held lock freed in {f}").needs(&[Address]),
        lockdep(r"BUG: Invalid wait context", "WARNING: locking bug in {f}")
            .steps(STACK).skip("lock_sock|release_sock"),
        lockdep(r"BUG: workqueue leaked lock or atomic",
            "BUG: workqueue leaked lock or atomic in {f}")
            .needs(&[Named("last function: ")]).stackless(),
        lockdep(r"BUG: workqueue leaked atomic, lock or RCU",
            "BUG: workqueue leaked atomic, lock or RCU in {f}")
            .needs(&[Named("workfn=")]).stackless(),
        lockdep(r"BUG: MAX_\w+ too low", "").stackless(),
        // Stalls.
        fault(r"BUG: soft lockup", SoftLockup, "BUG: soft lockup in {f}")
            .alt(&["stall in {f}"]).pick(Looping),
        rule(r"BUG: workqueue lockup", SoftLockup, Severe, "BUG: workqueue lockup").stackless(),
        // Contexts.
        check(r"BUG: scheduling while atomic", SchedulingWhileAtomic, Severe,
            "BUG: scheduling while atomic in {f}").skip("schedule"),
        check(r"BUG: sleeping function called from invalid context at (.*)", SleepInAtomic, Severe,
            "BUG: sleeping function called from invalid context in {f}"),
        check(r"BUG: using ([a-z_]+)\(\) in preemptible", Bug, Warning,
            "BUG: using {1}() in preemptible code in {f}")
            .skip("dump_stack|preemption|preempt|debug_|processor_id|this_cpu"),
        // Memory.
        rule(r"BUG: Bad rss-counter state", BadPageState, Severe, "BUG: Bad rss-counter state").stackless(),
        rule(r"BUG: (non-zero nr_p[tm]\w+ on freeing mm)", BadPageState, Severe, "BUG: {1}").stackless(),
        rule(r"BUG: Bad page (state|cache)", BadPageState, Severe, "BUG: Bad page {1} in {f}")
            .steps(&[Line(&["page last allocated"]), Trace])
            // Kernels that do not track who allocated a page name who met it.
            .instead(&[STACK])
            .skip("(?:free|put|get|update|release)_page|free_unref|^_*folio|truncate_inode_pages|page_frag_free|alloc|vmap|page_owner|bad_page|_free_pages"),
        rule(r"BUG: Bad page map", BadPageState, Severe, "BUG: Bad page map"),
        rule(r"BUG: Dentry .* still in use \([0-9]+\) +\[(unmount) of ([^\]]+)\]", Bug, Severe,
            "BUG: Dentry still in use in {1}").alt(&["BUG: Dentry still in use [{1} of {2}]"]).stackless(),
        rule(r"BUG: memory leak", MemoryLeak, Warning, "memory leak in {f}")
            .steps(&[Line(&["backtrace:", "backtrace (crc "]), Trace])
            .skip("kmemleak|mmap|kmem|slab|alloc|create_object|idr_get|list_lru_init|kasprintf|kvasprintf|pcpu_create|strdup|strndup|memdup"),
        rule(r"BUG:\s*$", Bug, Warning, "BUG: corrupted").damaged(EMPTY).sure(Start),
        // Whatever else the kernel calls a bug.
        rule(r"BUG: \w.{3,}", Bug, Severe, "").sure(Stamped).stackless(),
    ]},
    Group { literal: "WARNING:",
        not: r"(?i)WARNING: /etc/ssh/moduli|workqueue cpumask: online intersect|the mand mount option|Unsupported flag value\(s\) of 0x%x in DT_FLAGS_1|Unprivileged eBPF is enabled|missed to adjust virtual screen size|WARNING: See https.* for mitigation|kernel not compiled with|EXT4-fs(?: \(.*\))?:|uses (?:deprecated v2 capabilities|wireless extensions)|XFS \(\w+\): WARNING",
        rules: &[
        // Those in checking code under the name of what was checked.
        warn(r"WARNING: .*lib/debugobjects\.c.* (?:debug_(?:print|check)|at)",
            "WARNING: ODEBUG bug in {f}")
            .skip("debug_|rcu|hrtimer_|timer_|work_|percpu_|vunmap|vfree|__free_|debug_check|kobject_"),
        warn(r"WARNING: .*mm/usercopy\.c.* (?:usercopy_warn|at)", "WARNING: bad usercopy in {f}")
            .skip("usercopy|__check"),
        warn(r"WARNING: .*lib/kobject\.c.* (?:kobject_|at)", "WARNING: kobject bug in {f}")
            .skip("kobject_"),
        warn(r"WARNING: .*fs/proc/generic\.c.* (?:proc_register|at)",
            "WARNING: proc registration bug in {f}").skip("proc_"),
        Rule { kind: RefCount, ..warn(r"WARNING: .*lib/refcount\.c.* (?:refcount_|at)",
            "WARNING: refcount bug in {f}").skip("refcount|kobject_") },
        Rule { kind: Lockdep, ..warn(r"WARNING: .*kernel/locking/lockdep\.c.*lock_",
            "WARNING: locking bug in {f}").skip("lock_sock|release_sock") },
        lockdep(r"WARNING: .*still has locks held!", "WARNING: still has locks held in {f}")
            .needs(&[Lock]),
        Rule { kind: Lockdep, ..warn(r"WARNING: Nested lock was not taken",
            "WARNING: nested lock was not taken in {f}") },
        lockdep(r"WARNING: lock held when returning to user space",
            "WARNING: lock held when returning to user space in {f}")
            .needs(&[Line(&["leaving the kernel with locks still held"]), Lock]).stackless(),
        warn(r"WARNING: .*mm/.*\.c.* k?.?malloc", "WARNING: kmalloc bug in {f}")
            .skip("kmalloc|krealloc|slab|kmem"),
        warn(r"WARNING: .*mm/vmalloc.c.*__vmalloc_node", "WARNING: zero-size vmalloc in {f}"),
        warn(r"WARNING: .* usb_submit_urb", "WARNING in {f}/usb_submit_urb")
            .skip("usb_submit_urb|usb_start_wait_urb|usb_bulk_msg|usb_interrupt_msg|usb_control_msg"),
        Rule { kind: ListCorruption, severity: Severe,
            ..warn(r"WARNING: .*lib/list_debug\.c:\d+", "WARNING in {f}") },
        // Follows what the slab allocator has said of an object.
        warn(r"WARNING: .*mm/slub\.c:\d+ .*(?:object_err|slab_err|slab_bug|__slab_err)", "WARNING in {f}")
            .join(Join::Severe),
        warn(r"WARNING: SRC at 0x\d+, CPU#\d+", "WARNING in {f}"),
        warn(r"WARNING: .* at SRC FUNC", "WARNING in {f}"),
        warn(r"WARNING: SRC at FUNC", "WARNING in {f}"),
        warn(r"WARNING: \[.*\] SRC at FUNC", "WARNING in {f}"),
        warn(r"WARNING: at (?:SRC FUNC|[\w/.-]+\.c:\d+(?: |$))", "WARNING in {f}"),
        warn(r"WARNING: CPU: \d+ (?:UID: \d+ )?PID: \d+ at ", ""),
        lockdep(r"WARNING: possible circular locking dependency detected", "possible deadlock in {f}")
            .needs(&[Line(&[TAKING])]).steps(&[Lock, Lock, Trace])
            .skip("process_one_work|flush_workqueue|drain_workqueue|destroy_workqueue"),
        lockdep(r"WARNING: possible irq lock inversion dependency detected", "possible deadlock in {f}")
            .needs(&[Line(&["just changed the state of lock"]), Lock]),
        lockdep(r"WARNING: .*-safe -> .*-unsafe lock order detected", "possible deadlock in {f}")
            .steps(&[Line(&["which became "]), Trace]),
        lockdep(r"WARNING: possible recursive locking detected", "possible deadlock in {f}")
            .needs(&[Line(&[TAKING]), Lock]),
        lockdep(r"WARNING: inconsistent lock state", "inconsistent lock state in {f}")
            .needs(&[Line(&["takes"]), Lock]).steps(STACK),
        lockdep(r"WARNING: suspicious RCU usage", "WARNING: suspicious RCU usage in {f}")
            .needs(&[Source]).steps(STACK).skip("rcu|kmem|slab"),
        lockdep(r"WARNING: bad unlock balance detected!", "WARNING: bad unlock balance in {f}")
            .steps(&[Address, CallTrace, Trace]),
        lockdep(r"WARNING: held lock freed!", "WARNING: held lock freed in {f}").needs(&[Lock]),
        lockdep(r"WARNING: (?:chain_key collision|bad contention detected!)", "").stackless(),
        rule(r"WARNING: kernel stack regs at [0-9a-f]+ in [^ ]* has bad '([^']+)' value",
            FindingKind::Warning, Warning, "WARNING: kernel stack regs has bad '{1}' value").stackless(),
        rule(r"WARNING: kernel stack frame pointer at [0-9a-f]+ in [^ ]* has bad value",
            FindingKind::Warning, Warning, "WARNING: kernel stack frame pointer has bad value").stackless(),
        rule(r"WARNING: kernel stack (?:regs .* has bad 'bp'|frame pointer .* has bad) value",
            FindingKind::Warning, Warning, "WARNING: kernel stack regs has bad value").stackless(),
        rule(r"WARNING: stack recursion on stack type", FindingKind::Warning, Warning, "").stackless(),
        rule(r"WARNING:\s*$", FindingKind::Warning, Warning, "WARNING: corrupted").damaged(EMPTY).sure(Start),
        // A driver that warns of its device; other texts after `WARNING:` are advice, mostly.
        rule(r"WARNING: \w.*", FindingKind::Warning, Warning, "").stackless().join(Aside).sure(Device),
    ]},
    Group { literal: "INFO:",
        not: r"INFO: lockdep is turned off|INFO: Stall ended before state dump|INFO: NMI handler|INFO: recovery required|(?:handler|interrupt).*took too long|INFO: sys_.* is not present in|INFO: no syscalls can create|rmt_storage:INFO:|_INFO:",
        rules: &[
        lockdep(r"INFO: possible circular locking dependency detected \]", "possible deadlock in {f}")
            .needs(&[Line(&[TAKING]), Lock]),
        lockdep(r"INFO: possible irq lock inversion dependency detected \]", "possible deadlock in {f}")
            .needs(&[Line(&["just changed the state of lock"]), Lock]),
        lockdep(r"INFO: .*-safe -> .*-unsafe lock order detected \]", "possible deadlock in {f}")
            .needs(&[Line(&[TAKING]), Lock]),
        lockdep(r"INFO: possible recursive locking detected \]", "possible deadlock in {f}")
            .needs(&[Line(&[TAKING]), Lock]),
        lockdep(r"INFO: inconsistent lock state \]", "inconsistent lock state in {f}")
            .needs(&[Line(&["takes"]), Lock]),
        lockdep(r"INFO: (?:possible .* detected|.* lock order detected|inconsistent lock state)", ""),
        rule(r"INFO: rcu_\w+ (?:self-)?detected(?: expedited)? stall", RcuStall, Severe,
            "INFO: rcu detected stall in {f}").alt(&["stall in {f}"])
            .steps(&[Line(&["apic_timer_interrupt"]), Pointer, Trace])
            .instead(&[&[Line(&["apic_timer_interrupt", "Exception stack", "el1h_64_irq"]), Trace], OTHER_CPU, FAULT])
            .skip("apic_timer_interrupt|rcu").pick(Looping),
        check(r"INFO: trying to register non-static key", Lockdep, Warning,
            "INFO: trying to register non-static key in {f}").skip("stack|lock|IRQ"),
        lockdep(r"INFO: suspicious RCU usage", "INFO: suspicious RCU usage in {f}")
            .needs(&[Source]).steps(STACK).skip("rcu|kmem|slab"),
        check(r"INFO: task .{0,100}? blocked (?:in I/O wait |on a \S+ .{0,60}?)?for more than [0-9]+ seconds",
            HungTask, Severe, "INFO: task hung in {f}").alt(&["hang in {f}"]).pick(Waiting),
        check(r"INFO: task .{0,100}? can't die for more than .* seconds",
            HungTask, Severe, "INFO: task can't die in {f}").alt(&["hang in {f}"]).skip("schedule"),
        // A name with a line end in it.
        check(r"INFO: task .{0,40}$", HungTask, Severe, "INFO: task hung in {f}")
            .alt(&["hang in {f}"]).pick(Waiting).confirm(" blocked for more than ").sure(Start),
        rule(r"INFO: (Freed|Allocated) in (.*)", Kasan, Severe, "INFO: {1} in {2}").damaged(CUT)
            // In a report of the slab allocator of older kernels, a line of it.
            .join(Join::Severe),
        rule(r"INFO:\s*$", Bug, Warning, "INFO: corrupted").damaged(EMPTY).sure(Start),
    ]},
    Group { literal: "Unable to handle kernel", not: "", rules: &[
        fault("Unable to handle kernel paging request", PageFault,
            "BUG: unable to handle kernel paging request in {f}").alt(BAD_ACCESS),
        fault("Unable to handle kernel NULL pointer dereference", NullPointer,
            "BUG: unable to handle kernel NULL pointer dereference in {f}").alt(BAD_ACCESS),
        fault("Unable to handle kernel (access to user memory)", PageFault,
            "BUG: unable to handle kernel {1} in {f}").alt(BAD_ACCESS),
        fault("Unable to handle kernel pointer dereference", PageFault,
            "BUG: unable to handle kernel pointer dereference in {f}").alt(BAD_ACCESS),
        rule("Unable to handle kernel", PageFault, Severe, ""),
    ]},
    Group { literal: "general protection fault", not: r"general protection fault .* error:\d+ in |general protection fault ip:", rules: &[
        fault("general protection fault.*:", GeneralProtection, "general protection fault in {f}")
            .alt(BAD_ACCESS),
    ]},
    Group { literal: "stack segment: ", not: "", rules: &[
        fault("stack segment: ", Oops, "stack segment fault in {f}"),
    ]},
    // What leads to it is the finding; without that, it is one itself.
    Group { literal: "Kernel panic", not: "", rules: &[
        rule("Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: FUNC",
            StackOverflow, Severity::Fatal, "kernel panic: stack is corrupted in {f}")
            .needs(&[Header]).stackless().join(Join::Severe),
        rule("Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: [a-f0-9]+",
            StackOverflow, Severity::Fatal, "kernel panic: stack is corrupted in {f}")
            .steps(STACK).skip("stack_chk").join(Join::Severe),
        rule("Kernel panic - not syncing: corrupted stack end detected inside scheduler",
            StackOverflow, Severity::Fatal, "kernel panic: corrupted stack end in {f}")
            .alt(&["stack-overflow in {f}"]).steps(STACK).pick(Looping)
            .skip("schedule|retint_kernel").join(Join::Severe),
        rule("Kernel panic - not syncing: kernel stack overflow",
            StackOverflow, Severity::Fatal, "kernel stack overflow in {f}")
            .alt(&["stack-overflow in {f}"]).steps(STACK).pick(Looping).skip("bad_stack").join(Any),
        rule("Kernel panic - not syncing: Attempted to kill init!", Panic, Severity::Fatal,
            "kernel panic: Attempted to kill init!").join(Join::Severe),
        rule("Kernel panic - not syncing: Couldn't open N_TTY ldisc for [^ ]+ --- error -[0-9]+",
            Panic, Severity::Fatal, "kernel panic: Couldn't open N_TTY ldisc").join(Join::Severe),
        rule("Kernel panic - not syncing: (Fatal exception|panic_on_warn set|hung_task: blocked tasks)",
            Panic, Severity::Fatal, "kernel panic: {1}").damaged(CUT).join(Any),
        rule("Kernel panic - not syncing: ((?:.*: )?panic_on_\\w+ set.*|(?:.*: )?Fatal exception.*|(?:softlockup|Hard LOCKUP|RCU Stall|Aiee|Machine halted|Fatal machine check|scheduling while atomic|(?:\\S+ )?[Oo]ut of memory|System is deadlocked on memory).*)",
            Panic, Severity::Fatal, "kernel panic: {1}").steps(STACK).join(Any),
        rule("Kernel panic - not syncing: (.*)", Panic, Severity::Fatal, "kernel panic: {1}").steps(STACK)
            .join(Join::Severe),
        rule("Kernel panic", Panic, Severity::Fatal, "").sure(Stamped).join(Join::Severe),
    ]},
    Group { literal: "PANIC: double fault", not: "", rules: &[
        rule("PANIC: double fault", DoubleFault, Severe, "PANIC: double fault in {f}")
            .steps(&[Pointer]).join(Any),
    ]},
    Group { literal: "rust_kernel: panicked", not: "", rules: &[
        check("rust_kernel: panicked at ", Bug, Severe, "{d} in {f}")
            .needs(&[Next]).skip("__rustc::rust_begin_unwind"),
        rule("rust_kernel: panicked", Bug, Severe, ""),
    ]},
    Group { literal: "kernel BUG", not: "", rules: &[
        check(r"kernel BUG at mm/usercopy\.c", Bug, Severe, "BUG: bad usercopy in {f}")
            .skip("usercopy|__check"),
        check(r"kernel BUG at lib/list_debug\.c", ListCorruption, Severe,
            "BUG: corrupted list in {f}").alt(BAD_ACCESS),
        fault(r"kernel BUG at .*", Bug, "kernel BUG in {f}").skip("^skb_"),
        rule("kernel BUG .*", Bug, Severe, "").sure(Stamped),
    ]},
    Group { literal: "Kernel BUG", not: "", rules: &[
        rule("Kernel BUG (.*)", Bug, Severe, "kernel BUG {1}"),
    ]},
    Group { literal: "BUG kmalloc-", not: "kasan:", rules: &[
        rule(r"BUG kmalloc-.*: Object already free", SlabCorruption, Severe,
            "BUG: Object already free"),
        slab(r"BUG kmalloc-\S+ \((?:Not tainted|Tainted.*?)\): (\w[\w ]*\w)"),
    ]},
    Group { literal: "divide error:", not: "", rules: &[
        rule("divide error: ", DivideError, Severe, "divide error in {f}").steps(&[Pointer]),
    ]},
    Group { literal: "divide_error:", not: "", rules: &[
        rule("divide_error: ", DivideError, Severe, "divide error in {f}").steps(&[Pointer]),
    ]},
    Group { literal: "invalid opcode:", not: "", rules: &[
        rule("invalid opcode: ", Oops, Severe, "invalid opcode in {f}")
            .steps(&[Pointer]).join(Join::Severe),
    ]},
    Group { literal: "int3:", not: "", rules: &[
        fault("int3: ", Oops, "int3 in {f}").join(Join::Severe),
    ]},
    Group { literal: "UBSAN:", not: "", rules: &[
        check("UBSAN: Undefined behaviour in", Ubsan, Warning,
            "UBSAN: undefined-behaviour in {f}").skip("ubsan|overflow"),
        check("UBSAN: array-index-out-of-bounds in", Ubsan, Warning,
            "UBSAN: array-index-out-of-bounds in {f}").alt(BAD_ACCESS).skip("ubsan|overflow"),
        check("UBSAN: (.*?) in", Ubsan, Warning, "UBSAN: {1} in {f}").skip("ubsan|overflow"),
        check(r"UBSAN: \w.*", Ubsan, Warning, "").sure(Stamped).confirm("UBSAN: "),
    ]},
    // Only where a kernel was running; see `parser`.
    Group { literal: "Booting the kernel.", not: "Parsing ELF|Decompressing Linux|Unknown parameter '", rules: &[
        rule("Booting the kernel", UnexpectedReboot, Severity::Fatal, "unexpected kernel reboot")
            .stackless().sure(Unstamped),
    ]},
    Group { literal: "unregister_netdevice: waiting for", not: "", rules: &[
        rule("unregister_netdevice: waiting for .* to become free", DeviceLeak, Warning,
            "unregister_netdevice: waiting for DEV to become free").stackless().join(Aside),
    ]},
    Group { literal: "VFS: Close: file count is 0", not: "", rules: &[
        rule("VFS: Close: file count is 0", Bug, Severe,
            "VFS: Close: file count is zero (use-after-free)").stackless(),
    ]},
    Group { literal: "VFS: Busy inodes after unmount", not: "", rules: &[
        rule("VFS: Busy inodes after unmount", Bug, Severe,
            "VFS: Busy inodes after unmount (use-after-free)").stackless(),
    ]},
    Group { literal: "Internal error:", not: r"XFS \(", rules: &[
        fault("Internal error:", Oops, "Internal error in {f}").alt(BAD_ACCESS).join(Join::Severe),
    ]},
    Group { literal: "Unhandled fault:", not: "", rules: &[
        fault("Unhandled fault:", Oops, "Unhandled fault in {f}").alt(BAD_ACCESS),
    ]},
    Group { literal: "Alignment trap:", not: "", rules: &[
        fault("Alignment trap:", Oops, "Alignment trap in {f}"),
    ]},
    Group { literal: "trusty: panic", not: "", rules: &[
        rule(r"trusty: panic \(.*?\):(?: DEBUG)? ASSERT FAILED at \(.*?\): (.+)", Bug, Severe,
            "trusty: ASSERT FAILED: {1}").stackless(),
        rule("trusty: panic.* ASSERT FAILED.*: *(.*)", Bug, Severe, "trusty: ASSERT FAILED: {1}")
            .damaged("the header is cut"),
        rule(r"trusty: panic \(.*?\): (.+)", Bug, Severe, "trusty: panic: {1}").stackless(),
        rule("trusty: panic", Bug, Severe, ""),
    ]},
    // Programs of a fuzzer's guest; taken for what they are in logs without kernel time stamps.
    Group { literal: "fatal error:", not: "ALSA|fatal error: cannot create timer", rules: &[
        rule("fatal error:", Bug, Warning, "go runtime error")
            .stackless().sure(Unstamped).confirm("runtime"),
    ]},
    Group { literal: "SYZF", not: "", rules: &[
        rule("SYZFAIL:(.*)", Bug, Warning, "SYZFAIL:{1}").stackless().sure(Unstamped),
        rule("SYZFATAL:(.*)", Bug, Warning, "SYZFATAL:{1}").alt(&["SYZFATAL"])
            .stackless().sure(Unstamped),
    ]},
    Group { literal: "panic:", not: r"_panic:|xlog_status:|ddb\.onpanic:|evtlog_status:", rules: &[
        rule("panic: Sentry detected .* stuck task", Bug, Warning, "panic: Sentry detected stuck tasks")
            .stackless().sure(Unstamped).confirm("goroutine "),
        rule("panic:(.*)", Bug, Warning, "panic:{1}")
            .stackless().sure(Unstamped).confirm("goroutine "),
    ]},
    // No reports, but to be noticed within one.
    Group { literal: "vmalloc: allocation failure:", not: "", rules: &[] },
    Group { literal: "FAULT_INJECTION: forcing", not: "", rules: &[] },
    Group { literal: "FAULT_FLAG_ALLOW_RETRY missing", not: "", rules: &[] },
    Group { literal: "serialport: VM disconnected.", not: "", rules: &[] },
    Group { literal: "** replaying previous printk", not: "", rules: &[] },
    Group { literal: "SeaBIOS (version", not: "", rules: &[] },
    Group { literal: "reboot: ", not: "", rules: &[] },
    // From here on, on top of the convention: what servers live on.
    Group { literal: "Oops", not: "", rules: &[
        fault(r"Oops(?: - [^:]*)?:? .*\[#\d+\]", Oops, "Oops in {f}").join(Join::Severe).extra(),
    ]},
    Group { literal: "kernel stack overflow", not: "", rules: &[
        fault("kernel stack overflow", StackOverflow, "kernel stack overflow in {f}").extra()
            .sure(Stamped).join(Join::Severe),
    ]},
    Group { literal: "Insufficient stack space", not: "", rules: &[
        check("Insufficient stack space to handle exception", StackOverflow, Severe,
            "kernel stack overflow in {f}")
            .alt(&["stack-overflow in {f}"]).pick(Looping).skip("bad_stack"),
    ]},
    Group { literal: "hard LOCKUP", not: "", rules: &[
        fault("hard LOCKUP on cpu", HardLockup, "Watchdog detected hard LOCKUP in {f}")
            .pick(Looping).extra(),
    ]},
    Group { literal: " invoked oom-killer", not: "", rules: &[
        rule(" invoked oom-killer: gfp", OomKill, Severe, "Out of memory: killed {d}")
            .needs(&[Victim]).stackless().extra(),
    ]},
    Group { literal: "Killed process", not: "", rules: &[
        rule(r"Killed process \d+,? \(([^)]*)\)", OomKill, Severe, "Out of memory: killed {1}")
            .stackless().join(Any).extra(),
    ]},
    Group { literal: ": page allocation failure", not: "", rules: &[
        check(r": page allocation failure: order:(\d+)", AllocFailure, Warning,
            "page allocation failure in {f}").skip("get_free_page|get_zeroed_page").extra(),
    ]},
    Group { literal: "BUG ", not: "kasan:|DEBUG", rules: &[
        slab(r"BUG \S+ \((?:Not tainted|Tainted.*?)\): (\w[\w ]*\w)"),
    ]},
    Group { literal: "Machine Check", not: "", rules: &[
        rule("Machine Check Exception: ", MachineCheck, Severe, "Machine Check Exception")
            .stackless().extra(),
        // The status after the bank: bit 61 is set where the error was not corrected.
        storage(r"Machine Check: [0-9a-f]+ Bank \d+: [2367abef][0-9a-f]{15}",
            MachineCheck, Severe, "Machine Check: uncorrected error").sure(Within),
        storage(r"Machine Check: [0-9a-f]+ Bank \d+: ",
            MachineCheck, Warning, "Machine Check: corrected error").sure(Within),
    ]},
    Group { literal: "[Hardware Error]: event severity", not: "", rules: &[
        storage(r"\[Hardware Error\]: event severity: (fatal|recoverable)",
            MachineCheck, Severe, "Hardware Error: {1}").sure(Within),
    ]},
    Group { literal: "AER: ", not: "", rules: &[
        storage(r"AER: (?:Multiple )?Uncorrect(?:ed|able) \((Non-Fatal|Fatal)\) error",
            MachineCheck, Severe, "PCIe: uncorrected error ({1})").sure(Within),
    ]},
    Group { literal: "EXT4-fs error", not: "", rules: &[
        storage(r"EXT4-fs error \(device [^)]*\):? (?:in )?(?:(?P<f>[a-z]\w+)(?:\(\))?:\d+)?",
            Filesystem, Severe, "EXT4-fs error in {f}").needs(&[Header]),
    ]},
    Group { literal: "Remounting filesystem read-only", not: "", rules: &[
        storage("Remounting filesystem read-only", Filesystem, Severe,
            "file system remounted read-only").sure(Within),
    ]},
    Group { literal: "Aborting journal on device", not: "", rules: &[
        storage("Aborting journal on device", Filesystem, Severe, "journal aborted").sure(Within),
    ]},
    Group { literal: "XFS (", not: "", rules: &[
        storage(r"XFS \([^)]*\): (?:[Ll]og I/O [Ee]rror|Filesystem has been shut down due to)",
            Filesystem, Severe, "XFS: file system shut down"),
        storage(r"XFS \([^)]*\): (?:Metadata c|C)orruption (?:of in-memory data )?(?:\([^)]*\) )?detected(?:.* at FUNC)?",
            Filesystem, Severe, "XFS: corruption detected in {f}").needs(&[Header]),
        storage(r"XFS \([^)]*\): Internal error .*Caller (?:PC )?FUNC",
            Filesystem, Severe, "XFS: internal error in {f}").needs(&[Header]),
    ]},
    Group { literal: "BTRFS", not: "", rules: &[
        storage(r"BTRFS(?: critical|: error) \(device [^)]*\)(?: in \w+:\d+)?: ",
            Filesystem, Severe, "BTRFS: file system error"),
    ]},
    // As `blk_print_req_error` words it.
    Group { literal: " error, dev ", not: "operation not supported error", rules: &[
        storage(r" error, dev \w+, sector", BlockError, Warning, "block device I/O error")
            .sure(Within),
    ]},
    Group { literal: "Buffer I/O error on dev", not: "", rules: &[
        storage(r"Buffer I/O error on dev(?:ice)? .* lost (?:a?sync )?page write", BlockError,
            Severe, "block device lost a write").sure(Within),
        storage("Buffer I/O error on dev", BlockError, Warning, "block device I/O error")
            .sure(Within),
    ]},
    Group { literal: "Disk failure on ", not: "", rules: &[
        storage(r"Disk failure on \w+, disabling device", BlockError, Severe, "md: disk failure")
            .sure(Within),
    ]},
    Group { literal: "controller is down; will reset", not: "", rules: &[
        storage("controller is down; will reset", BlockError, Severe, "nvme: controller is down")
            .sure(Within),
    ]},
    Group { literal: ": exception Emask", not: "", rules: &[
        storage(": exception Emask 0x", BlockError, Warning, "ata: exception").sure(Within),
    ]},
    Group { literal: "NETDEV WATCHDOG: CPU", not: "", rules: &[
        rule(r"NETDEV WATCHDOG: CPU: \d+: transmit queue \d+ timed out", FindingKind::Warning, Warning,
            "NETDEV WATCHDOG: transmit queue timed out")
            .stackless().join(Aside).extra(),
    ]},
    Group { literal: "huh, entered softirq", not: "", rules: &[
        rule(r"huh, entered softirq \d+ (\w+) ", Bug, Warning,
            "softirq {1} changed the preemption count").stackless().join(Aside).extra(),
    ]},
    Group { literal: "cannot create duplicate filename", not: "", rules: &[
        check("cannot create duplicate filename", FindingKind::Warning, Warning,
            "sysfs: duplicate filename in {f}").skip("^sysfs|^internal_create|^kobject").sure(Stamped).extra(),
    ]},
];

/// Slab corruption as `mm/slub.c` words it.
const fn slab(pattern: &'static str) -> Rule {
    check(pattern, SlabCorruption, Severe, "BUG: {1} in {f}")
        .steps(&[Owner, CallTrace, Trace])
        .instead(&[STACK])
        .skip("slab|object|free_debug|free_to_partial|print_trailer|check_bytes|put_cpu_partial|kfree|kmem|_debug_processing|get_partial|get_any_partial")
        .extra()
}

/// Errors of file systems and block devices: one line each.
const fn storage(
    pattern: &'static str,
    kind: FindingKind,
    severity: Severity,
    title: &'static str,
) -> Rule {
    rule(pattern, kind, severity, title).stackless().sure(Stamped).join(Aside).extra()
}
