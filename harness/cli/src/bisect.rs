//! `kgate bisect`: which release or commit was the first to fail. The search is `kgate_release::bisect`;
//! here its points are built and booted, each against the good end.

mod conclusion;
mod failure;
mod git;
mod journal;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::future::join_all;
use kgate_kernel::Kernel;
use kgate_model::journal::{Entry, RunRecord};
use kgate_model::outcome::Role;
use kgate_release::bisect::{Answer, Certainty, Ending, Graph, Search, Sightings};
use kgate_runner::{History, Inputs, Placement, RunDir, RunEnd};
use tokio::sync::watch;

use self::failure::{Seen, Symptom};
use self::git::{Place, Repository};
use self::journal::{Event, Journal};
use self::setup::{FORMAT, Setup, Source};
use crate::args::BisectArgs;
use crate::context::{Context, available_memory, cpus, now};
use crate::error::{CommandError, INCONCLUSIVE, PROMOTE, at};
use crate::guests::Budget;
use crate::host::Host;
use crate::library::read_bytes;
use crate::prepare::Prepared;
use crate::reports;
use crate::run::Machines;
use crate::signals::watch_signals;
use crate::text::line;

const SETUP: &str = "bisect.json";
const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";
const RUNS: &str = "runs";
/// What a bisection is made of takes no more: that of 100,000 commits takes some 10 MiB.
const BOUND: u64 = 256 << 20;

/// Runs the command.
pub(crate) fn bisect(context: &Context, args: &BisectArgs) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = match &args.resume {
        Some(dir) => dir.clone(),
        None => create(context, args)?,
    };
    let machines = share(Budget::new(&args.guest), args.jobs);
    runtime.block_on(async {
        let signals = watch_signals()?;
        let mut bisect = Bisect::open(context, &machines, &dir, args.jobs, signals)?;
        let end = bisect.carry_out().await?;
        anstream::print!("{}", bisect.conclusion(&end));
        // What was found stands without it.
        if let Err(error) = bisect.write_mail(&end) {
            anstream::eprintln!("kgate: no mail was written: {error}");
        }
        let found = matches!(end, Ending::Culprit(_));
        Ok(ExitCode::from(if found { PROMOTE } else { INCONCLUSIVE }))
    })
}

/// What each of several jobs may use.
fn share(budget: Budget, jobs: u32) -> Budget {
    if jobs < 2 {
        return budget;
    }
    Budget {
        cpus: Some((budget.cpus.unwrap_or_else(cpus) / jobs).max(1)),
        memory: Some(budget.memory.unwrap_or_else(|| available_memory() >> 20) / u64::from(jobs)),
        ..budget
    }
}

/// Writes down what is to be done, in a new directory.
fn create(context: &Context, args: &BisectArgs) -> Result<PathBuf, CommandError> {
    let default = || Path::new("bisects").join(now().strftime("%Y-%m-%dT%H%M%S").to_string());
    let dir = Context::here()?.join(args.dir.clone().unwrap_or_else(default));
    if dir.join(SETUP).exists() {
        return Err(CommandError::usage(format!("there is a bisection in {}", dir.display()))
            .hint(format!("go on with `kgate bisect --resume {}`", dir.display())));
    }
    // Nothing of somebody else's is mixed with ours.
    if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CommandError::usage(format!("{} has something else in it", dir.display()))
            .hint("name a directory that is empty or new"));
    }
    let setup = Setup::new(context, args)?;
    write_setup(&dir, &setup)?;
    Ok(dir)
}

fn write_setup(dir: &Path, setup: &Setup) -> Result<(), CommandError> {
    let text = serde_json::to_string(setup)?;
    fs::create_dir_all(dir).map_err(at(dir))?;
    reports::write(&dir.join(SETUP), |out| out.write_all(text.as_bytes()))
}

/// A bisection that goes on.
struct Bisect<'a> {
    context: &'a Context,
    machines: &'a dyn Machines,
    signals: watch::Receiver<bool>,
    jobs: usize,
    dir: PathBuf,
    setup: Setup,
    journal: Journal,
    search: Search,
    /// As it began.
    fresh: Search,
    symptom: Option<Symptom>,
    certainty: Option<Certainty>,
    /// Points that were verified.
    verified: Vec<usize>,
    _lock: File,
}

/// What a point came to.
struct Judged {
    seen: Seen,
    sightings: Sightings,
    run: Option<String>,
    /// What was looked for.
    symptom: Option<Symptom>,
}

impl Judged {
    fn nothing(seen: Seen) -> Self {
        Self { seen, sightings: Sightings { boots: 0, failed: 0 }, run: None, symptom: None }
    }
}

impl<'a> Bisect<'a> {
    fn open(
        context: &'a Context,
        machines: &'a dyn Machines,
        dir: &Path,
        jobs: u32,
        signals: watch::Receiver<bool>,
    ) -> Result<Self, CommandError> {
        let dir = Context::here()?.join(dir);
        let path = dir.join(SETUP);
        if !path.exists() {
            let dir = line(&dir.display().to_string());
            let what = format!("{dir} is no bisection: there is no {SETUP} in it");
            return Err(CommandError::usage(what));
        }
        let text = read_bytes(&path, BOUND)?;
        let damaged = |why: String| CommandError::usage(format!("{}: {why}", path.display()));
        let setup: Setup =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if setup.format != FORMAT {
            return Err(damaged(format!("this program reads format {FORMAT}")));
        }
        let lock = File::create(dir.join(LOCK)).map_err(at(&dir))?;
        if lock.try_lock().is_err() {
            return Err(CommandError::usage(format!(
                "another process is bisecting in {}",
                dir.display()
            )));
        }
        let parents = setup.points.iter().map(|point| point.parents.clone()).collect();
        let search = Graph::new(parents).and_then(|graph| Search::new(graph, 0));
        let search = search.ok_or_else(|| damaged("its points are in no order".to_owned()))?;
        let journal = Journal::open(&dir.join(JOURNAL))?;
        let mut bisect = Self {
            context,
            machines,
            signals,
            jobs: jobs.max(1) as usize,
            symptom: setup.symptom.clone(),
            dir,
            setup,
            journal,
            fresh: search.clone(),
            search,
            certainty: None,
            verified: Vec::new(),
            _lock: lock,
        };
        let known = bisect.journal.events().to_vec();
        if known.iter().any(|event| point_of(event).is_some_and(|p| p >= bisect.setup.points.len()))
        {
            return Err(damaged("its journal is of another bisection".to_owned()));
        }
        for event in &known {
            bisect.apply(event);
        }
        Ok(bisect)
    }

    /// Takes in what was found out. True when an answer contradicts earlier ones.
    fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Failure { symptom } => self.symptom = Some(symptom.clone()),
            Event::End { sightings } => {
                self.certainty = Some(Certainty::new(self.setup.confidence, *sightings));
            }
            Event::Answer { point, answer, sightings, verifies, .. } => {
                let Some(certainty) = &mut self.certainty else { return false };
                if *verifies {
                    certainty.verified();
                    if *answer != Answer::Bad {
                        self.verified.push(*point);
                        return false;
                    }
                    certainty.refuted(sightings.boots.saturating_sub(sightings.failed));
                }
                return self.search.answer(*point, *answer);
            }
        }
        false
    }

    fn note(&mut self, event: Event) -> Result<bool, CommandError> {
        let contradicts = self.apply(&event);
        self.journal.append(event)?;
        Ok(contradicts)
    }

    async fn carry_out(&mut self) -> Result<Ending, CommandError> {
        let resume = format!("kgate bisect --resume {}", self.dir.display());
        match self.search().await {
            Err(error) if error.is_usage() => Err(error),
            Err(error) => Err(error.hint(format!("go on with `{resume}`"))),
            end => end,
        }
    }

    async fn search(&mut self) -> Result<Ending, CommandError> {
        let end = self.setup.points.len() - 1;
        anstream::eprintln!(
            "  {end} point{} from {} to {}, about {} to try",
            if end == 1 { "" } else { "s" },
            self.name(0),
            self.name(end),
            self.search.steps()
        );
        self.confirm_ends(end).await?;
        loop {
            self.ask_all().await?;
            if !self.verify().await? {
                break;
            }
        }
        let ending = self.search.ending();
        let ending = ending.ok_or_else(|| CommandError::infrastructure("the search has no end"))?;
        self.write_git_log(&ending)?;
        Ok(ending)
    }

    /// The failure is at the bad end, and not at the good one.
    async fn confirm_ends(&mut self, end: usize) -> Result<(), CommandError> {
        if self.certainty.is_some() {
            return Ok(());
        }
        let first = self.setup.boots;
        let mut boots = first;
        let sightings = loop {
            let judged = self.judge(end, &format!("end-{boots}"), "0", boots, false).await?;
            let name = line(self.name(end));
            let sightings = judged.sightings;
            if let (None, Some(symptom)) = (&self.symptom, judged.symptom) {
                self.note(Event::Failure { symptom })?;
            }
            match &judged.seen {
                Seen::Skip(why) if sightings.failed == 0 => {
                    return Err(CommandError::usage(format!(
                        "the bad end, {name}, can't be judged: {}",
                        line(why)
                    )));
                }
                Seen::Ours(why) => return Err(ours(&name, why)),
                _ => {}
            }
            match sightings.again(first) {
                Some(more) if self.by_boot() => boots = more,
                _ if sightings.failed == 0 => {
                    return Err(CommandError::usage(format!(
                        "the bad end, {name}, is good: clean in {} boots",
                        sightings.boots
                    ))
                    .hint("--boots N tries it more often"));
                }
                _ => break sightings,
            }
        };
        self.note(Event::End { sightings })?;
        let Some(certainty) = &self.certainty else { return Ok(()) };
        let Sightings { boots, failed } = sightings;
        let told = match self.by_boot() {
            true => format!(
                "failed in {failed} of {boots} boots: a point is good when it is clean in {}, the last \
                 good one in {} more",
                certainty.boots(),
                certainty.boots_to_verify()
            ),
            false => "is worse than the good end by the limit of the policy".to_owned(),
        };
        anstream::eprintln!("  the bad end, {}, {told}", line(self.name(end)));
        Ok(())
    }

    /// Asks until nothing is left to ask.
    async fn ask_all(&mut self) -> Result<(), CommandError> {
        loop {
            let batch = self.search.next_batch(self.jobs);
            if batch.is_empty() {
                return Ok(());
            }
            let boots = match &self.certainty {
                Some(certainty) if self.by_boot() => certainty.boots(),
                _ => 1,
            };
            let jobs = batch.iter().enumerate().map(|(slot, &point)| {
                let (run, slot) = (format!("point-{point}"), slot.to_string());
                let this = &*self;
                async move { this.judge(point, &run, &slot, boots, true).await }
            });
            // What one of them found out is kept, whatever becomes of the others.
            let judged = join_all(jobs).await;
            let mut broken = None;
            for (point, judged) in batch.into_iter().zip(judged) {
                match judged {
                    Ok(judged) => match self.take(point, judged, false) {
                        Ok(()) => {}
                        Err(error) => broken = Some(error),
                    },
                    Err(error) => broken = Some(error),
                }
            }
            if let Some(error) = broken {
                return Err(error);
            }
        }
    }

    /// Asks the good points again on which the end rests. True when one was bad, and the search goes on.
    async fn verify(&mut self) -> Result<bool, CommandError> {
        if !self.by_boot() {
            return Ok(false);
        }
        for point in self.search.support() {
            let Some(certainty) = &self.certainty else { return Ok(false) };
            if self.verified.contains(&point) {
                continue;
            }
            let boots = certainty.boots_to_verify();
            let run = format!("verify-{point}-{boots}");
            let judged = self.judge(point, &run, "0", boots, true).await?;
            let bad = judged.seen == Seen::Bad;
            if let Seen::Skip(why) = &judged.seen {
                return Err(CommandError::infrastructure(format!(
                    "{}, which was good, can't be judged again: {}",
                    line(self.name(point)),
                    line(why)
                )));
            }
            if bad && point == 0 {
                return Err(self.good_end_is_bad(&judged.sightings));
            }
            self.take(point, judged, true)?;
            if bad {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn good_end_is_bad(&self, sightings: &Sightings) -> CommandError {
        CommandError::usage(format!(
            "the good end, {}, is bad: it failed in {} of {} boots",
            line(self.name(0)),
            sightings.failed,
            sightings.boots
        ))
        .hint("begin with an earlier one")
    }

    /// Notes what a point came to, and says so.
    fn take(&mut self, point: usize, judged: Judged, verifies: bool) -> Result<(), CommandError> {
        let name = line(self.name(point));
        let (answer, why) = match judged.seen {
            Seen::Bad => (Answer::Bad, None),
            Seen::Good => (Answer::Good, None),
            Seen::Skip(why) => (Answer::Skip, Some(why)),
            Seen::Ours(why) => return Err(ours(&name, &why)),
        };
        let is = match (answer, &why) {
            (Answer::Skip, why) => format!("skipped: {}", why.as_deref().unwrap_or_default()),
            (Answer::Good, _) => match judged.sightings.boots {
                0 | 1 => "good".to_owned(),
                boots => format!("good in {boots} boots"),
            },
            (Answer::Bad, _) => {
                let same = self.symptom.as_ref().map(Symptom::same).unwrap_or_default();
                format!("bad ({same})")
            }
        };
        let Judged { sightings, run, .. } = judged;
        let contradicts =
            self.note(Event::Answer { point, answer, why, sightings, run, verifies })?;
        let left = self.search.candidates().count();
        let steps = self.search.next().map_or(0, |_| self.search.steps() as usize);
        let is_point = |event: &&Event| matches!(event, Event::Answer { verifies: false, .. });
        let asked = self.journal.events().iter().filter(is_point).count();
        let which = match verifies {
            true => format!("{name} again"),
            false => format!("{asked} of about {}: {name}", asked + steps),
        };
        let more = if steps > 0 { format!(", about {steps} more") } else { String::new() };
        anstream::eprintln!("  {which} is {}, {left} left{more}", line(&is));
        if contradicts {
            anstream::eprintln!("  that contradicts earlier answers; what was seen to fail counts");
        }
        Ok(())
    }

    fn by_boot(&self) -> bool {
        self.symptom.as_ref().is_none_or(Symptom::by_boot)
    }

    fn name(&self, point: usize) -> &str {
        &self.setup.points[point].name
    }

    /// The kernel of a point, built where it has to be; `Err` says why there is none.
    async fn kernel(
        &self,
        point: usize,
        slot: &str,
    ) -> Result<Result<Kernel, String>, CommandError> {
        let id = &self.setup.points[point].id;
        let reference = match &self.setup.source {
            Source::Releases => id.clone(),
            Source::Git(repository) => {
                match self.build(repository, id, if point == 0 { "good" } else { slot }).await? {
                    Ok(reference) => reference,
                    Err(why) => return Ok(Err(why)),
                }
            }
        };
        match self.context.kernel(&reference) {
            Ok(kernel) => Ok(Ok(kernel)),
            Err(error) if error.is_usage() => Ok(Err(error.first_line())),
            Err(error) => Err(error),
        }
    }

    async fn build(
        &self,
        repository: &Repository,
        commit: &str,
        slot: &str,
    ) -> Result<Result<String, String>, CommandError> {
        let place = Place::new(&self.dir, slot, commit);
        let mut signals = self.signals.clone();
        let build = repository.build(&self.context.host, &place, commit);
        tokio::select! {
            built = build => built,
            _ = signals.wait_for(|&asked| asked) => Err(interrupted()),
        }
    }

    /// Boots a point against the good end so many times, until it fails once if that is enough; what is
    /// not the kernel's is tried twice.
    async fn judge(
        &self,
        point: usize,
        run: &str,
        slot: &str,
        boots: u32,
        once: bool,
    ) -> Result<Judged, CommandError> {
        let candidate = match self.kernel(point, slot).await? {
            Ok(kernel) => kernel,
            Err(why) => return Ok(Judged::nothing(Seen::Skip(why))),
        };
        let baseline = self.kernel(0, slot).await?.map_err(|why| {
            CommandError::usage(format!("the good end, {}: {}", line(self.name(0)), line(&why)))
        })?;
        let path = self.dir.join(RUNS).join(run);
        let mut last = None;
        for _ in 0..2 {
            let kernels = BTreeMap::from([
                (Role::Baseline, baseline.clone()),
                (Role::Candidate, candidate.clone()),
            ]);
            let record = match done(&path) {
                Some(record) => record,
                None => self.carry_out_run(&path, kernels, boots, once).await?,
            };
            let judged = self.judge_record(record, run)?;
            if !matches!(judged.seen, Seen::Ours(_)) {
                return Ok(judged);
            }
            remove(&path)?;
            last = Some(judged);
        }
        Ok(last.unwrap_or_else(|| Judged::nothing(Seen::Ours("nothing was tried".to_owned()))))
    }

    async fn carry_out_run(
        &self,
        path: &Path,
        kernels: BTreeMap<Role, Kernel>,
        boots: u32,
        once: bool,
    ) -> Result<RunRecord, CommandError> {
        remove(path)?;
        let library = self.setup.library()?;
        let inputs = self.inputs(boots);
        let prepared =
            Prepared { inputs, library, kernels, tier: None, placement: Placement::default() };
        let plan = prepared.plan(1);
        let Prepared { inputs, library, kernels, .. } = prepared;
        let pool = self.machines.pool(self.context, &library, kernels, &plan, path).await?;
        let dir = RunDir::create(path, plan, inputs)?;
        let planned = dir.record()?;
        let (enough, mut shown) = watch::channel(false);
        let symptom = self.symptom.as_ref().filter(|_| once && boots > 1);
        let mut observe = |entry: &Entry| {
            if symptom.is_some_and(|symptom| symptom.is_shown_by(&entry.event, &planned)) {
                enough.send_replace(true);
            }
        };
        let mut signals = self.signals.clone();
        let cancel = async move {
            tokio::select! {
                _ = signals.wait_for(|&asked| asked) => {}
                Ok(_) = shown.wait_for(|&shown| shown) => {}
            }
        };
        let mut host = Host::look();
        host.times = dir.plan().boots.iter().any(|boot| boot.exclusive);
        let history = History::default();
        let pool = pool.as_ref();
        let end =
            kgate_runner::run(&dir, pool, None, &history, &host, &mut observe, cancel).await?;
        match end {
            RunEnd::Interrupted if *self.signals.borrow() => Err(interrupted()),
            RunEnd::Stopped(fault) => Err(CommandError::infrastructure(fault.to_string())),
            RunEnd::Complete | RunEnd::Interrupted => Ok(dir.record()?),
        }
    }

    /// The one scenario, in so many boots if it is judged by boot.
    fn inputs(&self, boots: u32) -> Inputs {
        let mut inputs = self.setup.inputs.clone();
        if self.by_boot() {
            (inputs.policy.boots, inputs.workload.policy.boots) = (boots, boots);
            for one in &mut inputs.selected {
                one.boots = boots;
            }
        }
        inputs
    }

    /// What a run says of its candidate. Its baseline is the control.
    fn judge_record(&self, record: RunRecord, run: &str) -> Result<Judged, CommandError> {
        let inputs = &self.setup.inputs;
        let assess = || reports::as_planned(self.context, &record, inputs);
        let symptom = match &self.symptom {
            Some(symptom) => symptom.clone(),
            // The first run of the bad end tells what fails.
            None => {
                let wanted = self.setup.wanted.as_deref();
                let all = Symptom::all(&record, &assess());
                let nothing = all.is_empty();
                setup::choose(all, wanted).map_err(|error| {
                    let error = error.within(&line(self.name(self.setup.points.len() - 1)));
                    let dir = self.dir.join(RUNS).join(run);
                    match nothing {
                        true => error.hint(format!(
                            "the bad end passes, or the good end fails in the same way: `kgate report {}` \
                             shows both",
                            dir.display()
                        )),
                        false => error,
                    }
                })?
            }
        };
        let run = Some(format!("{RUNS}/{run}"));
        if !symptom.by_boot() {
            let seen = symptom.judge_metric(&assess());
            let failed = u32::from(seen == Seen::Bad);
            let sightings = Sightings { boots: 1, failed };
            return Ok(Judged { seen, sightings, run, symptom: Some(symptom) });
        }
        let (control, told, failed) = symptom.judge(&record, Role::Baseline);
        if control == Seen::Bad && told > 0 {
            return Err(self.good_end_is_bad(&Sightings { boots: told, failed }));
        }
        let (seen, boots, failed) = symptom.judge(&record, Role::Candidate);
        let seen = match (seen, control) {
            // Without a control nothing passes for good.
            (Seen::Good, Seen::Skip(why) | Seen::Ours(why)) => {
                Seen::Ours(format!("the good end beside it: {why}"))
            }
            (seen, _) => seen,
        };
        let sightings = Sightings { boots, failed };
        Ok(Judged { seen, sightings, run, symptom: Some(symptom) })
    }
}

fn point_of(event: &Event) -> Option<usize> {
    match event {
        Event::Answer { point, .. } => Some(*point),
        Event::Failure { .. } | Event::End { .. } => None,
    }
}

fn ours(name: &str, why: &str) -> CommandError {
    CommandError::infrastructure(format!("{name} can't be tried: {}", line(why)))
}

fn interrupted() -> CommandError {
    CommandError::interrupted("interrupted; nothing is running")
}

/// The record of a run that came to its end before.
fn done(path: &Path) -> Option<RunRecord> {
    let record = RunDir::open(path).ok()?.record().ok()?;
    let whole =
        record.trials.iter().all(|trial| trial.outcome.is_some()) && record.stopped.is_none();
    whole.then_some(record)
}

/// Removes a run that was cut short or went wrong.
fn remove(path: &Path) -> Result<(), CommandError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}
