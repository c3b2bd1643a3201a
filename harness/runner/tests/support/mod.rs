//! Runs on local machines: inputs from YAML, a run directory, and what happened, as text.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::allow_attributes, reason = "expect would fail where all of it is used")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kgate_model::journal::{Entry, Event, RunRecord};
use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::{Outcome, Role};
use kgate_runner::{Capabilities, History, Inputs, Placement, RunDir, RunEnd, make_plan, run};
use kgate_scenario::{Glob, Library, Waivers, Workload};
use kgate_testkit::local::LocalPool;

/// What the two kernels can do: everything but what is listed.
#[derive(Default)]
pub struct Lacking(pub BTreeMap<Role, BTreeSet<&'static str>>);

impl Capabilities for Lacking {
    fn config(&self, role: Role, option: &str) -> Option<String> {
        let lacks = self.0.get(&role).is_some_and(|names| names.contains(option));
        Some(if lacks { "n" } else { "y" }.to_owned())
    }

    fn module(&self, role: Role, name: &str) -> Option<bool> {
        Some(!self.0.get(&role).is_some_and(|names| names.contains(name)))
    }
}

pub fn kernel(release: &str) -> KernelRecord {
    KernelRecord {
        reference: format!("linux-{release}.deb"),
        release: release.to_owned(),
        banner: format!("{release} (builder) #1 SMP"),
        upstream: Some(release.to_owned()),
        origin: format!("linux-{release}.deb"),
        image_sha256: release.repeat(4),
        package_sha256: None,
    }
}

/// Inputs from pairs of scenario id and YAML (its kind and summary are added), and a workload's YAML
/// after its summary.
pub fn inputs(scenarios: &[(&str, &str)], workload: &str) -> Inputs {
    let files = scenarios.iter().map(|(id, text)| {
        let kind = id.split('/').next().unwrap();
        (PathBuf::from(format!("{id}.yaml")), format!("kind: {kind}\nsummary: s\n{text}"))
    });
    let library = Library::load(files).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let text = format!("summary: s\n{workload}");
    let workload = Workload::load(Path::new("test.yaml"), &text, &library)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Inputs {
        selected: library.select(&workload),
        policy: workload.policy.clone(),
        waivers: Waivers::default(),
        workload,
    }
}

/// These scenarios on these lab hosts.
pub fn on(hosts: &[&str], scenarios: &[&str]) -> Placement {
    Placement {
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        scenarios: scenarios.iter().map(|&glob| Glob::new(glob)).collect(),
        inventory: Some("lab.yaml".into()),
    }
}

/// A run directory with a pool for it.
pub struct Bench {
    pub temp: tempfile::TempDir,
    pub dir: RunDir,
    pub pool: LocalPool,
    pub history: History,
    pub events: Vec<Event>,
}

impl Bench {
    pub fn new(capacity: usize, inputs: Inputs) -> Self {
        Self::on(&[], capacity, inputs)
    }

    /// With these lab hosts, and all of it on them.
    pub fn on(hosts: &[&str], capacity: usize, inputs: Inputs) -> Self {
        let placement = on(hosts, &[]);
        Self::placed(&placement, capacity, inputs)
    }

    pub fn placed(placement: &Placement, capacity: usize, inputs: Inputs) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (baseline, candidate) = (kernel("6.1.1"), kernel("6.1.2"));
        let plan = make_plan(&inputs, baseline, candidate, &Lacking::default(), placement, 1);
        let dir = RunDir::create(&temp.path().join("run"), plan, inputs).unwrap();
        Self {
            temp,
            dir,
            pool: LocalPool::new(capacity),
            history: History::default(),
            events: Vec::new(),
        }
    }

    /// Runs what is open; `on` sees each event as it happens.
    pub async fn run(&mut self, on: impl FnMut(&Event, &LocalPool)) -> RunEnd {
        self.run_until(on, pending()).await
    }

    pub async fn run_until(
        &mut self,
        mut on: impl FnMut(&Event, &LocalPool),
        cancel: impl Future<Output = ()>,
    ) -> RunEnd {
        let mut observer = |entry: &Entry| {
            self.events.push(entry.event.clone());
            on(&entry.event, &self.pool);
        };
        run(&self.dir, &self.pool, None, &self.history, &(), &mut observer, cancel).await.unwrap()
    }

    pub fn record(&self) -> RunRecord {
        self.dir.record().unwrap()
    }

    /// How every trial ended, one line each.
    pub fn outcomes(&self) -> String {
        outcomes(&self.record())
    }

    /// The events that matter for order, one line each.
    pub fn story(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            let line = match event {
                Event::BootStarted { boot, attempt } => format!("boot {boot} #{attempt}"),
                Event::BootReady { boot, .. } => format!("ready {boot}"),
                Event::BootEnded { boot, fault: None, .. } => format!("end {boot}"),
                Event::BootEnded { boot, fault: Some(fault), .. } => {
                    format!("end {boot}: {:?}: {fault}", fault.blame)
                }
                Event::Finding { boot, trial, finding } => {
                    format!("finding {} in {}", finding.title, trial.as_ref().unwrap_or(boot))
                }
                Event::TrialStarted { trial, machine, .. } => match machine {
                    None => format!("  trial {trial}"),
                    Some(own) if own.clone => format!("  trial {trial} in a clone"),
                    Some(_) => format!("  trial {trial} in a boot of its own"),
                },
                Event::StepStarted { step, name, .. } => format!("    step {step}: {name}"),
                Event::Measured { samples, .. } => {
                    let kgate_model::sample::Samples { metric, unit, values, .. } = samples;
                    format!("    measured {metric}: {values:?} {unit}")
                }
                Event::TrialEnded { outcome, subtests, .. } => {
                    let mut line = String::new();
                    for subtest in subtests {
                        writeln!(line, "    {}: {}", subtest.path, say(&subtest.outcome)).unwrap();
                    }
                    line + &format!("  {}", say(outcome))
                }
                Event::HostsReturning { hosts, .. } => format!("bring back {hosts:?}"),
                Event::HostReturned { host, left } => format!("back {host}: {left:?}"),
                Event::Facts { facts } => format!("facts {facts:?}"),
                Event::Note { text } => format!("note {text}"),
                Event::RunStarted { .. } => "run".to_owned(),
                Event::RunEnded { stopped: None } => "done".to_owned(),
                Event::SelfChecked { boot, difference } => {
                    format!("{boot}: checked {difference:?}")
                }
                Event::RunEnded { stopped: Some(fault) } => format!("stopped: {fault}"),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

pub fn outcomes(record: &RunRecord) -> String {
    let mut text = String::new();
    for trial in &record.trials {
        let outcome = trial.outcome.as_ref().map_or_else(|| "open".to_owned(), say);
        writeln!(text, "{}: {outcome}", trial.planned.id).unwrap();
    }
    text
}

pub fn say(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Skipped { reason } => format!("skipped: {reason}"),
        Outcome::Failed { cause } => format!("failed: {cause}"),
        Outcome::Errored { cause } => format!("errored by {:?}: {cause}", cause.blame),
    }
}

impl Bench {
    /// Runs until the first step of such a trial, is interrupted there, and has ended all soon after.
    pub async fn interrupt_at(&mut self, trial: &str) {
        let (sender, cancelled) = tokio::sync::oneshot::channel();
        let (mut sender, mut at) = (Some(sender), None);
        let end = self
            .run_until(
                |event, _| {
                    if first_step(event, trial)
                        && let Some(sender) = sender.take()
                    {
                        at = Some(Instant::now());
                        let _ = sender.send(());
                    }
                },
                async {
                    let _ = cancelled.await;
                },
            )
            .await;
        assert_eq!(end, RunEnd::Interrupted);
        assert!(at.unwrap().elapsed() < Duration::from_secs(3));
        assert_eq!(self.pool.active(), 0);
    }
}

/// Whether `event` is the start of the first step of a trial whose id begins with `trial`.
pub fn first_step(event: &Event, trial: &str) -> bool {
    matches!(event, Event::StepStarted { trial: id, step: 1, .. } if id.starts_with(trial))
}

pub const PANIC: &str = "[   12.000000] Kernel panic - not syncing: sysrq triggered crash\r\n\
    [   12.000100] CPU: 0 PID: 77 Comm: sh Not tainted 6.1.2 #1\r\n\
    [   12.000200] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n";

pub const OOPS: &str = "[    6.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008\r\n\
    [    6.000100] #PF: supervisor read access in kernel mode\r\n\
    [    6.000200] Oops: 0000 [#1] PREEMPT SMP PTI\r\n\
    [    6.000300] CPU: 0 PID: 77 Comm: sh Not tainted 6.1.2 #1\r\n\
    [    6.000400] RIP: 0010:tcp_ack+0x12/0x34\r\n\
    [    6.000500] Call Trace:\r\n\
    [    6.000600]  <TASK>\r\n\
    [    6.000700]  tcp_rcv_established+0x5f/0x1a0\r\n\
    [    6.000800]  </TASK>\r\n\
    [    6.000900] ---[ end trace 0000000000000000 ]---\r\n";

pub const WARNING: &str = "[    5.000000] ------------[ cut here ]------------\r\n\
    [    5.000100] WARNING: CPU: 0 PID: 77 at net/ipv4/tcp_input.c:6517 tcp_rcv_state_process+0x12/0x34\r\n\
    [    5.000200] CPU: 0 PID: 77 Comm: sh Not tainted 6.1.2 #1\r\n\
    [    5.000300] RIP: 0010:tcp_rcv_state_process+0x12/0x34\r\n\
    [    5.000400] Call Trace:\r\n\
    [    5.000500]  <TASK>\r\n\
    [    5.000600]  tcp_v4_do_rcv+0x5f/0x1a0\r\n\
    [    5.000700]  </TASK>\r\n\
    [    5.000800] ---[ end trace 0000000000000000 ]---\r\n";
