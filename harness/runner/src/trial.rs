//! One trial: what is checked before it, its steps, its end, and what the kernel's log and state say
//! about it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kgate_machine::Machine;
use kgate_model::finding::{Finding, Severity, TAINTS};
use kgate_model::journal::Event;
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_model::plan::PlannedTrial;
use kgate_model::wire::KernelState;
use kgate_scenario::FindingAction;
use tokio::time::{Instant, sleep_until, timeout};

use crate::attempt::{Attempt, disk, millis};
use crate::run::Stop;
use crate::rundir;
use crate::step::{Break, CleanedUp, Steps};
use crate::vitals::{Loss, Lost, Vitals, is_fatal};

/// Bytes of the steps' output that are written to disk for one trial.
const LOG_LIMIT: usize = 16 << 20;

/// A task that the kernel killed may have held what the steps wait for: so long after a finding the
/// trial is ended, where the policy ends the boot anyway. What follows from it is said by then.
const AFTER_FINDING: Duration = Duration::from_secs(2);
/// A kernel that logs without an end is never read to it.
const SETTLE: Duration = Duration::from_secs(2);
/// A report is whole when nothing was printed for so long.
const QUIET: Duration = Duration::from_millis(100);

/// How a trial ended.
pub(crate) struct TrialEnd {
    /// For the journal.
    pub(crate) event: Event,
    /// The machine was lost in it.
    pub(crate) lost: bool,
    /// What the machine said when it hung, relative to the run directory.
    pub(crate) diagnosis: Option<String>,
    /// The kernel's log held something that the scenario does not allow.
    pub(crate) findings: bool,
    /// The machine lives, but what the trial started can't be ended.
    pub(crate) spent: bool,
    /// The kernel's state afterwards.
    pub(crate) state: Option<KernelState>,
}

/// Runs one trial. `state` is the kernel's as last seen.
pub(crate) async fn run(
    attempt: &mut Attempt<'_, '_>,
    planned: &PlannedTrial,
    machine: &mut dyn Machine,
    vitals: &Vitals,
    state: &KernelState,
) -> Result<TrialEnd, Stop> {
    let context = attempt.context;
    let assignment = &context.scenarios[&*planned.scenario];
    let scenario = assignment.scenario;
    let first_finding = attempt.emitted;
    context.emit(Event::TrialStarted {
        trial: planned.id.clone(),
        attempt: attempt.number,
        machine: attempt.own.clone(),
    })?;
    let log_name = rundir::trial_log(&planned.id);
    let log = Log::create(context.dir.path().join(&log_name))?;
    let console = context.dir.path().join(rundir::console(&attempt.machine));
    let started = Instant::now();
    let mut steps = Steps::new(context, planned, scenario, vitals, console, log.clone());

    let ended = {
        let ops = machine.ops().to_owned();
        let body = async {
            load_modules(machine, &assignment.requires.modules).await?;
            steps.check(&assignment.requires).await?;
            steps.run(&ops).await
        };
        tokio::pin!(body);
        let deadline = started + scenario.timeout;
        let mut progress = vitals.console.progress();
        let ends = context.inputs.policy.on_finding == FindingAction::EndBoot;
        let (mut judged, mut judge) = (first_finding, None);
        loop {
            tokio::select! {
                biased;
                lost = vitals.lost() => break Err(Break::Lost(lost)),
                ended = &mut body => break ended,
                () = sleep_until(deadline) => {
                    let message = format!("ran longer than {} s", scenario.timeout.as_secs_f32());
                    let fault = Fault::kernel(FaultKind::TrialTimeout, message);
                    break Err(Break::Outcome(Outcome::from_fault(fault)));
                }
                () = sleep_until(judge.unwrap_or(deadline)), if judge.is_some() => {
                    judge = None;
                    vitals.console.quiet(QUIET, AFTER_FINDING).await;
                    vitals.console.settle().await;
                    attempt.emit_findings(vitals, Some(&planned.id), None)?;
                    let found = vitals.findings(first_finding, None);
                    let severe = |f: &&Finding| f.severity >= Severity::Severe;
                    if let Some(f) = found.iter().filter(severe).find(|f| !scenario.allows(f)) {
                        let fault = Fault::kernel(FaultKind::Finding, f.title.clone());
                        break Err(Break::Outcome(Outcome::from_fault(fault)));
                    }
                }
                Ok(()) = progress.changed() => {
                    attempt.emit_findings(vitals, Some(&planned.id), None)?;
                    let seen = progress.borrow().findings;
                    if ends && seen > judged {
                        judged = seen;
                        judge.get_or_insert(Instant::now() + AFTER_FINDING);
                    }
                }
            }
        }
    };
    let wall_ms = millis(started.elapsed());
    let outcome = match ended {
        Ok(()) => Ok(Outcome::Passed),
        Err(Break::Outcome(outcome)) => Ok(outcome),
        Err(Break::Lost(lost)) => Err(lost),
        Err(Break::Stop(stop)) => return Err(stop),
    };
    let (outcome, loss, cleaned) = match outcome {
        Err(lost) => {
            let loss = vitals.explain(lost, machine).await;
            (Outcome::from_fault(loss.fault.clone()), Some(loss), CleanedUp::default())
        }
        Ok(outcome) => match steps.clean_up().await {
            Ok(cleaned) => (outcome, None, cleaned),
            Err(lost) => {
                let loss = vitals.explain(lost, machine).await;
                // What a failed trial failed by stays, unless it took the kernel with it.
                let stays =
                    matches!(outcome, Outcome::Failed { .. }) && loss.fault.blame != Blame::Kernel;
                let outcome = if stays { outcome } else { Outcome::from_fault(loss.fault.clone()) };
                (outcome, Some(loss), CleanedUp::default())
            }
        },
    };
    let subtests = steps.end().await;
    log.check()?;

    if attempt.own.is_some() && loss.is_none() {
        // It is ended by force in a moment: what is on its way has to arrive.
        let _ = timeout(SETTLE, vitals.unless_lost(vitals.agent.settle())).await;
    }
    vitals.console.settle().await;
    let last = loss.as_ref().and_then(|loss| loss.findings);
    attempt.emit_findings(vitals, Some(&planned.id), last)?;
    let found = vitals.findings(first_finding, last);
    let unwanted = |finding: &&Finding| !scenario.allows(finding);
    let bad = found.iter().find(|f| is_fatal(f)).or_else(|| found.iter().find(unwanted));
    let fault = match (bad, &cleaned.state) {
        _ if loss.is_some() => None,
        // What a trial failed by stays: the finding is in the journal anyway.
        (Some(finding), _) if outcome == Outcome::Passed || is_fatal(finding) => {
            Some(Fault::kernel(FaultKind::Finding, finding.title.clone()))
        }
        (None, Some(after)) if outcome == Outcome::Passed => {
            tainted(scenario.allow_taint, state.taint, after.taint, !found.is_empty())
        }
        _ => None,
    };
    let diagnosis = match &loss {
        Some(Loss { diagnosis: Some(text), .. }) => Some(attempt.save_diagnosis(text)?),
        _ => None,
    };
    let own = attempt.own.is_some();
    Ok(TrialEnd {
        event: Event::TrialEnded {
            trial: planned.id.clone(),
            outcome: fault.map_or(outcome, Outcome::from_fault),
            wall_ms,
            subtests,
            before: Some(state.clone()),
            after: cleaned.state.clone(),
            log: Some(log_name),
            diagnosis: diagnosis.clone().filter(|_| own),
        },
        lost: loss.is_some(),
        diagnosis,
        findings: bad.is_some(),
        spent: cleaned.spent,
        state: cleaned.state,
    })
}

async fn load_modules(machine: &mut dyn Machine, names: &[String]) -> Result<(), Break> {
    if names.is_empty() {
        return Ok(());
    }
    machine.load_modules(names).await.map_err(|fault| match fault.kind {
        FaultKind::Channel => Break::Lost(Lost::Closed(fault.message)),
        _ => Break::Outcome(Outcome::from_fault(fault)),
    })
}

/// Taint flags that a message in the kernel's log explains: dead, warned, soft lockup.
const EXPLAINED: u64 = 1 << 7 | 1 << 9 | 1 << 14;

/// What is wrong when the kernel became tainted and the scenario doesn't allow it. A scenario that
/// was allowed to provoke what was found was allowed the taint that comes with it.
pub(crate) fn tainted(allowed: bool, before: u64, after: u64, found: bool) -> Option<Fault> {
    let new = after & !before & if found { !EXPLAINED } else { !0 };
    if new == 0 || allowed {
        return None;
    }
    let set = TAINTS.iter().enumerate().filter(|(bit, _)| new >> bit & 1 == 1);
    let letters: String = set.map(|(_, (letter, _))| letter).collect();
    let message = format!("the kernel became tainted: {letters} ({new})");
    Some(Fault::kernel(FaultKind::Finding, message))
}

/// The output of a trial's steps on disk, shared with those that run in the background.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<LogFile>>);

struct LogFile {
    file: File,
    path: PathBuf,
    room: usize,
    error: Option<io::Error>,
}

impl Log {
    pub(crate) fn create(path: PathBuf) -> Result<Self, Stop> {
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        match parent.and_then(|()| File::create(&path)) {
            Ok(file) => {
                let file = LogFile { file, path, room: LOG_LIMIT, error: None };
                Ok(Self(Arc::new(Mutex::new(file))))
            }
            Err(error) => Err(disk(&path, &error)),
        }
    }

    /// Appends what there is room for.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[..bytes.len().min(log.room)];
        if log.error.is_none()
            && let Err(error) = log.file.write_all(bytes)
        {
            log.error = Some(error);
        }
        log.room -= bytes.len();
        if log.room == 0 && !bytes.is_empty() && log.error.is_none() {
            log.error = log.file.write_all(b"\n[more was printed than is kept]\n").err();
        }
    }

    /// Whether everything was written.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.error.as_ref().map_or(Ok(()), |error| Err(disk(&log.path, error)))
    }
}

#[cfg(test)]
mod tests {
    use super::tainted;

    #[test]
    fn new_taint_is_a_fault_unless_it_is_allowed_or_explained() {
        let say = |allowed, before, after, found| {
            tainted(allowed, before, after, found).map(|fault| fault.message)
        };
        let warned = 1 << 9;
        let foreign = 1 << 12 | 1 << 13;
        assert_eq!(say(false, 0, 0, false), None);
        assert_eq!(say(false, warned, warned, false), None);
        assert_eq!(say(true, 0, warned, false), None);
        assert_eq!(say(false, 0, warned, true), None);
        let message = "the kernel became tainted: W (512)";
        assert_eq!(say(false, foreign, foreign | warned, false).as_deref(), Some(message));
        let message = "the kernel became tainted: OE (12288)";
        assert_eq!(say(false, 0, foreign | warned, true).as_deref(), Some(message));
    }
}
