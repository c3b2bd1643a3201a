//! One boot of the plan: its attempts, the trials that share the machine of each, and how each ends.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use kgate_machine::{BootError, BootRequest, Console, ExactTemplate, Kept, Machine, Template};
use kgate_model::finding::Finding;
use kgate_model::journal::{Event, OwnMachine};
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_model::plan::{PlannedBoot, PlannedTrial, Start};
use kgate_model::wire::KernelState;
use kgate_scenario::FindingAction;
use tokio::time::{Instant, timeout};

use crate::exact::ExactBoot;
use crate::own::{Own, late};
use crate::run::{Context, Job, Stop};
use crate::rundir::{self, RunDir};
use crate::trial::{self, TrialEnd};
use crate::vitals::{Loss, Vitals};

/// A pool keeps its own deadline; this is for one that doesn't, with time to prepare and to diagnose.
pub(crate) const START_GRACE: Duration = Duration::from_secs(300);
/// An orderly end takes no longer.
const STOP: Duration = Duration::from_secs(20);
/// After a machine is dropped its console is read to the end.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// Attempts beyond one for each trial: those in which no trial ended.
const SPARE_ATTEMPTS: u32 = 2;

/// What an attempt came to, beside the trials that it took off the list.
enum AttemptEnd {
    /// The machine was there; what is left can run in a fresh one.
    Ran,
    /// The machine died with no trial to blame.
    Died(Fault),
    /// The agent never answered.
    NotReady(Fault),
    /// It is ready, and trials get copies of it.
    Template(Box<dyn Template>),
    /// There could be no template, through no fault of the kernel.
    NoTemplate(Fault),
    /// It is ready, and copies of it carry out scripts.
    Exact(Box<dyn ExactTemplate>),
    /// Nothing here counts instructions.
    NotExact,
}

/// A boot that is ready for trials in machines of their own.
pub(crate) enum Ready<'a> {
    /// Each gets one.
    Own(Own<'a>),
    /// All of a number get one.
    Exact(ExactBoot<'a>),
}

impl Ready<'_> {
    /// Whether its trials get clones.
    pub(crate) fn has_template(&self) -> bool {
        match self {
            Self::Own(own) => own.has_template(),
            Self::Exact(_) => true,
        }
    }

    /// Runs the open trial in a place, and those that run in the same clone. `false`: there could be no
    /// clone.
    pub(crate) async fn run(
        &self,
        context: &Context<'_>,
        open: &[&PlannedTrial],
        place: usize,
        clone: bool,
    ) -> Result<bool, Stop> {
        match self {
            Self::Own(own) => own.run(context, open[place], clone).await,
            Self::Exact(exact) => {
                let same = |trial: &&&PlannedTrial| trial.clone == open[place].clone;
                let trials: Vec<_> = open.iter().filter(same).copied().collect();
                exact.run(context, &trials).await.map(|()| true)
            }
        }
    }
}

/// Runs the open trials of a boot, in as many machines as it takes; or makes all ready for trials that
/// get machines of their own, and leaves those to the caller.
pub(crate) async fn run_boot<'a>(
    context: &Context<'_>,
    job: Job<'a>,
) -> Result<Option<Ready<'a>>, Stop> {
    let Job { boot, open, attempts } = job;
    let mut open = VecDeque::from(open);
    let most = u32::try_from(open.len()).unwrap_or(u32::MAX).saturating_add(SPARE_ATTEMPTS);
    let mut ours = 0;
    for used in 1..=most {
        let number = attempts + used;
        let mut attempt = Attempt {
            context,
            boot: &boot.id,
            number,
            machine: rundir::attempt(&boot.id, number),
            own: None,
            emitted: 0,
        };
        let end = attempt.run(boot, &mut open).await?;
        if open.is_empty() {
            return Ok(None);
        }
        let fault = match end {
            AttemptEnd::Template(template) => {
                let own = Own::of_template(boot, number, open.len(), template);
                return Ok(Some(Ready::Own(own)));
            }
            AttemptEnd::Exact(template) => {
                let exact = ExactBoot::new(boot, number, open.len(), template);
                return Ok(Some(Ready::Exact(exact)));
            }
            AttemptEnd::NotExact => {
                let reason = "no machine here counts instructions";
                for trial in open {
                    not_run(context, trial, Outcome::Skipped { reason: reason.to_owned() })?;
                }
                context.sync()?;
                return Ok(None);
            }
            AttemptEnd::NoTemplate(_) if ours == 0 && used < most => {
                ours += 1;
                continue;
            }
            AttemptEnd::NoTemplate(fault) => {
                if boot.start == Start::Exact {
                    give_up(context, open.iter().copied(), &fault)?;
                    return Ok(None);
                }
                let own = Own::booted(context, boot, number + 1, open.len(), &fault)?;
                return Ok(Some(Ready::Own(own)));
            }
            AttemptEnd::Ran => continue,
            AttemptEnd::Died(_) if used < most => continue,
            AttemptEnd::Died(fault) => fault,
            AttemptEnd::NotReady(fault) => {
                // Ours may pass; the kernel's would come again.
                ours += u32::from(fault.blame == Blame::Harness);
                if fault.blame == Blame::Harness && ours < 2 && used < most {
                    continue;
                }
                fault
            }
        };
        give_up(context, open.iter().copied(), &fault)?;
        return Ok(None);
    }
    let fault = Fault::harness(FaultKind::Emulator, format!("the boot ended {most} times"));
    give_up(context, open.iter().copied(), &fault)?;
    Ok(None)
}

/// Trials that can't be run end as the boot did.
fn give_up<'a>(
    context: &Context<'_>,
    trials: impl Iterator<Item = &'a PlannedTrial>,
    fault: &Fault,
) -> Result<(), Stop> {
    for trial in trials {
        not_run(context, trial, Outcome::from_fault(fault.clone()))?;
    }
    context.sync()
}

/// Ends a trial that was not run.
fn not_run(context: &Context<'_>, trial: &PlannedTrial, outcome: Outcome) -> Result<(), Stop> {
    context.emit(Event::TrialEnded {
        trial: trial.id.clone(),
        outcome,
        wall_ms: 0,
        subtests: Vec::new(),
        before: None,
        after: None,
        log: None,
        diagnosis: None,
    })
}

/// What a pool is asked for when a boot, or a trial of it alone, gets a machine that is booted.
pub(crate) fn boot_request(dir: &RunDir, boot: &PlannedBoot, machine: &str) -> BootRequest {
    let path = dir.path();
    BootRequest {
        name: machine.to_owned(),
        role: boot.role,
        host: boot.host.clone(),
        number: boot.number,
        image: boot.image.clone(),
        shape: boot.shape.clone(),
        alone: boot.exclusive,
        modules: boot.modules.clone(),
        console: path.join(rundir::console(machine)),
        kernel_log: Some(path.join(rundir::kernel_log(machine))),
        deadline: dir.inputs().policy.timeouts.boot,
    }
}

/// What a pool made of a request for a template.
enum Made {
    /// It has none.
    None,
    Warm(Result<Box<dyn Template>, BootError>),
    Exact(Result<Box<dyn ExactTemplate>, BootError>),
}

/// One machine.
pub(crate) struct Attempt<'a, 'c> {
    pub(crate) context: &'a Context<'c>,
    pub(crate) boot: &'a str,
    pub(crate) number: u32,
    /// The machine's name, by which its files are called.
    pub(crate) machine: String,
    /// It is the only trial's own.
    pub(crate) own: Option<OwnMachine>,
    /// Findings of the console that are in the journal.
    pub(crate) emitted: usize,
}

impl Attempt<'_, '_> {
    async fn run(
        &mut self,
        boot: &PlannedBoot,
        open: &mut VecDeque<&PlannedTrial>,
    ) -> Result<AttemptEnd, Stop> {
        let Self { context, number: attempt, .. } = *self;
        let id = boot.id.clone();
        let console = rundir::console(&self.machine);
        context.emit(Event::BootStarted { boot: id.clone(), attempt })?;
        let request = boot_request(context.dir, boot, &self.machine);
        let ended = |fault, state, diagnosis| {
            let (boot, console) = (id.clone(), console.clone());
            Event::BootEnded { boot, attempt, fault, state, console, diagnosis }
        };
        let limit = request.deadline + START_GRACE;
        if boot.host.is_none() && matches!(boot.start, Start::Warm | Start::Exact) {
            let made = timeout(limit, self.template(boot, &request)).await;
            let error = match made {
                Ok(Made::None) if boot.start == Start::Exact => {
                    context.emit(ended(None, None, None))?;
                    return Ok(AttemptEnd::NotExact);
                }
                Ok(Made::None) => None,
                Ok(Made::Warm(Ok(template))) => {
                    self.template_ready(&*template)?;
                    return Ok(AttemptEnd::Template(template));
                }
                Ok(Made::Exact(Ok(template))) => {
                    self.template_ready(&*template)?;
                    return Ok(AttemptEnd::Exact(template));
                }
                Ok(Made::Warm(Err(error)) | Made::Exact(Err(error))) => Some(error),
                Err(_) => Some(late()),
            };
            if let Some(error) = error {
                let (fault, diagnosis) = self.not_ready(error)?;
                context.emit(ended(Some(fault.clone()), None, diagnosis))?;
                context.sync()?;
                return Ok(match fault.blame {
                    Blame::Kernel => AttemptEnd::NotReady(fault),
                    _ => AttemptEnd::NoTemplate(fault),
                });
            }
        }
        let started = Instant::now();
        let boot_it = context.pool.boot(&request);
        let booted = match boot.host {
            // A server takes its own time, which its pool knows.
            Some(_) => boot_it.await,
            None => timeout(limit, boot_it).await.unwrap_or_else(|_| Err(late())),
        };
        let mut machine = match booted {
            Ok(machine) => machine,
            Err(error) => {
                let (fault, diagnosis) = self.not_ready(error)?;
                context.emit(ended(Some(fault.clone()), None, diagnosis))?;
                context.sync()?;
                return Ok(AttemptEnd::NotReady(fault));
            }
        };
        let vitals = Vitals::of(&*machine, context.inputs.policy.timeouts.hang);
        let ready_ms = millis(started.elapsed());
        let end = self.trials(&mut *machine, &vitals, ready_ms, open).await?;
        if end.lost {
            // What is there is ended by force.
            drop(machine);
            vitals.console.closed(DRAIN).await;
        } else {
            match boot.host {
                Some(_) => machine.stop().await,
                None => drop(timeout(STOP, machine.stop()).await),
            }
            vitals.console.settle().await;
            self.emit_findings(&vitals, None, None)?;
        }
        check_console(&vitals.console)?;
        context.emit(ended(end.fault.clone(), end.state, end.diagnosis))?;
        context.sync()?;
        Ok(end.fault.map_or(AttemptEnd::Ran, AttemptEnd::Died))
    }

    /// The template that a boot asks for.
    async fn template(&self, boot: &PlannedBoot, request: &BootRequest) -> Made {
        let pool = self.context.pool;
        if boot.start == Start::Exact {
            let seed = boot.seed.unwrap_or_default();
            return pool.exact_template(request, seed).await.map_or(Made::None, Made::Exact);
        }
        pool.template(request).await.map_or(Made::None, Made::Warm)
    }

    /// Runs trials until none is left or the machine can't take another.
    async fn trials(
        &mut self,
        machine: &mut dyn Machine,
        vitals: &Vitals,
        ready_ms: u64,
        open: &mut VecDeque<&PlannedTrial>,
    ) -> Result<MachineEnd, Stop> {
        let context = self.context;
        let mut state = match vitals.ask(vitals.agent.state()).await {
            Ok(state) => state.unwrap_or_default(),
            Err(lost) => return self.lost(vitals.explain(lost, machine).await, vitals),
        };
        context.emit(Event::BootReady {
            boot: self.boot.to_owned(),
            attempt: self.number,
            identity: machine.identity().clone(),
            ready_ms,
            state: state.clone(),
            kept_since: None,
            conditions: machine.conditions().cloned(),
        })?;
        context.sync()?;
        let mut clean = true;
        while let Some(&planned) = open.front() {
            vitals.console.settle().await;
            self.emit_findings(vitals, None, None)?;
            if !clean {
                let text = format!("{}: the kernel's log was not clean before it", planned.id);
                context.emit(Event::Note { text })?;
            }
            let TrialEnd { event, lost, diagnosis, findings, spent, state: after } =
                trial::run(self, planned, machine, vitals, &state).await?;
            check_console(&vitals.console)?;
            context.emit(event)?;
            context.sync()?;
            open.pop_front();
            state = after.unwrap_or(state);
            if lost {
                // The trial's fault; the boot has none of its own.
                return Ok(MachineEnd { lost: true, diagnosis, ..MachineEnd::default() });
            }
            clean &= !findings;
            if spent || findings && context.inputs.policy.on_finding == FindingAction::EndBoot {
                break;
            }
        }
        Ok(MachineEnd { state: Some(state), ..MachineEnd::default() })
    }

    fn lost(&mut self, loss: Loss, vitals: &Vitals) -> Result<MachineEnd, Stop> {
        self.emit_findings(vitals, None, loss.findings)?;
        let diagnosis = loss.diagnosis.map(|text| self.save_diagnosis(&text)).transpose()?;
        Ok(MachineEnd { lost: true, fault: Some(loss.fault), state: None, diagnosis })
    }

    /// Writes findings of the console down that aren't yet; `end` leaves out those past it.
    pub(crate) fn emit_findings(
        &mut self,
        vitals: &Vitals,
        trial: Option<&str>,
        end: Option<usize>,
    ) -> Result<(), Stop> {
        for finding in vitals.findings(self.emitted, end) {
            self.emitted += 1;
            self.emit_finding(trial, finding)?;
        }
        Ok(())
    }

    /// What is known of a template.
    fn template_ready(&mut self, template: &dyn Kept) -> Result<(), Stop> {
        let since = template.kept_since().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        self.context.emit(Event::BootReady {
            boot: self.boot.to_owned(),
            attempt: self.number,
            identity: template.identity().clone(),
            ready_ms: millis(template.ready()),
            state: template.state().clone(),
            kept_since: since.map(millis),
            conditions: None,
        })?;
        for finding in template.findings() {
            self.emit_finding(None, finding.clone())?;
        }
        self.context.sync()
    }

    /// Writes down what there is of a machine that did not get ready. Returns why it didn't, and the
    /// diagnosis, relative to the run directory.
    pub(crate) fn not_ready(&self, error: BootError) -> Result<(Fault, Option<String>), Stop> {
        for finding in error.findings {
            self.emit_finding(None, finding)?;
        }
        let saved = error.diagnosis.map(|text| self.save_diagnosis(&text)).transpose()?;
        Ok((error.fault, saved))
    }

    fn emit_finding(&self, trial: Option<&str>, finding: Finding) -> Result<(), Stop> {
        let (boot, trial) = (self.boot.to_owned(), trial.map(str::to_owned));
        self.context.emit(Event::Finding { boot, trial, finding: Box::new(finding) })
    }

    /// Writes a diagnosis down and returns its name, relative to the run directory.
    pub(crate) fn save_diagnosis(&self, text: &[u8]) -> Result<String, Stop> {
        let name = rundir::diagnosis(&self.machine);
        save(&self.context.dir.path().join(&name), text)?;
        Ok(name)
    }
}

/// How a machine ended that had been ready.
#[derive(Default)]
struct MachineEnd {
    lost: bool,
    fault: Option<Fault>,
    state: Option<KernelState>,
    diagnosis: Option<String>,
}

fn save(path: &Path, content: &[u8]) -> Result<(), Stop> {
    std::fs::write(path, content).map_err(|e| disk(path, &e))
}

/// A file of the run that can't be written ends the run.
pub(crate) fn disk(path: &Path, error: &std::io::Error) -> Stop {
    let message = format!("cannot write {}: {error}", path.display());
    Stop(Fault::harness(FaultKind::Controller, message))
}

pub(crate) fn check_console(console: &Console) -> Result<(), Stop> {
    let Some(error) = console.error() else { return Ok(()) };
    let message = format!("cannot write a console: {error}");
    Err(Stop(Fault::harness(FaultKind::Controller, message)))
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
