//! A scenario after validation: what it needs, its steps and what it expects of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kgate_model::finding::{Finding, Severity};
use kgate_model::plan::{Kind, Start};
use kgate_model::sample::Better;
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;
use crate::quantity::{Unit, millis, optional_millis};

/// The path of a scenario's file below `scenarios/`, without `.yaml`: `integration/nat-conntrack`.
///
/// Stable from run to run; its first component is the kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScenarioId(pub(crate) String);

impl ScenarioId {
    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id without its kind: `nat-conntrack`, `net/tcp`.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(self.as_str(), |(_, name)| name)
    }
}

impl fmt::Display for ScenarioId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One scenario file, validated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Where it lies below `scenarios/`.
    pub id: ScenarioId,
    /// Agrees with the first component of the id.
    pub kind: Kind,
    /// One line: what it does.
    pub summary: String,
    /// What production loses when this breaks.
    pub guards: Option<String>,
    /// Name of the guest image it runs in.
    pub image: String,
    /// What kernel, image and machine must have; unmet by both kernels means skipped.
    pub requires: Requires,
    /// Limit for one trial, all steps together.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// In how many boots of each role it runs, when not as the policy says.
    pub boots: Option<u32>,
    /// How its trials get their machine; never warm for one that measures.
    pub boot: Start,
    /// Whether the guest gets a network card (loopback is always there).
    pub network: bool,
    /// Kernel messages that it may provoke, beside those that its steps expect; every other new
    /// finding is a failure. Ask [`Scenario::allows`].
    pub allowed_log: Vec<Pattern>,
    /// Whether the kernel may become tainted (by more than what it was tainted with at boot).
    pub allow_taint: bool,
    /// What it does, in order; never empty.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// Whether a finding during a trial is one that it may provoke, because the file allows it or a
    /// step expects it. Never a fatal one.
    pub fn allows(&self, finding: &Finding) -> bool {
        let expected = self.steps.iter().flat_map(|step| &step.expect.kernel_log);
        finding.severity != Severity::Fatal
            && (self.allowed_log.iter().chain(expected))
                .any(|p| p.is_match(&finding.title) || p.is_match(&finding.excerpt))
    }

    /// The names of all metrics that a trial of it reports.
    pub fn metric_names(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().flat_map(|step| {
            let measured = match &step.action {
                Action::Measure(measure) => Some(measure.op.as_str()),
                _ => None,
            };
            measured.into_iter().chain(step.metrics.iter().map(|metric| metric.name.as_str()))
        })
    }
}

/// What must be there before a trial makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requires {
    /// Kernel modules, loaded with their dependencies before the trial. Built-in ones count as met.
    pub modules: Vec<String>,
    /// Kernel configuration.
    pub config: Vec<ConfigRequirement>,
    /// Sysctls that must exist, in dotted form.
    pub sysctls: Vec<String>,
    /// Absolute paths that must exist in the guest, after the modules are loaded.
    pub files: Vec<String>,
    /// Programs that must be in the image's `PATH`.
    pub commands: Vec<String>,
    /// Fewest CPUs of the machine.
    pub cpus: Option<u32>,
    /// Least memory of the machine, in bytes.
    pub memory: Option<u64>,
}

/// One kernel option: `TLS` (yes or module) or `HZ=250` (exactly that).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRequirement {
    /// Option name without `CONFIG_`.
    pub option: String,
    /// The exact value (`y`, `m`, `n`, a number, a string without quotes); `None` means `y` or `m`.
    pub value: Option<String>,
}

impl fmt::Display for ConfigRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "CONFIG_{}={value}", self.option),
            None => write!(f, "CONFIG_{}", self.option),
        }
    }
}

/// One step of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in its scenario; made from verb and position (`run 2`) when the file gives none.
    pub name: String,
    /// What the step does.
    pub action: Action,
    /// Limit for this step; the trial's limit holds as well.
    #[serde(rename = "timeout_ms", with = "optional_millis")]
    pub timeout: Option<Duration>,
    /// What must hold afterwards.
    pub expect: Expect,
    /// How to read outcomes of subtests from the step's standard output.
    pub results: Option<ResultFormat>,
    /// Numbers to read from the step's output.
    pub metrics: Vec<MetricSpec>,
    /// Resource limits of the step's processes.
    pub limits: Limits,
    /// Variables added to the environment.
    pub env: BTreeMap<String, String>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Runs shell text with `sh -c` to its end.
    Run {
        /// The shell text.
        command: String,
    },
    /// Starts shell text and leaves it running until the trial ends.
    Background {
        /// The shell text.
        command: String,
        /// When the next step may start.
        ready: Ready,
    },
    /// Runs a measuring program of `workloads/ops`.
    Measure(Measure),
    /// Writes a file.
    Write {
        /// Absolute path.
        path: String,
        /// The whole content.
        text: String,
    },
    /// Sets sysctls, in order; undone after the trial.
    Sysctl {
        /// Dotted name and value.
        values: Vec<(String, String)>,
    },
}

impl Action {
    /// The word in the file that chooses this action.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Run { .. } => "run",
            Self::Background { .. } => "background",
            Self::Measure(_) => "measure",
            Self::Write { .. } => "write",
            Self::Sysctl { .. } => "sysctl",
        }
    }
}

/// When a background step counts as started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// What to wait for; `None` means that having started is enough.
    pub probe: Option<Probe>,
    /// Longest wait; then the step has failed.
    #[serde(rename = "within_ms", with = "millis")]
    pub within: Duration,
}

/// What shows that a background program is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A TCP connection to this address succeeds.
    Tcp {
        /// A host name or address (IPv6 without brackets).
        host: String,
        /// Never 0.
        port: u16,
    },
    /// This absolute path exists.
    File(String),
    /// The program printed something that matches (on either stream).
    Output(Pattern),
}

/// One measurement: `warmup` batches thrown away, then `batches` samples of `batch` operations each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// An operation of [`crate::ops::OPS`]; also the name of its metric.
    pub op: String,
    /// Operations per sample.
    pub batch: u32,
    /// Samples.
    pub batches: u32,
    /// Batches before the first sample.
    pub warmup: u32,
}

/// How subtests are reported on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultFormat {
    /// KTAP, as the kernel's self-tests and KUnit print it.
    Ktap,
    /// TAP 12 to 14.
    Tap,
}

/// What must hold when a step has ended. All of it must.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expect {
    /// Exit status of the command; a death by signal N counts as 128+N.
    pub exit: ExitExpectation,
    /// Must match somewhere in standard output.
    pub stdout: Vec<Pattern>,
    /// Must match somewhere in standard error.
    pub stderr: Vec<Pattern>,
    /// Must not match anywhere in standard output.
    pub not_stdout: Vec<Pattern>,
    /// Files and what is expected of each.
    pub files: Vec<(String, FileExpectation)>,
    /// Sysctls, in dotted form, and the exact value of each (runs of white space count as one).
    pub sysctls: Vec<(String, String)>,
    /// Kernel messages that must appear while the step runs.
    pub kernel_log: Vec<Pattern>,
}

/// Which exit statuses are right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitExpectation {
    /// Any.
    Any,
    /// One of these; never empty.
    OneOf(Vec<u8>),
}

impl ExitExpectation {
    /// Whether `status` is right.
    pub fn accepts(&self, status: i32) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(statuses) => statuses.iter().any(|right| i32::from(*right) == status),
        }
    }
}

/// What is expected of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileExpectation {
    /// The path exists.
    Exists,
    /// The path does not exist.
    Absent,
    /// The path exists and its content matches somewhere.
    Matches(Pattern),
}

/// A number to read from a step's output (standard output first, then standard error).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSpec {
    /// Unique in its scenario.
    pub name: String,
    /// Has exactly one group, which holds the number. Every match is one sample.
    pub pattern: Pattern,
    /// Unit of the number as the program prints it.
    pub unit: Unit,
    /// Which direction is good.
    pub better: Better,
}

/// Resource limits of a step's processes; `None` leaves the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space per process, in bytes.
    pub memory: Option<u64>,
    /// CPU time per process.
    #[serde(rename = "cpu_time_ms", with = "optional_millis")]
    pub cpu_time: Option<Duration>,
    /// Processes of the user.
    pub processes: Option<u64>,
    /// Open files per process.
    pub files: Option<u64>,
}
