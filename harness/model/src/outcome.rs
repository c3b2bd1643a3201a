//! How a trial ended, and whose fault it was.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The kernel now in production: the control of every comparison.
    Baseline,
    /// The kernel that should replace it.
    Candidate,
}

impl Role {
    /// Both, the baseline first.
    pub const ALL: [Self; 2] = [Self::Baseline, Self::Candidate];

    /// The word used in ids, files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Candidate => "candidate",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose fault a bad outcome is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The kernel under test did it, as far as can be told: counts in the comparison.
    Kernel,
    /// The scenario is broken: it names a command or a file that its image doesn't have.
    Scenario,
    /// kgate, QEMU, the network, the disk, the lab: never counts for or against a kernel.
    Harness,
}

/// What kind of thing went wrong. Says nothing of which kernel is at fault; [`Fault::blame`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The kernel log holds a finding.
    Finding,
    /// The kernel panicked.
    Panic,
    /// The kernel never got as far as the agent.
    BootFailed,
    /// The kernel stopped scheduling: no heartbeat.
    Hang,
    /// The machine reset or powered off by itself.
    Died,
    /// The kernel lacks what the scenario or workload requires, and the other kernel has it.
    Requirement,
    /// A step's expectation was not met.
    Expectation,
    /// A subtest of a step failed.
    Subtest,
    /// A step ran longer than it may.
    StepTimeout,
    /// The trial ran longer than it may.
    TrialTimeout,
    /// The kernel that answered isn't the one that was started.
    Identity,
    /// The scenario can't run as written.
    Scenario,
    /// QEMU could not be started, or ended without a reason of the guest's.
    Emulator,
    /// The channel to the agent broke while the machine lived.
    Channel,
    /// The lab host, its BMC, its console or the way to it.
    Lab,
    /// The controller's disk, or another resource of its, failed.
    Controller,
    /// The run's own deadline came.
    RunTimeout,
}

impl FaultKind {
    /// A few words for a person.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Finding => "kernel log",
            Self::Panic => "kernel panic",
            Self::BootFailed => "boot failed",
            Self::Hang => "hang",
            Self::Died => "machine died",
            Self::Requirement => "missing requirement",
            Self::Expectation => "expectation",
            Self::Subtest => "subtest",
            Self::StepTimeout => "step timeout",
            Self::TrialTimeout => "trial timeout",
            Self::Identity => "wrong kernel",
            Self::Scenario => "broken scenario",
            Self::Emulator => "emulator",
            Self::Channel => "channel",
            Self::Lab => "lab host",
            Self::Controller => "controller",
            Self::RunTimeout => "run deadline",
        }
    }
}

/// Why something did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Whose fault.
    pub blame: Blame,
    /// What kind.
    pub kind: FaultKind,
    /// One line for a person. May hold text of the guest's: escape it before printing.
    pub message: String,
}

impl Fault {
    /// The kernel's fault.
    pub fn kernel(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { blame: Blame::Kernel, kind, message: message.into() }
    }

    /// The scenario's fault.
    pub fn scenario(message: impl Into<String>) -> Self {
        Self { blame: Blame::Scenario, kind: FaultKind::Scenario, message: message.into() }
    }

    /// Ours.
    pub fn harness(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { blame: Blame::Harness, kind, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A panic's title begins with the same words.
        if !self.message.starts_with(self.kind.label()) {
            write!(f, "{}: ", self.kind.label())?;
        }
        f.write_str(&self.message)
    }
}

/// How a trial or a subtest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// As expected.
    Passed,
    /// The kernel under test did something that it should not have.
    Failed {
        /// What. Its blame is [`Blame::Kernel`].
        cause: Fault,
    },
    /// It could not be found out. Never counts for or against a kernel.
    Errored {
        /// Why. Its blame is [`Blame::Scenario`] or [`Blame::Harness`].
        cause: Fault,
    },
    /// It does not apply.
    Skipped {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// `Failed` or `Errored`, as the fault's blame says.
    pub fn from_fault(cause: Fault) -> Self {
        match cause.blame {
            Blame::Kernel => Self::Failed { cause },
            Blame::Scenario | Blame::Harness => Self::Errored { cause },
        }
    }

    /// The word used in files and reports.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::Errored { .. } => "errored",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// The fault behind a bad outcome.
    pub const fn cause(&self) -> Option<&Fault> {
        match self {
            Self::Failed { cause } | Self::Errored { cause } => Some(cause),
            Self::Passed | Self::Skipped { .. } => None,
        }
    }
}

/// One result inside a step's TAP or KTAP output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subtest {
    /// Names from the outermost test inwards, joined by ` / `: unique within its trial.
    pub path: String,
    /// How it ended.
    pub outcome: Outcome,
}
