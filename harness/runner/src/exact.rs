//! Exact trials: clones that carry out a script by themselves, and what their answers come to.
//!
//! Nothing may reach such a machine while it runs, so everything that its trials ask for is written down
//! before, and judged when it is over.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs;

use kgate_machine::{BootError, BootRequest, Carried, ExactTemplate, Pool, Profile, ScriptRequest};
use kgate_model::finding::Finding;
use kgate_model::journal::{Event, OwnMachine};
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_model::plan::{PlannedBoot, PlannedTrial};
use kgate_model::sample::Samples;
use kgate_model::wire::{
    CHUNK, Command, ExitStatus, KernelState, Reply, Request, RequestId, Stream,
};
use kgate_scenario::{Action, Step};
use tokio::time::{Instant, timeout};

use crate::attempt::{START_GRACE, boot_request, disk, millis};
use crate::own::late;
use crate::plan::derived;
use crate::run::{Assignment, Context, Stop, assignments};
use crate::rundir::{self, RunDir};
use crate::step::{
    Break, Ended, OUTPUT_LIMIT, SAMPLES_LIMIT, by_metric, command, commands_found, is_missing,
    judge, look_for_commands, measuring, no_file, no_sysctl, shell, sysctl_path, to_its_end,
    unexpected,
};
use crate::trial::{Log, tainted};

/// Clones that are tried for the same trials when it is not the kernel that they fail by.
const TRIES: u32 = 2;
/// Number of the first request of a script; lower ones are the pool's.
const FIRST: RequestId = 16;

/// Number of the last one.
const LAST: RequestId = RequestId::MAX;
/// Tells the functions of the kernel and where they are.
const SYMBOLS: &str = "grep -i ' [tw] ' /proc/kallsyms";
/// Bytes that it may print: a kernel with all of its modules has some ten million.
const SYMBOLS_LIMIT: u64 = 64 << 20;

/// The clone by which it is seen whether such machines repeat here at all.
const CHECKED: u32 = 1;

/// A boot whose clones carry out scripts.
pub(crate) struct ExactBoot<'a> {
    boot: &'a PlannedBoot,
    attempt: u32,
    template: Box<dyn ExactTemplate>,
    /// Trials that haven't ended.
    left: Cell<usize>,
    /// The kernel's state after the last trial of a clone.
    after: RefCell<Option<KernelState>>,
}

impl<'a> ExactBoot<'a> {
    /// A boot whose template is ready, with so many trials to run.
    pub(crate) fn new(
        boot: &'a PlannedBoot,
        attempt: u32,
        trials: usize,
        template: Box<dyn ExactTemplate>,
    ) -> Self {
        Self { boot, attempt, template, left: Cell::new(trials), after: RefCell::default() }
    }

    /// Runs trials in one clone; in another one what is left when the kernel was lost in one of them.
    pub(crate) async fn run<'t>(
        &self,
        context: &'t Context<'_>,
        trials: &[&'t PlannedTrial],
    ) -> Result<(), Stop> {
        let mut open: VecDeque<&'t PlannedTrial> = trials.iter().copied().collect();
        let (mut machines, mut tries) = (0, 0);
        while let Some(&first) = open.front() {
            machines += 1;
            let clone = first.clone.unwrap_or_default();
            let name = self.machine(clone, machines);
            let script = Script::of(&context.scenarios, &*self.template, &open, false);
            let started = Instant::now();
            let lost = match self.carry_out(context, &name, clone, &script).await? {
                Err(error) => Some((error.fault, None)),
                Ok(carried) => {
                    let wall = millis(started.elapsed()) / script.parts.len().max(1) as u64;
                    let answers = Answers::of(carried.replies);
                    if clone == CHECKED && self.boot.number == 1 && machines == 1 {
                        self.check(context, &script, &answers, carried.digest).await?;
                    }
                    for finding in carried.findings {
                        self.found(context, finding)?;
                    }
                    let done = self.judge_all(context, &script, &answers, &name, wall)?;
                    open.drain(..done);
                    let ended = || Fault::harness(FaultKind::Channel, "its script did not end");
                    let fault = carried.fault.or_else(|| (!open.is_empty()).then(ended));
                    fault.map(|fault| (fault, carried.diagnosis))
                }
            };
            if let Some((fault, diagnosis)) = lost {
                tries += u32::from(fault.blame == Blame::Harness);
                // The kernel's is that of the first; ours may pass, and if not it is everybody's.
                let ends = match fault.blame {
                    Blame::Harness if tries < TRIES => 0,
                    Blame::Harness => open.len(),
                    _ => open.len().min(1),
                };
                let diagnosis = diagnosis.map(|text| save(context, &name, &text)).transpose()?;
                for trial in open.drain(..ends) {
                    let (outcome, told) = (Outcome::from_fault(fault.clone()), diagnosis.clone());
                    self.began(context, trial, &name)?;
                    self.ended(context, trial, outcome, 0, told)?;
                }
            }
            context.sync()?;
        }
        if self.left.get() == 0 {
            let (boot, attempt) = (self.boot.id.clone(), self.attempt);
            let console = rundir::console(&rundir::attempt(&boot, attempt));
            let state = self.after.borrow().clone();
            let (fault, diagnosis) = (None, None);
            context.emit(Event::BootEnded { boot, attempt, fault, state, console, diagnosis })?;
            context.sync()?;
        }
        Ok(())
    }

    /// Tells what came of the trials that a machine got through, and how many those are.
    fn judge_all(
        &self,
        context: &Context<'_>,
        script: &Script<'_>,
        answers: &Answers,
        machine: &str,
        wall_ms: u64,
    ) -> Result<usize, Stop> {
        let mut before = self.template.state().clone();
        let mut done = 0;
        for part in &script.parts {
            let Some(after) = answers.state(part.state) else { break };
            self.began(context, part.trial, machine)?;
            let outcome = self.judged(context, part, answers, &before, &after)?;
            self.ended(context, part.trial, outcome, wall_ms, None)?;
            before = after;
            done += 1;
        }
        *self.after.borrow_mut() = Some(before);
        Ok(done)
    }

    fn machine(&self, clone: u32, nth: u32) -> String {
        let again = if nth > 1 { format!("+{nth}") } else { String::new() };
        format!("{}/clone-{clone}{again}", rundir::attempt(&self.boot.id, self.attempt))
    }

    async fn carry_out(
        &self,
        context: &Context<'_>,
        name: &str,
        clone: u32,
        script: &Script<'_>,
    ) -> Result<Result<Carried, BootError>, Stop> {
        let console = context.dir.path().join(rundir::console(name));
        console.parent().map_or(Ok(()), fs::create_dir_all).map_err(|e| disk(&console, &e))?;
        let request = ScriptRequest {
            name: name.to_owned(),
            console,
            seed: clone_seed(self.boot, clone),
            script: script.requests.clone(),
            silence: script.silence,
            profile: None,
        };
        let limit = script.limit + START_GRACE;
        let carried = timeout(limit, self.template.carry_out(&request)).await;
        Ok(carried.unwrap_or_else(|_| Err(late())))
    }

    /// Carries out the same once more, which must come to the same in every bit.
    async fn check(
        &self,
        context: &Context<'_>,
        script: &Script<'_>,
        first: &Answers,
        digest: [u8; 32],
    ) -> Result<(), Stop> {
        let name = format!("{}+check", self.machine(CHECKED, 1));
        let difference = match self.carry_out(context, &name, CHECKED, script).await? {
            Ok(again) if again.digest == digest => None,
            Ok(again) => Some(script.difference(first, &Answers::of(again.replies))),
            Err(error) => Some(format!("it could not be carried out again: {error}")),
        };
        context.emit(Event::SelfChecked { boot: self.boot.id.clone(), difference })
    }

    /// What the answers to a trial's requests come to.
    fn judged(
        &self,
        context: &Context<'_>,
        part: &Part<'_>,
        answers: &Answers,
        before: &KernelState,
        after: &KernelState,
    ) -> Result<Outcome, Stop> {
        let mut measured = Vec::new();
        let judged = part.judge(answers, &mut measured);
        for samples in measured {
            context.emit(Event::Measured { trial: part.trial.id.clone(), samples })?;
        }
        let outcome = match judged {
            Ok(()) => Outcome::Passed,
            Err(Break::Outcome(outcome)) => outcome,
            Err(Break::Stop(stop)) => return Err(stop),
            Err(Break::Lost(_)) => {
                let message = "an answer is missing";
                Outcome::from_fault(Fault::harness(FaultKind::Channel, message))
            }
        };
        let scenario = part.assignment.scenario;
        let fault = match outcome {
            Outcome::Passed => tainted(scenario.allow_taint, before.taint, after.taint, false),
            _ => None,
        };
        let outcome = fault.map_or(outcome, Outcome::from_fault);
        if outcome != Outcome::Passed {
            let log = Log::create(context.dir.path().join(rundir::trial_log(&part.trial.id)))?;
            part.print(answers, &log);
            log.check()?;
        }
        Ok(outcome)
    }

    fn began(
        &self,
        context: &Context<'_>,
        trial: &PlannedTrial,
        machine: &str,
    ) -> Result<(), Stop> {
        let own = OwnMachine {
            clone: true,
            ready_ms: 0,
            console: rundir::console(machine),
            kernel_log: rundir::kernel_log(machine),
        };
        let (trial, attempt) = (trial.id.clone(), self.attempt);
        context.emit(Event::TrialStarted { trial, attempt, machine: Some(own) })
    }

    fn ended(
        &self,
        context: &Context<'_>,
        trial: &PlannedTrial,
        outcome: Outcome,
        wall_ms: u64,
        diagnosis: Option<String>,
    ) -> Result<(), Stop> {
        self.left.set(self.left.get().saturating_sub(1));
        let log = rundir::trial_log(&trial.id);
        context.emit(Event::TrialEnded {
            trial: trial.id.clone(),
            outcome,
            wall_ms,
            subtests: Vec::new(),
            before: None,
            after: None,
            log: context.dir.path().join(&log).exists().then_some(log),
            diagnosis,
        })
    }

    fn found(&self, context: &Context<'_>, finding: Finding) -> Result<(), Stop> {
        let (boot, finding) = (self.boot.id.clone(), Box::new(finding));
        context.emit(Event::Finding { boot, trial: None, finding })
    }
}

/// Writes what a machine said when it hung, and returns the file's name, relative to the run directory.
fn save(context: &Context<'_>, machine: &str, text: &[u8]) -> Result<String, Stop> {
    let name = rundir::diagnosis(machine);
    let path = context.dir.path().join(&name);
    fs::write(&path, text).map_err(|e| disk(&path, &e))?;
    Ok(name)
}

/// What a clone of a boot did once more, with every instruction of the kernel counted.
#[derive(Clone, Debug)]
pub struct Profiled {
    /// Every operation that was measured, in order: the first is the first segment of the profile.
    pub measured: Vec<ProfiledOperation>,
    /// The kernel's functions and where they were, as in `/proc/kallsyms`.
    pub symbols: Vec<u8>,
}

/// One run of the measuring program.
#[derive(Clone, Debug)]
pub struct ProfiledOperation {
    /// The scenario's id.
    pub scenario: String,
    /// Name of the operation and of its metric.
    pub metric: String,
    /// How often it was done where it counted.
    pub operations: u64,
    /// What it reported, one number a batch.
    pub samples: Vec<f64>,
}

/// Has the first clone of an exact boot of a run do once more what it did, and counts every instruction
/// of its kernel.
///
/// # Errors
/// It could not be carried out to its end.
pub async fn profile(
    dir: &RunDir,
    pool: &dyn Pool,
    boot: &PlannedBoot,
    profile: Profile,
) -> Result<Profiled, Fault> {
    let ours = |message: &str| Fault::harness(FaultKind::Controller, message);
    let scenarios = assignments(dir.inputs());
    let seed = boot.seed.unwrap_or_default();
    let of = |name: &str| dir.path().join(rundir::console(&format!("{}+{name}", boot.id)));
    let request =
        BootRequest { console: of("again"), kernel_log: None, ..boot_request(dir, boot, &boot.id) };
    let template = pool.exact_template(&request, seed).await;
    let template = template
        .ok_or_else(|| ours("no machine here counts instructions"))?
        .map_err(|error| error.fault)?;
    let first = |trial: &&PlannedTrial| trial.clone == Some(CHECKED) && trial.decided.is_none();
    let trials: VecDeque<&PlannedTrial> = boot.trials.iter().filter(first).collect();
    let script = Script::of(&scenarios, &*template, &trials, true);
    let request = ScriptRequest {
        name: format!("{}+profile", boot.id),
        console: of("profile"),
        seed: clone_seed(boot, CHECKED),
        script: script.requests.clone(),
        silence: script.silence,
        profile: Some(profile),
    };
    let carried = template.carry_out(&request).await.map_err(|error| error.fault)?;
    if let Some(fault) = carried.fault {
        return Err(fault);
    }
    let answers = Answers::of(carried.replies);
    let mut measured = Vec::new();
    for part in &script.parts {
        for (id, asked) in &part.asked {
            if let Asked::Command(step) = asked
                && let Action::Measure(measure) = &step.action
            {
                let samples = answers.samples(*id).pop().map(|samples| samples.values);
                measured.push(ProfiledOperation {
                    scenario: part.trial.scenario.clone(),
                    metric: measure.op.clone(),
                    operations: u64::from(measure.batch) * u64::from(measure.batches),
                    samples: samples.unwrap_or_default(),
                });
            }
        }
    }
    let mut symbols = Vec::new();
    for reply in answers.to(LAST) {
        if let Reply::Output { stream: Stream::Stdout, data, .. } = reply {
            symbols.extend_from_slice(data);
        }
    }
    Ok(Profiled { measured, symbols })
}

fn clone_seed(boot: &PlannedBoot, clone: u32) -> u64 {
    derived(boot.seed.unwrap_or_default(), &format!("clone {clone}"))
}

/// Everything that trials ask of a machine, in order.
struct Script<'a> {
    requests: Vec<Request>,
    parts: Vec<Part<'a>>,
    /// The longest of the trials' limits.
    silence: std::time::Duration,
    /// All of them together.
    limit: std::time::Duration,
}

/// The requests of one trial.
struct Part<'a> {
    trial: &'a PlannedTrial,
    assignment: &'a Assignment<'a>,
    asked: Vec<(RequestId, Asked<'a>)>,
    /// The last of its requests, by which it is known to be over.
    state: RequestId,
}

/// What a request is for.
enum Asked<'a> {
    Modules,
    File(&'a str),
    Sysctl(&'a str),
    Commands,
    /// Runs to its end.
    Command(&'a Step),
    Write(&'a Step),
    /// Ends what is left running.
    CleanUp,
}

impl<'a> Script<'a> {
    /// `symbols`: the kernel's functions and their addresses are asked for at last.
    fn of<'c>(
        scenarios: &'a BTreeMap<&'c str, Assignment<'c>>,
        template: &dyn ExactTemplate,
        trials: &VecDeque<&'a PlannedTrial>,
        symbols: bool,
    ) -> Self
    where
        'c: 'a,
    {
        let mut requests = Vec::new();
        let mut parts: Vec<Part<'a>> = Vec::new();
        let (mut silence, mut limit) = Default::default();
        for &trial in trials {
            let assignment = &scenarios[&*trial.scenario];
            let mut asked = Vec::new();
            let mut ask = |what: Option<Asked<'a>>, request: &dyn Fn(RequestId) -> Request| {
                let id = FIRST + RequestId::try_from(requests.len()).unwrap_or(RequestId::MAX);
                requests.push(request(id));
                asked.extend(what.map(|what| (id, what)));
                id
            };
            let requires = &assignment.requires;
            let paths = template.modules(&requires.modules);
            if !paths.is_empty() {
                let load = |id| Request::LoadModules { id, paths: paths.clone() };
                ask(Some(Asked::Modules), &load);
            }
            let look =
                |path: String| move |id| Request::ReadFile { id, path: path.clone(), limit: 1 };
            for path in &requires.files {
                ask(Some(Asked::File(path)), &look(path.clone()));
            }
            for name in &requires.sysctls {
                ask(Some(Asked::Sysctl(name)), &look(sysctl_path(name)));
            }
            let spawn =
                |command: Command| move |id| Request::Spawn { id, command: command.clone() };
            if !requires.commands.is_empty() {
                ask(Some(Asked::Commands), &spawn(look_for_commands(&requires.commands)));
            }
            for step in &assignment.scenario.steps {
                match &step.action {
                    Action::Run { command } => {
                        let command = to_its_end(step, shell(command));
                        ask(Some(Asked::Command(step)), &spawn(command));
                    }
                    Action::Measure(measure) => {
                        let mut argv = measuring(template.ops(), measure);
                        argv.push("--exact".to_owned());
                        ask(Some(Asked::Command(step)), &spawn(to_its_end(step, argv)));
                    }
                    Action::Write { path, text } => {
                        let pieces = text.as_bytes().chunks(CHUNK);
                        let empty = text.is_empty().then_some(&b""[..]);
                        for (at, data) in pieces.chain(empty).enumerate() {
                            let write = |id| Request::WriteFile {
                                id,
                                path: path.clone(),
                                mode: 0o644,
                                append: at > 0,
                                data: data.to_vec(),
                            };
                            ask(Some(Asked::Write(step)), &write);
                        }
                    }
                    // No file that was read has one in an exact scenario.
                    Action::Background { .. } | Action::Sysctl { .. } => {}
                }
            }
            ask(Some(Asked::CleanUp), &|id| Request::KillAll { id });
            let state = ask(None, &|id| Request::State { id });
            silence = assignment.scenario.timeout.max(silence);
            limit += assignment.scenario.timeout;
            parts.push(Part { trial, assignment, asked, state });
        }
        // As long either way: the same guest does the same when it is asked.
        let last = if symbols { SYMBOLS.to_owned() } else { format!("{:1$}", ":", SYMBOLS.len()) };
        let mut command = command(shell(&last));
        command.output_limit = SYMBOLS_LIMIT;
        requests.push(Request::Spawn { id: LAST, command });
        Self { requests, parts, silence, limit }
    }

    /// What is first different in two times the same.
    fn difference(&self, one: &Answers, other: &Answers) -> String {
        for part in &self.parts {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            let _ = (part.judge(one, &mut first), part.judge(other, &mut second));
            for (a, b) in first.iter().zip(&second) {
                let mut pairs = a.values.iter().zip(&b.values).enumerate();
                if let Some((at, (x, y))) = pairs.find(|(_, (x, y))| x != y) {
                    let (scenario, metric) = (&part.trial.scenario, &a.metric);
                    return format!("{scenario}: {metric} was {x}, then {y} (sample {})", at + 1);
                }
            }
            if first != second || one.state(part.state) != other.state(part.state) {
                return format!("{}: what was measured or the memory in use", part.trial.scenario);
            }
        }
        "what was printed".to_owned()
    }
}

impl Part<'_> {
    /// The outcome, and the samples up to what it came by.
    fn judge(&self, answers: &Answers, measured: &mut Vec<Samples>) -> Result<(), Break> {
        for (id, asked) in &self.asked {
            let missing =
                || Break::Lost(crate::vitals::Lost::Closed("an answer is missing".into()));
            match asked {
                Asked::Modules => {
                    if let Err(trouble) = answers.done(*id).ok_or_else(missing)? {
                        let message = trouble.message.clone();
                        return Err(Fault::kernel(FaultKind::Requirement, message).into());
                    }
                }
                Asked::File(path) if answers.is_missing(*id) => return Err(no_file(path)),
                Asked::Sysctl(name) if answers.is_missing(*id) => return Err(no_sysctl(name)),
                Asked::File(_) | Asked::Sysctl(_) => {}
                Asked::Commands => {
                    commands_found(&answers.ended(*id).ok_or_else(missing)?)?;
                }
                Asked::Command(step) => {
                    let ended = answers.ended(*id).ok_or_else(missing)?;
                    measured.extend(answers.samples(*id));
                    measured.extend(judge(step, &ended, &mut Vec::new())?);
                }
                Asked::Write(step) => {
                    if let Err(trouble) = answers.done(*id).ok_or_else(missing)? {
                        return Err(unexpected(step, &trouble.message));
                    }
                }
                Asked::CleanUp => {
                    if let Err(trouble) = answers.done(*id).ok_or_else(missing)? {
                        let message = trouble.message.clone();
                        return Err(Fault::kernel(FaultKind::Hang, message).into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes down what its commands printed.
    fn print(&self, answers: &Answers, log: &Log) {
        for (id, asked) in &self.asked {
            if let (Asked::Command(step), Some(ended)) = (asked, answers.ended(*id)) {
                let Ended { stdout, stderr, .. } = ended;
                log.write(format!("--- {}\n{stdout}{stderr}", step.name).as_bytes());
            }
        }
    }
}

/// What a machine said, by the request that it answers.
struct Answers(BTreeMap<RequestId, Vec<Reply>>);

impl Answers {
    fn of(replies: Vec<Reply>) -> Self {
        let mut all: BTreeMap<RequestId, Vec<Reply>> = BTreeMap::new();
        for reply in replies {
            if let Some(id) = reply.id() {
                all.entry(id).or_default().push(reply);
            }
        }
        Self(all)
    }

    fn to(&self, id: RequestId) -> &[Reply] {
        self.0.get(&id).map_or(&[], Vec::as_slice)
    }

    fn done(&self, id: RequestId) -> Option<Result<(), &kgate_model::wire::Trouble>> {
        self.to(id).iter().find_map(|reply| match reply {
            Reply::Done { result, .. } => Some(result.as_ref().copied()),
            _ => None,
        })
    }

    fn is_missing(&self, id: RequestId) -> bool {
        matches!(self.done(id), Some(Err(trouble)) if is_missing(trouble))
    }

    fn state(&self, id: RequestId) -> Option<KernelState> {
        self.to(id).iter().find_map(|reply| match reply {
            Reply::State { state, .. } => Some(state.clone()),
            _ => None,
        })
    }

    fn samples(&self, id: RequestId) -> Vec<Samples> {
        let samples = self.to(id).iter().filter_map(|reply| match reply {
            Reply::Sample { sample, .. } if sample.value.is_finite() => Some(sample.clone()),
            _ => None,
        });
        by_metric(samples.take(SAMPLES_LIMIT).collect())
    }

    fn ended(&self, id: RequestId) -> Option<Ended> {
        let printed = |wanted: Stream| {
            let mut text = Vec::new();
            for reply in self.to(id) {
                if let Reply::Output { stream, data, .. } = reply
                    && *stream == wanted
                {
                    let room = OUTPUT_LIMIT.saturating_sub(text.len());
                    text.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        let status: ExitStatus = self.to(id).iter().find_map(|reply| match reply {
            Reply::Exited { status, .. } => Some(status.clone()),
            _ => None,
        })?;
        Some(Ended { status, stdout: printed(Stream::Stdout), stderr: printed(Stream::Stderr) })
    }
}
