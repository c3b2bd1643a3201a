//! The options of runs that use lab hosts.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Which lab hosts a run uses, and what for.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OnLabArgs {
    /// Inventory of lab hosts: scenarios run there as the workload says, all but exact ones where it says
    /// nothing; the others run in guests.
    #[arg(long, env = "KGATE_LAB", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) lab: Option<PathBuf>,
    /// Which hosts of the inventory, by name or tag, instead of those that the workload names.
    #[arg(long, value_name = "NAME|TAG", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// Which scenarios run on lab hosts (globs over their ids), instead of those that the workload names.
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub(crate) lab_scenarios: Vec<String>,
}
