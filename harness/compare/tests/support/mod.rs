//! Hand-made run records, built through the journal like real ones.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::allow_attributes, reason = "expect would fail where all of it is used")]

use std::collections::BTreeMap;

use kgate_compare::{Assessment, Inputs};
use kgate_model::finding::{Finding, FindingKind, Severity};
use kgate_model::inventory::Conditions;
use kgate_model::journal::{Entry, Event, RunRecord, TrialRecord};
use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::{Fault, FaultKind, Outcome, Role, Subtest};
use kgate_model::plan::{FORMAT, Kind, MachineShape, Plan, PlannedBoot, PlannedTrial, Start};
use kgate_model::sample::{Better, Samples};
use kgate_model::wire::{Identity, KernelState};
use kgate_scenario::{Policy, Selected, Waiver, WaiverScope, Waivers};

/// What a clone counts: by template, clone and batch.
pub(crate) type Count = fn(u32, u32, u32) -> f64;

/// One trial: scenario, role, boot number.
pub(crate) type Key = (String, Role, u32);

#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) boots: u32,
    pub(crate) scenarios: Vec<String>,
    /// Passed where nothing is said; `None` never ran.
    pub(crate) outcomes: BTreeMap<Key, Option<Outcome>>,
    pub(crate) subtests: BTreeMap<Key, Vec<Subtest>>,
    pub(crate) samples: BTreeMap<Key, Vec<Samples>>,
    pub(crate) findings: BTreeMap<Key, Vec<Finding>>,
    pub(crate) boot_findings: BTreeMap<(Role, u32), Vec<Finding>>,
    /// Boots that never got ready.
    pub(crate) boot_faults: BTreeMap<(Role, u32), Fault>,
    /// KiB that the candidate's Slab has more after boot.
    pub(crate) slab_growth: u64,
    /// Lab hosts that the boots go round.
    pub(crate) hosts: Vec<String>,
    /// State of the host, of these boots.
    pub(crate) conditions: BTreeMap<(Role, u32), Conditions>,
    pub(crate) notes: Vec<String>,
    pub(crate) stopped: Option<Fault>,
}

pub(crate) fn kernel(release: &str) -> KernelRecord {
    KernelRecord {
        reference: format!("apt:linux-image-{release}"),
        release: release.to_owned(),
        banner: format!("{release} (builder) #1 SMP"),
        upstream: Some(release.split('-').next().unwrap_or(release).to_owned()),
        origin: format!("linux-image-{release}"),
        image_sha256: "ab".repeat(32),
        package_sha256: None,
    }
}

pub(crate) fn kind(scenario: &str) -> Kind {
    let kind = Kind::ALL.into_iter().find(|kind| scenario.starts_with(kind.as_str()));
    kind.unwrap_or(Kind::Subsystem)
}

pub(crate) fn failed(kind: FaultKind, message: &str) -> Outcome {
    Outcome::from_fault(Fault::kernel(kind, message))
}

pub(crate) fn errored(message: &str) -> Outcome {
    Outcome::from_fault(Fault::harness(FaultKind::Channel, message))
}

pub(crate) fn warning(title: &str) -> Finding {
    Finding {
        function: title.rsplit_once(' ').map(|(_, function)| function.to_owned()),
        signature: format!("warning:{title}"),
        start: 100,
        end: 300,
        excerpt: format!(
            "{title} at net/ipv4/tcp_input.c:6561\nCall Trace:\n tcp_v4_do_rcv+0x1/0x2"
        ),
        ..Finding::new(FindingKind::Warning, Severity::Warning, title)
    }
}

pub(crate) fn panic(title: &str) -> Finding {
    Finding {
        kind: FindingKind::Panic,
        severity: Severity::Fatal,
        signature: format!("panic:{title}"),
        panicked: true,
        ..warning(title)
    }
}

pub(crate) fn waiver(id: &str, expires: &str, scope: WaiverScope) -> Waiver {
    Waiver {
        id: id.to_owned(),
        scope,
        reason: "known upstream, fixed in the next release".to_owned(),
        owner: "net-team".to_owned(),
        expires: expires.parse().unwrap(),
        line: 1,
    }
}

pub(crate) const TODAY: &str = "2026-11-21";

impl Run {
    pub(crate) fn new(boots: u32, scenarios: &[&str]) -> Self {
        let scenarios = scenarios.iter().map(|&s| s.to_owned()).collect();
        Self { boots, scenarios, ..Self::default() }
    }

    /// Sets the outcome of one scenario in these boots of a role.
    #[must_use]
    pub(crate) fn outcome(
        mut self,
        scenario: &str,
        role: Role,
        boots: impl IntoIterator<Item = u32>,
        outcome: &Outcome,
    ) -> Self {
        for boot in boots {
            self.outcomes.insert((scenario.to_owned(), role, boot), Some(outcome.clone()));
        }
        self
    }

    #[must_use]
    pub(crate) fn missing(
        mut self,
        scenario: &str,
        role: Role,
        boots: impl IntoIterator<Item = u32>,
    ) -> Self {
        for boot in boots {
            self.outcomes.insert((scenario.to_owned(), role, boot), None);
        }
        self
    }

    /// A finding in these boots of a role; the trials fail over it.
    #[must_use]
    pub(crate) fn finding(
        mut self,
        scenario: &str,
        role: Role,
        boots: impl IntoIterator<Item = u32>,
        finding: &Finding,
    ) -> Self {
        let kind = if finding.panicked { FaultKind::Panic } else { FaultKind::Finding };
        for boot in boots {
            let key = (scenario.to_owned(), role, boot);
            self.findings.entry(key.clone()).or_default().push(finding.clone());
            self.outcomes.insert(key, Some(failed(kind, &finding.title)));
        }
        self
    }

    /// The number that each boot of a role measures; the samples scatter by 0.1 % around it.
    #[must_use]
    pub(crate) fn metric(
        mut self,
        scenario: &str,
        metric: &str,
        better: Better,
        role: Role,
        values: &[f64],
    ) -> Self {
        for (boot, value) in (1..).zip(values) {
            let values = (0..10).map(|i| value * (1.0 + (f64::from(i) - 4.5) / 4500.0)).collect();
            let samples =
                Samples { metric: metric.to_owned(), unit: "ns".to_owned(), better, values };
            self.samples.entry((scenario.to_owned(), role, boot)).or_default().push(samples);
        }
        self
    }

    #[must_use]
    pub(crate) fn subtests(
        mut self,
        scenario: &str,
        role: Role,
        boots: impl IntoIterator<Item = u32>,
        subtests: &[(&str, Outcome)],
    ) -> Self {
        for boot in boots {
            let key = (scenario.to_owned(), role, boot);
            let all: Vec<_> = (subtests.iter())
                .map(|(path, outcome)| Subtest {
                    path: (*path).to_owned(),
                    outcome: outcome.clone(),
                })
                .collect();
            if all.iter().any(|s| matches!(s.outcome, Outcome::Failed { .. })) {
                self.outcomes
                    .insert(key.clone(), Some(failed(FaultKind::Subtest, "1 subtest failed")));
            }
            self.subtests.insert(key, all);
        }
        self
    }

    fn host(&self, number: u32) -> Option<String> {
        let at = (number as usize - 1).checked_rem(self.hosts.len())?;
        Some(self.hosts[at].clone())
    }

    pub(crate) fn plan(&self) -> Plan {
        let mut boots = Vec::new();
        for number in 1..=self.boots {
            for role in Role::ALL {
                let on = self.host(number).map(|host| format!("+on-{host}")).unwrap_or_default();
                let id = format!("{role}-{number}-base{on}");
                let trials = (self.scenarios.iter())
                    .map(|scenario| PlannedTrial {
                        id: format!("{scenario}@{id}"),
                        scenario: scenario.clone(),
                        clone: None,
                        kind: kind(scenario),
                        decided: None,
                    })
                    .collect();
                boots.push(PlannedBoot {
                    id,
                    role,
                    number,
                    image: "base".to_owned(),
                    shape: MachineShape::default(),
                    modules: Vec::new(),
                    start: Start::Shared,
                    exclusive: false,
                    host: self.host(number),
                    seed: None,
                    partition: 1,
                    trials,
                });
            }
        }
        Plan {
            format: FORMAT,
            kgate: "0.1.0".to_owned(),
            workload: "edge-proxy".to_owned(),
            baseline: kernel("6.1.170-cloud-amd64"),
            candidate: kernel("6.1.192-cloud-amd64"),
            tier: None,
            lab: (!self.hosts.is_empty()).then(|| "lab.yaml".to_owned()),
            partitions: 1,
            boots,
        }
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::RunStarted {
            kgate: "0.1.0".to_owned(),
            partition: None,
            facts: BTreeMap::from([("accelerator".to_owned(), "tcg".to_owned())]),
        }];
        events.extend(self.notes.iter().map(|text| Event::Note { text: text.clone() }));
        for boot in &self.plan().boots {
            self.boot_events(boot, &mut events);
        }
        for host in &self.hosts {
            events.push(Event::HostReturned { host: host.clone(), left: None });
        }
        events.push(Event::RunEnded { stopped: self.stopped.clone() });
        events
    }

    fn boot_events(&self, boot: &PlannedBoot, events: &mut Vec<Event>) {
        let at = (boot.role, boot.number);
        let id = || boot.id.clone();
        events.push(Event::BootStarted { boot: id(), attempt: 1 });
        for finding in self.boot_findings.get(&at).into_iter().flatten() {
            events.push(Event::Finding {
                boot: id(),
                trial: None,
                finding: Box::new(finding.clone()),
            });
        }
        let fault = self.boot_faults.get(&at);
        if fault.is_none() {
            let growth = if boot.role == Role::Candidate { self.slab_growth } else { 0 };
            let memory = [
                ("MemAvailable", 400_000 + u64::from(boot.number) * 40),
                ("Slab", 20_000 + growth + u64::from(boot.number) * 8),
                ("PageTables", 148 + 8 * (u64::from(boot.number) % 2)),
            ];
            let memory = memory.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            events.push(Event::BootReady {
                boot: id(),
                attempt: 1,
                identity: Identity::default(),
                ready_ms: 1500 + u64::from(boot.number),
                state: KernelState { taint: 0, memory, ..KernelState::default() },
                kept_since: None,
                conditions: self.conditions.get(&at).cloned(),
            });
            for trial in &boot.trials {
                self.trial_events(boot, trial, events);
            }
        }
        events.push(Event::BootEnded {
            boot: id(),
            attempt: 1,
            fault: fault.cloned(),
            state: None,
            console: format!("boots/{}/console-1.log", boot.id),
            diagnosis: None,
        });
        // Trials that can't be run end as the boot did.
        let Some(fault) = fault else { return };
        for trial in &boot.trials {
            events.push(Event::TrialEnded {
                trial: trial.id.clone(),
                outcome: Outcome::from_fault(fault.clone()),
                wall_ms: 0,
                subtests: Vec::new(),
                before: None,
                after: None,
                log: None,
                diagnosis: None,
            });
        }
    }

    fn trial_events(&self, boot: &PlannedBoot, trial: &PlannedTrial, events: &mut Vec<Event>) {
        let key = (trial.scenario.clone(), boot.role, boot.number);
        let outcome = match self.outcomes.get(&key) {
            Some(None) => return,
            Some(Some(outcome)) => outcome.clone(),
            None => Outcome::Passed,
        };
        events.push(Event::TrialStarted { trial: trial.id.clone(), attempt: 1, machine: None });
        let name = "run 1".to_owned();
        events.push(Event::StepStarted { trial: trial.id.clone(), step: 1, name });
        for finding in self.findings.get(&key).into_iter().flatten() {
            let (boot, trial) = (boot.id.clone(), Some(trial.id.clone()));
            events.push(Event::Finding { boot, trial, finding: Box::new(finding.clone()) });
        }
        for samples in self.samples.get(&key).into_iter().flatten() {
            events.push(Event::Measured { trial: trial.id.clone(), samples: samples.clone() });
        }
        events.push(Event::TrialEnded {
            trial: trial.id.clone(),
            outcome,
            wall_ms: 2100,
            subtests: self.subtests.get(&key).cloned().unwrap_or_default(),
            before: None,
            after: None,
            log: Some(format!("boots/{}/{}.log", boot.id, trial.scenario.replace('/', "-"))),
            diagnosis: None,
        });
    }

    pub(crate) fn record(&self) -> RunRecord {
        // 2026-11-21T22:16:00Z and on, a quarter of a second per event.
        let entries = (self.events().into_iter().zip(0..))
            .map(|(event, i)| Entry { at: 1_795_299_360_000 + 250 * i, event });
        RunRecord::new(self.plan(), entries)
    }

    /// The record of this run in exact mode: each boot is a template with five clones, each clone
    /// counts ten batches of each scenario's one metric, and checks have passed.
    pub(crate) fn counted(&self, baseline: Count, candidate: Count) -> RunRecord {
        let mut record = self.record();
        let clones = |trial: &TrialRecord| -> Vec<TrialRecord> {
            let clone = |clone| {
                let mut trial = trial.clone();
                trial.planned.clone = Some(clone);
                trial.planned.id += &format!("-c{clone}");
                let count = if trial.role == Role::Baseline { baseline } else { candidate };
                let values = (0..10).map(|batch| count(trial.number, clone, batch)).collect();
                let metric = trial.planned.scenario.rsplit('/').next().unwrap_or("").to_owned();
                let (unit, better) = ("instructions".to_owned(), Better::Lower);
                trial.samples = vec![Samples { metric, unit, better, values }];
                trial
            };
            (1..=5).map(clone).collect()
        };
        record.trials = record.trials.iter().flat_map(clones).collect();
        for boot in &mut record.boots {
            boot.planned.start = Start::Exact;
            boot.self_check = Some(Ok(()));
        }
        record
    }

    pub(crate) fn assess(&self) -> Assessment {
        self.assess_with(&Policy::default(), &[], Vec::new())
    }

    pub(crate) fn assess_with(
        &self,
        policy: &Policy,
        selected: &[Selected],
        waivers: Vec<Waiver>,
    ) -> Assessment {
        Assessment::new(&Inputs {
            record: &self.record(),
            policy,
            selected,
            waivers: &Waivers(waivers),
            today: TODAY.parse().unwrap(),
            seed: 1,
        })
    }
}
