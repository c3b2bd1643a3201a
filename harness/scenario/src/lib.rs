//! YAML to validated scenarios, workloads, gate policies, waivers and inventories of labs.
//!
//! Nothing here reads a file: callers pass pairs of path and text, and get either validated values
//! or [`Mistakes`], each with its line, column and source excerpt.

pub mod ktap;
pub mod ops;
pub mod schema;

mod glob;
mod inventory;
mod library;
mod mistake;
mod pattern;
mod policy;
mod quantity;
mod raw;
mod read;
mod resolve;
mod scenario;
mod sink;
mod texts;
mod tiers;
mod waiver;
mod workload;
mod yaml;

pub use glob::Glob;
pub use inventory::{Places, load as inventory};
pub use kgate_model::plan::{Kind, Start, Tier};
pub use kgate_model::sample::Better;
pub use library::{Library, Selected};
pub use mistake::{Mistake, Mistakes};
pub use pattern::Pattern;
pub use policy::{
    ExactPolicy, ExactRule, FindingAction, MetricRule, PerformanceLimits, Policy, Reaction,
    SizeLimit, SizeLimits, Timeouts,
};
pub use quantity::{Percent, Unit};
pub use scenario::{
    Action, ConfigRequirement, ExitExpectation, Expect, FileExpectation, Limits, Measure,
    MetricSpec, Probe, Ready, Requires, ResultFormat, Scenario, ScenarioId, Step,
};
pub use tiers::{Settles, TierRule, Tiers};
pub use waiver::{Waiver, WaiverScope, Waivers};
pub use workload::{LabUse, MachineSpec, Overrides, RoleSpec, Selection, Workload};
