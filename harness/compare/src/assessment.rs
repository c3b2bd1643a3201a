//! Everything that a run says, put together.

use jiff::civil::Date;
use kgate_model::finding::Severity;
use kgate_model::journal::RunRecord;
use kgate_model::outcome::Blame;
use kgate_scenario::{Policy, Selected, Waivers};

use crate::case::{self, Case, Class, Context, Subject, is_unreached, ran};
use crate::family::Families;
use crate::finding::{self, FindingDelta};
use crate::hosts::{self, HostUse};
use crate::metric::{self, Comparison, Decision, ReadyTimes, percent};
use crate::slab::{self, SlabMoves};
use crate::verdict::{About, Effect, Reason, Verdict};
use crate::waive::{Book, WaiverState, WaiverUse};

/// What an assessment is made of.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The run.
    pub record: &'a RunRecord,
    /// The workload's policy.
    pub policy: &'a Policy,
    /// The scenarios as the workload runs them: their limits, and the messages they may provoke.
    pub selected: &'a [Selected],
    /// Known differences.
    pub waivers: &'a Waivers,
    /// The date that decides which waivers have expired.
    pub today: Date,
    /// Seed of the resampling; any fixed number will do.
    pub seed: u64,
}

/// Candidate against baseline, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// What it comes to.
    pub verdict: Verdict,
    /// Why, the strongest first; empty only when the verdict is to promote.
    pub reasons: Vec<Reason>,
    /// Boots, by image.
    pub boots: Vec<Case>,
    /// Scenarios in the order of the plan, each followed by its subtests.
    pub cases: Vec<Case>,
    /// Kernel logs, new findings first, then the worst.
    pub findings: Vec<FindingDelta>,
    /// Metrics of scenarios in the order of the plan, then memory.
    pub comparisons: Vec<Comparison>,
    /// What is known of all comparisons together.
    pub families: Families,
    /// Slab caches that moved, by moment and image.
    pub slab: Vec<SlabMoves>,
    /// The lab hosts, in the order of the plan.
    pub hosts: Vec<HostUse>,
    /// Waivers in the order of their file.
    pub waivers: Vec<WaiverUse>,
    /// How long the machines took to boot.
    pub ready: ReadyTimes,
    /// What a person should know beside the verdict: notes of the run, waivers to tidy up.
    pub notes: Vec<String>,
}

impl Assessment {
    /// Compares the two kernels of a run.
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let Inputs { record, policy, selected, waivers, today, seed } = *inputs;
        let mut book = Book::new(waivers, &record.plan.candidate.release, today);
        let findings = finding::deltas(record, policy, selected, &mut book);
        let standings = finding::standings(&findings);
        let mut context = Context { record, policy, findings: &standings, book: &mut book };
        let boots = case::boots(&mut context);
        let cases = case::scenarios(&mut context);
        let (comparisons, families) =
            metric::comparisons(record, policy, selected, seed, &mut book);
        let waivers = book.close();
        let mut reasons = run_reasons(record, &cases);
        let all_cases = || boots.iter().chain(&cases);
        reasons.extend(all_cases().flat_map(case_reasons));
        reasons.extend(finding_reasons(&findings, &boots, &cases));
        reasons.extend(comparisons.iter().filter_map(comparison_reason));
        // Stable: within an effect, the order is run, boots, scenarios, kernel log, metrics.
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.effect));
        let verdict = reasons.iter().map(|r| r.effect).max().unwrap_or_default().into();
        let notes = record.notes.iter().cloned().chain(waiver_notes(&waivers, today)).collect();
        let ready = ReadyTimes::new(record);
        let slab = slab::of(record);
        let hosts = hosts::of(record);
        Self {
            verdict,
            reasons,
            boots,
            cases,
            findings,
            comparisons,
            families,
            slab,
            hosts,
            waivers,
            ready,
            notes,
        }
    }

    /// The scenarios themselves, without their subtests.
    pub fn scenarios(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.subject.subtest().is_none())
    }

    /// Metrics of scenarios.
    pub fn performance(&self) -> impl Iterator<Item = &Comparison> {
        self.comparisons.iter().filter(|c| !c.place.is_memory())
    }

    /// Memory after boot and after load.
    pub fn memory(&self) -> impl Iterator<Item = &Comparison> {
        self.comparisons.iter().filter(|c| c.place.is_memory())
    }
}

fn reason(effect: Effect, about: About, text: String) -> Reason {
    Reason { effect, text, about }
}

/// What is wrong with the run as a whole.
fn run_reasons(record: &RunRecord, cases: &[Case]) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(fault) = &record.stopped {
        let text = format!("the run stopped early: {}", fault.message);
        reasons.push(reason(Effect::Infrastructure, About::Run, text));
    }
    for (host, left) in &record.hosts {
        if let Some(left) = left {
            let text = format!("{host} is not back on production: {left}");
            reasons.push(reason(Effect::Infrastructure, About::Run, text));
        }
    }
    let trials = record.trials.len();
    let open = record.trials.iter().filter(|t| ran(t, record).is_none());
    let (unreached, missing): (Vec<_>, Vec<_>) = open.partition(|t| is_unreached(t, record));
    if !missing.is_empty() {
        let text = format!("{} of {trials} trials never ran", missing.len());
        reasons.push(reason(Effect::Infrastructure, About::Run, text));
    }
    let compared = cases.iter().any(|c| {
        c.subject.subtest().is_none() && c.baseline.decided() > 0 && c.candidate.decided() > 0
    });
    if !unreached.is_empty() {
        let text = format!(
            "{} of {trials} trials never ran, because the kernel had failed before in their boots",
            unreached.len()
        );
        reasons.push(reason(Effect::Inconclusive, About::Run, text));
    }
    if !compared {
        let text = "no scenario ran on both kernels, so that nothing was compared".to_owned();
        reasons.push(reason(Effect::Inconclusive, About::Run, text));
    }
    if let Some(why) = metric::self_check(record) {
        let text = format!("exact mode is invalid in this run: {why}");
        reasons.push(reason(Effect::Inconclusive, About::Run, text));
    }
    for scenario in metric::measured_nothing(record) {
        let text = format!("{scenario} passed, but measured nothing");
        let about = About::Scenario { scenario, subtest: None };
        reasons.push(reason(Effect::Inconclusive, about, text));
    }
    reasons
}

fn about(subject: &Subject) -> About {
    match subject.clone() {
        Subject::Boot { image } => About::Boot { image },
        Subject::Scenario { scenario, subtest, .. } => About::Scenario { scenario, subtest },
    }
}

fn case_reasons(case: &Case) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let Case { subject, statement, .. } = case;
    let cause = match (&case.cause, &case.skip_reason) {
        (Some(fault), _) => fault.to_string(),
        (None, Some(why)) => why.clone(),
        (None, None) => String::new(),
    };
    let cause = if cause.is_empty() { cause } else { format!(": {cause}") };
    if case.effect != Effect::None && !case.told_elsewhere && case.class != Class::Errored {
        let what = match case.class {
            Class::Regression if case.intermittent => "fails in some boots of the candidate",
            Class::Regression => "fails on the candidate",
            Class::Flaky => "fails in some boots",
            Class::Uncontrolled => "fails on the candidate, with no baseline to compare",
            Class::Skipped => "is skipped on the candidate",
            Class::Missing => "is no longer reported by the candidate",
            Class::StillFailing => "fails on both kernels",
            Class::Passed | Class::Fixed | Class::Errored => "was not decided",
        };
        let text = format!("{subject} {what}{cause} ({statement})");
        reasons.push(reason(case.effect, about(subject), text));
    }
    if case.baseline.errored + case.candidate.errored > 0 {
        let broken = case.cause.as_ref().is_some_and(|fault| fault.blame == Blame::Scenario);
        let text = if broken {
            format!("the scenario is broken, not the kernel: {subject}{cause}")
        } else if case.class == Class::Errored {
            format!("{subject} errored{cause} ({statement})")
        } else {
            format!("{subject} errored in some boots ({statement})")
        };
        reasons.push(reason(Effect::Infrastructure, about(subject), text));
    }
    reasons
}

/// New findings that no case tells of.
fn finding_reasons(findings: &[FindingDelta], boots: &[Case], cases: &[Case]) -> Vec<Reason> {
    let told = |delta: &FindingDelta| {
        (boots.iter().chain(cases)).any(|case| {
            case.effect >= delta.effect
                && !case.told_elsewhere
                && case.signatures.contains(&delta.finding.signature)
        })
    };
    (findings.iter())
        .filter(|delta| delta.effect != Effect::None && !told(delta))
        .map(|delta| {
            let during = if delta.scenarios.is_empty() {
                "outside trials".to_owned()
            } else {
                format!("during {}", delta.scenarios.join(", "))
            };
            let severity = match delta.finding.severity {
                Severity::Warning => "warning",
                Severity::Severe => "severe finding",
                Severity::Fatal => "fatal finding",
            };
            let doubt = delta.doubt.as_ref().map(|d| format!("; {d}")).unwrap_or_default();
            let text = format!(
                "new kernel {severity}: {} ({} of {} boots {during}; baseline {} of {}{doubt})",
                delta.finding.title,
                delta.candidate.boots,
                delta.candidate.of,
                delta.baseline.boots,
                delta.baseline.of,
            );
            let signature = delta.finding.signature.clone();
            reason(delta.effect, About::Finding { signature }, text)
        })
        .collect()
}

fn comparison_reason(comparison: &Comparison) -> Option<Reason> {
    let Comparison { place, exact, .. } = comparison;
    let metric = comparison.label();
    let about = About::Metric { place: place.to_string(), metric: metric.clone() };
    let text = match comparison.decision {
        Decision::Regression => {
            let (low, high) = comparison.interval.unwrap_or_default();
            format!(
                "{place}: {metric} is worse by {}, over the limit of {:.1} % (95 % interval {} to {})",
                percent(comparison.change.unwrap_or_default(), *exact),
                100.0 * comparison.fail,
                percent(low, *exact),
                percent(high, *exact),
            )
        }
        _ => format!("{place}: {metric} can't be decided: {}", comparison.doubt),
    };
    (comparison.effect != Effect::None).then(|| reason(comparison.effect, about, text))
}

fn waiver_notes(waivers: &[WaiverUse], today: Date) -> Vec<String> {
    (waivers.iter())
        .filter_map(|WaiverUse { waiver, state, covers }| match state {
            WaiverState::Used => None,
            WaiverState::Unmatched => Some(format!(
                "waiver {} of {} matched nothing in this run: it may be removed",
                waiver.id, waiver.owner
            )),
            WaiverState::Expired => {
                let covers = match covers.as_slice() {
                    [] => "and nothing in this run needed it".to_owned(),
                    covers => format!("so that it no longer waives {}", covers.join(", ")),
                };
                Some(format!(
                    "waiver {} of {} expired on {}, {covers} (today is {today})",
                    waiver.id, waiver.owner, waiver.expires
                ))
            }
        })
        .collect()
}
