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
//! Each boot gives one number per metric, the decile at the better end of its samples (interpolated;
//! samples of failed trials don't count): on a shared machine a disturbance only ever makes a sample
//! worse, so this is what the boot does when least disturbed. It can't see what happens in less than
//! nine of ten samples: rarely taken slow paths, interrupts, tails.
//!
//! The relative change is that of the mean over boots. Its 95 % interval is a hierarchical
//! bootstrap (boots, then the samples within them), widened by Student's t for the few boots there
//! are. A metric is worse when the interval excludes zero with p at most [`SIGNIFICANCE`]
//! (*significant*) and the change is at least the warn limit (*relevant*). It is a regression when
//! the change reaches the fail limit and its p-value stays below [`SIGNIFICANCE`] divided by the
//! number of comparisons in the run, so that two equal kernels are rejected in at most one of twenty
//! runs, however many metrics there are.
//! What would be a regression but for that, what is noisier than the fail limit in both directions,
//! and what has fewer than [`MIN_BOOTS`] boots per role is inconclusive.
//!
//! Memory is compared in the same way, except that doubt about it has no effect on the verdict.

mod assessment;
mod case;
mod finding;
mod metric;
mod stats;
mod verdict;
mod waive;

pub use assessment::{Assessment, Inputs};
pub use case::{Case, Class, Subject, Tally};
pub use finding::{FindingDelta, Novelty, Sightings};
pub use metric::{
    Comparison, Decision, MEMORY_FIELDS, MEMORY_FLOOR, MIN_BOOTS, Place, ReadyTimes, Side,
};
pub use stats::{SIGNIFICANCE, at_least_as_often};
pub use verdict::{About, Effect, Reason, Verdict};
pub use waive::{WaiverState, WaiverUse};
