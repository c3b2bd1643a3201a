//! The gate policy: how much is tried, and which differences matter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::quantity::{Percent, millis};
use crate::scenario::ScenarioId;
use crate::tiers::Tiers;
use crate::workload::Overrides;

/// How a run decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Boots of each role: the replicates of everything.
    pub boots: u32,
    /// What a WARNING (or other finding that is not fatal) means that only the candidate has.
    /// Fatal findings (panic, oops …) always reject.
    pub new_warning: Reaction,
    /// What a trial means that fails in some boots of the candidate only, and never of the baseline.
    /// To report it leaves the verdict inconclusive: a few boots can't tell a flake from a regression.
    pub flaky: Reaction,
    /// Limits of metrics that no rule of `metrics` names.
    pub performance: PerformanceLimits,
    /// Limits of the tails of latencies.
    #[serde(default = "tails")]
    pub tails: PerformanceLimits,
    /// How exact mode decides.
    #[serde(default)]
    pub exact: ExactPolicy,
    /// Limits of the growth of memory in use.
    pub memory: SizeLimits,
    /// Limits of single metrics; the last rule that matches holds.
    pub metrics: Vec<MetricRule>,
    /// What a finding does to the rest of its boot.
    pub on_finding: FindingAction,
    /// Deadlines above that of a trial.
    pub timeouts: Timeouts,
    /// How much is tried of a new release.
    #[serde(default)]
    pub tiers: Tiers,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            boots: 3,
            new_warning: Reaction::Reject,
            flaky: Reaction::Report,
            performance: PerformanceLimits { warn: Percent(1.0), fail: Percent(5.0) },
            tails: tails(),
            exact: ExactPolicy::default(),
            memory: SizeLimits {
                warn: SizeLimit::Percent(Percent(2.0)),
                fail: SizeLimit::Percent(Percent(10.0)),
            },
            metrics: Vec::new(),
            on_finding: FindingAction::EndBoot,
            timeouts: Timeouts::default(),
            tiers: Tiers::default(),
        }
    }
}

impl Policy {
    /// The limits of one metric of one scenario: the policy's, then its last matching rule, then
    /// what the workload's selection says.
    pub fn limits(
        &self,
        scenario: &ScenarioId,
        metric: &str,
        overrides: &Overrides,
    ) -> PerformanceLimits {
        let rule = self.metrics.iter().rev().find(|rule| rule.matches(scenario, metric));
        rule.map_or(self.performance, |rule| rule.limits).with(overrides.warn, overrides.fail)
    }
}

fn tails() -> PerformanceLimits {
    PerformanceLimits { warn: Percent(10.0), fail: Percent(50.0) }
}

/// How exact mode, which counts instructions, decides. The defaults are those that gave no false
/// alarm where they were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExactPolicy {
    /// Templates of each role: independent boots, at least 2.
    pub templates: u32,
    /// Clones of each template.
    pub clones: u32,
    /// What everything that chance decides follows from: the same kernels and the same seed give the
    /// same numbers.
    pub seed: u64,
    /// A change counts as proven from this many standard errors.
    pub t: f64,
    /// Limits of the path: the cheapest batch.
    pub path: PerformanceLimits,
    /// Limits of the mean over batches, which has interrupts and slow paths in it.
    pub mean: PerformanceLimits,
    /// Limits of single metrics; the last rule that matches holds.
    pub metrics: Vec<ExactRule>,
}

impl Default for ExactPolicy {
    fn default() -> Self {
        Self {
            templates: 2,
            clones: 5,
            seed: 1,
            t: 4.0,
            path: PerformanceLimits { warn: Percent(0.2), fail: Percent(5.0) },
            mean: PerformanceLimits { warn: Percent(0.5), fail: Percent(10.0) },
            metrics: Vec::new(),
        }
    }
}

impl ExactPolicy {
    /// The limits of the path and of the mean of one metric of one scenario.
    pub fn limits(
        &self,
        scenario: &ScenarioId,
        metric: &str,
    ) -> (PerformanceLimits, PerformanceLimits) {
        let rule = self.metrics.iter().rev().find(|r| names(&r.metric, scenario, metric));
        rule.map_or((self.path, self.mean), |rule| (rule.path, rule.mean))
    }
}

/// Limits of exact mode for the metrics that a glob names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExactRule {
    /// Over metric names, or over `SCENARIO/METRIC`.
    pub metric: Glob,
    /// Limits of the path.
    pub path: PerformanceLimits,
    /// Limits of the mean.
    pub mean: PerformanceLimits,
}

/// What follows from a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reaction {
    /// Not shown as a difference.
    Ignore,
    /// Shown, without effect on the verdict.
    Report,
    /// Rejects the candidate.
    Reject,
}

/// Relative changes for the worse from which a metric is worth attention, and from which it rejects.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerformanceLimits {
    /// Reported from here.
    pub warn: Percent,
    /// Rejects from here; never below `warn`.
    pub fail: Percent,
}

impl PerformanceLimits {
    /// These limits with others in their place where given. `warn` is never above `fail`.
    #[must_use]
    pub fn with(self, warn: Option<Percent>, fail: Option<Percent>) -> Self {
        let fail = fail.unwrap_or(self.fail);
        let warn = warn.unwrap_or(self.warn);
        Self { warn: if warn > fail { fail } else { warn }, fail }
    }
}

/// Growth from which memory in use is worth attention, and from which it rejects.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeLimits {
    /// Reported from here.
    pub warn: SizeLimit,
    /// Rejects from here.
    pub fail: SizeLimit,
}

/// A limit for growth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeLimit {
    /// Relative to the baseline.
    Percent(Percent),
    /// Absolute, in bytes.
    Bytes(u64),
}

impl SizeLimit {
    /// The growth in bytes that this limit means beside a baseline of `baseline` bytes.
    pub fn bytes(self, baseline: f64) -> f64 {
        match self {
            Self::Percent(percent) => baseline * percent.ratio(),
            #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
            Self::Bytes(bytes) => bytes as f64,
        }
    }
}

/// Limits of the metrics that a glob names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricRule {
    /// Over metric names, or over `SCENARIO/METRIC`.
    pub metric: Glob,
    /// What holds for them.
    pub limits: PerformanceLimits,
}

impl MetricRule {
    /// Whether the rule is about this metric of this scenario.
    pub fn matches(&self, scenario: &ScenarioId, metric: &str) -> bool {
        names(&self.metric, scenario, metric)
    }
}

/// Whether a glob is about this metric of this scenario.
pub(crate) fn names(glob: &Glob, scenario: &ScenarioId, metric: &str) -> bool {
    glob.matches(metric) || glob.matches(&format!("{scenario}/{metric}"))
}

/// What a finding does to the rest of its boot. A fatal one ends it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingAction {
    /// The boot ends; what was left of it runs in a fresh one.
    EndBoot,
    /// The boot goes on; later trials carry a mark that their kernel was not clean.
    Mark,
}

/// Deadlines above that of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the start of a machine to the agent's first word.
    #[serde(rename = "boot_ms", with = "millis")]
    pub boot: Duration,
    /// The whole run.
    #[serde(rename = "run_ms", with = "millis")]
    pub run: Duration,
    /// Silence of the agent after which a machine counts as hung.
    #[serde(rename = "hang_ms", with = "millis")]
    pub hang: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(60),
            run: Duration::from_secs(30 * 60),
            hang: Duration::from_secs(20),
        }
    }
}
