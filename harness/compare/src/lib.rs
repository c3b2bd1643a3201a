//! Outcomes and samples of two kernels to comparisons and a verdict.
//!
//! Pure: the same record, policy, waivers, date and seed give the same [`Assessment`], wherever and
//! whenever it is made.
//!
//! # How outcomes are compared
//! A boot is a replicate. For each scenario and each subtest the boots of both roles are counted:
//! passed, failed, skipped, errored, missing. Only passed and failed say something of a kernel.
//!
//! | baseline | candidate | class | effect |
//! |---|---|---|---|
//! | never fails | fails in every planned boot | regression | rejects |
//! | never fails | fails in some boots, so often that chance explains it in at most [`SIGNIFICANCE`] of such runs (Fisher's exact test, one-sided; boots that errored count as passed) | intermittent regression | rejects |
//! | never fails | fails in some boots by a panic, a hang, a reset or a new finding | intermittent regression | rejects |
//! | never fails | fails in some boots otherwise | flaky | as the policy says; inconclusive when it says `report` |
//! | fails always | fails always | still failing | none |
//! | fails always | never fails | fixed | none |
//! | fails sometimes | any | flaky | none; inconclusive when the candidate fails significantly more often |
//! | no result | fails | uncontrolled | inconclusive |
//! | never skips a scenario | skips it in every boot | regression: it lacks what the baseline has | rejects |
//! | runs | skips otherwise, or skips a subtest | skipped | inconclusive: what was tested no longer is |
//!
//! A panic or a hang never happens in a sound kernel, so that one is enough. An expectation that
//! fails in one boot of three may be the scenario's own flake, which three boots can't tell.
//! What errored or never ran has the effect `infrastructure`, which weighs less than a rejection
//! and more than doubt.
//!
//! A trial that failed over findings or subtests is as bad as the worst of these: one whose
//! findings the baseline has as well is still failing, one whose findings the policy only reports
//! rejects nothing.
//!
//! # How numbers are compared
//! `docs/comparison.md` has the method; [`stats`] and [`exact`] are its parts, without any I/O and the
//! same whatever the number of threads.

pub mod exact;
pub mod scatter;
pub mod slab;
pub mod stats;

mod assessment;
mod boot;
mod case;
mod family;
mod finding;
mod hosts;
mod metric;
mod verdict;
mod waive;

pub use assessment::{Assessment, Inputs};
pub use boot::Statistic;
pub use case::{Case, Class, Subject, Tally};
pub use family::Families;
pub use finding::{FindingDelta, Novelty, Sightings};
pub use hosts::HostUse;
pub use metric::{
    Comparison, Decision, Evidence, MEMORY_FIELDS, MEMORY_FLOOR, MIN_BOOTS, Place, ReadyTimes, Side,
};
pub use stats::{SIGNIFICANCE, at_least_as_often};
pub use verdict::{About, Effect, Reason, Verdict};
pub use waive::{WaiverState, WaiverUse};
