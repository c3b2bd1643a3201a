//! The steps of a trial: each carried out by the agent, its expectations judged here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kgate_machine::agent::Running;
use kgate_machine::{Agent, AgentError};
use kgate_model::journal::Event;
use kgate_model::outcome::{Fault, FaultKind, Outcome, Subtest};
use kgate_model::plan::PlannedTrial;
use kgate_model::sample::Samples;
use kgate_model::wire::{
    self, Command, ExitStatus, KernelState, Reply, Stdin, Stream, Trouble, WireSample,
};
use kgate_scenario::{
    Action, Expect, FileExpectation, Measure, MetricSpec, Probe, Ready, Requires, Scenario, Step,
    ktap,
};
use regex::Regex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::attempt::millis;
use crate::run::{Context, Stop};
use crate::trial::Log;
use crate::vitals::{Lost, Vitals};

/// Bytes kept of each output stream of a step; the agent forwards no more.
pub(crate) const OUTPUT_LIMIT: usize = 4 << 20;
/// Samples kept of one step.
pub(crate) const SAMPLES_LIMIT: usize = 100_000;
/// The agent ends a step within a few seconds of its limit, or is itself stuck.
const BACKSTOP: Duration = Duration::from_secs(10);
/// Bytes of a file that an expectation looks at.
const FILE_LIMIT: u32 = 1 << 20;
/// Bytes of the console that an expectation looks at.
const CONSOLE_LIMIT: u64 = 4 << 20;
/// A kernel message may reach the console a moment after the step that provoked it has ended.
const MESSAGE_WITHIN: Duration = Duration::from_secs(1);
/// Exit status of a measuring program on a kernel that lacks what it measures.
const UNSUPPORTED: i32 = 4;
/// Exit statuses of a shell that can't find or can't run a command.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// Characters of a program's output in a message.
const QUOTE: usize = 200;

const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

/// The environment of every step; a step's own variables come on top.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TMPDIR", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
];

/// Why a trial goes no further.
#[derive(Debug)]
pub(crate) enum Break {
    /// It has its outcome.
    Outcome(Outcome),
    /// The machine is lost.
    Lost(Lost),
    /// The run can't go on.
    Stop(Stop),
}

impl From<Stop> for Break {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Lost> for Break {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Fault> for Break {
    fn from(fault: Fault) -> Self {
        Self::Outcome(Outcome::from_fault(fault))
    }
}

impl From<AgentError> for Break {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Closed(why) => Self::Lost(Lost::Closed(why)),
            other => Fault::harness(FaultKind::Channel, other.to_string()).into(),
        }
    }
}

fn skipped(reason: String) -> Break {
    Break::Outcome(Outcome::Skipped { reason })
}

/// What cleaning up after a trial came to.
#[derive(Debug, Default)]
pub(crate) struct CleanedUp {
    /// The kernel's state afterwards.
    pub(crate) state: Option<KernelState>,
    /// Something can't be ended or undone: no other trial may run on this machine.
    pub(crate) spent: bool,
}

/// The steps of one trial.
pub(crate) struct Steps<'a, 'c> {
    context: &'a Context<'c>,
    planned: &'a PlannedTrial,
    scenario: &'a Scenario,
    vitals: &'a Vitals,
    /// Where the console is written.
    console: PathBuf,
    log: Log,
    /// Programs that run until the trial ends.
    background: JoinSet<()>,
    /// Sysctls that were changed, with what they were before.
    changed: Vec<(String, Vec<u8>)>,
    subtests: Vec<Subtest>,
}

/// What a command printed and measured, as it comes.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Text>>);

#[derive(Default)]
struct Text {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    samples: Vec<WireSample>,
}

impl Printed {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a command ended and what it printed.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl<'a, 'c> Steps<'a, 'c> {
    pub(crate) fn new(
        context: &'a Context<'c>,
        planned: &'a PlannedTrial,
        scenario: &'a Scenario,
        vitals: &'a Vitals,
        console: PathBuf,
        log: Log,
    ) -> Self {
        Self {
            context,
            planned,
            scenario,
            vitals,
            console,
            log,
            background: JoinSet::new(),
            changed: Vec::new(),
            subtests: Vec::new(),
        }
    }

    fn agent(&self) -> &'a Agent {
        &self.vitals.agent
    }

    /// Looks for what only the booted machine can tell: files, sysctls, commands.
    pub(crate) async fn check(&self, requires: &Requires) -> Result<(), Break> {
        for path in &requires.files {
            if !self.exists(path).await? {
                return Err(no_file(path));
            }
        }
        for name in &requires.sysctls {
            if !self.exists(&sysctl_path(name)).await? {
                return Err(no_sysctl(name));
            }
        }
        if requires.commands.is_empty() {
            return Ok(());
        }
        commands_found(&self.finish(look_for_commands(&requires.commands), None).await?)
    }

    /// Carries out the steps in order until one of them settles the trial's outcome.
    pub(crate) async fn run(&mut self, ops: &str) -> Result<(), Break> {
        let scenario = self.scenario;
        for (at, step) in scenario.steps.iter().enumerate() {
            let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
            let mut from = 0;
            if !step.expect.kernel_log.is_empty() {
                self.vitals.console.settle().await;
                from = self.vitals.console.progress().borrow().bytes;
            }
            self.context.emit(Event::StepStarted {
                trial: self.planned.id.clone(),
                step: number,
                name: step.name.clone(),
            })?;
            self.log.write(format!("--- step {number}: {}\n", step.name).as_bytes());
            self.step(step, ops).await?;
            self.expect_state(step, from).await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step, ops: &str) -> Result<(), Break> {
        match &step.action {
            Action::Run { command } => self.run_to_end(step, shell(command)).await?,
            Action::Measure(measure) => self.run_to_end(step, measuring(ops, measure)).await?,
            Action::Background { command, ready } => {
                self.start(step, shell(command), ready).await?;
            }
            Action::Write { path, text } => {
                let written = self.agent().write_file(path, 0o644, text.as_bytes()).await;
                accomplished(step, written)?;
            }
            Action::Sysctl { values } => {
                for (name, value) in values {
                    self.set(step, name, value).await?;
                }
            }
        }
        Ok(())
    }

    /// Sets a sysctl and remembers what it was.
    async fn set(&mut self, step: &Step, name: &str, value: &str) -> Result<(), Break> {
        let path = sysctl_path(name);
        let (before, _) = accomplished(step, self.agent().read_file(&path, FILE_LIMIT).await)?;
        accomplished(step, self.agent().write_file(&path, 0o644, value.as_bytes()).await)?;
        self.changed.push((path, before));
        Ok(())
    }

    async fn run_to_end(&mut self, step: &Step, argv: Vec<String>) -> Result<(), Break> {
        let ended = self.finish(to_its_end(step, argv), step.timeout).await?;
        for samples in judge(step, &ended, &mut self.subtests)? {
            let trial = self.planned.id.clone();
            self.context.emit(Event::Measured { trial, samples })?;
        }
        Ok(())
    }

    /// Runs a command to its end, its output to the log and its samples to the journal.
    async fn finish(&self, command: Command, limit: Option<Duration>) -> Result<Ended, Break> {
        let mut running = self.agent().spawn(command)?;
        let printed = Printed::default();
        let follow = follow(&mut running, &printed, &self.log, |()| {});
        let status = match limit {
            None => follow.await?,
            Some(limit) => timeout(limit + BACKSTOP, follow).await.unwrap_or_else(|_| {
                let message = "a step's limit passed and the agent did not end it".into();
                Err(AgentError::Closed(message))
            })?,
        };
        let text = std::mem::take(&mut *printed.lock());
        for samples in by_metric(text.samples) {
            let trial = self.planned.id.clone();
            self.context.emit(Event::Measured { trial, samples })?;
        }
        let readable = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { status, stdout: readable(text.stdout), stderr: readable(text.stderr) })
    }

    /// Starts a command that runs until the trial ends, and waits until it is ready.
    async fn start(&mut self, step: &Step, argv: Vec<String>, ready: &Ready) -> Result<(), Break> {
        let command = Command {
            background: true,
            timeout_ms: step.timeout.map(millis),
            limits: limits(step),
            ..with_env(command(argv), step)
        };
        let mut running = self.agent().spawn(command)?;
        let printed = Printed::default();
        let (changed, mut news) = watch::channel(None);
        self.background.spawn({
            let (printed, log) = (printed.clone(), self.log.clone());
            async move {
                let news = |()| {
                    changed.send_replace(None);
                };
                let end = follow(&mut running, &printed, &log, news).await;
                changed.send_replace(Some(end));
            }
        });
        let deadline = Instant::now() + ready.within;
        let probe = self.probe(step, ready, &printed, news.clone());
        let ended = async {
            match news.wait_for(Option::is_some).await {
                Ok(end) => end.clone(),
                Err(_) => None,
            }
        };
        tokio::select! {
            biased;
            result = probe => return result,
            end = ended => {
                let status = match end {
                    Some(end) => end?,
                    None => return Ok(()),
                };
                let status = exit_status(&status)?;
                let stderr = String::from_utf8_lossy(&printed.lock().stderr).into_owned();
                if let Some(fault) = unknown_command(step, status, &stderr) {
                    return Err(fault.into());
                }
                let message = format!(
                    "step `{}` ended with {status} before it was ready{}",
                    step.name,
                    quoted(&stderr)
                );
                return Err(Fault::kernel(FaultKind::Expectation, message).into());
            }
            () = tokio::time::sleep_until(deadline + BACKSTOP) => {}
        }
        Err(not_ready(step, ready).into())
    }

    async fn probe(
        &self,
        step: &Step,
        ready: &Ready,
        printed: &Printed,
        mut news: watch::Receiver<Option<Result<ExitStatus, AgentError>>>,
    ) -> Result<(), Break> {
        let wait = match &ready.probe {
            None => return Ok(()),
            Some(Probe::Tcp { host, port }) => wire::Ready::Tcp(socket_address(host, *port)?),
            Some(Probe::File(path)) => wire::Ready::File(path.clone()),
            Some(Probe::Output(pattern)) => {
                let deadline = Instant::now() + ready.within;
                loop {
                    news.borrow_and_update();
                    let found = {
                        let text = printed.lock();
                        let matches =
                            |bytes: &[u8]| pattern.is_match(&String::from_utf8_lossy(bytes));
                        matches(&text.stdout) || matches(&text.stderr)
                    };
                    if found {
                        return Ok(());
                    }
                    match timeout_at(deadline, news.changed()).await {
                        Ok(Ok(())) => {}
                        // It has ended, which the caller knows how to tell.
                        Ok(Err(_)) => std::future::pending().await,
                        Err(_) => return Err(not_ready(step, ready).into()),
                    }
                }
            }
        };
        match self.agent().wait_ready(wait, ready.within).await {
            Err(AgentError::Refused(_)) => Err(not_ready(step, ready).into()),
            other => Ok(other?),
        }
    }

    /// Judges what must hold beside the output: files, sysctls, kernel messages.
    async fn expect_state(&self, step: &Step, console_from: u64) -> Result<(), Break> {
        for (path, expected) in &step.expect.files {
            let read = self.agent().read_file(path, FILE_LIMIT).await;
            let there = match &read {
                Err(AgentError::Refused(trouble)) => !is_missing(trouble),
                Err(other) => return Err(other.clone().into()),
                Ok(_) => true,
            };
            let wrong = match (expected, read) {
                (FileExpectation::Absent, _) if there => "is there, but should not be".into(),
                (FileExpectation::Absent, _) => continue,
                _ if !there => "is not there".into(),
                (FileExpectation::Exists, _) => continue,
                (FileExpectation::Matches(_), Err(error)) => error.to_string(),
                (FileExpectation::Matches(pattern), Ok((content, _))) => {
                    let content = String::from_utf8_lossy(&content).into_owned();
                    if pattern.is_match(&content) {
                        continue;
                    }
                    format!("does not match /{pattern}/{}", quoted(&content))
                }
            };
            return Err(unexpected(step, &format!("{path} {wrong}")));
        }
        for (name, expected) in &step.expect.sysctls {
            let read = self.agent().read_file(&sysctl_path(name), FILE_LIMIT).await;
            let (content, _) = accomplished(step, read)?;
            let value = words(&String::from_utf8_lossy(&content));
            if value != words(expected) {
                let wrong = format!("sysctl {name} is {value}, expected {expected}");
                return Err(unexpected(step, &wrong));
            }
        }
        self.expect_messages(&step.expect, step, console_from).await
    }

    async fn expect_messages(&self, expect: &Expect, step: &Step, from: u64) -> Result<(), Break> {
        let mut progress = self.vitals.console.progress();
        let deadline = Instant::now() + MESSAGE_WITHIN;
        for pattern in &expect.kernel_log {
            loop {
                progress.borrow_and_update();
                if pattern.is_match(&self.console_since(from)) {
                    break;
                }
                if !matches!(timeout_at(deadline, progress.changed()).await, Ok(Ok(()))) {
                    let wrong = format!("no kernel message matches /{pattern}/");
                    return Err(unexpected(step, &wrong));
                }
            }
        }
        Ok(())
    }

    /// What the console printed from byte `from` on, lines ended by `\n`.
    fn console_since(&self, from: u64) -> String {
        let mut bytes = Vec::new();
        // One that can't be read holds nothing that matches, and the run ends over it anyway.
        let _ = File::open(&self.console).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.take(CONSOLE_LIMIT).read_to_end(&mut bytes)
        });
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    async fn exists(&self, path: &str) -> Result<bool, Break> {
        match self.agent().read_file(path, 1).await {
            Err(AgentError::Refused(trouble)) => Ok(!is_missing(&trouble)),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// Undoes what the steps changed, ends what they left running, and asks for the kernel's state.
    pub(crate) async fn clean_up(&mut self) -> Result<CleanedUp, Lost> {
        let (vitals, agent) = (self.vitals, self.agent());
        let mut spent = false;
        spent |= vitals.ask(agent.kill_all()).await?.is_err();
        while let Some((path, before)) = self.changed.pop() {
            spent |= vitals.ask(agent.write_file(&path, 0o644, &before)).await?.is_err();
        }
        let state = vitals.ask(agent.state()).await?.ok();
        Ok(CleanedUp { spent: spent || state.is_none(), state })
    }

    /// Ends what follows the background programs; the results inside the steps are returned.
    pub(crate) async fn end(mut self) -> Vec<Subtest> {
        self.background.shutdown().await;
        self.subtests
    }
}

/// Takes everything that a command says until it has ended.
async fn follow(
    running: &mut Running,
    printed: &Printed,
    log: &Log,
    news: impl Fn(()),
) -> Result<ExitStatus, AgentError> {
    loop {
        match running.next().await? {
            Reply::Output { stream, data, .. } => {
                log.write(&data);
                let mut text = printed.lock();
                let kept = match stream {
                    Stream::Stdout => &mut text.stdout,
                    Stream::Stderr => &mut text.stderr,
                };
                let room = OUTPUT_LIMIT.saturating_sub(kept.len());
                kept.extend_from_slice(&data[..data.len().min(room)]);
                drop(text);
                news(());
            }
            Reply::Sample { sample, .. } => {
                let mut text = printed.lock();
                if sample.value.is_finite() && text.samples.len() < SAMPLES_LIMIT {
                    text.samples.push(sample);
                }
            }
            Reply::Exited { status, dropped, .. } => {
                if dropped > 0 {
                    log.write(format!("[{dropped} bytes of output were left out]\n").as_bytes());
                }
                return Ok(status);
            }
            _ => {}
        }
    }
}

/// Samples by their metric, in the order in which each first appears.
pub(crate) fn by_metric(samples: Vec<WireSample>) -> Vec<Samples> {
    let mut all: Vec<Samples> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    for WireSample { metric, value, unit, better } in samples {
        let at = *place.entry(metric).or_insert_with_key(|metric| {
            all.push(Samples { metric: metric.clone(), unit, better, values: Vec::new() });
            all.len() - 1
        });
        all[at].values.push(value);
    }
    all
}

/// The command of a step that runs to its end.
pub(crate) fn to_its_end(step: &Step, argv: Vec<String>) -> Command {
    Command {
        timeout_ms: step.timeout.map(millis),
        limits: limits(step),
        ..with_env(command(argv), step)
    }
}

/// Judges a step's command that has ended. Returns what its output holds of metrics.
pub(crate) fn judge(
    step: &Step,
    ended: &Ended,
    subtests: &mut Vec<Subtest>,
) -> Result<Vec<Samples>, Break> {
    if ended.status == ExitStatus::TimedOut {
        let limit = step.timeout.unwrap_or_default().as_secs_f32();
        let message = format!("step `{}` ran longer than {limit} s", step.name);
        return Err(Fault::kernel(FaultKind::StepTimeout, message).into());
    }
    let status = exit_status(&ended.status)?;
    if matches!(step.action, Action::Measure(_)) && status == UNSUPPORTED {
        let reason = last_line(&ended.stderr).unwrap_or("the kernel lacks what it measures");
        return Err(skipped(reason.to_owned()));
    }
    if let Some(format) = step.results {
        let report = ktap::parse(&ended.stdout, format);
        subtests.extend(report.subtests());
        match report.outcome() {
            Outcome::Passed => {}
            outcome => return Err(Break::Outcome(outcome)),
        }
    }
    expect_output(step, status, ended)?;
    step.metrics.iter().map(|metric| read_metric(step, metric, ended)).collect()
}

/// Looks for programs in the image.
pub(crate) fn look_for_commands(names: &[String]) -> Command {
    let look = r#"for name; do command -v "$name" >/dev/null || echo "$name"; done"#;
    let argv = ["sh", "-c", look, "sh"].map(str::to_owned);
    command(argv.into_iter().chain(names.iter().cloned()).collect())
}

/// Judges [`look_for_commands`].
pub(crate) fn commands_found(ended: &Ended) -> Result<(), Break> {
    match exit_status(&ended.status)? {
        0 if ended.stdout.is_empty() => Ok(()),
        0 => {
            let missing: Vec<_> = ended.stdout.split_whitespace().collect();
            Err(skipped(format!("the image has no {}", missing.join(", "))))
        }
        status => Err(Fault::scenario(format!(
            "the image's shell can't look for commands: it ended with {status}{}",
            quoted(&ended.stderr)
        ))
        .into()),
    }
}

pub(crate) fn no_file(path: &str) -> Break {
    skipped(format!("there is no {path}"))
}

pub(crate) fn no_sysctl(name: &str) -> Break {
    skipped(format!("the kernel has no sysctl {name}"))
}

pub(crate) fn shell(text: &str) -> Vec<String> {
    ["sh", "-c", text].map(str::to_owned).to_vec()
}

pub(crate) fn measuring(ops: &str, measure: &Measure) -> Vec<String> {
    let Measure { op, batch, batches, warmup } = measure;
    let numbers = [("--batch", batch), ("--batches", batches), ("--warmup", warmup)];
    [ops.to_owned(), op.clone()]
        .into_iter()
        .chain(numbers.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]))
        .collect()
}

pub(crate) fn command(argv: Vec<String>) -> Command {
    Command {
        argv,
        env: ENVIRONMENT.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        dir: "/".into(),
        stdin: Stdin::Null,
        timeout_ms: None,
        output_limit: OUTPUT_LIMIT as u64,
        limits: wire::Limits::default(),
        background: false,
    }
}

fn with_env(mut command: Command, step: &Step) -> Command {
    command.env.extend(step.env.clone());
    command
}

fn limits(step: &Step) -> wire::Limits {
    let limits = &step.limits;
    wire::Limits {
        memory: limits.memory,
        cpu_seconds: limits.cpu_time.map(|time| time.as_secs().max(1)),
        processes: limits.processes,
        files: limits.files,
    }
}

/// The exit status as a shell has it.
fn exit_status(status: &ExitStatus) -> Result<i32, Break> {
    match status {
        ExitStatus::Code(code) => Ok(*code),
        ExitStatus::Signal(signal) => Ok(128 + signal),
        ExitStatus::NotStarted(trouble) => Err(not_started(trouble).into()),
        ExitStatus::TimedOut => {
            Err(Fault::kernel(FaultKind::StepTimeout, "ran longer than it may").into())
        }
        ExitStatus::Killed => {
            Err(Fault::harness(FaultKind::Channel, "a step was killed by nobody's order").into())
        }
    }
}

fn not_started(trouble: &Trouble) -> Fault {
    match trouble.errno {
        Some(ENOENT | ENOEXEC | EACCES | ENOTDIR) => Fault::scenario(trouble.message.clone()),
        Some(_) => Fault::kernel(FaultKind::Expectation, trouble.message.clone()),
        None => Fault::harness(FaultKind::Channel, trouble.message.clone()),
    }
}

/// What the agent refused is what the kernel answered.
fn accomplished<T>(step: &Step, result: Result<T, AgentError>) -> Result<T, Break> {
    match result {
        Err(AgentError::Refused(trouble)) => Err(unexpected(step, &trouble.message)),
        other => Ok(other?),
    }
}

pub(crate) fn is_missing(trouble: &Trouble) -> bool {
    matches!(trouble.errno, Some(ENOENT | ENOTDIR))
}

pub(crate) fn unexpected(step: &Step, wrong: &str) -> Break {
    let message = format!("step `{}`: {wrong}", step.name);
    Fault::kernel(FaultKind::Expectation, message).into()
}

fn not_ready(step: &Step, ready: &Ready) -> Fault {
    let within = ready.within.as_secs_f32();
    let message = format!("step `{}` was not ready within {within} s", step.name);
    Fault::kernel(FaultKind::Expectation, message)
}

/// Judges exit status and output.
fn expect_output(step: &Step, status: i32, ended: &Ended) -> Result<(), Break> {
    let expect = &step.expect;
    if !expect.exit.accepts(status) {
        if let Some(fault) = unknown_command(step, status, &ended.stderr) {
            return Err(fault.into());
        }
        let said = if ended.stderr.trim().is_empty() { &ended.stdout } else { &ended.stderr };
        return Err(unexpected(step, &format!("exit status {status}{}", quoted(said))));
    }
    let streams = [
        ("standard output", &ended.stdout, &expect.stdout, true),
        ("standard error", &ended.stderr, &expect.stderr, true),
        ("standard output", &ended.stdout, &expect.not_stdout, false),
    ];
    for (name, text, patterns, wanted) in streams {
        if let Some(pattern) = patterns.iter().find(|pattern| pattern.is_match(text) != wanted) {
            let wrong = if wanted { "does not match" } else { "matches" };
            return Err(unexpected(step, &format!("{name} {wrong} /{pattern}/{}", quoted(text))));
        }
    }
    Ok(())
}

/// The scenario's fault when the shell found no such command.
fn unknown_command(step: &Step, status: i32, stderr: &str) -> Option<Fault> {
    let what = match status {
        NOT_FOUND => "is not in the image",
        NOT_EXECUTABLE => "can't be run",
        _ => return None,
    };
    // The shell's last complaint: `sh: 1: nginx: not found`, `sh: ./x: Permission denied`.
    let complaint = Regex::new(
        r"([^\s:]+): (?:command not found|not found|Permission denied|Exec format error)",
    )
    .ok()?;
    let command = complaint.captures_iter(stderr).last();
    let command = command.as_ref().and_then(|c| c.get(1)).map_or("a command", |m| m.as_str());
    Some(Fault::scenario(format!("step `{}`: `{command}` {what}", step.name)))
}

/// The numbers of a metric in a step's output.
fn read_metric(step: &Step, metric: &MetricSpec, ended: &Ended) -> Result<Samples, Break> {
    let MetricSpec { name, pattern, unit, better } = metric;
    let mut values = Vec::new();
    for text in [&ended.stdout, &ended.stderr] {
        for found in pattern.regex().captures_iter(text).take(SAMPLES_LIMIT) {
            let text = found.get(1).map_or("", |group| group.as_str());
            match text.parse::<f64>() {
                Ok(value) if value.is_finite() => values.push(value),
                _ => {
                    let message =
                        format!("step `{}`: metric `{name}`: `{text}` is no number", step.name);
                    return Err(Fault::scenario(message).into());
                }
            }
        }
        if !values.is_empty() {
            break;
        }
    }
    if values.is_empty() {
        let wrong = format!("nothing to read metric `{name}` from: no match of /{pattern}/");
        return Err(unexpected(step, &format!("{wrong}{}", quoted(&ended.stdout))));
    }
    let (unit, better) = (unit.as_str().to_owned(), *better);
    Ok(Samples { metric: name.clone(), unit, better, values })
}

/// Dots and slashes change places: `net.ipv4.conf.eth0/1.mtu` is about the interface `eth0.1`.
pub(crate) fn sysctl_path(name: &str) -> String {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    format!("/proc/sys/{}", swapped.collect::<String>())
}

/// The agent takes numeric addresses only: names would be resolved by whatever the image has.
fn socket_address(host: &str, port: u16) -> Result<String, Break> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(std::net::SocketAddr::new(address, port).to_string()),
        Err(_) => Err(Fault::scenario(format!("ready: `{host}` is no numeric address")).into()),
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
}

/// The last line of an output, for the end of a message.
fn quoted(text: &str) -> String {
    match last_line(text) {
        Some(line) => format!(": {}", line.chars().take(QUOTE).collect::<String>()),
        None => String::new(),
    }
}
