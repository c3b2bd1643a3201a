//! `results.json`: the run for other programs, with a version and a schema.

use std::collections::BTreeMap;

use kgate_compare::{
    About, Case, Comparison, Effect, Evidence, FindingDelta, HostUse, Place, Subject, Tally,
};
use kgate_klog::delta::{Change, Level, LogDelta, LogLine};
use kgate_model::finding::Finding;
use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::{Fault, Outcome};
use kgate_model::sample::Better;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Report;

/// Name and version of the format. The number changes when a reader of the old one would go wrong.
pub const SCHEMA: &str = "kgate-results/2";

/// Lines of the kernel log that are listed.
const LINES: usize = 1000;

/// The JSON Schema of [`Results`].
pub fn results_schema() -> schemars::Schema {
    schemars::schema_for!(Results)
}

/// Everything that a run comes to.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// `kgate-results/2`.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// What the run comes to.
    #[schemars(extend("enum" = ["promote", "reject", "inconclusive", "infrastructure"]))]
    pub verdict: &'static str,
    /// 0 promote, 1 reject, 3 inconclusive, 4 infrastructure.
    pub exit_code: u8,
    /// Why, the strongest first; empty only when the verdict is to promote.
    pub reasons: Vec<ReasonResult>,
    /// Name of the workload.
    pub workload: String,
    /// Version of the program that ran it.
    pub kgate: String,
    /// When the run first started: RFC 3339, UTC.
    pub started_at: Option<String>,
    /// Time spent, in milliseconds.
    pub wall_ms: u64,
    /// Facts about the controller.
    pub facts: BTreeMap<String, String>,
    /// The kernel now in production.
    pub baseline: Kernel,
    /// The kernel that should replace it.
    pub candidate: Kernel,
    /// Every boot of the plan.
    pub boots: Vec<Boot>,
    /// The lab hosts that boots are planned for.
    pub hosts: Vec<HostResult>,
    /// Every trial of the plan.
    pub trials: Vec<Trial>,
    /// Boots, scenarios and subtests: candidate against baseline.
    pub cases: Vec<CaseResult>,
    /// Findings of the kernel logs.
    pub findings: Vec<FindingResult>,
    /// How the lines of the kernel logs outside of findings differ; `None` where the logs were not
    /// read.
    pub log: Option<LogResult>,
    /// Metrics of scenarios.
    pub comparisons: Vec<ComparisonResult>,
    /// Memory after boot and after load.
    pub memory: Vec<ComparisonResult>,
    /// What is promised of all comparisons together.
    pub families: FamiliesResult,
    /// Slab caches that moved, by moment and image.
    pub slab: Vec<SlabResult>,
    /// The waivers and what became of them.
    pub waivers: Vec<WaiverResult>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// One sentence that explains the verdict.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonResult {
    /// What it does to the verdict.
    #[schemars(extend("enum" = ["inconclusive", "infrastructure", "reject"]))]
    pub effect: &'static str,
    /// The sentence.
    pub text: String,
    /// What it is about.
    pub about: Location,
}

/// What a reason or case is about: the fields that apply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// Image of the guest, for boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Id of the scenario.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Full path of the subtest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtest: Option<String>,
    /// Signature of the finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// Name of the metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Where the metric was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Upstream version, where it is known.
    pub upstream: Option<String>,
    /// The reference as the user wrote it.
    pub reference: String,
    /// Where it came from.
    pub origin: String,
    /// The banner after "Linux version".
    pub banner: String,
    /// SHA-256 of the boot image.
    pub image_sha256: String,
    /// SHA-256 of the package.
    pub package_sha256: Option<String>,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// Whose.
    #[schemars(extend("enum" = ["kernel", "scenario", "harness"]))]
    pub blame: &'static str,
    /// What kind, in a few words.
    pub kind: &'static str,
    /// One line for a person.
    pub message: String,
}

/// One boot of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Unique in the plan.
    pub id: String,
    /// `baseline` or `candidate`.
    #[schemars(extend("enum" = ["baseline", "candidate"]))]
    pub role: &'static str,
    /// Replicate, from 1.
    pub number: u32,
    /// Image of the guest.
    pub image: String,
    /// How its trials get their machines: a clone of its own for each, one that they share, or one
    /// that is booted for a single trial.
    #[schemars(extend("enum" = ["warm", "shared", "cold", "exact"]))]
    pub start: &'static str,
    /// Machines started for it.
    pub attempts: u32,
    /// Release of the kernel that answered.
    pub release: Option<String>,
    /// The lab host that it is planned for; `None` for a guest.
    pub host: Option<String>,
    /// State of the host that changes what it measures, of each attempt that told it.
    pub conditions: Vec<BTreeMap<String, String>>,
    /// Milliseconds to the agent's first word, per attempt.
    pub ready_ms: Vec<u64>,
    /// Why it ended when it was not meant to.
    pub fault: Option<Cause>,
    /// Titles of the findings outside trials.
    pub findings: Vec<String>,
    /// Consoles, relative to the run directory.
    pub consoles: Vec<String>,
    /// Diagnoses, relative to the run directory.
    pub diagnoses: Vec<String>,
}

/// A lab host in the run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostResult {
    /// Its name.
    pub name: String,
    /// Times that it booted one of the two kernels and got ready.
    pub boots: u32,
    /// Whether it was verified to be back on production; `None` where the run didn't get that far.
    pub back: Option<bool>,
    /// What it was left in, when it isn't back.
    pub left: Option<String>,
    /// State that changes what it measures and was not the same in all its boots: what it measured was
    /// left out.
    pub uneven: Option<String>,
    /// Such state, as its first boot told it.
    pub conditions: BTreeMap<String, String>,
}

/// One trial of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Unique in the plan.
    pub id: String,
    /// The scenario's id.
    pub scenario: String,
    /// `subsystem`, `integration` or `performance`.
    #[schemars(extend("enum" = ["subsystem", "integration", "performance"]))]
    pub kind: &'static str,
    /// `baseline` or `candidate`.
    #[schemars(extend("enum" = ["baseline", "candidate"]))]
    pub role: &'static str,
    /// The boot's id.
    pub boot: String,
    /// Replicate, from 1.
    pub number: u32,
    /// How it ended; `missing` when it never ran.
    #[schemars(extend("enum" = ["passed", "failed", "errored", "skipped", "missing"]))]
    pub outcome: &'static str,
    /// Why it failed or errored.
    pub cause: Option<Cause>,
    /// Why it was skipped.
    pub skip_reason: Option<String>,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// Titles of the findings while it ran.
    pub findings: Vec<String>,
    /// Subtests that did not pass, by full path, with the word of their outcome.
    pub subtests_not_passed: BTreeMap<String, String>,
    /// The number of all subtests.
    pub subtests: usize,
    /// The steps' output, relative to the run directory.
    pub log: Option<String>,
    /// It ran in a machine of its own, not in that of the boot.
    pub own_machine: bool,
    /// The console of the machine that it ran in, relative to the run directory.
    pub console: Option<String>,
    /// What that machine was made to print when it hung, relative to the run directory.
    pub diagnosis: Option<String>,
}

/// Boots counted by what they gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TallyResult {
    /// As expected.
    pub passed: u32,
    /// By the kernel.
    pub failed: u32,
    /// Not applicable.
    pub skipped: u32,
    /// By ours or the scenario.
    pub errored: u32,
    /// Never ran.
    pub missing: u32,
    /// Not run because the kernel failed earlier in the same boot.
    pub unreached: u32,
}

/// A boot, scenario or subtest: candidate against baseline.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseResult {
    /// What it is about.
    pub about: Location,
    /// Candidate against baseline.
    #[schemars(extend("enum" = ["passed", "regression", "fixed", "still failing", "flaky", "uncontrolled", "skipped", "errored", "missing"]))]
    pub class: &'static str,
    /// A regression in some of the candidate's boots only.
    pub intermittent: bool,
    /// What it does to the verdict.
    #[schemars(extend("enum" = ["none", "inconclusive", "infrastructure", "reject"]))]
    pub effect: &'static str,
    /// Id of the waiver that took its effect away.
    pub waiver: Option<String>,
    /// Outcomes of the baseline.
    pub baseline: TallyResult,
    /// Outcomes of the candidate.
    pub candidate: TallyResult,
    /// Why it is not passed.
    pub cause: Option<Cause>,
    /// Id of the boot that shows it best.
    pub boot: Option<String>,
    /// Counts and how sure they make it.
    pub statement: String,
}

/// A finding over all boots.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindingResult {
    /// One stable line.
    pub title: String,
    /// Equal for the same failure on another boot.
    pub signature: String,
    /// What sort.
    pub kind: &'static str,
    /// How bad.
    #[schemars(extend("enum" = ["warning", "severe", "fatal"]))]
    pub severity: String,
    /// The kernel function it is charged to.
    pub function: Option<String>,
    /// Which kernels have it.
    #[schemars(extend("enum" = ["new", "gone", "common"]))]
    pub novelty: &'static str,
    /// What it does to the verdict.
    #[schemars(extend("enum" = ["none", "inconclusive", "infrastructure", "reject"]))]
    pub effect: &'static str,
    /// Id of the waiver that took its effect away.
    pub waiver: Option<String>,
    /// Boots of the baseline that have it, of those that could.
    pub baseline: (u32, u32),
    /// Boots of the candidate that have it, of those that could.
    pub candidate: (u32, u32),
    /// Scenarios during which it was seen.
    pub scenarios: Vec<String>,
    /// Id of the boot where it was first seen.
    pub boot: String,
    /// The report's text.
    pub excerpt: String,
}

/// How the kernel logs differ. Informs only: the verdict is that of findings.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogResult {
    /// Boots of baseline and candidate whose logs were read.
    pub boots: (u32, u32),
    /// Lines and findings that some boots of a kernel have and others of the same have not.
    pub unsteady: u32,
    /// Lines that could not be compared, because their log has too many different ones.
    pub left_out: u64,
    /// Lines of the candidate only, the worst first; at most 1000.
    pub new: Vec<LogLineResult>,
    /// Lines of the baseline only, the worst first; at most 1000.
    pub gone: Vec<LogLineResult>,
}

/// A line that the logs of one kernel have and those of the other have not.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLineResult {
    /// As first seen.
    pub text: String,
    /// What lines are told apart by: `#` stands for numbers of all sorts.
    pub pattern: String,
    /// How bad, as the kernel says.
    #[schemars(extend("enum" = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", null]))]
    pub level: Option<&'static str>,
    /// Boots of the baseline that have it, of those that could.
    pub baseline: (u32, u32),
    /// Boots of the candidate that have it, of those that could.
    pub candidate: (u32, u32),
    /// Probability that all boots that have it are of one kernel by chance.
    pub chance: f64,
    /// The chance is small even among all that comes and goes.
    pub sure: bool,
}

/// The numbers of one role.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SideResult {
    /// Mean over boots.
    pub value: Option<f64>,
    /// One number per boot: what the statistic makes of its samples, in exact mode the mean over its
    /// clones.
    pub boots: Vec<f64>,
    /// In exact mode one number per clone, by boot; empty otherwise.
    pub clones: Vec<Vec<f64>>,
    /// Samples behind them.
    pub samples: u32,
}

/// One metric in both kernels. Several statistics of one metric are compared each for itself.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComparisonResult {
    /// Its name.
    pub metric: String,
    /// What of it is compared: of a boot's samples, of a clone's batches, or a single reading.
    #[schemars(extend("enum" = ["best decile", "mean", "p50", "p99", "p99.9", "path", "reading"]))]
    pub statistic: &'static str,
    /// It was measured in exact mode, which counts instructions.
    pub exact: bool,
    /// The scenario that measured it; `None` for memory.
    pub scenario: Option<String>,
    /// Where it was measured, in words.
    pub place: String,
    /// Unit of all values.
    pub unit: String,
    /// Which direction is an improvement.
    #[schemars(extend("enum" = ["higher", "lower"]))]
    pub better: &'static str,
    /// Numbers of the baseline.
    pub baseline: Option<SideResult>,
    /// Numbers of the candidate.
    pub candidate: Option<SideResult>,
    /// Boots of baseline and candidate that gave a number.
    pub boots: (usize, usize),
    /// The lab hosts that measured it, within each of which it is compared; empty for guests.
    pub hosts: Vec<String>,
    /// Relative change: 0.03 is 3 % more.
    pub change: Option<f64>,
    /// Where the change is with a confidence of 95 %.
    pub interval: Option<(f64, f64)>,
    /// Probability of such a change between equal kernels, had nothing else been compared.
    pub p: Option<f64>,
    /// How the p-value was come by; `None` in exact mode.
    #[schemars(extend("enum" = ["permutation, exact", "permutation, random", "Welch's t", null]))]
    pub method: Option<&'static str>,
    /// The p-value by Holm, beside the run's other comparisons: at most 0.05 to reject.
    pub p_family: Option<f64>,
    /// The p-value by Benjamini and Hochberg, beside the run's other comparisons: at most 0.05 to be
    /// shown as better or worse.
    pub p_discovery: Option<f64>,
    /// In exact mode, the change in standard errors; `None` also where every clone of a kernel gave the
    /// same, so that there is no error.
    pub t: Option<f64>,
    /// Degrees of freedom of `t`.
    pub freedom: Option<f64>,
    /// In exact mode, between what the noise is that decides.
    #[schemars(extend("enum" = ["clones", "templates", null]))]
    pub noise: Option<&'static str>,
    /// The smallest change that could have been seen.
    pub detectable: Option<f64>,
    /// Boots of each kernel with which a change of the fail limit would have been seen; `None` also
    /// when that is more than 1000.
    pub boots_needed: Option<u32>,
    /// Relative change for the worse that is worth attention.
    pub warn: f64,
    /// Relative change for the worse that rejects.
    pub fail: f64,
    /// What it comes to.
    #[schemars(extend("enum" = ["unchanged", "better", "worse", "regression", "inconclusive", "missing"]))]
    pub decision: &'static str,
    /// Why it could not be decided.
    pub doubt: Option<String>,
    /// What it does to the verdict.
    #[schemars(extend("enum" = ["none", "inconclusive", "infrastructure", "reject"]))]
    pub effect: &'static str,
    /// Id of the waiver that took its effect away.
    pub waiver: Option<String>,
}

/// The comparisons of a run that were made by one rule.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FamiliesResult {
    /// Comparisons of boots that gave a p-value, memory among them.
    pub boots: usize,
    /// Of these, by Welch's t, for want of boots.
    pub student: usize,
    /// Comparisons of counts of instructions.
    pub exact: usize,
    /// Of these, the ones where templates differ more than their clones explain.
    pub templates: usize,
    /// What is promised of each family, in words.
    pub promises: Vec<String>,
}

/// The slab caches that moved most at one moment of a boot: every boot of one kernel has more in them
/// than any boot of the other.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlabResult {
    /// The moment, in words.
    pub place: String,
    /// Mean bytes of each cache, of baseline and candidate, the largest move first.
    pub caches: Vec<(String, f64, f64)>,
}

/// A waiver and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaiverResult {
    /// Unique in its file.
    pub id: String,
    /// Who answers for it.
    pub owner: String,
    /// Why the difference is accepted.
    pub reason: String,
    /// The last day on which it holds: RFC 3339.
    pub expires: String,
    /// What became of it.
    #[schemars(extend("enum" = ["used", "unmatched", "expired"]))]
    pub state: &'static str,
    /// What it covers, or would.
    pub covers: Vec<String>,
}

impl Results {
    /// The results of a run.
    pub fn new(report: &Report<'_>) -> Self {
        let Report { record, assessment, .. } = report;
        let plan = &record.plan;
        Self {
            schema: SCHEMA,
            verdict: assessment.verdict.as_str(),
            exit_code: assessment.verdict.exit_code(),
            reasons: (assessment.reasons.iter())
                .map(|r| ReasonResult {
                    effect: r.effect.as_str(),
                    text: r.text.clone(),
                    about: Location::from(&r.about),
                })
                .collect(),
            workload: plan.workload.clone(),
            kgate: plan.kgate.clone(),
            started_at: record.started_at.and_then(timestamp),
            wall_ms: record.wall_ms,
            facts: record.facts.clone(),
            baseline: Kernel::from(&plan.baseline),
            candidate: Kernel::from(&plan.candidate),
            boots: record.boots.iter().map(Boot::from).collect(),
            hosts: assessment.hosts.iter().map(HostResult::from).collect(),
            trials: record.trials.iter().map(Trial::from).collect(),
            cases: assessment.boots.iter().chain(&assessment.cases).map(CaseResult::from).collect(),
            findings: assessment.findings.iter().map(FindingResult::from).collect(),
            log: report.log.map(LogResult::from),
            comparisons: assessment.performance().map(ComparisonResult::from).collect(),
            memory: assessment.memory().map(ComparisonResult::from).collect(),
            families: FamiliesResult {
                boots: assessment.families.boots,
                student: assessment.families.student,
                exact: assessment.families.exact,
                templates: assessment.families.templates,
                promises: assessment.families.statements(),
            },
            slab: (assessment.slab.iter())
                .map(|moves| SlabResult {
                    place: moves.place.to_string(),
                    caches: (moves.caches.iter())
                        .map(|c| (c.name.clone(), c.baseline, c.candidate))
                        .collect(),
                })
                .collect(),
            waivers: (assessment.waivers.iter())
                .map(|used| WaiverResult {
                    id: used.waiver.id.clone(),
                    owner: used.waiver.owner.clone(),
                    reason: used.waiver.reason.clone(),
                    expires: used.waiver.expires.to_string(),
                    state: used.state.as_str(),
                    covers: used.covers.clone(),
                })
                .collect(),
            notes: assessment.notes.clone(),
        }
    }

    /// As JSON text, indented, ending in a line end.
    ///
    /// # Errors
    /// None for any value made by [`Results::new`]; they are those of the serialiser.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }
}

/// Milliseconds since the epoch in RFC 3339; `None` beyond the year 9999.
pub(crate) fn timestamp(ms: u64) -> Option<String> {
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(moment.to_string())
}

/// JSON has no infinity and no NaN.
fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

impl From<&About> for Location {
    fn from(about: &About) -> Self {
        match about.clone() {
            About::Run => Self::default(),
            About::Boot { image } => Self { image: Some(image), ..Self::default() },
            About::Scenario { scenario, subtest } => {
                Self { scenario: Some(scenario), subtest, ..Self::default() }
            }
            About::Finding { signature } => Self { finding: Some(signature), ..Self::default() },
            About::Metric { place, metric } => {
                Self { place: Some(place), metric: Some(metric), ..Self::default() }
            }
        }
    }
}

impl From<&KernelRecord> for Kernel {
    fn from(kernel: &KernelRecord) -> Self {
        let kernel = kernel.clone();
        Self {
            release: kernel.release,
            upstream: kernel.upstream,
            reference: kernel.reference,
            origin: kernel.origin,
            banner: kernel.banner,
            image_sha256: kernel.image_sha256,
            package_sha256: kernel.package_sha256,
        }
    }
}

impl From<&Fault> for Cause {
    fn from(fault: &Fault) -> Self {
        use kgate_model::outcome::Blame;
        let blame = match fault.blame {
            Blame::Kernel => "kernel",
            Blame::Scenario => "scenario",
            Blame::Harness => "harness",
        };
        Self { blame, kind: fault.kind.label(), message: fault.message.clone() }
    }
}

fn titles(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|f| f.title.clone()).collect()
}

impl From<&kgate_model::journal::BootRecord> for Boot {
    fn from(boot: &kgate_model::journal::BootRecord) -> Self {
        Self {
            id: boot.planned.id.clone(),
            role: boot.planned.role.as_str(),
            number: boot.planned.number,
            image: boot.planned.image.clone(),
            start: boot.planned.start.as_str(),
            attempts: boot.attempts,
            release: boot.identity.as_ref().map(|identity| identity.release.clone()),
            host: boot.planned.host.clone(),
            conditions: boot.conditions.clone(),
            ready_ms: boot.ready_ms.clone(),
            fault: boot.fault.as_ref().map(Cause::from),
            findings: titles(&boot.findings),
            consoles: boot.consoles.clone(),
            diagnoses: boot.diagnoses.clone(),
        }
    }
}

impl From<&HostUse> for HostResult {
    fn from(host: &HostUse) -> Self {
        Self {
            name: host.name.clone(),
            boots: host.boots,
            back: host.returned.as_ref().map(Option::is_none),
            left: host.returned.clone().flatten(),
            uneven: host.uneven.clone(),
            conditions: host.conditions.clone(),
        }
    }
}

impl From<&kgate_model::journal::TrialRecord> for Trial {
    fn from(trial: &kgate_model::journal::TrialRecord) -> Self {
        let outcome = trial.outcome.as_ref();
        Self {
            id: trial.planned.id.clone(),
            scenario: trial.planned.scenario.clone(),
            kind: trial.planned.kind.as_str(),
            role: trial.role.as_str(),
            boot: trial.boot.clone(),
            number: trial.number,
            outcome: outcome.map_or("missing", Outcome::as_str),
            cause: outcome.and_then(Outcome::cause).map(Cause::from),
            skip_reason: match outcome {
                Some(Outcome::Skipped { reason }) => Some(reason.clone()),
                _ => None,
            },
            wall_ms: trial.wall_ms,
            findings: titles(&trial.findings),
            subtests_not_passed: (trial.subtests.iter())
                .filter(|s| s.outcome != Outcome::Passed)
                .map(|s| (s.path.clone(), s.outcome.as_str().to_owned()))
                .collect(),
            subtests: trial.subtests.len(),
            log: trial.log.clone(),
            own_machine: trial.machine.is_some(),
            console: trial.console.clone(),
            diagnosis: trial.diagnosis.clone(),
        }
    }
}

impl From<&Tally> for TallyResult {
    fn from(tally: &Tally) -> Self {
        Self {
            passed: tally.passed,
            failed: tally.failed,
            skipped: tally.skipped,
            errored: tally.errored,
            missing: tally.missing,
            unreached: tally.unreached,
        }
    }
}

impl From<&Case> for CaseResult {
    fn from(case: &Case) -> Self {
        let about = match case.subject.clone() {
            Subject::Boot { image } => Location { image: Some(image), ..Location::default() },
            Subject::Scenario { scenario, subtest, .. } => {
                Location { scenario: Some(scenario), subtest, ..Location::default() }
            }
        };
        Self {
            about,
            class: case.class.as_str(),
            intermittent: case.intermittent,
            effect: case.effect.as_str(),
            waiver: case.waiver.clone(),
            baseline: TallyResult::from(&case.baseline),
            candidate: TallyResult::from(&case.candidate),
            cause: case.cause.as_ref().map(Cause::from),
            boot: case.boot.clone().filter(|_| case.effect != Effect::None || case.cause.is_some()),
            statement: case.statement.clone(),
        }
    }
}

impl From<&FindingDelta> for FindingResult {
    fn from(delta: &FindingDelta) -> Self {
        Self {
            title: delta.finding.title.clone(),
            signature: delta.finding.signature.clone(),
            kind: delta.finding.kind.name(),
            severity: delta.finding.severity.to_string(),
            function: delta.finding.function.clone(),
            novelty: delta.novelty.as_str(),
            effect: delta.effect.as_str(),
            waiver: delta.waiver.clone(),
            baseline: (delta.baseline.boots, delta.baseline.of),
            candidate: (delta.candidate.boots, delta.candidate.of),
            scenarios: delta.scenarios.clone(),
            boot: delta.boot.clone(),
            excerpt: delta.finding.excerpt.clone(),
        }
    }
}

impl From<&LogDelta> for LogResult {
    fn from(delta: &LogDelta) -> Self {
        let lines = |lines: &[Change<LogLine>]| lines.iter().take(LINES).map(Into::into).collect();
        Self {
            boots: delta.logs,
            unsteady: delta.unsteady,
            left_out: delta.left_out,
            new: lines(&delta.new_lines),
            gone: lines(&delta.gone_lines),
        }
    }
}

impl From<&Change<LogLine>> for LogLineResult {
    fn from(change: &Change<LogLine>) -> Self {
        Self {
            text: change.what.text.clone(),
            pattern: change.what.pattern.clone(),
            level: change.what.level.map(Level::name),
            baseline: (change.baseline.boots, change.baseline.of),
            candidate: (change.candidate.boots, change.candidate.of),
            chance: change.chance,
            sure: change.sure,
        }
    }
}

impl From<&Comparison> for ComparisonResult {
    fn from(c: &Comparison) -> Self {
        let side = |side: &Option<kgate_compare::Side>| {
            side.as_ref().map(|s| SideResult {
                value: finite(s.value),
                boots: s.boots.iter().copied().filter(|v| v.is_finite()).collect(),
                clones: s.clones.clone(),
                samples: s.samples,
            })
        };
        let boots_evidence = match c.evidence {
            Some(Evidence::Boots { method, family, discovery, enough }) => {
                Some((method, family, discovery, enough))
            }
            _ => None,
        };
        let exact_evidence = match c.evidence {
            Some(Evidence::Instructions { t, freedom, noise }) => Some((t, freedom, noise)),
            _ => None,
        };
        let boots = |side: &Option<kgate_compare::Side>| side.as_ref().map_or(0, |s| s.boots.len());
        Self {
            metric: c.metric.clone(),
            statistic: c.statistic.as_str(),
            exact: c.exact,
            scenario: match &c.place {
                Place::Scenario { scenario, .. } => Some(scenario.clone()),
                Place::AfterBoot { .. } | Place::AfterLoad { .. } => None,
            },
            place: c.place.to_string(),
            unit: c.unit.clone(),
            better: match c.better {
                Better::Higher => "higher",
                Better::Lower => "lower",
            },
            baseline: side(&c.baseline),
            candidate: side(&c.candidate),
            boots: (boots(&c.baseline), boots(&c.candidate)),
            hosts: c.hosts.clone(),
            change: c.change.and_then(finite),
            interval: c.interval.filter(|(low, high)| low.is_finite() && high.is_finite()),
            p: c.p.and_then(finite),
            method: boots_evidence.map(|(method, ..)| method.as_str()),
            p_family: boots_evidence.map(|(_, family, ..)| family),
            p_discovery: boots_evidence.map(|(_, _, discovery, _)| discovery),
            t: exact_evidence.and_then(|(t, ..)| finite(t)),
            freedom: exact_evidence.and_then(|(_, freedom, _)| finite(freedom)),
            noise: exact_evidence.map(|(.., noise)| noise.as_str()),
            detectable: c.detectable.and_then(finite),
            boots_needed: boots_evidence.and_then(|(.., enough)| enough),
            warn: c.warn,
            fail: c.fail,
            decision: c.decision.as_str(),
            doubt: Some(c.doubt.clone()).filter(|doubt| !doubt.is_empty()),
            effect: c.effect.as_str(),
            waiver: c.waiver.clone(),
        }
    }
}
