//! The one failure that a bisection follows, and whether a run of a point shows it.

use kgate_compare::{About, Assessment, Decision, Effect};
use kgate_model::finding::Finding;
use kgate_model::journal::{BootRecord, Event, RunRecord, TrialRecord};
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome, Role};
use serde::{Deserialize, Serialize};

/// How something fails, so that it is known again in another kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Failure {
    /// A finding in the kernel log.
    Finding { signature: String, title: String },
    /// The same step fails by the same expectation, or the kernel ends in the same way.
    Fault { kind: FaultKind, message: String },
    /// A subtest fails.
    Subtest { path: String },
    /// A metric is worse by the limit of the policy.
    Metric { metric: String },
}

/// The failure and where it shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Symptom {
    /// The scenario; without one it is the boot that fails.
    pub(crate) scenario: Option<String>,
    pub(crate) failure: Failure,
}

/// What boots of a point say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    /// The failure.
    Bad,
    /// All passed.
    Good,
    /// The kernel did something else.
    Skip(String),
    /// Nothing of the kernel.
    Ours(String),
}

impl Symptom {
    /// Every failure that a verdict names, the strongest first.
    pub(crate) fn all(record: &RunRecord, assessment: &Assessment) -> Vec<Self> {
        let telling = |effect| matches!(effect, Effect::Reject | Effect::Inconclusive);
        let reasons = assessment.reasons.iter().filter(|reason| telling(reason.effect));
        reasons.filter_map(|reason| Self::of(&reason.about, record, assessment)).collect()
    }

    fn of(about: &About, record: &RunRecord, assessment: &Assessment) -> Option<Self> {
        Some(match about {
            About::Run => return None,
            About::Boot { image } => {
                let mut boots = record.boots.iter().filter(|boot| {
                    boot.planned.role == Role::Candidate && boot.planned.image == *image
                });
                let (boot, fault) =
                    boots.find_map(|boot| Some((boot, boot.faults.iter().find(kernels)?)))?;
                Self { scenario: None, failure: Failure::of(fault, &boot.findings) }
            }
            About::Scenario { scenario, subtest: Some(path) } => {
                let failure = Failure::Subtest { path: path.clone() };
                Self { scenario: Some(scenario.clone()), failure }
            }
            About::Scenario { scenario, subtest: None } => {
                let case =
                    assessment.scenarios().find(|c| c.subject.scenario() == Some(scenario))?;
                let trial =
                    record.trials.iter().find(|t| Some(&t.planned.id) == case.trial.as_ref())?;
                let failure = match trial.outcome.as_ref()? {
                    Outcome::Failed { cause } => Failure::of(cause, &trial.findings),
                    Outcome::Skipped { reason } => Failure::lacking(reason),
                    Outcome::Passed | Outcome::Errored { .. } => return None,
                };
                Self { scenario: Some(scenario.clone()), failure }
            }
            About::Finding { signature } => {
                let delta =
                    assessment.findings.iter().find(|d| d.finding.signature == *signature)?;
                let failure = Failure::finding(&delta.finding);
                Self { scenario: delta.scenarios.first().cloned(), failure }
            }
            About::Metric { place, metric } => {
                let known = |trial: &TrialRecord| trial.planned.scenario == *place;
                record.trials.iter().any(known).then_some(())?;
                let failure = Failure::Metric { metric: metric.clone() };
                Self { scenario: Some(place.clone()), failure }
            }
        })
    }

    /// Whether it is the one that a user means.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let scenario = self.scenario.as_deref().unwrap_or("boot");
        let id = scenario == name || scenario.split_once('/').is_some_and(|(_, id)| id == name);
        id || match &self.failure {
            Failure::Finding { signature, title } => signature == name || title.contains(name),
            Failure::Fault { .. } => false,
            Failure::Subtest { path } => path == name,
            Failure::Metric { metric } => metric == name,
        }
    }

    /// Whether it is a matter of chance in single boots.
    pub(crate) fn by_boot(&self) -> bool {
        !matches!(self.failure, Failure::Metric { .. })
    }

    /// For a person; may hold text of a guest's.
    pub(crate) fn describe(&self) -> String {
        let place = self.scenario.as_deref().unwrap_or("boot");
        match &self.failure {
            Failure::Finding { title, .. } => format!("{place}: {title}"),
            Failure::Fault { kind, message } => format!("{place}: {}: {message}", kind.label()),
            Failure::Subtest { path } => format!("{place}: {path}"),
            Failure::Metric { metric } => format!("{place}: {metric}"),
        }
    }

    /// A few words for a line of progress; may hold text of a guest's.
    pub(crate) fn same(&self) -> String {
        match &self.failure {
            Failure::Finding { title, .. } => format!("same finding: {title}"),
            Failure::Fault { kind, .. } => format!("same {}", kind.label()),
            Failure::Subtest { path } => format!("same subtest: {path}"),
            Failure::Metric { metric } => format!("{metric} is worse"),
        }
    }

    /// Whether an event of a run shows it on the candidate: then nothing more needs to be booted.
    pub(crate) fn is_shown_by(&self, event: &Event, record: &RunRecord) -> bool {
        let candidate = |boot: &str| {
            record.boots.iter().any(|b| b.planned.id == boot && b.planned.role == Role::Candidate)
        };
        match (event, &self.failure) {
            (Event::Finding { boot, finding, .. }, Failure::Finding { signature, .. }) => {
                finding.signature == *signature && candidate(boot)
            }
            (Event::TrialEnded { trial, outcome, subtests, .. }, failure) => {
                let trial = record.trials.iter().find(|t| t.planned.id == *trial);
                let trial = trial.filter(|t| t.role == Role::Candidate && self.is_about(t));
                trial.is_some_and(|trial| {
                    let (outcome, subtests) = (Some(outcome.clone()), subtests.clone());
                    failure.is_in(&TrialRecord { outcome, subtests, ..trial.clone() })
                })
            }
            _ => false,
        }
    }

    fn is_about(&self, trial: &TrialRecord) -> bool {
        self.scenario.as_ref().is_none_or(|scenario| trial.planned.scenario == *scenario)
    }

    /// What the boots of a role say, and in how many of them the failure shows.
    pub(crate) fn judge(&self, record: &RunRecord, role: Role) -> (Seen, u32, u32) {
        let boots = record.boots.iter().filter(|boot| boot.planned.role == role);
        let seen: Vec<Seen> = boots
            .filter(|boot| boot.attempts > 0 || boot.finished)
            .map(|boot| self.judge_boot(boot, record))
            .collect();
        let failed = seen.iter().filter(|seen| **seen == Seen::Bad).count();
        let told = seen.iter().filter(|seen| matches!(seen, Seen::Bad | Seen::Good)).count();
        let rank = |seen: &&Seen| match seen {
            Seen::Bad => 0,
            Seen::Ours(_) => 1,
            Seen::Skip(_) => 2,
            Seen::Good => 3,
        };
        let all = seen.iter().min_by_key(rank).cloned();
        let all = all.unwrap_or_else(|| Seen::Ours("nothing was booted".to_owned()));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (all, count(told), count(failed))
    }

    fn judge_boot(&self, boot: &BootRecord, record: &RunRecord) -> Seen {
        let in_boot = |trial: &&TrialRecord| trial.boot == boot.planned.id && self.is_about(trial);
        let trials: Vec<&TrialRecord> = record.trials.iter().filter(in_boot).collect();
        let in_log = |findings: &[Finding]| match &self.failure {
            Failure::Finding { signature, .. } => {
                findings.iter().any(|f| f.signature == *signature)
            }
            _ => false,
        };
        let in_trials = self.scenario.is_some() && trials.iter().any(|t| self.failure.is_in(t));
        let of_boot = self.scenario.is_none() && boot.faults.iter().any(|f| self.failure.is(f));
        let logged = in_log(&boot.findings) || trials.iter().any(|t| in_log(&t.findings));
        if in_trials || of_boot || logged {
            return Seen::Bad;
        }
        if let Some(fault) = boot.faults.iter().find(kernels) {
            return Seen::Skip(fault.to_string());
        }
        for trial in &trials {
            match &trial.outcome {
                _ if self.scenario.is_none() && boot.identity.is_some() => {}
                Some(Outcome::Passed) => {}
                Some(Outcome::Failed { cause }) if cause.blame == Blame::Kernel => {
                    // Of a subtest's scenario it is the subtest that counts.
                    if !matches!(self.failure, Failure::Subtest { .. })
                        || cause.kind != FaultKind::Subtest
                    {
                        return Seen::Skip(cause.to_string());
                    }
                }
                Some(Outcome::Failed { cause } | Outcome::Errored { cause }) => {
                    return Seen::Ours(cause.to_string());
                }
                Some(Outcome::Skipped { reason }) => {
                    return Seen::Skip(format!("skipped: {reason}"));
                }
                None => return Seen::Ours("it never ran to its end".to_owned()),
            }
            if let Failure::Subtest { path } = &self.failure {
                let outcome = trial.subtests.iter().find(|subtest| subtest.path == *path);
                if !outcome.is_some_and(|subtest| subtest.outcome == Outcome::Passed) {
                    return Seen::Skip(format!("there is no result of {path}"));
                }
            }
        }
        match &boot.fault {
            Some(fault) if boot.identity.is_none() => Seen::Ours(fault.to_string()),
            _ => Seen::Good,
        }
    }

    /// The same for a metric, which is judged over all boots.
    pub(crate) fn judge_metric(&self, assessment: &Assessment) -> Seen {
        let Failure::Metric { metric } = &self.failure else {
            return Seen::Ours("it is not about a metric".to_owned());
        };
        let compared = assessment.comparisons.iter().find(|comparison| {
            Some(comparison.place.to_string()) == self.scenario && comparison.label() == *metric
        });
        match compared {
            None => Seen::Skip(format!("it has no {metric}")),
            Some(comparison) => match comparison.decision {
                Decision::Regression => Seen::Bad,
                Decision::Unchanged | Decision::Better | Decision::Worse => Seen::Good,
                Decision::Inconclusive | Decision::Missing => {
                    Seen::Skip(format!("{metric} can't be decided: {}", comparison.doubt))
                }
            },
        }
    }
}

impl Failure {
    fn finding(finding: &Finding) -> Self {
        Self::Finding { signature: finding.signature.clone(), title: finding.title.clone() }
    }

    fn of(fault: &Fault, findings: &[Finding]) -> Self {
        let logged = match fault.kind {
            FaultKind::Finding => findings.iter().find(|finding| finding.title == fault.message),
            FaultKind::Panic | FaultKind::Hang | FaultKind::Died | FaultKind::BootFailed => {
                findings.iter().max_by_key(|finding| finding.severity)
            }
            _ => None,
        };
        logged.map_or_else(
            || Self::Fault { kind: fault.kind, message: fault.message.clone() },
            Self::finding,
        )
    }

    /// A kernel on which a scenario is skipped, because it lacks what others have.
    fn lacking(reason: &str) -> Self {
        Self::Fault { kind: FaultKind::Requirement, message: reason.to_owned() }
    }

    fn is(&self, fault: &Fault) -> bool {
        matches!(self, Self::Fault { kind, message }
            if fault.blame == Blame::Kernel
                && *kind == fault.kind
                && essence(message) == essence(&fault.message))
    }

    fn is_in(&self, trial: &TrialRecord) -> bool {
        match (self, &trial.outcome) {
            (Self::Subtest { path }, _) => trial
                .subtests
                .iter()
                .any(|s| s.path == *path && matches!(s.outcome, Outcome::Failed { .. })),
            (
                Self::Fault { kind: FaultKind::Requirement, message },
                Some(Outcome::Skipped { reason }),
            ) => essence(message) == essence(reason),
            (_, Some(Outcome::Failed { cause })) => self.is(cause),
            _ => false,
        }
    }
}

fn kernels(fault: &&Fault) -> bool {
    fault.blame == Blame::Kernel
}

/// What of a fault's message tells it from others: the step and its expectation, without what was printed
/// instead and without numbers.
fn essence(message: &str) -> String {
    const STATUS: &str = ": exit status ";
    let status = message.find(STATUS).map(|at| at + STATUS.len());
    let pattern = || message.find("/: ").map(|at| at + 1);
    let end = status.or_else(pattern).unwrap_or(message.len());
    let mut text = String::new();
    for c in message[..end].chars() {
        if !c.is_ascii_digit() {
            text.push(c);
        } else if !text.ends_with('#') {
            text.push('#');
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_known_by_its_step_and_expectation() {
        let same = |one: &str, other: &str| essence(one) == essence(other);
        assert!(same("step `run 1`: exit status 1: got 17", "step `run 1`: exit status 2: got 18"));
        assert!(!same("step `run 1`: exit status 1", "step `wrk`: exit status 1"));
        assert!(same(
            "step `a`: standard output does not match /^x$/: y",
            "step `a`: standard output does not match /^x$/: z"
        ));
        assert!(!same(
            "step `a`: standard output does not match /^x$/: y",
            "step `a`: standard output does not match /^w$/: y"
        ));
        assert!(same("no heartbeat for 5 s", "no heartbeat for 12 s"));
    }
}
