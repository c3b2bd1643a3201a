//! A workload after validation: the machine, the scenarios it selects and the policy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::policy::Policy;
use crate::quantity::{Percent, optional_millis};
use crate::scenario::Requires;

/// One workload profile, validated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// File name without `.yaml`.
    pub name: String,
    /// One line: what production does.
    pub summary: String,
    /// What the guests look like.
    pub machine: MachineSpec,
    /// What both kernels must have. The candidate lacking what the baseline has is a failure.
    pub requires: Requires,
    /// Which scenarios, in order.
    pub scenarios: Vec<Selection>,
    /// What runs on lab hosts; `None` says nothing of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<LabUse>,
    /// How the run decides.
    pub policy: Policy,
}

/// What a workload runs on lab hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabUse {
    /// On which: names or tags of the inventory; on any when empty.
    pub hosts: Vec<String>,
    /// Over ids: which scenarios; all but exact ones when empty.
    pub scenarios: Vec<Glob>,
}

/// The machine that a workload runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// QEMU's name of the CPU model; the default of the machine when `None`.
    pub cpu_model: Option<String>,
    /// Added to the kernel command line of both roles, one argument each.
    pub kernel_args: Vec<String>,
    /// What only the baseline gets.
    pub baseline: RoleSpec,
    /// What only the candidate gets.
    pub candidate: RoleSpec,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 512 << 20,
            cpu_model: None,
            kernel_args: Vec::new(),
            baseline: RoleSpec::default(),
            candidate: RoleSpec::default(),
        }
    }
}

/// What only one role's machine gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// Added to the kernel command line, one argument each.
    pub kernel_args: Vec<String>,
}

/// One line of a workload's list of scenarios.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Over scenario ids; matches at least one.
    pub glob: Glob,
    /// What differs for these scenarios.
    pub overrides: Overrides,
}

/// What a workload changes about a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overrides {
    /// Limit of its metrics from which a change is reported.
    pub warn: Option<Percent>,
    /// Limit of its metrics from which a change rejects.
    pub fail: Option<Percent>,
    /// Boots of each role.
    pub boots: Option<u32>,
    /// Limit of one trial.
    #[serde(rename = "timeout_ms", with = "optional_millis")]
    pub timeout: Option<Duration>,
    /// Why it is left out; its trials are reported as skipped with this reason.
    pub skip: Option<String>,
}
