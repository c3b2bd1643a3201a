//! What a kernel log can hold against a kernel: findings, their kinds and how bad they are.

use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

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

/// The letters of the taint flags, by bit, and what they stand for
/// (`Documentation/admin-guide/tainted-kernels.rst`).
pub const TAINTS: &[(char, &str)] = &[
    ('P', "proprietary module"),
    ('F', "module loaded by force"),
    ('S', "processor out of specification"),
    ('R', "module removed by force"),
    ('M', "machine check"),
    ('B', "bad page"),
    ('U', "set by a user"),
    ('D', "an oops before"),
    ('A', "ACPI table overridden"),
    ('W', "a warning before"),
    ('C', "staging driver"),
    ('I', "firmware bug worked around"),
    ('O', "out-of-tree module"),
    ('E', "unsigned module"),
    ('L', "a soft lockup before"),
    ('K', "live patch"),
    ('X', "set by the distribution"),
    ('T', "randomised structures"),
    ('N', "in-kernel test"),
    ('J', "fwctl"),
];

/// What a sanitizer or a fault handler says about the access that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Memory was read.
    Read,
    /// Memory was written.
    Write,
    /// An instruction was fetched.
    Execute,
    /// Memory was freed.
    Free,
}

/// The memory access that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// What was tried; `None` when the report does not say.
    pub operation: Option<Operation>,
    /// Bytes.
    pub size: Option<u64>,
    /// Where, as printed.
    pub address: Option<u64>,
}

/// A line of source code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceLine {
    /// Path as the compiler was given it, relative to the kernel's source where it can be told.
    pub file: String,
    /// From 1.
    pub line: u32,
}

/// One function of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Name as printed, suffixes of the compiler included.
    pub function: SmolStr,
    /// Bytes from the function's start to the return address; `None` where it was not printed.
    pub offset: Option<u64>,
    /// Bytes of the function.
    pub size: Option<u64>,
    /// The module it is in; `None` for the kernel's image.
    pub module: Option<SmolStr>,
    /// Inlined into the next frame: it has no address of its own.
    pub inlined: bool,
    /// `false` for one found on the stack that need not have been called (`? ` in the log).
    pub reliable: bool,
    /// Where it is in the source, when the log or debug information tells.
    pub source: Option<SourceLine>,
}

/// A stack printed besides that of the failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// What the kernel said before it, such as `Allocated by task 77:`.
    pub label: String,
    /// Innermost first.
    pub frames: Vec<Frame>,
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
    /// Other lines that the same failure may be titled with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alt_titles: Vec<String>,
    /// The kernel function the failure is charged to, without offset; `None` when the report
    /// names none.
    pub function: Option<String>,
    /// Equal for the same failure on another boot, CPU, address layout or point release.
    pub signature: String,
    /// Offset in the log of the first byte of the report's first line.
    pub start: u64,
    /// Offset in the log just after the last byte of the report.
    pub end: u64,
    /// The kernel's time stamp of the first line, in microseconds; `None` without one.
    #[serde(default)]
    pub time_us: Option<u64>,
    /// Whether the kernel panicked over it.
    pub panicked: bool,
    /// Why the report's text can't be trusted, when it is cut short or mixed with another.
    #[serde(default)]
    pub corrupted: Option<String>,
    /// The access that failed, where the report tells of one.
    #[serde(default)]
    pub access: Option<Access>,
    /// The stack of the failure, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
    /// Other stacks of the report: who allocated, who freed, other tasks and CPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<Stack>,
    /// The CPU that reported.
    #[serde(default)]
    pub cpu: Option<u32>,
    /// The process that was running, or that is at fault.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its name, as the kernel knows it: at most 15 bytes.
    #[serde(default)]
    pub command: Option<String>,
    /// Letters of the taint flags that were set, in the kernel's order ([`TAINTS`]); `None` when the report does not tell.
    #[serde(default)]
    pub taint: Option<String>,
    /// Modules that were linked in, without their own flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<SmolStr>,
    /// The kernel's release, as the report gives it.
    #[serde(default)]
    pub release: Option<String>,
    /// The report's text with line prefixes taken off and `\n` line ends, cut when it is long.
    pub excerpt: String,
}

impl Finding {
    /// A finding of which only these are known.
    pub fn new(kind: FindingKind, severity: Severity, title: impl Into<String>) -> Self {
        Self {
            kind,
            severity,
            title: title.into(),
            alt_titles: Vec::new(),
            function: None,
            signature: String::new(),
            start: 0,
            end: 0,
            time_us: None,
            panicked: false,
            corrupted: None,
            access: None,
            frames: Vec::new(),
            stacks: Vec::new(),
            cpu: None,
            pid: None,
            command: None,
            taint: None,
            modules: Vec::new(),
            release: None,
            excerpt: String::new(),
        }
    }
}
