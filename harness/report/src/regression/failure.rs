//! What of a run one mail is about: the parts of an assessment that are one failure.

use kgate_compare::{
    Assessment, Case, Class, Comparison, Decision, Effect, FindingDelta, Novelty, Place, Subject,
};
use kgate_model::journal::{BootRecord, RunRecord, TrialRecord};
use kgate_model::outcome::{FaultKind, Role};
use kgate_model::sample::Better;

use crate::text::clean;

/// One failure that only the candidate has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure<'a> {
    /// Boots, scenarios and subtests that fail in this way, the whole before its parts.
    pub cases: Vec<&'a Case>,
    /// What the kernel reported.
    pub finding: Option<&'a FindingDelta>,
    /// A metric that became worse, by each statistic.
    pub metrics: Vec<&'a Comparison>,
}

/// Whether it is a difference for sure, taken for one by the policy or not.
fn is_sure(effect: Effect) -> bool {
    matches!(effect, Effect::Reject | Effect::None)
}

/// The failures of the candidate that the baseline doesn't have, those that reject it first.
pub fn failures(assessment: &Assessment) -> Vec<Failure<'_>> {
    let mut failures: Vec<Failure<'_>> = Vec::new();
    for finding in &assessment.findings {
        if finding.novelty == Novelty::New && is_sure(finding.effect) {
            failures.push(Failure { finding: Some(finding), ..Failure::default() });
        }
    }
    for case in assessment.boots.iter().chain(&assessment.cases) {
        if case.class == Class::Regression && is_sure(case.effect) {
            match failures.iter_mut().find(|failure| failure.explains(case)) {
                Some(failure) => failure.cases.push(case),
                None => failures.push(Failure { cases: vec![case], ..Failure::default() }),
            }
        }
    }
    for metric in &assessment.comparisons {
        if metric.decision == Decision::Regression && is_sure(metric.effect) {
            let same = |failure: &&mut Failure<'_>| {
                let first = failure.metrics.first();
                first.is_some_and(|m| (&m.place, &m.metric) == (&metric.place, &metric.metric))
            };
            match failures.iter_mut().find(same) {
                Some(failure) => failure.metrics.push(metric),
                None => failures.push(Failure { metrics: vec![metric], ..Failure::default() }),
            }
        }
    }
    failures.sort_by_key(|failure| !failure.rejects());
    failures
}

/// `tcp-connect takes 10.0 % more time`, `rate is 3.0 % lower`.
fn worsening(metric: &Comparison) -> String {
    const TAKEN: [(&str, &str); 3] =
        [("ns", "time"), ("instructions", "instructions"), ("B", "memory")];
    let change = metric.change.unwrap_or_default();
    let digits = if metric.exact { 2 } else { 1 };
    let (label, percent) = (metric.label(), format!("{:.digits$} %", 100.0 * change.abs()));
    let taken = TAKEN.iter().find(|(unit, _)| *unit == metric.unit);
    match taken.filter(|_| metric.better == Better::Lower && change > 0.0) {
        Some((_, what)) => format!("{label} takes {percent} more {what}"),
        None => format!("{label} is {percent} {}", if change < 0.0 { "lower" } else { "higher" }),
    }
}

impl<'a> Failure<'a> {
    /// Whether a case is no more than a part or a consequence of this.
    fn explains(&self, case: &Case) -> bool {
        let scenario = case.subject.scenario();
        if let Some(finding) = self.finding {
            let by_kernel = case.cause.as_ref().is_some_and(|fault| {
                use FaultKind::{BootFailed, Died, Finding, Hang, Panic};
                matches!(fault.kind, BootFailed | Died | Finding | Hang | Panic)
            });
            let there = match scenario {
                Some(scenario) => finding.scenarios.iter().any(|s| s == scenario),
                None => finding.outside_trials,
            };
            return by_kernel && there;
        }
        scenario.is_some() && self.cases.first().is_some_and(|c| c.subject.scenario() == scenario)
    }

    /// Whether it is a reason to reject the candidate: neither waived nor only reported.
    pub fn rejects(&self) -> bool {
        let effects = self.cases.iter().map(|case| case.effect);
        let finding = self.finding.map(|finding| finding.effect);
        let metrics = self.metrics.iter().map(|metric| metric.effect);
        effects.chain(finding).chain(metrics).any(|effect| effect == Effect::Reject)
    }

    /// The scenario in which it shows.
    pub fn scenario(&self) -> Option<&'a str> {
        let case = self.cases.iter().find_map(|case| case.subject.scenario());
        let seen = || self.finding.and_then(|finding| finding.scenarios.first());
        let measured = || match &self.metrics.first()?.place {
            Place::Scenario { scenario, .. } => Some(scenario.as_str()),
            _ => None,
        };
        case.or_else(|| seen().map(String::as_str)).or_else(measured)
    }

    /// What fails, in a few words.
    pub fn what(&self) -> String {
        if let Some(finding) = self.finding {
            let finding = &finding.finding;
            let known = finding.title.to_lowercase().contains("panic");
            let panic = if finding.panicked && !known { "kernel panic: " } else { "" };
            return format!("{panic}{}", super::tame(&finding.title));
        }
        if let Some(metric) = self.metrics.first() {
            return super::tame(&worsening(metric));
        }
        let Some(case) = self.cases.last() else { return String::new() };
        match &case.subject {
            Subject::Boot { .. } => {
                let why = case.cause.as_ref().map(|fault| format!(": {}", fault.message));
                super::tame(&format!("the kernel does not boot{}", why.unwrap_or_default()))
            }
            subject => super::tame(&format!("{subject} fails")),
        }
    }

    /// How it is listed, beginning with a name that [`Self::is_named`] knows.
    pub fn listed(&self) -> String {
        let place = match (self.scenario(), self.cases.first()) {
            (Some(scenario), _) => clean(scenario),
            (None, Some(case)) => clean(&case.subject.to_string()),
            (None, None) => "outside scenarios".to_owned(),
        };
        format!("{place}: {}", self.what())
    }

    /// Whether a user means this: by scenario, title, function or signature of the finding, metric, or
    /// `SCENARIO/METRIC`.
    pub fn is_named(&self, name: &str) -> bool {
        let is = |scenario: &str| {
            scenario == name || scenario.split_once('/').is_some_and(|(_, id)| id == name)
        };
        let case = |case: &&'a Case| {
            case.subject.scenario().is_some_and(is) || case.subject.to_string() == name
        };
        let finding = |delta: &FindingDelta| {
            let finding = &delta.finding;
            finding.title == name
                || finding.signature == name
                || finding.function.as_deref() == Some(name)
                || delta.scenarios.iter().any(|scenario| is(scenario))
        };
        let metric = |metric: &&'a Comparison| {
            let place = metric.place.to_string();
            is(&place) || metric.metric == name || format!("{place}/{}", metric.metric) == name
        };
        self.cases.iter().any(case)
            || self.finding.is_some_and(finding)
            || self.metrics.iter().any(metric)
    }

    /// The boot of the candidate that shows it best, and the trial, where it is not the boot itself.
    pub fn example<'r>(
        &self,
        record: &'r RunRecord,
    ) -> Option<(&'r BootRecord, Option<&'r TrialRecord>)> {
        let boot_of = |id: &str| record.boots.iter().find(|boot| boot.planned.id == id);
        if let Some(delta) = self.finding {
            let has = |finding: &kgate_model::finding::Finding| {
                finding.signature == delta.finding.signature
            };
            let mut trials = record.trials.iter().filter(|trial| trial.role == Role::Candidate);
            let trial = trials.find(|trial| trial.findings.iter().any(has));
            let boot = boot_of(trial.map_or(&*delta.boot, |trial| &trial.boot))?;
            return Some((boot, trial));
        }
        if let Some(case) = self.cases.last() {
            let trial = case.trial.as_deref();
            let trial = trial.and_then(|id| record.trials.iter().find(|t| t.planned.id == id));
            return Some((boot_of(case.boot.as_deref()?)?, trial));
        }
        let scenario = self.scenario();
        let trial = record.trials.iter().find(|trial| {
            trial.role == Role::Candidate && Some(&*trial.planned.scenario) == scenario
        });
        let first = || record.boots.iter().find(|boot| boot.planned.role == Role::Candidate);
        let boot = trial.map_or_else(first, |trial| boot_of(&trial.boot))?;
        Some((boot, trial))
    }
}
