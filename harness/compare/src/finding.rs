//! The kernel logs of both roles: what is new, what is gone, what both have.

use std::collections::{BTreeMap, BTreeSet};

use kgate_model::finding::{Finding, FindingKind, Severity};
use kgate_model::journal::{RunRecord, TrialRecord};
use kgate_model::outcome::{Outcome, Role};
use kgate_scenario::{Policy, Reaction, Selected};

use crate::case::ran;
use crate::verdict::Effect;
use crate::waive::{Book, Difference};

/// Which kernels have a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Novelty {
    /// Only the candidate.
    New,
    /// Only the baseline.
    Gone,
    /// Both.
    Common,
}

impl Novelty {
    /// The word used in files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Gone => "gone",
            Self::Common => "common",
        }
    }
}

/// In how many boots of one role something was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Boots that have it.
    pub boots: u32,
    /// Boots that could have it: they were started, and they ran a scenario in which it was seen.
    pub of: u32,
}

/// A finding, told from others by its signature, over all boots.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingDelta {
    /// As first seen: in the candidate when that has it. Its severity is the worst seen.
    pub finding: Finding,
    /// Which kernels have it.
    pub novelty: Novelty,
    /// Boots of the baseline.
    pub baseline: Sightings,
    /// Boots of the candidate.
    pub candidate: Sightings,
    /// Scenarios during which it was seen, sorted.
    pub scenarios: Vec<String>,
    /// It was seen while no trial was running.
    pub outside_trials: bool,
    /// Id of the boot where it was first seen.
    pub boot: String,
    /// What it does to the verdict, after policy and waivers.
    pub effect: Effect,
    /// The policy says to take no notice.
    pub ignored: bool,
    /// The waiver that took its effect away.
    pub waiver: Option<String>,
    /// Why its effect is not what its severity asks for.
    pub doubt: Option<String>,
}

impl FindingDelta {
    /// New, and not to be ignored.
    pub fn is_news(&self) -> bool {
        self.novelty == Novelty::New && !self.ignored
    }
}

/// What a finding does to a trial that failed over it.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) effect: Effect,
    /// Only the candidate has it.
    pub(crate) differs: bool,
    /// The policy takes no notice of it.
    pub(crate) ignored: bool,
    pub(crate) waiver: Option<String>,
}

/// One place where a finding was seen.
struct Place<'a> {
    role: Role,
    boot: &'a str,
    scenario: Option<&'a str>,
    finding: &'a Finding,
}

/// All findings, new ones first, then the worst.
pub(crate) fn deltas(
    record: &RunRecord,
    policy: &Policy,
    selected: &[Selected],
    book: &mut Book<'_>,
) -> Vec<FindingDelta> {
    let mut places: BTreeMap<&str, Vec<Place<'_>>> = BTreeMap::new();
    for boot in &record.boots {
        for finding in &boot.findings {
            let (role, boot) = (boot.planned.role, boot.planned.id.as_str());
            let place = Place { role, boot, scenario: None, finding };
            places.entry(&finding.signature).or_default().push(place);
        }
    }
    for trial in &record.trials {
        let scenario = trial.planned.scenario.as_str();
        let known = selected.iter().find(|s| s.scenario.id.as_str() == scenario);
        let allowed = |finding: &Finding| known.is_some_and(|s| s.scenario.allows(finding));
        for finding in trial.findings.iter().filter(|f| !allowed(f)) {
            let (role, boot) = (trial.role, trial.boot.as_str());
            let place = Place { role, boot, scenario: Some(scenario), finding };
            places.entry(&finding.signature).or_default().push(place);
        }
    }
    let mut deltas: Vec<_> =
        places.into_values().map(|places| delta(&places, record, policy, book)).collect();
    deltas.sort_by(|a, b| {
        (a.novelty, b.finding.severity, &a.finding.title).cmp(&(
            b.novelty,
            a.finding.severity,
            &b.finding.title,
        ))
    });
    deltas
}

pub(crate) fn standings(deltas: &[FindingDelta]) -> BTreeMap<String, Standing> {
    (deltas.iter())
        .map(|d| {
            let standing = Standing {
                effect: d.effect,
                differs: d.is_news(),
                ignored: d.ignored,
                waiver: d.waiver.clone(),
            };
            (d.finding.signature.clone(), standing)
        })
        .collect()
}

fn delta(
    places: &[Place<'_>],
    record: &RunRecord,
    policy: &Policy,
    book: &mut Book<'_>,
) -> FindingDelta {
    let scenarios: BTreeSet<&str> = places.iter().filter_map(|p| p.scenario).collect();
    let outside_trials = places.iter().any(|p| p.scenario.is_none());
    let sightings = |role| {
        let seen: BTreeSet<&str> =
            places.iter().filter(|p| p.role == role).map(|p| p.boot).collect();
        let could = |boot: &str| {
            outside_trials
                || (record.trials.iter()).any(|t| {
                    t.boot == boot
                        && is_decided(t, record)
                        && scenarios.contains(&*t.planned.scenario)
                })
        };
        let of = (record.boots.iter())
            .filter(|b| b.planned.role == role && b.attempts > 0)
            .filter(|b| seen.contains(&*b.planned.id) || could(&b.planned.id))
            .count();
        Sightings { boots: count(seen.len()), of: count(of).max(count(seen.len())) }
    };
    let (baseline, candidate) = (sightings(Role::Baseline), sightings(Role::Candidate));
    let novelty = match (baseline.boots, candidate.boots) {
        (0, _) => Novelty::New,
        (_, 0) => Novelty::Gone,
        _ => Novelty::Common,
    };
    let first = (places.iter().find(|p| p.role == Role::Candidate)).unwrap_or(&places[0]);
    let mut finding = first.finding.clone();
    finding.severity = places.iter().map(|p| p.finding.severity).max().unwrap_or(finding.severity);
    finding.panicked = places.iter().any(|p| p.finding.panicked);
    let mut delta = FindingDelta {
        finding,
        novelty,
        baseline,
        candidate,
        scenarios: scenarios.iter().map(|&s| s.to_owned()).collect(),
        outside_trials,
        boot: first.boot.to_owned(),
        effect: Effect::None,
        ignored: false,
        waiver: None,
        doubt: None,
    };
    if novelty == Novelty::New {
        judge(&mut delta, policy);
        if matches!(delta.effect, Effect::Inconclusive | Effect::Reject) {
            let scenarios: Vec<&str> = scenarios.into_iter().collect();
            let titles = [delta.finding.title.as_str()];
            let difference = Difference {
                // Outside trials it belongs to no scenario, so that none can cover it.
                scenarios: if outside_trials { &[] } else { &scenarios },
                findings: &titles,
                ..Difference::default()
            };
            if let Some(id) = book.waive(&difference, &delta.finding.title) {
                delta.waiver = Some(id);
                delta.effect = Effect::None;
            }
        }
    }
    delta
}

fn judge(delta: &mut FindingDelta, policy: &Policy) {
    delta.effect = match (delta.finding.severity, policy.new_warning) {
        (Severity::Fatal | Severity::Severe, _) | (Severity::Warning, Reaction::Reject) => {
            Effect::Reject
        }
        (Severity::Warning, Reaction::Report) => Effect::None,
        (Severity::Warning, Reaction::Ignore) => {
            delta.ignored = true;
            Effect::None
        }
    };
    if delta.effect == Effect::None {
        return;
    }
    if delta.baseline.of == 0 {
        delta.effect = Effect::Inconclusive;
        delta.doubt = Some("the baseline never got as far".to_owned());
    } else if is_starvation(&delta.finding) && delta.candidate.boots < delta.candidate.of {
        delta.effect = Effect::Inconclusive;
        delta.doubt = Some("a controller without CPU time to spare causes it as well".to_owned());
    }
}

/// Reports that a machine also makes when its host doesn't let it run.
fn is_starvation(finding: &Finding) -> bool {
    let kinds = [
        FindingKind::RcuStall,
        FindingKind::SoftLockup,
        FindingKind::HardLockup,
        FindingKind::HungTask,
    ];
    !finding.panicked && kinds.contains(&finding.kind)
}

fn is_decided(trial: &TrialRecord, record: &RunRecord) -> bool {
    matches!(ran(trial, record), Some(Outcome::Passed | Outcome::Failed { .. }))
        && trial.planned.decided.is_none()
}

pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
