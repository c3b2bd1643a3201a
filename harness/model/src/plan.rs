//! What a run intends to do: every boot and every trial, listed before anything starts.

use serde::{Deserialize, Serialize};

use crate::kernel::KernelRecord;
use crate::outcome::{Outcome, Role};

/// Version of the plan's and the journal's format.
pub const FORMAT: u32 = 4;

/// The kind of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One kernel subsystem by itself.
    Subsystem,
    /// Several subsystems, as production uses them.
    Integration,
    /// Measured numbers.
    Performance,
}

impl Kind {
    /// All, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Subsystem, Self::Integration, Self::Performance];

    /// The word used in ids, files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subsystem => "subsystem",
            Self::Integration => "integration",
            Self::Performance => "performance",
        }
    }
}

/// How much is tried of a new kernel, by what it is to the one in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// A bug-fix release of the same branch: minutes.
    Bugfix,
    /// Another branch: everything, in more boots.
    Major,
    /// The longterm branch after that of production: as [`Self::Major`], and its verdict is advice, not
    /// a gate.
    NextLongterm,
}

impl Tier {
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Bugfix, Self::Major, Self::NextLongterm];

    /// The word used in files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bugfix => "bugfix",
            Self::Major => "major",
            Self::NextLongterm => "next-longterm",
        }
    }
}

/// Which tier was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierChoice {
    /// The tier.
    pub tier: Tier,
    /// Why, in plain sentences.
    pub why: String,
}

/// Which releases are tried by another tier than their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// The tier.
    pub to: Tier,
    /// Releases of these branches; of any when empty.
    pub branches: Vec<String>,
    /// Releases that change one of these subsystems, or what is below it; any release when empty.
    pub subsystems: Vec<String>,
}

/// How a trial gets its machine.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A machine of its own that goes on from where a booted one, the template, was ready. Where the
    /// pool can't do that, as [`Self::Shared`].
    #[default]
    Warm,
    /// One that was booted for it and for others, which run on it before and after, in order.
    Shared,
    /// One that was booted for it alone.
    Cold,
    /// As [`Self::Warm`], in an emulated machine whose clock counts the instructions that it executes.
    /// Several clones of a template, each disturbed by a seed of its own, run all trials that measure in
    /// this way, one after the other. Where the pool can't do that, they are skipped.
    Exact,
}

impl Start {
    /// All, the fastest first.
    pub const ALL: [Self; 4] = [Self::Warm, Self::Shared, Self::Cold, Self::Exact];

    /// The word used in ids, files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Shared => "shared",
            Self::Cold => "cold",
            Self::Exact => "exact",
        }
    }
}

/// What a machine must look like for a boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineShape {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// CPU model as the machine's backend names it; the backend's default when `None`.
    pub cpu_model: Option<String>,
    /// Added to the kernel's command line.
    pub kernel_args: Vec<String>,
    /// A NIC with user-mode networking is attached.
    pub network: bool,
}

impl Default for MachineShape {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 512 << 20,
            cpu_model: None,
            kernel_args: Vec::new(),
            network: false,
        }
    }
}

/// A boot of the plan: one start of one kernel on one machine, and the trials to run in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedBoot {
    /// Unique in the plan and the same whenever the same inputs are planned again, such as
    /// `candidate-2-edge`.
    pub id: String,
    /// Which kernel.
    pub role: Role,
    /// Replicate, from 1. The boots of one number belong together: same trials, both roles.
    pub number: u32,
    /// Image of the guest: `base` or a recipe's name.
    pub image: String,
    /// The machine.
    pub shape: MachineShape,
    /// Kernel modules that its trials load, each once.
    pub modules: Vec<String>,
    /// How its trials get their machine. A cold boot has one trial.
    pub start: Start,
    /// No other boot may run beside it: it measures time.
    pub exclusive: bool,
    /// The lab host that it runs on; a guest when `None`. Both roles of one number and group run on the
    /// same host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Of an exact boot: what everything that chance decides in its template follows from. No two
    /// boots of a plan have the same.
    pub seed: Option<u64>,
    /// Partition that runs it, from 1; 1 of 1 when the plan isn't cut.
    pub partition: u32,
    /// What to run, in order.
    pub trials: Vec<PlannedTrial>,
}

/// A trial of the plan: one scenario in one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedTrial {
    /// Unique in the plan, such as `integration/nat-conntrack@candidate-2-edge`.
    pub id: String,
    /// The scenario's id.
    pub scenario: String,
    /// Of an exact boot: the clone that it runs in, from 1.
    pub clone: Option<u32>,
    /// The scenario's kind.
    pub kind: Kind,
    /// Known without running it: a requirement that this kernel doesn't meet.
    pub decided: Option<Outcome>,
}

/// Everything that a run intends to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Version of the program that wrote it.
    pub kgate: String,
    /// Name of the workload.
    pub workload: String,
    /// The kernel now in production.
    pub baseline: KernelRecord,
    /// The kernel that should replace it.
    pub candidate: KernelRecord,
    /// How much of the workload is tried; all of it when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierChoice>,
    /// The inventory of the lab hosts that boots name, as the run was given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// Partitions that the plan is cut into.
    pub partitions: u32,
    /// The boots, in the order in which they are to start: roles interleaved.
    pub boots: Vec<PlannedBoot>,
}

impl Plan {
    /// The kernel of a role.
    pub const fn kernel(&self, role: Role) -> &KernelRecord {
        match role {
            Role::Baseline => &self.baseline,
            Role::Candidate => &self.candidate,
        }
    }

    /// The lab hosts that boots name, each once, in the order of the plan.
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = Vec::new();
        for host in self.boots.iter().filter_map(|boot| boot.host.as_deref()) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }

    /// Every trial with its boot, in the order of the plan.
    pub fn trials(&self) -> impl Iterator<Item = (&PlannedBoot, &PlannedTrial)> {
        self.boots.iter().flat_map(|boot| boot.trials.iter().map(move |trial| (boot, trial)))
    }
}
