//! The run record: what happened, as an append-only list of events, and its fold into the state
//! that reports and verdicts are computed from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::inventory::Conditions;
use crate::outcome::{Fault, Outcome, Role, Subtest};
use crate::plan::{Plan, PlannedBoot, PlannedTrial};
use crate::sample::Samples;
use crate::wire::{Identity, KernelState};

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch, by the controller's clock.
    pub at: u64,
    /// What happened.
    pub event: Event,
}

/// What happens in a run. The only thing that passes from the runner to reports, live or later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The run started, or was taken up again.
    RunStarted {
        /// Version of the program.
        kgate: String,
        /// Partition that this process runs, of the plan's number; `None` runs all.
        partition: Option<u32>,
        /// Facts about the controller that a reader of the results needs: accelerator, emulator
        /// version, processor.
        facts: BTreeMap<String, String>,
    },
    /// The first clone of an exact boot was carried out twice, which must come to the same in every bit.
    SelfChecked {
        /// The planned boot's id.
        boot: String,
        /// What differed first, when it did: nothing that such boots measured can be believed.
        difference: Option<String>,
    },
    /// A machine is being started.
    BootStarted {
        /// The planned boot's id.
        boot: String,
        /// From 1; more when a machine died with trials left.
        attempt: u32,
    },
    /// The agent answered.
    BootReady {
        /// The planned boot's id.
        boot: String,
        /// Which attempt.
        attempt: u32,
        /// The kernel that really runs.
        identity: Identity,
        /// Milliseconds from the start of the machine to the agent's first word.
        ready_ms: u64,
        /// Taint and memory after boot, before any trial.
        state: KernelState,
        /// When it was booted, in milliseconds since the Unix epoch, where an earlier run did that and
        /// its template was kept.
        kept_since: Option<u64>,
        /// What of a lab host's state changes what it measures.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conditions: Option<Conditions>,
    },
    /// The machine is gone.
    BootEnded {
        /// The planned boot's id.
        boot: String,
        /// Which attempt.
        attempt: u32,
        /// Why, when it was not meant to end: applies to the boot itself when no trial was running.
        fault: Option<Fault>,
        /// Taint and memory after the last trial, where the machine could still be asked.
        state: Option<KernelState>,
        /// The machine's console, relative to the run directory.
        console: String,
        /// Diagnosis of a hung machine, relative to the run directory.
        diagnosis: Option<String>,
    },
    /// A finding in the kernel log.
    Finding {
        /// The planned boot's id.
        boot: String,
        /// The trial that was running.
        trial: Option<String>,
        /// What was found.
        finding: Box<Finding>,
    },
    /// A trial started.
    TrialStarted {
        /// The planned trial's id.
        trial: String,
        /// The attempt of its boot.
        attempt: u32,
        /// Its own machine, when it isn't that of the boot.
        machine: Option<OwnMachine>,
    },
    /// A step of a trial started.
    StepStarted {
        /// The planned trial's id.
        trial: String,
        /// From 1.
        step: u32,
        /// The step's name, or what it runs.
        name: String,
    },
    /// Numbers were measured.
    Measured {
        /// The planned trial's id.
        trial: String,
        /// The numbers of one metric.
        samples: Samples,
    },
    /// A trial ended.
    TrialEnded {
        /// The planned trial's id.
        trial: String,
        /// How.
        #[serde(rename = "result")]
        outcome: Outcome,
        /// Wall time in milliseconds.
        wall_ms: u64,
        /// Results inside the steps.
        subtests: Vec<Subtest>,
        /// Taint and memory before the trial.
        before: Option<KernelState>,
        /// Taint and memory after it.
        after: Option<KernelState>,
        /// The steps' output, relative to the run directory.
        log: Option<String>,
        /// Diagnosis of the trial's own machine when it hung, relative to the run directory.
        diagnosis: Option<String>,
    },
    /// Facts that were found out while it ran, as those of [`Self::RunStarted`].
    Facts {
        /// By name.
        facts: BTreeMap<String, String>,
    },
    /// Nothing runs any more, and lab hosts are brought back to production, which takes minutes.
    HostsReturning {
        /// Their names.
        hosts: Vec<String>,
        /// The caller wanted the run to end.
        interrupted: bool,
    },
    /// The run is done with a lab host.
    HostReturned {
        /// The host's name.
        host: String,
        /// What it was left in; `None` when it was verified to be back on production.
        left: Option<String>,
    },
    /// Something a person should know that is no outcome.
    Note {
        /// The text.
        text: String,
    },
    /// The run ended by itself or was ended.
    RunEnded {
        /// `None` when all of the plan was carried out.
        stopped: Option<Fault>,
    },
}

/// A machine that was started for one trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnMachine {
    /// A clone of the boot's template; `false` when one could not be had and it was booted.
    pub clone: bool,
    /// Milliseconds from its start to the agent's first word.
    pub ready_ms: u64,
    /// Its console, relative to the run directory.
    pub console: String,
    /// Its records of `/dev/kmsg`, relative to the run directory.
    pub kernel_log: String,
}

/// What is known about a trial.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRecord {
    /// As planned.
    pub planned: PlannedTrial,
    /// The planned boot's id.
    pub boot: String,
    /// Which kernel.
    pub role: Role,
    /// Replicate of its boot, from 1.
    pub number: u32,
    /// How it ended; `None` when it never did.
    pub outcome: Option<Outcome>,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// Results inside the steps.
    pub subtests: Vec<Subtest>,
    /// What was measured.
    pub samples: Vec<Samples>,
    /// Findings while it ran.
    pub findings: Vec<Finding>,
    /// Taint and memory before it.
    pub before: Option<KernelState>,
    /// Taint and memory after it.
    pub after: Option<KernelState>,
    /// The steps' output, relative to the run directory.
    pub log: Option<String>,
    /// The attempt at its boot in which it last started, from 1.
    pub attempt: Option<u32>,
    /// Its own machine in that attempt, when it had one.
    pub machine: Option<OwnMachine>,
    /// The console of that attempt, relative to the run directory.
    pub console: Option<String>,
    /// The diagnosis of that attempt's machine, when it hung.
    pub diagnosis: Option<String>,
}

/// What is known about a boot.
#[derive(Clone, Debug, PartialEq)]
pub struct BootRecord {
    /// As planned.
    pub planned: PlannedBoot,
    /// Machines started for it.
    pub attempts: u32,
    /// The kernel that answered, last attempt.
    pub identity: Option<Identity>,
    /// Milliseconds to the agent's first word, per attempt that got there.
    pub ready_ms: Vec<u64>,
    /// Taint and memory after boot, first attempt that got there.
    pub after_boot: Option<KernelState>,
    /// Taint and memory after the last trial.
    pub after_load: Option<KernelState>,
    /// Findings outside trials.
    pub findings: Vec<Finding>,
    /// The last attempt's fault.
    pub fault: Option<Fault>,
    /// The faults of all attempts, in order.
    pub faults: Vec<Fault>,
    /// Of an exact boot that was checked: whether the same clone came to the same twice, or what
    /// differed.
    pub self_check: Option<Result<(), String>>,
    /// It ended and none of its trials is open.
    pub finished: bool,
    /// State of the lab host, of each attempt that got ready and told it.
    pub conditions: Vec<Conditions>,
    /// Consoles, one per attempt, relative to the run directory.
    pub consoles: Vec<String>,
    /// Diagnoses of hung machines, relative to the run directory.
    pub diagnoses: Vec<String>,
}

/// Everything that a journal tells, by the plan it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// The plan.
    pub plan: Plan,
    /// Facts about the controller.
    pub facts: BTreeMap<String, String>,
    /// Boots in the order of the plan.
    pub boots: Vec<BootRecord>,
    /// Trials in the order of the plan.
    pub trials: Vec<TrialRecord>,
    /// The lab hosts that the run is done with, and what each was left in; `None` when it was verified
    /// to be back on production.
    pub hosts: BTreeMap<String, Option<String>>,
    /// Notes, in order, each once.
    pub notes: Vec<String>,
    /// Time spent, in milliseconds: from each start of the run to its last event, added up.
    pub wall_ms: u64,
    /// When it first started, in milliseconds since the Unix epoch.
    pub started_at: Option<u64>,
    /// Why it stopped early, when it did; `None` also while it never ended.
    pub stopped: Option<Fault>,
}

impl RunRecord {
    /// Folds a journal. Events of boots or trials that the plan doesn't have are passed over: a
    /// journal is a file, and files can be anything.
    pub fn new(plan: Plan, entries: impl IntoIterator<Item = Entry>) -> Self {
        let boots: Vec<_> = plan.boots.iter().map(BootRecord::planned).collect();
        let trials: Vec<_> = plan.trials().map(|(b, t)| TrialRecord::planned(b, t)).collect();
        let boot_at: BTreeMap<_, _> =
            boots.iter().enumerate().map(|(at, b)| (b.planned.id.clone(), at)).collect();
        let trial_at: BTreeMap<_, _> =
            trials.iter().enumerate().map(|(at, t)| (t.planned.id.clone(), at)).collect();
        let mut record = Self {
            plan,
            facts: BTreeMap::new(),
            boots,
            trials,
            hosts: BTreeMap::new(),
            notes: Vec::new(),
            wall_ms: 0,
            started_at: None,
            stopped: None,
        };
        let mut last = 0;
        for Entry { at, event } in entries {
            if matches!(event, Event::RunStarted { .. }) {
                record.started_at.get_or_insert(at);
            } else {
                record.wall_ms += at.saturating_sub(last);
            }
            last = at;
            record.apply(event, &boot_at, &trial_at);
        }
        for boot in &mut record.boots {
            boot.finished = record
                .trials
                .iter()
                .filter(|t| t.boot == boot.planned.id)
                .all(|t| t.outcome.is_some());
        }
        record
    }

    fn apply(
        &mut self,
        event: Event,
        boot_at: &BTreeMap<String, usize>,
        trial_at: &BTreeMap<String, usize>,
    ) {
        match event {
            Event::RunStarted { facts, .. } => {
                self.facts.extend(facts);
                self.stopped = None;
            }
            Event::RunEnded { stopped } => self.stopped = stopped,
            Event::Facts { facts } => self.facts.extend(facts),
            Event::HostReturned { host, left } => drop(self.hosts.insert(host, left)),
            Event::Note { text } => {
                if !self.notes.contains(&text) {
                    self.notes.push(text);
                }
            }
            Event::SelfChecked { boot, difference } => {
                if let Some(&at) = boot_at.get(&boot) {
                    self.boots[at].self_check = Some(difference.map_or(Ok(()), Err));
                }
            }
            Event::BootStarted { boot, .. } => {
                let Some(boot) = boot_at.get(&boot).map(|&at| &mut self.boots[at]) else { return };
                boot.attempts += 1;
                boot.fault = None;
            }
            Event::BootReady { boot, identity, ready_ms, state, conditions, .. } => {
                let Some(boot) = boot_at.get(&boot).map(|&at| &mut self.boots[at]) else { return };
                boot.conditions.extend(conditions);
                boot.identity = Some(identity);
                boot.ready_ms.push(ready_ms);
                boot.after_boot.get_or_insert(state);
            }
            Event::BootEnded { boot, attempt, fault, state, console, diagnosis } => {
                let in_it = |t: &&mut TrialRecord| {
                    t.boot == boot && t.attempt == Some(attempt) && t.machine.is_none()
                };
                for trial in self.trials.iter_mut().filter(in_it) {
                    trial.console = Some(console.clone());
                    trial.diagnosis.clone_from(&diagnosis);
                }
                let Some(boot) = boot_at.get(&boot).map(|&at| &mut self.boots[at]) else { return };
                boot.faults.extend(fault.clone());
                boot.fault = fault;
                boot.after_load = state.or(boot.after_load.take());
                boot.consoles.push(console);
                boot.diagnoses.extend(diagnosis);
            }
            Event::Finding { boot, trial, finding } => {
                let trial = trial.and_then(|t| trial_at.get(&t));
                if let Some(&at) = trial {
                    self.trials[at].findings.push(*finding);
                } else if let Some(&at) = boot_at.get(&boot) {
                    self.boots[at].findings.push(*finding);
                }
            }
            Event::TrialStarted { trial, attempt, machine } => {
                let Some(&at) = trial_at.get(&trial) else { return };
                let trial = &mut self.trials[at];
                trial.attempt = Some(attempt);
                trial.console = machine.as_ref().map(|machine| machine.console.clone());
                trial.machine = machine;
                trial.diagnosis = None;
                // A trial that was cut short is run again from its beginning.
                trial.samples.clear();
                trial.findings.clear();
                trial.outcome = None;
            }
            Event::StepStarted { .. } | Event::HostsReturning { .. } => {}
            Event::Measured { trial, samples } => {
                let Some(&at) = trial_at.get(&trial) else { return };
                let all = &mut self.trials[at].samples;
                match all.iter_mut().find(|s| s.metric == samples.metric) {
                    Some(known) => known.values.extend(samples.values),
                    None => all.push(samples),
                }
            }
            Event::TrialEnded {
                trial,
                outcome,
                wall_ms,
                subtests,
                before,
                after,
                log,
                diagnosis,
            } => {
                let Some(&at) = trial_at.get(&trial) else { return };
                let trial = &mut self.trials[at];
                trial.outcome = Some(outcome);
                trial.wall_ms = wall_ms;
                trial.subtests = subtests;
                trial.before = before;
                trial.after = after;
                trial.log = log;
                trial.diagnosis = diagnosis.or(trial.diagnosis.take());
            }
        }
    }
}

impl BootRecord {
    fn planned(boot: &PlannedBoot) -> Self {
        Self {
            planned: boot.clone(),
            attempts: 0,
            identity: None,
            ready_ms: Vec::new(),
            after_boot: None,
            after_load: None,
            findings: Vec::new(),
            fault: None,
            faults: Vec::new(),
            self_check: None,
            finished: false,
            conditions: Vec::new(),
            consoles: Vec::new(),
            diagnoses: Vec::new(),
        }
    }
}

impl TrialRecord {
    fn planned(boot: &PlannedBoot, trial: &PlannedTrial) -> Self {
        Self {
            planned: trial.clone(),
            boot: boot.id.clone(),
            role: boot.role,
            number: boot.number,
            outcome: trial.decided.clone(),
            wall_ms: 0,
            subtests: Vec::new(),
            samples: Vec::new(),
            findings: Vec::new(),
            before: None,
            after: None,
            log: None,
            attempt: None,
            machine: None,
            console: None,
            diagnosis: None,
        }
    }
}
