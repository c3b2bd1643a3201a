//! Carrying out a plan: which boots run when, and how a run ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use kgate_machine::Pool;
use kgate_model::journal::{Entry, Event, RunRecord};
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_model::plan::{PlannedBoot, PlannedTrial};
use kgate_scenario::{Requires, Scenario};
use tokio::time::{Instant, sleep, sleep_until};

use crate::attempt::{self, Ready};
use crate::history::History;
use crate::plan::Inputs;
use crate::rundir::{Journal, RunDir, RunDirError};
use crate::schedule::{Schedule, Unit};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Every trial has its outcome.
    Complete,
    /// The caller's `cancel` came.
    Interrupted,
    /// Something of the controller's, or the run's own deadline, ended it.
    Stopped(Fault),
}

/// Why a run could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run directory can't be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// There is no such partition.
    #[error("no partition {asked}: the plan has {partitions}")]
    Partition {
        /// The one asked for.
        asked: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The plan names a scenario that the inputs don't have.
    #[error("the plan names the scenario {0}, which the run's inputs do not have")]
    Scenario(String),
}

/// What the caller knows of the machine that carries out the run: here nobody looks.
pub trait Controller {
    /// Facts that a reader of the results needs, as the run begins.
    fn facts(&self) -> BTreeMap<String, String>;

    /// What a person should know of the time since then, as the run ends.
    fn notes(&self) -> Vec<String>;
}

/// A controller of which nothing is known.
impl Controller for () {
    fn facts(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Carries out what is still open of the run in `dir`: everything the first time, the rest after a
/// kill. Trials that errored through no fault of kernel or scenario count as open. Needs a tokio
/// runtime with I/O and time.
///
/// Every event goes to the journal, then to `observer`. When `cancel` is ready everything is ended at
/// once; trials that were running stay open. However the run ends, the pool then gets the time that it
/// takes to give back what it holds. The same holds when the run's own deadline comes, and
/// when the journal can't be written any more. `history` only tells what to begin with; `controller` is
/// asked for its facts at the beginning and for its notes at the end.
///
/// # Errors
/// Nothing was started. What goes wrong later is in the journal and in [`RunEnd`].
pub async fn run(
    dir: &RunDir,
    pool: &dyn Pool,
    partition: Option<u32>,
    history: &History,
    controller: &dyn Controller,
    observer: &mut dyn FnMut(&Entry),
    cancel: impl Future<Output = ()>,
) -> Result<RunEnd, RunError> {
    let (plan, inputs) = (dir.plan(), dir.inputs());
    if let Some(asked) = partition.filter(|asked| !(1..=plan.partitions).contains(asked)) {
        return Err(RunError::Partition { asked, partitions: plan.partitions });
    }
    let scenarios = assignments(inputs);
    if let Some((_, trial)) = plan.trials().find(|(_, t)| !scenarios.contains_key(&*t.scenario)) {
        return Err(RunError::Scenario(trial.scenario.clone()));
    }
    let journal = Journal::open(dir)?;
    let record = dir.record()?;
    let torn = journal.note();
    let context = Context {
        dir,
        inputs,
        pool,
        scenarios,
        events: Events(RefCell::new(Sink { journal, observer })),
    };
    let facts = pool.facts();
    let jobs = jobs(&record, partition);
    let kgate = env!("CARGO_PKG_VERSION").to_owned();
    let mut known = controller.facts();
    known.extend(facts.clone());
    let started = Event::RunStarted { kgate, partition, facts: known };
    let begin = || {
        context.emit(started)?;
        torn.map_or(Ok(()), |note| context.emit(note))
    };
    let end = match begin() {
        Ok(()) => carry_out(&context, &jobs, history, cancel).await,
        Err(Stop(fault)) => RunEnd::Stopped(fault),
    };
    let hosts: Vec<String> = pool.hosts().into_keys().collect();
    if !hosts.is_empty() {
        let interrupted = end == RunEnd::Interrupted;
        let _ = context.emit(Event::HostsReturning { hosts, interrupted });
    }
    for text in pool.finish().await {
        let _ = context.emit(Event::Note { text });
    }
    for (host, left) in pool.hosts() {
        let _ = context.emit(Event::HostReturned { host, left });
    }
    // What carries the machines may have been settled only by the first boot.
    let (known, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
        pool.facts().into_iter().partition(|(name, _)| facts.contains_key(name));
    if !new.is_empty() {
        let _ = context.emit(Event::Facts { facts: new });
    }
    for (name, value) in known.into_iter().filter(|(name, value)| facts[name] != *value) {
        let _ = context.emit(Event::Note { text: format!("{name}: {value}") });
    }
    for text in controller.notes() {
        let _ = context.emit(Event::Note { text });
    }
    let stopped = match &end {
        RunEnd::Complete => None,
        RunEnd::Interrupted => Some(Fault::harness(FaultKind::Controller, "interrupted")),
        RunEnd::Stopped(fault) => Some(fault.clone()),
    };
    // A journal that can't be written any more is what ended the run, and is told by `end`.
    let told = context.emit(Event::RunEnded { stopped }).and_then(|()| context.sync());
    match (end, told) {
        (RunEnd::Complete, Err(Stop(fault))) => Ok(RunEnd::Stopped(fault)),
        (end, _) => Ok(end),
    }
}

/// What everything that belongs to one run shares.
pub(crate) struct Context<'a> {
    pub(crate) dir: &'a RunDir,
    pub(crate) inputs: &'a Inputs,
    pub(crate) pool: &'a dyn Pool,
    pub(crate) scenarios: BTreeMap<&'a str, Assignment<'a>>,
    events: Events<'a>,
}

/// A scenario with all that its trials require.
pub(crate) struct Assignment<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) requires: Requires,
}

/// The run can't go on, for a reason that is the controller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop(pub(crate) Fault);

struct Events<'a>(RefCell<Sink<'a>>);

struct Sink<'a> {
    journal: Journal,
    observer: &'a mut dyn FnMut(&Entry),
}

impl Context<'_> {
    /// Writes an event down and tells the observer.
    pub(crate) fn emit(&self, event: Event) -> Result<(), Stop> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry { at, event };
        let Sink { journal, observer } = &mut *self.events.0.borrow_mut();
        journal.append(&entry).map_err(|e| Stop(e.fault()))?;
        observer(&entry);
        Ok(())
    }

    /// Waits until the disk has every event so far.
    pub(crate) fn sync(&self) -> Result<(), Stop> {
        self.events.0.borrow_mut().journal.sync().map_err(|e| Stop(e.fault()))
    }
}

pub(crate) fn assignments(inputs: &Inputs) -> BTreeMap<&str, Assignment<'_>> {
    let assignment = |scenario| Assignment { scenario, requires: inputs.requires(scenario) };
    inputs.selected.iter().map(|s| (s.scenario.id.as_str(), assignment(&s.scenario))).collect()
}

/// A boot with trials to run.
#[derive(Clone)]
pub(crate) struct Job<'a> {
    pub(crate) boot: &'a PlannedBoot,
    pub(crate) open: Vec<&'a PlannedTrial>,
    /// Attempts that the journal already has.
    pub(crate) attempts: u32,
}

/// The boots of a partition that have open trials, in the order of the plan.
fn jobs(record: &RunRecord, partition: Option<u32>) -> Vec<Job<'_>> {
    let mut open: BTreeMap<&str, Vec<&PlannedTrial>> = BTreeMap::new();
    for trial in &record.trials {
        let undecided = match &trial.outcome {
            None => true,
            Some(Outcome::Errored { cause }) => cause.blame == Blame::Harness,
            Some(_) => false,
        };
        if undecided && trial.planned.decided.is_none() {
            open.entry(&trial.boot).or_default().push(&trial.planned);
        }
    }
    let boots = record.boots.iter().filter(|b| partition.is_none_or(|p| b.planned.partition == p));
    boots
        .filter_map(|boot| {
            let open = open.remove(&*boot.planned.id)?;
            Some(Job { boot: &boot.planned, open, attempts: boot.attempts })
        })
        .collect()
}

/// What a unit came to.
enum Done<'a> {
    /// A boot, whose trials now need machines of their own where it gives something.
    Boot(Option<Ready<'a>>),
    /// A trial with a machine of its own; `false`: it could not be cloned.
    Trial(bool),
}

/// Between two looks whether there is room, which comes when a machine's CPUs fall idle.
const LOOK: Duration = Duration::from_millis(100);

/// Runs everything, as much beside each other as the pool carries.
async fn carry_out(
    context: &Context<'_>,
    jobs: &[Job<'_>],
    history: &History,
    cancel: impl Future<Output = ()>,
) -> RunEnd {
    tokio::pin!(cancel);
    let deadline = Instant::now() + context.inputs.policy.timeouts.run;
    let mut schedule = Schedule::new(jobs.iter().map(|job| (job.boot, &*job.open)), history);
    let mut own: BTreeMap<usize, Rc<Ready<'_>>> = BTreeMap::new();
    let mut running: FuturesUnordered<LocalBoxFuture<'_, (Unit, Result<Done<'_>, Stop>)>> =
        FuturesUnordered::new();
    // Leaving this function drops what still runs, which ends its machines.
    loop {
        let next = schedule.next(|shape, clone| context.pool.has_room(shape, clone));
        let started = next.is_some();
        match next {
            Some(unit @ Unit::Boot(at)) => running.push(Box::pin(async move {
                (unit, attempt::run_boot(context, jobs[at].clone()).await.map(Done::Boot))
            })),
            Some(unit @ Unit::Trial(at, trial)) => {
                let (own, clone) = (own.get(&at).map(Rc::clone), schedule.is_clone(unit));
                running.push(Box::pin(async move {
                    let Some(own) = own else { return (unit, Ok(Done::Trial(true))) };
                    let ran = own.run(context, &jobs[at].open, trial, clone).await;
                    (unit, ran.map(Done::Trial))
                }));
            }
            None => {}
        }
        if running.is_empty() {
            return RunEnd::Complete;
        }
        tokio::select! {
            biased;
            () = &mut cancel => return RunEnd::Interrupted,
            () = sleep_until(deadline) => {
                let limit = context.inputs.policy.timeouts.run.as_secs();
                let message = format!("the run did not end within {limit} s");
                return RunEnd::Stopped(Fault::harness(FaultKind::RunTimeout, message));
            }
            Some((unit, result)) = running.next() => match result {
                Err(Stop(fault)) => return RunEnd::Stopped(fault),
                Ok(Done::Trial(false)) => schedule.wants_boot(unit),
                Ok(Done::Boot(made)) => {
                    if let Some(made) = made {
                        schedule.release(unit.boot(), made.has_template());
                        own.insert(unit.boot(), Rc::new(made));
                    }
                    schedule.ended(unit);
                }
                Ok(Done::Trial(true)) => {
                    schedule.ended(unit);
                    // The last one frees the template.
                    if !schedule.has_trials_of(unit.boot()) {
                        own.remove(&unit.boot());
                    }
                }
            },
            // It has taken its room when it was polled: there may be more.
            () = std::future::ready(()), if started => {}
            () = sleep(LOOK), if schedule.may_get_room() => {}
        }
    }
}
