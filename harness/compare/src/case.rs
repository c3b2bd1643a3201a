//! Boots, scenarios and subtests: the outcomes of one kernel against those of the other.

use std::collections::BTreeMap;
use std::fmt;

use kgate_model::finding::Finding;
use kgate_model::journal::{BootRecord, RunRecord, TrialRecord};
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome, Role};
use kgate_model::plan::Kind;
use kgate_scenario::{Policy, Reaction};

use crate::finding::Standing;
use crate::stats::{SIGNIFICANCE, at_least_as_often};
use crate::verdict::Effect;
use crate::waive::{Book, Difference};

/// What has outcomes in the boots of both roles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Booting with this image, up to the agent's first word, and living on between trials.
    Boot {
        /// Image of the guest.
        image: String,
    },
    /// A scenario, or one subtest of it.
    Scenario {
        /// The scenario's id.
        scenario: String,
        /// The scenario's kind.
        kind: Kind,
        /// Full path of the subtest; `None` is the scenario itself.
        subtest: Option<String>,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot { image } => write!(f, "boot with image {image}"),
            Self::Scenario { scenario, subtest: None, .. } => f.write_str(scenario),
            Self::Scenario { scenario, subtest: Some(path), .. } => write!(f, "{scenario}: {path}"),
        }
    }
}

/// Candidate against baseline. The page of the crate tells which outcomes lead to which class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Neither kernel fails.
    Passed,
    /// The candidate fails in a way that the baseline doesn't, or lacks what the baseline has.
    Regression,
    /// The baseline fails, the candidate doesn't.
    Fixed,
    /// Both fail.
    StillFailing,
    /// Passes and failures are mixed, on either side, and no difference is proven.
    Flaky,
    /// The candidate fails, and there is nothing to compare it with.
    Uncontrolled,
    /// It applies to neither kernel, or the candidate skips it and lacks nothing for sure.
    Skipped,
    /// Something of ours failed, or the scenario is broken.
    Errored,
    /// It never ran.
    Missing,
}

impl Class {
    /// The words used in files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Regression => "regression",
            Self::Fixed => "fixed",
            Self::StillFailing => "still failing",
            Self::Flaky => "flaky",
            Self::Uncontrolled => "uncontrolled",
            Self::Skipped => "skipped",
            Self::Errored => "errored",
            Self::Missing => "missing",
        }
    }
}

/// The boots of one role, counted by what they gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// As expected.
    pub passed: u32,
    /// By the kernel.
    pub failed: u32,
    /// Of the failed: by a panic, a hang or a reset.
    pub crashed: u32,
    /// Not applicable.
    pub skipped: u32,
    /// Ours.
    pub errored: u32,
    /// Never ran.
    pub missing: u32,
    /// Not run because the kernel failed earlier in the same boot.
    pub unreached: u32,
}

impl Tally {
    /// Boots that say something of the kernel.
    pub const fn decided(&self) -> u32 {
        self.passed + self.failed
    }

    /// Boots that were to give a result and had the chance.
    pub const fn planned(&self) -> u32 {
        self.passed + self.failed + self.skipped + self.errored + self.missing
    }

    /// `failed 1 of 5`, `passed 3 of 3`, or what there is instead.
    fn describe(&self) -> String {
        let mut parts = Vec::new();
        let decided = self.decided();
        match (self.failed, decided) {
            (_, 0) => {}
            (0, _) => parts.push(format!("passed {} of {decided}", self.passed)),
            _ => parts.push(format!("failed {} of {decided}", self.failed)),
        }
        for (count, word) in [
            (self.skipped, "skipped"),
            (self.errored, "errored"),
            (self.missing, "never ran"),
            (self.unreached, "not reached"),
        ] {
            if count > 0 {
                parts.push(format!("{word} {count}"));
            }
        }
        if parts.is_empty() { "not planned".to_owned() } else { parts.join(", ") }
    }
}

/// One subject with the outcomes of both roles.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it is about.
    pub subject: Subject,
    /// Candidate against baseline.
    pub class: Class,
    /// A regression that shows in some of the candidate's boots only.
    pub intermittent: bool,
    /// What it does to the verdict, after policy and waivers.
    pub effect: Effect,
    /// The waiver that took its effect away.
    pub waiver: Option<String>,
    /// Outcomes of the baseline.
    pub baseline: Tally,
    /// Outcomes of the candidate.
    pub candidate: Tally,
    /// Why it is not passed, from the trial or boot of `example`.
    pub cause: Option<Fault>,
    /// Why it is skipped.
    pub skip_reason: Option<String>,
    /// Id of the boot that shows the cause best: the first one of the candidate that failed, of
    /// either role that errored.
    pub boot: Option<String>,
    /// Id of the trial that shows the cause best.
    pub trial: Option<String>,
    /// Counts and how sure they make it, in one line, without the cause.
    pub statement: String,
    /// Its reason is told by another: by its subtests, by its boot, by the run.
    pub(crate) told_elsewhere: bool,
    /// Signatures of the findings in the candidate's failed trials or boots.
    pub(crate) signatures: Vec<String>,
}

impl Case {
    /// Rejects the candidate.
    pub fn rejects(&self) -> bool {
        self.effect == Effect::Reject
    }
}

/// What one boot says about a subject.
enum Seen<'a> {
    Passed,
    Failed(&'a Fault),
    Skipped(&'a str),
    Errored(&'a Fault),
    Missing,
    Unreached,
}

impl<'a> From<&'a Outcome> for Seen<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Passed => Self::Passed,
            // Blame decides, so that a record written by another hand can't count against a kernel.
            Outcome::Failed { cause } if cause.blame == Blame::Kernel => Self::Failed(cause),
            Outcome::Failed { cause } | Outcome::Errored { cause } => Self::Errored(cause),
            Outcome::Skipped { reason } => Self::Skipped(reason),
        }
    }
}

/// One boot's part in a case.
struct Sighting<'a> {
    role: Role,
    boot: &'a str,
    trial: Option<&'a str>,
    seen: Seen<'a>,
    findings: &'a [Finding],
    /// A failure that is no more than its findings or subtests: their effect, and whether any of
    /// them is a difference at all.
    explained: Option<Explained>,
}

#[derive(Clone, Default)]
struct Explained {
    /// The worst of its parts.
    effect: Effect,
    /// At least one part is a difference, waived or not.
    differs: bool,
    /// At least one part is to be taken notice of.
    counts: bool,
    /// The waiver of a part.
    waiver: Option<String>,
    by_subtests: bool,
}

/// Whether a fault is one that a sound kernel never has.
const fn crash(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::Panic | FaultKind::Hang | FaultKind::Died)
}

/// All that cases are made with.
pub(crate) struct Context<'a, 'b> {
    pub(crate) record: &'a RunRecord,
    pub(crate) policy: &'a Policy,
    pub(crate) findings: &'a BTreeMap<String, Standing>,
    pub(crate) book: &'a mut Book<'b>,
}

/// Boots by image.
pub(crate) fn boots(context: &mut Context<'_, '_>) -> Vec<Case> {
    let mut by_image: BTreeMap<&str, Vec<Sighting<'_>>> = BTreeMap::new();
    for boot in &context.record.boots {
        by_image.entry(&boot.planned.image).or_default().push(Sighting {
            role: boot.planned.role,
            boot: &boot.planned.id,
            trial: None,
            seen: boot_seen(boot, context.record),
            findings: &boot.findings,
            explained: None,
        });
    }
    (by_image.into_iter())
        .map(|(image, sightings)| {
            let subject = Subject::Boot { image: image.to_owned() };
            let mut case = Case::new(subject, &sightings, context);
            if case.class == Class::Missing {
                case.told_elsewhere = true;
            }
            if case.baseline.failed > 0 && case.baseline.passed == 0 {
                case.effect = case.effect.max(Effect::Inconclusive);
                case.told_elsewhere = false;
                case.statement = format!("{}: the baseline itself does not boot", case.statement);
            }
            case
        })
        .collect()
}

fn boot_seen<'a>(boot: &'a BootRecord, record: &'a RunRecord) -> Seen<'a> {
    let trials = || record.trials.iter().filter(|t| t.boot == boot.planned.id);
    let ready = boot.identity.is_some();
    // A fault that ended a trial is the trial's, should the boot have it as well.
    let own = |fault: &Fault| {
        let ended = |t: &TrialRecord| ran(t, record).and_then(Outcome::cause) == Some(fault);
        fault.blame == Blame::Kernel && !trials().any(ended)
    };
    match &boot.fault {
        _ if boot.faults.iter().any(own) => {
            boot.faults.iter().find(|f| own(f)).map_or(Seen::Passed, Seen::Failed)
        }
        Some(fault) if !ready => Seen::Errored(fault),
        _ if ready => Seen::Passed,
        // Nothing had to run in it.
        _ if trials().all(|t| t.planned.decided.is_some()) => Seen::Skipped("nothing to run"),
        _ => Seen::Missing,
    }
}

fn trial_seen<'a>(trial: &'a TrialRecord, record: &RunRecord) -> Seen<'a> {
    match ran(trial, record) {
        Some(outcome) => Seen::from(outcome),
        None if is_unreached(trial, record) => Seen::Unreached,
        None => Seen::Missing,
    }
}

fn boot_fault<'a>(trial: &TrialRecord, record: &'a RunRecord) -> Option<&'a Fault> {
    record.boots.iter().find(|b| b.planned.id == trial.boot)?.fault.as_ref()
}

/// The outcome of a trial that ran or needed not to. Trials that couldn't because their boot failed
/// are recorded with the boot's fault: that is the boot's to tell, not theirs.
pub(crate) fn ran<'a>(trial: &'a TrialRecord, record: &RunRecord) -> Option<&'a Outcome> {
    let outcome = trial.outcome.as_ref()?;
    let cause = outcome.cause();
    let given_up = trial.log.is_none() && cause.is_some() && cause == boot_fault(trial, record);
    (!given_up).then_some(outcome)
}

/// Whether a trial never ran because of what its kernel did before.
pub(crate) fn is_unreached(trial: &TrialRecord, record: &RunRecord) -> bool {
    ran(trial, record).is_none()
        && boot_fault(trial, record).is_some_and(|f| f.blame == Blame::Kernel)
}

/// Scenarios in the order of the plan, each followed by its subtests in the order in which they
/// were first reported.
pub(crate) fn scenarios(context: &mut Context<'_, '_>) -> Vec<Case> {
    let mut order: Vec<(&str, Kind)> = Vec::new();
    let mut by_scenario: BTreeMap<&str, Vec<&TrialRecord>> = BTreeMap::new();
    for trial in &context.record.trials {
        let trials = by_scenario.entry(&trial.planned.scenario).or_default();
        if trials.is_empty() {
            order.push((&trial.planned.scenario, trial.planned.kind));
        }
        trials.push(trial);
    }
    let mut cases = Vec::new();
    for (scenario, kind) in order {
        let trials = &of_boots(&by_scenario[scenario], context.record);
        let subtests = subtests(scenario, kind, trials, context);
        let parts: BTreeMap<&str, &Case> = (subtests.iter())
            .filter_map(|case| match &case.subject {
                Subject::Scenario { subtest: Some(path), .. } => Some((path.as_str(), case)),
                _ => None,
            })
            .collect();
        let sightings: Vec<_> = (trials.iter())
            .map(|trial| Sighting {
                role: trial.role,
                boot: &trial.boot,
                trial: Some(&trial.planned.id),
                seen: trial_seen(trial, context.record),
                findings: &trial.findings,
                explained: explain(trial, context.record, &parts, context.findings),
            })
            .collect();
        let subject = Subject::Scenario { scenario: scenario.to_owned(), kind, subtest: None };
        let case = Case::new(subject, &sightings, context);
        cases.push(case);
        cases.extend(subtests);
    }
    cases
}

/// One trial for each boot: of those that ran in clones of its template, the worst.
fn of_boots<'a>(trials: &[&'a TrialRecord], record: &RunRecord) -> Vec<&'a TrialRecord> {
    let badness = |trial: &TrialRecord| match trial_seen(trial, record) {
        Seen::Passed => 0,
        Seen::Skipped(..) => 1,
        Seen::Missing | Seen::Unreached => 2,
        Seen::Errored(..) => 3,
        Seen::Failed(..) => 4,
    };
    let mut worst: Vec<&TrialRecord> = Vec::new();
    for &trial in trials {
        let same =
            |other: &&mut &TrialRecord| trial.planned.clone.is_some() && other.boot == trial.boot;
        match worst.iter_mut().find(same) {
            Some(other) if badness(trial) > badness(other) => *other = trial,
            Some(_) => {}
            None => worst.push(trial),
        }
    }
    worst
}

fn subtests(
    scenario: &str,
    kind: Kind,
    trials: &[&TrialRecord],
    context: &mut Context<'_, '_>,
) -> Vec<Case> {
    let mut order: Vec<&str> = Vec::new();
    let mut reported: BTreeMap<&str, BTreeMap<&str, &Outcome>> = BTreeMap::new();
    for trial in trials {
        for subtest in &trial.subtests {
            let by_trial = reported.entry(&subtest.path).or_default();
            if by_trial.is_empty() {
                order.push(&subtest.path);
            }
            by_trial.insert(&trial.planned.id, &subtest.outcome);
        }
    }
    (order.into_iter())
        .map(|path| {
            let by_trial = &reported[path];
            let sightings: Vec<_> = (trials.iter())
                .map(|trial| Sighting {
                    role: trial.role,
                    boot: &trial.boot,
                    trial: Some(&trial.planned.id),
                    seen: match by_trial.get(trial.planned.id.as_str()) {
                        Some(outcome) => Seen::from(*outcome),
                        None if ran_to_its_end(trial) => Seen::Missing,
                        None => Seen::Unreached,
                    },
                    findings: &[],
                    explained: None,
                })
                .collect();
            let subtest = Some(path.to_owned());
            let subject = Subject::Scenario { scenario: scenario.to_owned(), kind, subtest };
            Case::new(subject, &sightings, context)
        })
        .collect()
}

/// Whether a trial got far enough to report every subtest that it has.
fn ran_to_its_end(trial: &TrialRecord) -> bool {
    match &trial.outcome {
        Some(Outcome::Passed) => true,
        Some(Outcome::Failed { cause }) => {
            matches!(cause.kind, FaultKind::Subtest | FaultKind::Expectation)
        }
        _ => false,
    }
}

/// A trial that failed over findings or subtests, as the sum of these.
fn explain(
    trial: &TrialRecord,
    record: &RunRecord,
    subtests: &BTreeMap<&str, &Case>,
    findings: &BTreeMap<String, Standing>,
) -> Option<Explained> {
    let cause = ran(trial, record)?.cause()?;
    let mut all = Explained::default();
    let mut any = false;
    match cause.kind {
        // A taint that no message explains has this kind as well.
        FaultKind::Finding if trial.findings.iter().any(|f| f.title == cause.message) => {
            for standing in trial.findings.iter().filter_map(|f| findings.get(&f.signature)) {
                any = true;
                all.effect = all.effect.max(standing.effect);
                all.differs |= standing.differs;
                all.counts |= !standing.ignored;
                all.waiver = all.waiver.or_else(|| standing.waiver.clone());
            }
        }
        FaultKind::Subtest => {
            all.by_subtests = true;
            for subtest in &trial.subtests {
                let Some(case) = subtests.get(subtest.path.as_str()) else { continue };
                if matches!(subtest.outcome, Outcome::Failed { .. }) {
                    any = true;
                    all.effect = all.effect.max(case.effect);
                    all.differs |= case.class == Class::Regression;
                    all.counts = true;
                    all.waiver = all.waiver.or_else(|| case.waiver.clone());
                }
            }
        }
        _ => {}
    }
    any.then_some(all)
}

impl Case {
    fn new(subject: Subject, sightings: &[Sighting<'_>], context: &mut Context<'_, '_>) -> Self {
        let baseline = tally(sightings, Role::Baseline);
        let candidate = tally(sightings, Role::Candidate);
        let is_subtest = subject.subtest().is_some();
        let lacks = subject.scenario().is_some() && !is_subtest && lacks(&baseline, &candidate);
        let (mut class, mut intermittent, mut effect) = if lacks {
            (Class::Regression, false, Effect::Reject)
        } else {
            classify(&baseline, &candidate, is_subtest, context.policy.flaky)
        };
        let failed: Vec<&Sighting<'_>> = (sightings.iter())
            .filter(|s| s.role == Role::Candidate && matches!(s.seen, Seen::Failed(_)))
            .collect();
        let mut waiver = None;
        // What never ran is told once for the whole run, what a trial cut short by the trial.
        let mut told_elsewhere = class == Class::Missing && !(is_subtest && candidate.missing > 0);
        let explained: Option<Vec<&Explained>> =
            failed.iter().map(|s| s.explained.as_ref()).collect();
        match explained {
            Some(parts) if !parts.is_empty() && class != Class::Uncontrolled => {
                effect = parts.iter().map(|p| p.effect).max().unwrap_or_default();
                if parts.iter().any(|p| p.differs) {
                    class = Class::Regression;
                    intermittent = candidate.failed < candidate.planned();
                } else if !parts.iter().any(|p| p.counts) && baseline.failed == 0 {
                    class = Class::Passed;
                } else if baseline.failed == 0 || class == Class::Regression {
                    class = Class::StillFailing;
                }
                intermittent &= class == Class::Regression;
                if effect == Effect::None {
                    waiver = parts.iter().find_map(|p| p.waiver.clone());
                }
                told_elsewhere |= parts.iter().all(|p| p.by_subtests);
            }
            _ => {}
        }
        let mut titles: Vec<&str> = Vec::new();
        let mut signatures: Vec<String> = Vec::new();
        for finding in failed.iter().flat_map(|s| s.findings) {
            // What the baseline has as well, or the scenario allows, needs no waiver.
            if context.findings.get(&finding.signature).is_some_and(|s| s.differs)
                && !signatures.contains(&finding.signature)
            {
                titles.push(&finding.title);
                signatures.push(finding.signature.clone());
            }
        }
        let waivable = matches!(
            class,
            Class::Regression | Class::Flaky | Class::Uncontrolled | Class::Skipped
        ) && matches!(effect, Effect::Inconclusive | Effect::Reject);
        if waivable {
            let names = subject.scenario().map(|s| [s]);
            let difference = Difference {
                scenarios: names.as_ref().map_or(&[], |n| n.as_slice()),
                subtest: subject.subtest(),
                metric: None,
                findings: &titles,
            };
            if let Some(id) = context.book.waive(&difference, &subject.to_string()) {
                effect = Effect::None;
                waiver = Some(id);
            }
        }
        let example = if lacks {
            (sightings.iter())
                .find(|s| s.role == Role::Candidate && matches!(s.seen, Seen::Skipped(_)))
        } else {
            example(sightings)
        };
        let (cause, skip_reason) = match example.map(|s| &s.seen) {
            Some(Seen::Skipped(reason)) if lacks => {
                let message = format!("the candidate lacks what the baseline has: {reason}");
                (Some(Fault::kernel(FaultKind::Requirement, message)), None)
            }
            Some(Seen::Failed(fault) | Seen::Errored(fault)) => (Some((*fault).clone()), None),
            Some(Seen::Skipped(reason)) => (None, Some((*reason).to_owned())),
            _ => (None, None),
        };
        Self {
            statement: statement(class, &baseline, &candidate),
            boot: example.map(|s| s.boot.to_owned()),
            trial: example.and_then(|s| s.trial).map(str::to_owned),
            subject,
            class,
            intermittent,
            effect,
            waiver,
            baseline,
            candidate,
            cause,
            skip_reason,
            told_elsewhere,
            signatures,
        }
    }
}

impl Subject {
    /// The scenario's id, when it is about one.
    pub fn scenario(&self) -> Option<&str> {
        match self {
            Self::Scenario { scenario, .. } => Some(scenario),
            Self::Boot { .. } => None,
        }
    }

    /// The subtest's path, when it is about one.
    pub fn subtest(&self) -> Option<&str> {
        match self {
            Self::Scenario { subtest, .. } => subtest.as_deref(),
            Self::Boot { .. } => None,
        }
    }
}

fn tally(sightings: &[Sighting<'_>], role: Role) -> Tally {
    let mut tally = Tally::default();
    for sighting in sightings.iter().filter(|s| s.role == role) {
        match sighting.seen {
            Seen::Passed => tally.passed += 1,
            Seen::Failed(fault) => {
                tally.failed += 1;
                tally.crashed += u32::from(crash(fault.kind));
            }
            Seen::Skipped(_) => tally.skipped += 1,
            Seen::Errored(_) => tally.errored += 1,
            Seen::Missing => tally.missing += 1,
            Seen::Unreached => tally.unreached += 1,
        }
    }
    tally
}

/// Whether the candidate skips a scenario in all of its boots that the baseline never skips.
/// Requirements that only a booted kernel can tell of come to this.
fn lacks(base: &Tally, new: &Tally) -> bool {
    base.decided() > 0 && base.skipped == 0 && new.skipped > 0 && new.skipped == new.planned()
}

/// Class, whether it is an intermittent regression, and effect, before waivers.
fn classify(base: &Tally, new: &Tally, subtest: bool, flaky: Reaction) -> (Class, bool, Effect) {
    if new.failed > 0 {
        return present_failures(base, new, flaky);
    }
    let class = absent_failures(base, new, subtest);
    let effect = match class {
        Class::Errored => Effect::Infrastructure,
        Class::Missing if !subtest && base.missing + new.missing > 0 => Effect::Infrastructure,
        Class::Missing => Effect::Inconclusive,
        Class::Skipped if base.decided() > 0 => Effect::Inconclusive,
        _ => Effect::None,
    };
    (class, false, effect)
}

/// The class when the candidate never fails.
fn absent_failures(base: &Tally, new: &Tally, subtest: bool) -> Class {
    let missing = if subtest {
        // A subtest that only the candidate has is no loss, nor is one that came up in some boots.
        new.decided() + new.skipped == 0 && base.decided() > 0
    } else {
        base.missing + new.missing > 0 || (new.passed == 0 && new.unreached > 0)
    };
    if base.errored + new.errored > 0 {
        Class::Errored
    } else if missing {
        Class::Missing
    } else if new.passed == 0 {
        Class::Skipped
    } else if base.failed == 0 {
        Class::Passed
    } else if base.passed == 0 {
        Class::Fixed
    } else {
        Class::Flaky
    }
}

/// The candidate fails at least once.
fn present_failures(base: &Tally, new: &Tally, flaky: Reaction) -> (Class, bool, Effect) {
    if base.decided() == 0 {
        return (Class::Uncontrolled, false, Effect::Inconclusive);
    }
    let chance = at_least_as_often((new.failed, new.planned()), (base.failed, base.decided()));
    let always = new.failed == new.planned();
    if new.crashed > 0 && base.crashed == 0 {
        (Class::Regression, new.crashed < new.planned(), Effect::Reject)
    } else if base.failed == 0 && (always || chance <= SIGNIFICANCE) {
        (Class::Regression, !always, Effect::Reject)
    } else if base.failed == 0 {
        let effect = match flaky {
            Reaction::Ignore => Effect::None,
            Reaction::Report => Effect::Inconclusive,
            Reaction::Reject => Effect::Reject,
        };
        (Class::Flaky, false, effect)
    } else if base.passed == 0 && new.passed == 0 {
        (Class::StillFailing, false, Effect::None)
    } else if chance <= SIGNIFICANCE {
        (Class::Flaky, false, Effect::Inconclusive)
    } else {
        (Class::Flaky, false, Effect::None)
    }
}

/// The sighting that shows best why a case is what it is.
fn example<'a, 'b>(sightings: &'a [Sighting<'b>]) -> Option<&'a Sighting<'b>> {
    let rank = |s: &Sighting<'_>| match (&s.seen, s.role) {
        (Seen::Failed(fault), Role::Candidate) if crash(fault.kind) => 0,
        (Seen::Failed(_), Role::Candidate) => 1,
        (Seen::Errored(_), Role::Candidate) => 2,
        (Seen::Errored(_), Role::Baseline) => 3,
        (Seen::Failed(_), Role::Baseline) => 4,
        (Seen::Skipped(_), Role::Candidate) => 5,
        (Seen::Passed, Role::Candidate) => 6,
        _ => 7,
    };
    sightings.iter().min_by_key(|s| rank(s))
}

fn statement(class: Class, base: &Tally, new: &Tally) -> String {
    let mut text = format!("candidate {}; baseline {}", new.describe(), base.describe());
    let doubtful = matches!(class, Class::Regression | Class::Flaky)
        && new.failed > 0
        && base.decided() > 0
        && (new.failed < new.decided() || base.failed > 0);
    if doubtful {
        let chance = at_least_as_often((new.failed, new.decided()), (base.failed, base.decided()));
        text += &format!("; equal kernels do this with a probability of {}", probability(chance));
    }
    text
}

/// Two significant digits, and never a plain zero.
pub(crate) fn probability(p: f64) -> String {
    match p {
        p if p >= 0.095 => format!("{p:.2}"),
        p if p >= 0.0095 => format!("{p:.3}"),
        p if p >= 0.001 => format!("{p:.4}"),
        _ => "less than 0.001".to_owned(),
    }
}
