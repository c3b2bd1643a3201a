//! The rule table: how each kind of kernel report begins, what it is called and where to find the
//! function to charge it to. Data; `parser` reads it.

use kgate_model::finding::FindingKind::{self, *};
use kgate_model::finding::Severity::{self, Severe, Warning};

/// What a header means when another report is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// It begins a report of its own.
    Never,
    /// It continues an open report that is severe, because that is what leads to it.
    Severe,
    /// It continues any open report: it is only ever printed as a consequence.
    Any,
}

/// Which of a report's functions the finding is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// None is printed, or none matters.
    Nobody,
    /// The first one of header, detail, instruction pointer and stack that is not a helper.
    First,
    /// As `First`, without the instruction pointer, which is in the checking code.
    Stack,
    /// As `First`, after the functions that wait on behalf of others.
    Waiter,
    /// The function that the CPU keeps coming back to: the one called by the outermost dispatcher
    /// (system call, work queue, timer …), as the innermost ones differ from time to time.
    Looping,
}

/// One way in which a report begins.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Bytes that every such header contains; the search for it is what healthy logs cost.
    pub(crate) literal: &'static str,
    /// Regular expression, anchored at the start of the message. `FUNC` stands for a function
    /// with its offset and captures the name as `f`.
    pub(crate) pattern: &'static str,
    pub(crate) kind: FindingKind,
    pub(crate) severity: Severity,
    /// `{1}`, `{2}`: captures of the pattern; `{d}`: of the detail; `{f}`: the function.
    /// What is not known goes, together with the ` in ` or blank before it.
    pub(crate) title: &'static str,
    /// Regular expression looked for in the lines after the header; captures `d` and FUNC.
    pub(crate) detail: &'static str,
    pub(crate) blame: Blame,
    /// Regular expression of functions that are helpers in reports of this rule only.
    pub(crate) skip: &'static str,
    pub(crate) join: Join,
    /// Whether other programs print the like: then only a line with a time stamp counts.
    pub(crate) vague: bool,
}

const fn rule(
    literal: &'static str,
    pattern: &'static str,
    kind: FindingKind,
    severity: Severity,
    title: &'static str,
    blame: Blame,
) -> Rule {
    Rule {
        literal,
        pattern,
        kind,
        severity,
        title,
        blame,
        detail: "",
        skip: "",
        join: Join::Never,
        vague: false,
    }
}

impl Rule {
    const fn detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }
    const fn skip(mut self, skip: &'static str) -> Self {
        self.skip = skip;
        self
    }
    const fn vague(mut self) -> Self {
        self.vague = true;
        self
    }
    const fn join(mut self, join: Join) -> Self {
        self.join = join;
        self
    }
}

use Blame::{First, Looping, Nobody, Stack, Waiter};

const ACCESS: &str = r"^(?P<d>Read|Write) (?:of size|at addr)";
const LOCK: &str = r"(?:^|, )at: (?:\[<[0-9a-f]+>\] )?FUNC";
const SLUB: &str = r"slab|object|free_debug|free_to_partial|print_trailer|check_bytes";
const RCU: &str = r"rcu|kmem|slab";

/// In order: the first rule that matches a line decides.
#[rustfmt::skip]
pub(crate) static RULES: &[Rule] = &[
    // Sanitizers.
    rule("BUG: KASAN:", r"BUG: KASAN: (?:double-free or invalid-free|double-free|invalid-free) in FUNC",
        Kasan, Severe, "KASAN: invalid-free in {f}", First).skip("slab|kfree|vfree|vunmap"),
    rule("BUG: KASAN:", r"BUG: KASAN: ([a-z-]+) in (?:FUNC|[^ ]+)",
        Kasan, Severe, "KASAN: {1} {d} in {f}", First)
        .detail(ACCESS).skip("kernel_fault|tag_check|mem_abort|^el1h?_"),
    rule("BUG: KASAN:", r"BUG: KASAN: ([a-z-]+) on address",
        Kasan, Severe, "KASAN: {1} {d}", First).detail(ACCESS),
    rule("BUG: KASAN:", r"BUG: KASAN: (.*)",
        Kasan, Severe, "KASAN: {1}", First),
    rule("BUG: KMSAN:", r"BUG: KMSAN: ([a-z-]+) in FUNC",
        Kmsan, Severe, "KMSAN: {1} in {f}", First)
        .skip("alloc_skb|netlink_ack|netlink_rcv_skb|_encrypt$|^(?:crypto|cipher|drbg|rng)_"),
    rule("BUG: KCSAN:", r"BUG: KCSAN: (.*)",
        Kcsan, Warning, "KCSAN: {1}", First),
    rule("BUG: KFENCE:", r"BUG: KFENCE: ([a-z -]+?) in FUNC",
        Kfence, Severe, "KFENCE: {1} in {f}", First),
    rule("UBSAN:", r"UBSAN: Undefined behaviour in",
        Ubsan, Warning, "UBSAN: undefined-behaviour in {f}", Stack).skip("ubsan|overflow"),
    rule("UBSAN:", r"UBSAN: (.*?) in ",
        Ubsan, Warning, "UBSAN: {1} in {f}", Stack).skip("ubsan|overflow"),
    // Faults.
    rule("NULL pointer dereference", r"(?:BUG: )?(?:[Uu]nable to handle )?kernel NULL pointer dereference",
        NullPointer, Severe, "BUG: unable to handle kernel NULL pointer dereference in {f}", First),
    rule("nable to handle kernel access", r"(?:BUG: )?[Uu]nable to handle kernel access to user memory",
        PageFault, Severe, "BUG: unable to handle kernel access to user memory in {f}", First),
    rule("nable to handle", r"(?:BUG: )?[Uu]nable to handle (?:page fault|kernel paging request)",
        PageFault, Severe, "BUG: unable to handle kernel paging request in {f}", First),
    rule("nable to handle kernel", r"(?:BUG: )?[Uu]nable to handle kernel",
        PageFault, Severe, "BUG: unable to handle kernel", First),
    rule("general protection fault", r"(?:Oops: )?general protection fault(?:,| for)?.*: (?:[0-9a-f]{4} )?\[#|(?:Oops: )?general protection fault(?:,.*)?:",
        GeneralProtection, Severe, "general protection fault in {f}", First),
    rule("PANIC: double fault", r"(?:traps: )?PANIC: double fault",
        DoubleFault, Severe, "PANIC: double fault in {f}", First).join(Join::Any),
    rule("stack guard page was hit", r"BUG: (?:\w+ )?stack guard page was hit",
        StackOverflow, Severe, "BUG: stack guard page was hit in {f}", First),
    rule("kernel stack overflow", r"(?:Insufficient stack space|kernel stack overflow)",
        StackOverflow, Severe, "kernel stack overflow in {f}", First),
    rule("divide", r"(?:Oops: )?divide[ _]error: ",
        DivideError, Severe, "divide error in {f}", First),
    rule("stack segment: ", r"(?:Oops: )?stack segment: ",
        Oops, Severe, "stack segment fault in {f}", First),
    rule("int3: ", r"(?:Oops: )?int3: ",
        Oops, Severe, "int3 in {f}", First).join(Join::Severe),
    rule("invalid opcode: ", r"(?:Oops: )?invalid opcode: ",
        Oops, Severe, "invalid opcode in {f}", First).join(Join::Severe),
    rule("Internal error:", r"Internal error:",
        Oops, Severe, "Internal error in {f}", First).join(Join::Severe),
    rule("Unhandled fault:", r"Unhandled fault:",
        Oops, Severe, "Unhandled fault in {f}", First),
    rule("Alignment trap:", r"Alignment trap:",
        Oops, Severe, "Alignment trap in {f}", First),
    rule("Oops", r"Oops(?: -[^:]*)?: .*\[#\d+\]",
        Oops, Severe, "Oops in {f}", First).join(Join::Severe),
    // Failed assertions.
    rule("kernel BUG at", r"kernel BUG at mm/usercopy\.c",
        Bug, Severe, "BUG: bad usercopy in {f}", Stack).skip("usercopy|__check"),
    rule("kernel BUG at", r"kernel BUG at lib/list_debug\.c",
        ListCorruption, Severe, "BUG: corrupted list in {f}", Stack),
    rule("kernel BUG at", r"kernel BUG at",
        Bug, Severe, "kernel BUG in {f}", First).skip("^skb_"),
    // The lock checker.
    rule(": possible ", r"(?:\[ )?(?:WARNING|INFO): possible (?:circular locking dependency|recursive locking|irq lock inversion dependency) detected",
        Lockdep, Warning, "possible deadlock in {f}", First).detail(LOCK),
    rule("-unsafe lock order", r"(?:\[ )?(?:WARNING|INFO): \S+-safe -> \S+-unsafe lock order detected",
        Lockdep, Warning, "possible deadlock in {f}", First).detail(LOCK),
    rule("inconsistent lock state", r"(?:\[ )?(?:WARNING|INFO): inconsistent lock state",
        Lockdep, Warning, "inconsistent lock state in {f}", First).detail(LOCK),
    rule("suspicious RCU usage", r"(?:\[ )?(WARNING|INFO): suspicious RCU usage",
        Lockdep, Warning, "{1}: suspicious RCU usage in {f}", Stack).skip(RCU),
    rule("bad unlock balance", r"(?:\[ )?(WARNING|BUG): bad unlock balance detected",
        Lockdep, Warning, "{1}: bad unlock balance in {f}", Stack),
    rule("held lock freed", r"(?:\[ )?(WARNING|BUG): held lock freed",
        Lockdep, Warning, "{1}: held lock freed in {f}", Stack),
    rule("returning to user space", r"(?:\[ )?(WARNING|BUG): lock held when returning to user space",
        Lockdep, Warning, "{1}: lock held when returning to user space in {f}", First).detail(LOCK),
    rule("ested lock was not taken", r"(?:\[ )?WARNING: [Nn]ested lock was not taken",
        Lockdep, Warning, "WARNING: nested lock was not taken in {f}", Stack),
    rule("still has locks held", r"(?:\[ )?(WARNING|BUG): .*still has locks held",
        Lockdep, Warning, "{1}: still has locks held in {f}", Stack),
    rule("Invalid wait context", r"(?:\[ )?BUG: Invalid wait context",
        Lockdep, Warning, "BUG: Invalid wait context in {f}", Stack),
    rule("non-static key", r"INFO: trying to register non-static key",
        Lockdep, Warning, "INFO: trying to register non-static key in {f}", Stack)
        .skip("stack|lock|IRQ"),
    rule("workqueue leaked", r"BUG: workqueue leaked(?: atomic,)? lock or atomic",
        Lockdep, Warning, "BUG: workqueue leaked lock or atomic in {f}", Stack)
        .detail(r"last function: (?P<f>\w+)").skip("process_one_work"),
    // Stalls.
    rule("INFO: rcu_", r"(?:rcu: )?INFO: rcu_\w+ (?:self-)?detected (?:expedited )?stall",
        RcuStall, Severe, "INFO: rcu detected stall in {f}", Looping)
        .skip(r"apic_timer_interrupt|rcu|^asm_|^sysvec_"),
    rule("soft lockup - CPU#", r"(?:.*watchdog: )?BUG: soft lockup - CPU#",
        SoftLockup, Severe, "BUG: soft lockup in {f}", Looping)
        .skip(r"apic_timer_interrupt|^asm_|^sysvec_"),
    rule("hard LOCKUP", r"(?:.*watchdog: )?Watchdog detected hard LOCKUP",
        HardLockup, Severe, "Watchdog detected hard LOCKUP in {f}", Looping),
    rule("INFO: task ", r"INFO: task .+ blocked (?:in I/O wait |on a \S+ )?for more than \d+ seconds",
        HungTask, Severe, "INFO: task hung in {f}", Waiter),
    rule("can't die for more", r"INFO: task .+ can't die for more than",
        HungTask, Severe, "INFO: task can't die in {f}", Stack).skip("schedule"),
    rule("BUG: workqueue lockup", r"BUG: workqueue lockup",
        SoftLockup, Severe, "BUG: workqueue lockup", Nobody),
    rule("lockup suspected", r"BUG: (spinlock|rwlock) lockup suspected",
        SoftLockup, Severe, "BUG: {1} lockup suspected in {f}", Stack),
    // Memory.
    rule("invoked oom-killer", r"\S.* invoked oom-killer: ",
        OomKill, Severe, "Out of memory: killed {d}", Nobody)
        .detail(r"(?:Kill|Killed) process \d+,? \((?P<d>[^)]*)\)"),
    rule("Killed process", r"(?:Memory cgroup out|Out) of memory: Killed process \d+,? \(([^)]*)\)",
        OomKill, Severe, "Out of memory: killed {1}", Nobody).join(Join::Any),
    rule("page allocation failure", r"\S.*: page allocation failure: order:(\d+)",
        AllocFailure, Warning, "page allocation failure in {f}", Stack),
    rule("memory leak", r"BUG: memory leak",
        MemoryLeak, Warning, "memory leak in {f}", Stack),
    rule("BUG: Bad page", r"BUG: (Bad page (?:state|map|cache)) in process",
        BadPageState, Severe, "BUG: {1} in {f}", Stack)
        .skip("bad_page|free_page|free_unref|free_pcp|prep_new|get_page_from|check_free"),
    rule("Object already free", r"BUG \S+ .*: Object already free",
        SlabCorruption, Severe, "BUG: Object already free", Stack).skip(SLUB),
    rule("ainted", r"BUG \S+ \((?:Not tainted|Tainted[^)]*)\): (\w[\w ]*\w)(?:$|[^\w:])",
        SlabCorruption, Severe, "BUG: {1} in {f}", Stack).skip(SLUB),
    // Contexts.
    rule("scheduling while atomic", r"BUG: scheduling while atomic",
        SchedulingWhileAtomic, Severe, "BUG: scheduling while atomic in {f}", Stack).skip("schedul"),
    rule("sleeping function called", r"BUG: sleeping function called from invalid context",
        SleepInAtomic, Severe, "BUG: sleeping function called from invalid context in {f}", Stack),
    rule("in preemptible", r"BUG: using ([\w()]+) in preemptible",
        Bug, Warning, "BUG: using {1} in preemptible code in {f}", Stack).skip("preempt"),
    rule("bad magic", r"BUG: (spinlock|rwlock) bad magic",
        Bug, Severe, "BUG: {1} bad magic in {f}", Stack),
    rule("still in use", r"BUG: Dentry .* still in use",
        Bug, Severe, "BUG: Dentry still in use in {f}", Stack),
    rule("MAX_", r"BUG: (MAX_\w+) too low",
        Lockdep, Warning, "BUG: {1} too low!", Nobody),
    rule("BUG:", r"BUG: (\w.{3,})",
        Bug, Severe, "BUG: {1}", Stack).vague(),
    // Warnings, those in checking code under the name of what was checked.
    rule("WARNING: ", r"WARNING: .*\blib/debugobjects\.c:\d+",
        FindingKind::Warning, Warning, "WARNING: ODEBUG bug in {f}", First).skip("debug_"),
    rule("WARNING: ", r"WARNING: .*\blib/refcount\.c:\d+",
        RefCount, Warning, "WARNING: refcount bug in {f}", First).skip("refcount|kobject_|kref"),
    rule("WARNING: ", r"WARNING: .*\blib/list_debug\.c:\d+",
        ListCorruption, Severe, "WARNING: corrupted list in {f}", First),
    rule("WARNING: ", r"WARNING: .*\bkernel/locking/\w+\.c:\d+",
        FindingKind::Warning, Warning, "WARNING: locking bug in {f}", First).skip("lock"),
    rule("WARNING: ", r"WARNING: .*\blib/kobject\.c:\d+",
        FindingKind::Warning, Warning, "WARNING: kobject bug in {f}", First).skip("kobj"),
    rule("WARNING: ", r"WARNING: .*\bfs/proc/generic\.c:\d+",
        FindingKind::Warning, Warning, "WARNING: proc registration bug in {f}", First).skip("proc_"),
    rule("WARNING: ", r"WARNING: .*\bmm/vmalloc\.c:\d+.*__vmalloc",
        FindingKind::Warning, Warning, "WARNING: zero-size vmalloc in {f}", First).skip("vmalloc"),
    rule("WARNING: ", r"WARNING: (?:(?:CPU: \d+ (?:UID: \d+ )?PID: \d+ )?at \S+\.[a-z]+:\d+|CPU: \d+ (?:UID: \d+ )?PID: \d+ at|(?:\[.*\] )?\S+\.[a-z]+:\d+ at)(?: FUNC)?",
        FindingKind::Warning, Warning, "WARNING in {f}", First),
    rule("WARNING: ", r"WARNING: kernel stack (?:frame pointer|regs) .*has bad ('\w+' )?value",
        FindingKind::Warning, Warning, "WARNING: kernel stack regs has bad {1}value", Nobody),
    // What servers live on.
    rule("unregister_netdevice: waiting", r"unregister_netdevice: waiting for .* to become free",
        DeviceLeak, Warning, "unregister_netdevice: waiting for DEV to become free", Nobody),
    rule("Machine Check Exception", r"(?:mce: )?\[Hardware Error\]: CPU \d+: Machine Check Exception",
        MachineCheck, Severe, "Machine Check Exception", Nobody),
    rule("EXT4-fs error", r"EXT4-fs error \(device [^)]*\): (?P<f>\w+):\d+: ",
        Filesystem, Severe, "EXT4-fs error in {f}", First),
    rule("orruption detected", r"XFS \([^)]*\): (?:Metadata c|C)orruption (?:of in-memory data )?detected",
        Filesystem, Severe, "XFS: corruption detected in {f}", First).detail(r"\bat FUNC"),
    rule("Internal error", r"XFS \([^)]*\): Internal error .* Caller FUNC",
        Filesystem, Severe, "XFS: internal error in {f}", First),
    rule("BTRFS", r"BTRFS(?: critical|: error) \(device [^)]*\)[^:]*: ",
        Filesystem, Severe, "BTRFS: file system error", Nobody),
    rule("I/O error", r"(?:(?:blk_update_request|critical \w+): )?I/O error, dev \w+, sector",
        BlockError, Warning, "block device I/O error", Nobody),
    // The end: what leads to it is the finding; without that, it is one itself.
    rule("Kernel panic - not syncing", r"Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: (?:FUNC)?",
        StackOverflow, Severity::Fatal, "kernel panic: stack is corrupted in {f}", First)
        .skip("stack_chk"),
    rule("Kernel panic - not syncing", r"Kernel panic - not syncing: corrupted stack end detected",
        StackOverflow, Severity::Fatal, "kernel panic: corrupted stack end in {f}", Looping)
        .skip("schedule|retint_kernel"),
    rule("Kernel panic - not syncing", r"Kernel panic - not syncing: kernel stack overflow",
        StackOverflow, Severity::Fatal, "kernel stack overflow in {f}", Looping)
        .skip("bad_stack").join(Join::Any),
    rule("Kernel panic - not syncing", r"Kernel panic - not syncing: ((?:Attempted to kill (?:init|the idle task))!)",
        Panic, Severity::Fatal, "kernel panic: {1}", Nobody).join(Join::Severe),
    rule("Kernel panic - not syncing", r"Kernel panic - not syncing: ((?:\w+: )?panic_on_\w+ set|(?:.*: )?Fatal exception(?: in interrupt)?|(?:hung_task|softlockup|Hard LOCKUP|RCU Stall|Aiee|Machine halted|Fatal machine check|scheduling while atomic|(?:\S+ )?[Oo]ut of memory|System is deadlocked on memory).*?)[ .]*$",
        Panic, Severity::Fatal, "kernel panic: {1}", Nobody).join(Join::Any),
    rule("Kernel panic - not syncing", r"Kernel panic - not syncing: (.*?)[ .]*$",
        Panic, Severity::Fatal, "kernel panic: {1}", First).join(Join::Severe),
];

/// Functions that report, check, allocate, copy, lock or count on behalf of their caller, as
/// regular expressions on names without leading underscores.
pub(crate) static HELPERS: &[&str] = &[
    // Reporting.
    r"dump_stack|show_stack|show_regs|show_trace|walk_stack|dump_backtrace|panic|nmi_panic|print_",
    r"warn$|warn_(?:slowpath|alloc|bogus|printk)|report_bug|fixup_bug|handle_bug|(?:.*_)?invalid_op|do_error|do_trap|.*_trap$",
    r"exc_|asm_exc_|asm_|sysvec_|oops_end|die$|die_addr|no_context|bad_area|do_kern_addr_fault|page_fault_oops|df_debug",
    r"printk|vprintk|.*snprintf|.*scnprintf|va_format|string|pointer|k?v?asprintf|dev_(?:info|notice|warn|err|alert|crit|emerg)|dev_printk",
    r"assfail|assertfail|fortify_|should_fail|fault_create|sanitizer_cov|write_comp_data|hex_string|imbalance_bug|stack_chk_fail|stack_trace_|arch_stack_walk",
    // Checking.
    r".*kasan|.*kmsan|.*kcsan|.*ubsan|.*hwasan|.*kfence|sanitizer|asan_|msan_|tsan_|check_memory_region|check_heap_object|check_object|memory_is_",
    r"debug_|.*_is_static_object|might_|lockdep_|.*lock_acquire|.*lock_release|lock_class|register_lock|mark_|.*lockdep|trace_(?:hard|soft)irq|perf_trace|rcu_lockdep|phys_addr|get_taint",
    // Memory and strings.
    r"k[mzc]alloc|v[mz]alloc|kv[mzc]alloc|krealloc|kmem_cache|kv?free|slab_|.*_slab$|allocate_slab|get_free_pages|get_zeroed_page|alloc_pages?|.*alloc_.*pages|alloc_frozen|post_alloc_hook|prep_new_page|get_page_from_freelist|free_large_kmalloc|vunmap$|folio_unlock|radix_tree_node_alloc|pcpu_mem_|kmemleak|xt_alloc|alloc_skb|folio_alloc|kmemdup|memdup|kstrn?dup",
    r"mem(?:cpy|cmp|set|chr|move|dup)|str[nl]?(?:cpy|cmp|len|str|chr|dup|lcpy|scpy|nlen)|crc\d|crc_|rep_|hex_dump",
    r"copy_(?:to|from)_|copyin$|copyout$|put_user|get_user|.*copy_(?:to|from)_(?:user|iter)|arch_copy|read_word_at_a_time|(?:read|write)_once",
    r"(?:read|write)[bwlq]$|logic_(?:in|out)",
    // Locks, counters, lists.
    r"(?:do_)?(?:raw_)?(?:spin|read|write)_(?:try)?(?:un)?lock|raw_spin|native_queued_spin|queued_(?:spin|read|write)|pv_queued|(?:rt_)?mutex_|down$|down_|up$|up_(?:read|write)|osq_|owner_on_cpu|rwsem_",
    r"refcount_|kref_|(?:arch_|raw_)?atomic(?:64|_long)?_|(?:arch_)?(?:set|clear|change|test)_bit|list_|rb_|hlist_|klist_|kobject_|xas_|ref_tracker|(?:local_)?bh_(?:en|dis)able|.*bh_enable_ip",
    // Waiting, timers, work.
    r"wake_up|complete$|wait_for_completion|finish_wait|del_timer|timer_delete|mod_timer|lock_timer_base|flush_work|flush_workqueue|cancel_work|cancel_delayed|queue_work|queue_delayed|insert_work|try_to_grab|drain_workqueue|destroy_workqueue|kthread_stop|schedule_timeout",
    // Devices: the driver that asks is at fault, not the core that answers.
    r"device_(?:add|del|unregister|destroy|release|remove)|sysfs_remove|get_device_parent|put_device|unregister_netdev|rollback_registered|usb_(?:submit_urb|kill_|control_msg|start_wait|bulk_msg|hcd_submit)|kfree_skb|iput$|iput_final|ihold$|(?:fast_)?dput$|devres_release|dpm_sysfs|hwrng_unregister|netdev_register_kobject|drop_nlink|x86_indirect_thunk|ret_from|msleep$|usleep",
    r"do_(?:kernel|translation)_fault|do_mem_abort|el1h?_|die_kernel",
];

/// How the lines begin that reports are made of, apart from headers and stack frames.
pub(crate) static TEXT: &[&str] = &[
    r"[ \t<=]|---|\[ +pid|\[ +\d+\] +\d+ +\d+ |INFO: (?:lockdep|NMI|Slab|Object|Freed|Allocated)|note: |fbcon",
    r"Call [Tt]race|Backtrace|Code: |[RE]?IP|[RE]?SP|[RE][A-D]X:|R[A-Z0-9]{2}:|ORIG_RAX|[CDEFG]S: |[CD]R\d|PKRU|PGD|#PF|pc :|lr :|sp :",
    r"CPU: |CPU#|Hardware name|Modules linked in|Workqueue|Tainted|Disabling lock debugging|Kernel Offset|Dumping|Rebooting in",
    r"rcu: |task:|Sending NMI|NMI backtrace|Showing |stack backtrace|other info|irq event stamp|(?:hard|soft)irqs last|.echo 0 >",
    r"Mem-Info|Node |active_anon|Tasks state|oom-kill:|oom_reaper|Out of memory|Memory cgroup|(?:memory|swap): usage|Memory state",
    r"page:|raw: |flags: |page dumped|Freed |Allocated |Object |Redzone|Padding|FIX |BUG |Bytes b4|Last potentially",
];

/// Functions that wait on behalf of their caller, for [`Blame::Waiter`]; anywhere in the name.
pub(crate) static WAITERS: &str = r"sched|_lock|_slowlock|down_|^down$|rwsem|completion|kthread|wait|synchronize|context_switch|switch_to|cancel_delayed_work|rcu_barrier";

/// Functions that hand out work, for [`Blame::Looping`]: the one they called is charged.
pub(crate) static DISPATCHERS: &str = r"^_*(?:(?:do_)?(?:sys_)?(?:vfs_)?ioctl|(?:sys_)?(?:socketpair|connect|listen|accept)|process_one_work|do_syscall_\w+|do_fast_syscall\w*|entry_SYSCALL\w*|invoke_syscall|el0_svc\w*|ret_fast_syscall|tracesys_phase2|sysenter_dispatch|do_one_initcall|do_init_module|netif_receive_skb\w*|napi_\w+|do_softirq\w*|net_rx_action|call_timer_fn|.*run_timers?\w*|.*hrtimer_run\w*|run_ksoftirqd|smpboot_thread_fn|kthread|start_secondary|cpu_startup_entry|ret_from_fork\w*|vfs_(?:read|write|ioctl|open|iter_\w+)|new_sync_(?:read|write)|do_iter_\w+|call_(?:read|write)_iter|call_mmap|ksys_ioctl|.*compat_sys_ioctl|blkdev_\w*ioctl|mmap_region|do_mmap|do_dentry_open|sock_(?:sendmsg|recvmsg|release|mmap|do_ioctl|ioctl)\w*|kernel_(?:setsockopt|listen|accept)|sock_common_setsockopt|(?:nf|rt)netlink_rcv_msg|netlink_dump|do_fault|.*do_page_fault|page_fault|fput|task_work_run|exit_to_user\w*|smp_call_function\w*|tasklet_(?:hi_)?action\w*)$";

/// Prefixes that system call entry points add to a name.
pub(crate) static ENTRY_PREFIXES: &[&str] = &[
    "SYSC_",
    "SyS_",
    "sys_",
    "__x64_",
    "__ia32_",
    "__arm64_",
    "__se_sys_",
    "__do_sys_",
    "____sys_",
    "___sys_",
    "__sys_",
    "__se_",
    "compat_SYSC_",
    "compat_SyS_",
    "ksys_",
];
