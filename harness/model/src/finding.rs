//! What a kernel log can hold against a kernel: findings, their kinds and how bad they are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What sort of failure a [`Finding`] reports. Serialised in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// `panic()` without an earlier report that explains it.
    Panic,
    /// A fatal exception that has no kind of its own (invalid opcode, stack segment …).
    Oops,
    /// An access to an address that is not mapped or not allowed.
    PageFault,
    /// A page fault close to address zero.
    NullPointer,
    /// A general protection fault: an access to a non-canonical address, mostly.
    GeneralProtection,
    /// A fault while another one was being delivered.
    DoubleFault,
    /// A division by zero in the kernel.
    DivideError,
    /// A kernel stack that ran into its guard page or lost its canary.
    StackOverflow,
    /// A failed `BUG_ON`, or a `BUG:` report that has no kind of its own.
    Bug,
    /// A `WARN` that has no kind of its own.
    Warning,
    /// A report of the address sanitizer.
    Kasan,
    /// A report of the memory sanitizer (uninitialised values).
    Kmsan,
    /// A report of the concurrency sanitizer (data races).
    Kcsan,
    /// A report of the undefined behaviour sanitizer.
    Ubsan,
    /// A report of the sampling memory error detector.
    Kfence,
    /// A report of the lock checker: deadlocks, unbalanced or leaked locks, RCU misuse.
    Lockdep,
    /// RCU waits too long for a CPU or task.
    RcuStall,
    /// A CPU that does not schedule.
    SoftLockup,
    /// A CPU that does not take interrupts.
    HardLockup,
    /// A task that stays uninterruptible for too long.
    HungTask,
    /// A process killed because memory, the machine's or a control group's, ran out.
    OomKill,
    /// The page allocator could not serve a request that was allowed to complain.
    AllocFailure,
    /// Unreferenced memory found by the leak detector.
    MemoryLeak,
    /// A reference counter that overflowed, underflowed or came back from zero.
    RefCount,
    /// `schedule()` in a context that must not sleep.
    SchedulingWhileAtomic,
    /// A function that may sleep, called in a context that must not.
    SleepInAtomic,
    /// A linked list whose pointers do not agree.
    ListCorruption,
    /// A page that is freed or allocated with state left over.
    BadPageState,
    /// Slab memory with overwritten red zones, poison or free lists; a bad or double free.
    SlabCorruption,
    /// An uncorrected hardware error.
    MachineCheck,
    /// Firmware or boot loader output where the kernel was still meant to run.
    UnexpectedReboot,
    /// A file system that found itself damaged or gave up writing.
    Filesystem,
    /// A block device that failed a request.
    BlockError,
    /// A network device whose references do not go away.
    DeviceLeak,
}

impl FindingKind {
    /// The name used in serialised findings and in signatures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Oops => "oops",
            Self::PageFault => "page_fault",
            Self::NullPointer => "null_pointer",
            Self::GeneralProtection => "general_protection",
            Self::DoubleFault => "double_fault",
            Self::DivideError => "divide_error",
            Self::StackOverflow => "stack_overflow",
            Self::Bug => "bug",
            Self::Warning => "warning",
            Self::Kasan => "kasan",
            Self::Kmsan => "kmsan",
            Self::Kcsan => "kcsan",
            Self::Ubsan => "ubsan",
            Self::Kfence => "kfence",
            Self::Lockdep => "lockdep",
            Self::RcuStall => "rcu_stall",
            Self::SoftLockup => "soft_lockup",
            Self::HardLockup => "hard_lockup",
            Self::HungTask => "hung_task",
            Self::OomKill => "oom_kill",
            Self::AllocFailure => "alloc_failure",
            Self::MemoryLeak => "memory_leak",
            Self::RefCount => "ref_count",
            Self::SchedulingWhileAtomic => "scheduling_while_atomic",
            Self::SleepInAtomic => "sleep_in_atomic",
            Self::ListCorruption => "list_corruption",
            Self::BadPageState => "bad_page_state",
            Self::SlabCorruption => "slab_corruption",
            Self::MachineCheck => "machine_check",
            Self::UnexpectedReboot => "unexpected_reboot",
            Self::Filesystem => "filesystem",
            Self::BlockError => "block_error",
            Self::DeviceLeak => "device_leak",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How much a finding weighs; ordered, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The kernel complains and goes on.
    Warning,
    /// Memory, a task or a CPU is lost or damaged; the kernel may go on.
    Severe,
    /// The kernel stopped.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Severe => "severe",
            Self::Fatal => "fatal",
        })
    }
}

/// One failure that a kernel reported in its log, with everything that followed from it directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What sort of failure.
    pub kind: FindingKind,
    /// How bad: [`Severity::Fatal`] whenever `panicked`.
    pub severity: Severity,
    /// One stable line for people: no addresses, CPUs, times or process ids, such as
    /// `WARNING in tcp_rcv_state_process`.
    pub title: String,
    /// The kernel function the failure is charged to, without offset; `None` when the report
    /// names none.
    pub function: Option<String>,
    /// Equal for the same failure on another boot, CPU or address layout.
    pub signature: String,
    /// Offset in the log of the first byte of the report's first line.
    pub start: u64,
    /// Offset in the log just after the last byte of the report.
    pub end: u64,
    /// Whether the kernel panicked over it.
    pub panicked: bool,
    /// The report's text with line prefixes taken off and `\n` line ends, cut when it is long.
    pub excerpt: String,
}
