//! Trials that each get a machine of their own: a clone of their boot's template, or, where that can't
//! be had, one that is booted for the trial.

use std::cell::{Cell, RefCell};
use std::fs;

use kgate_machine::{BootError, CloneRequest, Machine, Template};
use kgate_model::journal::{Event, OwnMachine};
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_model::plan::{PlannedBoot, PlannedTrial};
use kgate_model::wire::KernelState;
use tokio::time::{Instant, timeout};

use crate::attempt::{Attempt, DRAIN, START_GRACE, boot_request, check_console, disk, millis};
use crate::run::{Context, Stop};
use crate::rundir;
use crate::trial;
use crate::vitals::Vitals;

/// Machines that are booted for one trial when it is not the kernel that they fail by.
const BOOTS: u32 = 2;

/// A boot whose trials have machines of their own.
pub(crate) struct Own<'a> {
    boot: &'a PlannedBoot,
    attempt: u32,
    /// `None`: every trial gets a machine that is booted.
    template: Option<Box<dyn Template>>,
    /// Trials that haven't ended.
    left: Cell<usize>,
    /// The journal knows the kernel that runs.
    ready: Cell<bool>,
    /// That of the boot, relative to the run directory.
    console: RefCell<String>,
    /// The worst that was seen of machines that were booted.
    worst: RefCell<Option<NotBooted>>,
}

/// How a machine that was booted for a trial ended before it.
struct NotBooted {
    fault: Fault,
    console: String,
    diagnosis: Option<String>,
}

impl<'a> Own<'a> {
    /// A boot whose template is ready, with so many trials to run.
    pub(crate) fn of_template(
        boot: &'a PlannedBoot,
        attempt: u32,
        trials: usize,
        template: Box<dyn Template>,
    ) -> Self {
        Self::new(boot, attempt, trials, Some(template))
    }

    /// A boot that can't have a template, for this reason.
    pub(crate) fn booted(
        context: &Context<'_>,
        boot: &'a PlannedBoot,
        attempt: u32,
        trials: usize,
        why: &Fault,
    ) -> Result<Self, Stop> {
        context.emit(Event::BootStarted { boot: boot.id.clone(), attempt })?;
        let id = &boot.id;
        let text =
            format!("{id}: there could be no template ({why}); its trials ran in cold boots");
        context.emit(Event::Note { text })?;
        Ok(Self::new(boot, attempt, trials, None))
    }

    fn new(
        boot: &'a PlannedBoot,
        attempt: u32,
        trials: usize,
        template: Option<Box<dyn Template>>,
    ) -> Self {
        Self {
            boot,
            attempt,
            left: Cell::new(trials),
            ready: Cell::new(template.is_some()),
            template,
            console: rundir::console(&rundir::attempt(&boot.id, attempt)).into(),
            worst: RefCell::default(),
        }
    }

    /// Whether its trials get clones.
    pub(crate) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Runs a trial in a clone, or in a machine that is booted for it. `false`: there could be no clone.
    pub(crate) async fn run(
        &self,
        context: &Context<'_>,
        planned: &PlannedTrial,
        clone: bool,
    ) -> Result<bool, Stop> {
        match &self.template {
            Some(template) if clone => {
                if !self.in_clone(context, planned, &**template).await? {
                    return Ok(false);
                }
            }
            _ => self.in_cold_boot(context, planned).await?,
        }
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.end(context)?;
        }
        Ok(true)
    }

    async fn in_clone(
        &self,
        context: &Context<'_>,
        planned: &PlannedTrial,
        template: &dyn Template,
    ) -> Result<bool, Stop> {
        let mut attempt = self.attempt(context, planned, None)?;
        let dir = context.dir.path();
        let request = CloneRequest {
            name: attempt.machine.clone(),
            console: dir.join(rundir::console(&attempt.machine)),
            kernel_log: Some(dir.join(rundir::kernel_log(&attempt.machine))),
            deadline: context.inputs.policy.timeouts.boot,
        };
        let started = Instant::now();
        let start = timeout(request.deadline + START_GRACE, template.start(&request)).await;
        let machine = match start.unwrap_or_else(|_| Err(late())) {
            Ok(machine) => machine,
            Err(error) => {
                let (id, why) = (&planned.id, error.fault);
                let text =
                    format!("{id}: its clone could not be started ({why}); it ran in a cold boot");
                context.emit(Event::Note { text })?;
                return Ok(false);
            }
        };
        attempt.own = Some(own_machine(&attempt.machine, true, started));
        let vitals = Vitals::of(&*machine, context.inputs.policy.timeouts.hang);
        carry_out(&mut attempt, planned, machine, &vitals, template.state()).await?;
        Ok(true)
    }

    async fn in_cold_boot(
        &self,
        context: &Context<'_>,
        planned: &PlannedTrial,
    ) -> Result<(), Stop> {
        for nth in 1..=BOOTS {
            let mut attempt = self.attempt(context, planned, Some(nth))?;
            let request = boot_request(context.dir, self.boot, &attempt.machine);
            let started = Instant::now();
            let booted = timeout(request.deadline + START_GRACE, context.pool.boot(&request)).await;
            let (fault, diagnosis) = match booted.unwrap_or_else(|_| Err(late())) {
                Ok(mut machine) => {
                    let own = own_machine(&attempt.machine, false, started);
                    let vitals = Vitals::of(&*machine, context.inputs.policy.timeouts.hang);
                    match vitals.ask(vitals.agent.state()).await {
                        Ok(state) => {
                            let state = state.unwrap_or_default();
                            self.tell_ready(context, &*machine, &own, &state)?;
                            vitals.console.settle().await;
                            attempt.emit_findings(&vitals, None, None)?;
                            attempt.own = Some(own);
                            return carry_out(&mut attempt, planned, machine, &vitals, &state)
                                .await;
                        }
                        Err(lost) => {
                            let loss = vitals.explain(lost, &mut *machine).await;
                            attempt.emit_findings(&vitals, None, loss.findings)?;
                            let text = loss.diagnosis;
                            let saved = text.map(|t| attempt.save_diagnosis(&t)).transpose()?;
                            (loss.fault, saved)
                        }
                    }
                }
                Err(error) => attempt.not_ready(error)?,
            };
            let kernels = fault.blame == Blame::Kernel;
            let console = rundir::console(&attempt.machine);
            let failed = NotBooted { fault: fault.clone(), console, diagnosis: diagnosis.clone() };
            let mut worst = self.worst.borrow_mut();
            if worst.as_ref().is_none_or(|w| kernels && w.fault.blame != Blame::Kernel) {
                *worst = Some(failed);
            }
            // Ours may pass; the kernel's would come again.
            if kernels || nth == BOOTS {
                context.emit(Event::TrialEnded {
                    trial: planned.id.clone(),
                    outcome: Outcome::from_fault(fault),
                    wall_ms: 0,
                    subtests: Vec::new(),
                    before: None,
                    after: None,
                    log: None,
                    diagnosis,
                })?;
                return context.sync();
            }
        }
        Ok(())
    }

    /// Tells of the first machine of a boot that has no template.
    fn tell_ready(
        &self,
        context: &Context<'_>,
        machine: &dyn Machine,
        own: &OwnMachine,
        state: &KernelState,
    ) -> Result<(), Stop> {
        if self.ready.replace(true) {
            return Ok(());
        }
        own.console.clone_into(&mut self.console.borrow_mut());
        context.emit(Event::BootReady {
            boot: self.boot.id.clone(),
            attempt: self.attempt,
            identity: machine.identity().clone(),
            ready_ms: own.ready_ms,
            state: state.clone(),
            kept_since: None,
            conditions: machine.conditions().cloned(),
        })
    }

    /// The last trial has ended.
    fn end(&self, context: &Context<'_>) -> Result<(), Stop> {
        let (fault, console, diagnosis) = match self.worst.take() {
            Some(NotBooted { fault, console, diagnosis }) => (Some(fault), console, diagnosis),
            None => (None, self.console.borrow().clone(), None),
        };
        let (boot, attempt) = (self.boot.id.clone(), self.attempt);
        context.emit(Event::BootEnded { boot, attempt, fault, state: None, console, diagnosis })?;
        context.sync()
    }

    /// A machine of its own for a trial: a clone, or the one that is booted at this try.
    fn attempt<'c, 'd>(
        &'c self,
        context: &'c Context<'d>,
        planned: &PlannedTrial,
        booted: Option<u32>,
    ) -> Result<Attempt<'c, 'd>, Stop> {
        let (boot, number) = (&*self.boot.id, self.attempt);
        let machine = rundir::own_machine(boot, number, &planned.scenario, booted);
        for file in [rundir::console(&machine), rundir::kernel_log(&machine)] {
            let path = context.dir.path().join(file);
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(|e| disk(&path, &e))?;
        }
        Ok(Attempt { context, boot, number, machine, own: None, emitted: 0 })
    }
}

/// Runs the one trial of a machine, and ends the machine.
async fn carry_out(
    attempt: &mut Attempt<'_, '_>,
    planned: &PlannedTrial,
    mut machine: Box<dyn Machine>,
    vitals: &Vitals,
    state: &KernelState,
) -> Result<(), Stop> {
    let end = trial::run(attempt, planned, &mut *machine, vitals, state).await?;
    check_console(&vitals.console)?;
    attempt.context.emit(end.event)?;
    attempt.context.sync()?;
    // Nobody will ever ask for what it holds: an orderly end would take time for nothing.
    drop(machine);
    vitals.console.closed(DRAIN).await;
    check_console(&vitals.console)
}

fn own_machine(name: &str, clone: bool, started: Instant) -> OwnMachine {
    OwnMachine {
        clone,
        ready_ms: millis(started.elapsed()),
        console: rundir::console(name),
        kernel_log: rundir::kernel_log(name),
    }
}

pub(crate) fn late() -> BootError {
    BootError::harness(FaultKind::Emulator, "the machine's start did not end")
}
