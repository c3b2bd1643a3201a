//! `kgate run` and `kgate plan`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use async_trait::async_trait;
use kgate_compare::Verdict;
use kgate_kernel::Kernel;
use kgate_machine::Pool;
use kgate_model::journal::Event;
use kgate_model::outcome::Role;
use kgate_model::plan::{Plan, Start, TierChoice};
use kgate_runner::{History, RunDir, RunDirError, RunEnd};
use tokio::sync::watch;

use crate::args::on_lab::OnLabArgs;
use crate::args::{LibraryArgs, PlanArgs, RunArgs, Subjects};
use crate::context::{Context, now};
use crate::error::{CommandError, PROMOTE, at};
use crate::explain;
use crate::fleet::{self, Fleets};
use crate::foresight;
use crate::guests::{self, Budget};
use crate::host::Host;
use crate::library::Source;
use crate::prepare::{self, Prepared};
use crate::reports::{self, Live};
use crate::signals::{watch_signals, watch_signals_with_hosts};

/// What to do about a kernel that a run was planned with and that is gone.
const PLANNED_WITH: &str = "the run can only go on with the kernel that it was planned with; \
    relative paths are those from where it was started";

/// Below the cache: how long scenarios took, and how much their numbers scattered.
const HISTORY: &str = "history.json";

/// Runs the command.
pub(crate) fn run(context: &Context, args: &RunArgs) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lab = args.subjects.lab.lab.clone();
    let fleets = Fleets { budget: Budget::new(&args.guest), lab };
    let planned = args.resume.as_ref().and_then(|dir| RunDir::open(dir).ok());
    let hosts = fleets.lab.is_some() || planned.is_some_and(|dir| dir.plan().lab.is_some());
    let watch = if hosts { watch_signals_with_hosts } else { watch_signals };
    let verdict = runtime.block_on(async { carry_out(context, args, &fleets, watch()?).await })?;
    Ok(ExitCode::from(verdict.exit_code()))
}

/// Where the machines of a run come from.
#[async_trait(?Send)]
pub(crate) trait Machines {
    /// Machines for a plan, ready to boot. What they leave besides consoles goes to the run directory,
    /// which need not be there yet.
    async fn pool(
        &self,
        context: &Context,
        library: &Source,
        kernels: BTreeMap<Role, Kernel>,
        plan: &Plan,
        dir: &Path,
    ) -> Result<Box<dyn Pool>, CommandError>;
}

/// Guests on this controller.
#[async_trait(?Send)]
impl Machines for Budget {
    async fn pool(
        &self,
        context: &Context,
        library: &Source,
        kernels: BTreeMap<Role, Kernel>,
        plan: &Plan,
        _: &Path,
    ) -> Result<Box<dyn Pool>, CommandError> {
        let images = plan.boots.iter().map(|boot| boot.image.as_str());
        let kernels = || Ok(kernels);
        let mut pool = guests::pool(context, library, kernels, images, *self, &mut announce)?;
        for boot in &plan.boots {
            let exact = boot.start == Start::Exact;
            pool.check(boot.role, &boot.image, &boot.modules, boot.shape.network, exact)?;
        }
        // KVM that was asked for and can't be used is told before anything is started.
        pool.settle_accel().await?;
        Ok(Box::new(pool))
    }
}

/// Carries out a run, from planning or from where it was left to its verdict and reports.
pub(crate) async fn carry_out(
    context: &Context,
    args: &RunArgs,
    machines: &dyn Machines,
    signals: watch::Receiver<bool>,
) -> Result<Verdict, CommandError> {
    // Before kgate itself is what loads it.
    let host = Host::look();
    reports::check(&args.outputs)?;
    let run = match &args.resume {
        Some(dir) => Run::resumed(context, dir, &args.subjects, machines).await?,
        None => Run::planned(context, args, machines).await?,
    };
    run.carry_out(context, args, host, signals).await
}

/// A run that is ready to be carried out.
struct Run {
    dir: RunDir,
    pool: Box<dyn Pool>,
    partition: Option<u32>,
}

impl Run {
    async fn planned(
        context: &Context,
        args: &RunArgs,
        machines: &dyn Machines,
    ) -> Result<Self, CommandError> {
        let path = args.dir.clone().unwrap_or_else(default_dir);
        // Kernels and images may take minutes: what can be refused before is.
        if path.exists() && !path.is_dir() {
            return Err(at(&path)(io::ErrorKind::NotADirectory.into()));
        }
        if path
            .read_dir()
            .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name() != "lock")))
        {
            return Err(RunDirError::Occupied(path).into());
        }
        let prepared = Prepared::new(context, &args.subjects, &mut announce)?;
        let (partition, partitions) = match args.partition {
            Some((i, n)) => (Some(i), n),
            None => (None, 1),
        };
        let plan = prepared.plan(partitions);
        let Prepared { inputs, library, kernels, .. } = prepared;
        let pool = machines.pool(context, &library, kernels, &plan, &path).await?;
        let dir = RunDir::create(&path, plan, inputs)?;
        Ok(Self { dir, pool, partition })
    }

    async fn resumed(
        context: &Context,
        path: &Path,
        subjects: &Subjects,
        machines: &dyn Machines,
    ) -> Result<Self, CommandError> {
        if let Some(option) = given(subjects) {
            return Err(CommandError::usage(format!(
                "a resumed run keeps what it was planned with: leave {option} out"
            ))
            .hint("`kgate compare DIR` decides again by another policy or with other waivers"));
        }
        let dir = RunDir::open(path)?;
        let pool = again(context, &dir, &subjects.library, machines).await?;
        let partition = dir
            .entries()?
            .into_iter()
            .find_map(|entry| match entry.event {
                Event::RunStarted { partition, .. } => Some(partition),
                _ => None,
            })
            .flatten();
        Ok(Self { dir, pool, partition })
    }

    async fn carry_out(
        self,
        context: &Context,
        args: &RunArgs,
        mut host: Host,
        mut signals: watch::Receiver<bool>,
    ) -> Result<Verdict, CommandError> {
        let Self { dir, pool, partition } = self;
        let pool = pool.as_ref();
        let mut interrupted = signals.clone();
        let cancel = async move {
            let _ = signals.wait_for(|&asked| asked).await;
        };
        let record = dir.record()?;
        let remembered = context.cache()?.join(HISTORY);
        let mut history = History::load(&remembered);
        let why = dir.plan().tier.iter().map(|choice| choice.why.clone());
        let haste = fleet::haste(dir.plan(), dir.inputs());
        for line in why.chain(foresight::lines(dir.plan(), dir.inputs(), &history)).chain(haste) {
            anstream::eprintln!("  {line}");
        }
        let mut live = Live::new(&record, context);
        let mut observe = |entry: &_| live.take(entry);
        host.note = fleet::note(dir.plan(), dir.inputs());
        host.times = dir.plan().boots.iter().any(|boot| boot.exclusive);
        let run = kgate_runner::run(&dir, pool, partition, &history, &host, &mut observe, cancel);
        let end = run.await?;
        drop(live);
        // Without it the next run only begins with something else.
        if let Ok(record) = dir.record() {
            history.learn(&record);
            foresight::learn(&mut history, &record, dir.inputs());
            let _ = history.save(&remembered);
        }
        let resume = format!("kgate run --resume {}", dir.path().display());
        match end {
            RunEnd::Interrupted => Err(interrupted_run(pool, &resume)),
            RunEnd::Stopped(fault) => {
                // A full disk stops the reports as well; the run's own reason is the one to tell.
                let _ = reports::decide(context, &dir, None, &args.outputs);
                Err(CommandError::infrastructure(format!("the run was stopped: {fault}"))
                    .hint(format!("when that is mended, go on with `{resume}`")))
            }
            RunEnd::Complete => {
                let decided = reports::decide(context, &dir, None, &args.outputs)?;
                let assessment = &decided.assessment;
                if args.explain || explain::is_called_for(assessment) {
                    let explained = tokio::select! {
                        explained = explain::all(&dir, pool, assessment, &[]) => explained,
                        _ = interrupted.wait_for(|&asked| asked) => {
                            Err(CommandError::interrupted("interrupted; nothing is running"))
                        }
                    };
                    let explained =
                        explained.and_then(|()| decided.link_explanation(&dir, &args.outputs));
                    // The verdict stands without it.
                    if let Err(error) = explained {
                        anstream::eprintln!("kgate: not explained: {error}");
                    }
                }
                Ok(assessment.verdict)
            }
        }
    }
}

/// What to say of a run that was interrupted: lab hosts may not be back.
fn interrupted_run(pool: &dyn Pool, resume: &str) -> CommandError {
    let left = pool.hosts().into_iter().filter(|(_, left)| left.is_some()).map(|(host, _)| host);
    let left: Vec<String> = left.collect();
    if left.is_empty() {
        return CommandError::interrupted("interrupted; nothing is running")
            .hint(format!("go on with `{resume}`"));
    }
    CommandError::interrupted(format!("interrupted; not back on production: {}", left.join(", ")))
        .hint(format!("`kgate lab recover {}` brings back; then `{resume}`", left.join(" ")))
}

/// The pool that a run was planned with.
pub(crate) async fn again(
    context: &Context,
    dir: &RunDir,
    library: &LibraryArgs,
    machines: &dyn Machines,
) -> Result<Box<dyn Pool>, CommandError> {
    let plan = dir.plan();
    let (baseline, candidate) = (&plan.baseline.reference, &plan.candidate.reference);
    let kernels = prepare::kernels(context, baseline, candidate, &mut announce)
        .map_err(|error| error.hint(PLANNED_WITH))?;
    dir.check_kernels(&kernels[&Role::Baseline].record(), &kernels[&Role::Candidate].record())?;
    machines.pool(context, &Source::new(library)?, kernels, plan, dir.path()).await
}

/// The first option that a resumed run doesn't take.
fn given(subjects: &Subjects) -> Option<&'static str> {
    let Subjects {
        baseline,
        candidate,
        workload,
        library: _,
        scenarios,
        boots,
        seed,
        tier,
        // Where the inventory is may have changed.
        lab: OnLabArgs { lab: _, hosts, lab_scenarios },
        rules,
    } = subjects;
    [
        ("--baseline", baseline.is_some()),
        ("--candidate", candidate.is_some()),
        ("--workload", workload.is_some()),
        ("--scenario", !scenarios.is_empty()),
        ("--boots", boots.is_some()),
        ("--seed", seed.is_some()),
        ("--tier", tier.tier.is_some()),
        ("--hosts", !hosts.is_empty()),
        ("--lab-scenarios", !lab_scenarios.is_empty()),
        ("--policy", rules.policy.is_some()),
        ("--waivers", rules.waivers.is_some()),
    ]
    .into_iter()
    .find_map(|(name, given)| given.then_some(name))
}

pub(crate) fn announce(what: String) {
    anstream::eprintln!("  preparing {what}");
}

/// `runs/` and the time to the second.
fn default_dir() -> PathBuf {
    Path::new("runs").join(now().strftime("%Y-%m-%dT%H%M%S").to_string())
}

/// Shows the plan.
pub(crate) fn plan(context: &Context, args: &PlanArgs) -> Result<ExitCode, CommandError> {
    let prepared = Prepared::new(context, &args.subjects, &mut announce)?;
    let plan = prepared.plan(args.partitions);
    if args.json {
        let text = serde_json::to_string_pretty(&plan)?;
        anstream::println!("{text}");
        return Ok(ExitCode::from(PROMOTE));
    }
    anstream::println!(
        "{}   {} → {}   {} boots, {} trials",
        plan.workload,
        name(&plan, Role::Baseline),
        name(&plan, Role::Candidate),
        plan.boots.len(),
        plan.trials().count(),
    );
    for line in tier(context, &prepared, &plan) {
        anstream::println!("  {line}");
    }
    let history = History::load(&context.cache()?.join(HISTORY));
    for line in foresight::lines(&plan, &prepared.inputs, &history) {
        anstream::println!("  {line}");
    }
    let hosts = plan.hosts();
    if !hosts.is_empty() {
        let boots =
            |host: &str| plan.boots.iter().filter(|b| b.host.as_deref() == Some(host)).count();
        let told = hosts.iter().map(|host| format!("{host} ({} boots)", boots(host)));
        anstream::println!("  lab hosts: {}", told.collect::<Vec<_>>().join(", "));
    }
    let inputs = &prepared.inputs;
    for note in fleet::haste(&plan, inputs).into_iter().chain(fleet::note(&plan, inputs)) {
        anstream::println!("  {note}");
    }
    for boot in &plan.boots {
        let alone = if boot.exclusive { ", alone" } else { "" };
        let start = match boot.start {
            Start::Shared if boot.host.is_some() => "",
            Start::Warm => ", a clone for each",
            Start::Shared => ", shared",
            Start::Cold => ", cold",
            Start::Exact => ", exact",
        };
        let part = if plan.partitions > 1 {
            format!(", partition {}", boot.partition)
        } else {
            String::new()
        };
        let machine = match &boot.host {
            Some(host) => format!("on {host}"),
            None => format!("{} CPU, {} MiB", boot.shape.cpus, boot.shape.memory >> 20),
        };
        anstream::println!("\n{}   {machine}{start}{alone}{part}", boot.id);
        for trial in &boot.trials {
            match &trial.decided {
                Some(outcome) => {
                    let why = outcome.cause().map_or_else(|| skipped(outcome), ToString::to_string);
                    anstream::println!("  {}   {}: {why}", trial.scenario, outcome.as_str());
                }
                None => anstream::println!("  {}", trial.scenario),
            }
        }
    }
    Ok(ExitCode::from(PROMOTE))
}

/// Which tier the plan is of and why; without one, which it would be.
fn tier(context: &Context, prepared: &Prepared, plan: &Plan) -> [String; 2] {
    match &plan.tier {
        Some(TierChoice { tier, why }) => [format!("{} tier", tier.as_str()), why.clone()],
        None => {
            let TierChoice { tier, why } = prepared.own_tier(context);
            let tier = tier.as_str();
            let whole =
                "the whole workload, as it is written; --tier auto shows what `kgate gate` runs";
            [format!("{whole}: the {tier} tier"), why]
        }
    }
}

fn skipped(outcome: &kgate_model::outcome::Outcome) -> String {
    match outcome {
        kgate_model::outcome::Outcome::Skipped { reason } => reason.clone(),
        _ => String::new(),
    }
}

fn name(plan: &Plan, role: Role) -> &str {
    let kernel = plan.kernel(role);
    kernel.upstream.as_deref().unwrap_or(&kernel.release)
}
