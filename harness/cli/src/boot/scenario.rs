//! `kgate boot --scenario`: one scenario on one kernel, its output as it comes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use kgate_machine::Pool;
use kgate_model::journal::{Event, RunRecord};
use kgate_model::outcome::{Blame, Outcome, Role};
use kgate_model::plan::{Plan, Start};
use kgate_runner::{History, Inputs, Placement, RunDir, RunEnd, make_plan, trial_log};
use kgate_scenario::{
    MachineSpec, Overrides, Policy, Requires, Scenario, Selected, Timeouts, Waivers, Workload,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::BootArgs;
use crate::context::Context;
use crate::error::{CommandError, INFRASTRUCTURE, PROMOTE, REJECT, USAGE, at};
use crate::guests::{self, Budget};
use crate::library::Source;
use crate::prepare::Known;
use crate::text;

/// How often output is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// Exit code where the scenario does not apply: nothing is said about the kernel.
const SKIPPED: u8 = 3;

/// Runs the scenario `id` as a run of its own that has only a candidate, in a directory that is
/// removed afterwards.
pub(super) async fn run(
    context: &Context,
    args: &BootArgs,
    id: &str,
    signals: watch::Receiver<bool>,
) -> Result<ExitCode, CommandError> {
    let library = Source::new(&args.library)?;
    let scenario = find(&library, id)?;
    let kernel = context.kernel(&args.kernel)?;
    let record = kernel.record();
    let kernels = BTreeMap::from([(Role::Candidate, kernel.clone()), (Role::Baseline, kernel)]);
    let requires = &scenario.requires;
    let machine = MachineSpec {
        cpus: args.cpus.max(requires.cpus.unwrap_or(0)),
        memory: (args.memory << 20).max(requires.memory.unwrap_or(0)),
        cpu_model: args.cpu_model.clone(),
        kernel_args: words(&args.append),
        ..MachineSpec::default()
    };
    let inputs = inputs(machine, Duration::from_secs(args.boot_timeout), scenario);
    let mut plan =
        make_plan(&inputs, record.clone(), record, &Known(&kernels), &Placement::default(), 1);
    plan.boots.retain(|boot| boot.role == Role::Candidate);

    let budget = Budget { accel: args.accel.into(), cpus: None, memory: None };
    let images = plan.boots.iter().map(|boot| boot.image.as_str());
    let mut pool = guests::pool(context, &library, || Ok(kernels), images, budget, &mut |what| {
        anstream::eprintln!("kgate: building {what} …");
    })?;
    for boot in &plan.boots {
        pool.check(boot.role, &boot.image, &boot.modules, boot.shape.network, false)?;
    }
    pool.settle_accel().await?;
    if let Some(reason) = pool.facts().get("accelerator reason") {
        anstream::eprintln!("kgate: TCG is used: {}", text::line(reason));
    }

    carry_out(context, id, args.console.as_deref(), plan, inputs, &pool, signals).await
}

/// The words of some texts.
pub(crate) fn words(texts: &[String]) -> Vec<String> {
    texts.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
}

/// Carries out the plan of one scenario, in a directory that is removed afterwards.
pub(crate) async fn carry_out(
    context: &Context,
    id: &str,
    console: Option<&Path>,
    plan: Plan,
    inputs: Inputs,
    pool: &dyn Pool,
    mut signals: watch::Receiver<bool>,
) -> Result<ExitCode, CommandError> {
    let boots = context.cache()?.join("boots");
    let scratch = Scratch::new(&boots).map_err(at(&boots))?;
    let log = plan.trials().next().map(|(_, trial)| scratch.path().join(trial_log(&trial.id)));
    let dir = RunDir::create(scratch.path(), plan, inputs)?;
    let mut output = Output { path: log.unwrap_or_default(), shown: 0 };
    let mut observe = |entry: &kgate_model::journal::Entry| {
        if let Event::Finding { finding, .. } = &entry.event {
            anstream::eprintln!("kgate: kernel log: {}", text::line(&finding.title));
        }
    };
    let cancel = async move {
        let _ = signals.wait_for(|&asked| asked).await;
    };
    let history = History::default();
    let end = {
        let run = kgate_runner::run(&dir, pool, None, &history, &(), &mut observe, cancel);
        tokio::pin!(run);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                end = &mut run => break end,
                _ = look.tick() => output.show()?,
            }
        }
    };
    output.show()?;
    let record = dir.record()?;
    keep_console(console, &record, scratch.path())?;
    match end? {
        RunEnd::Interrupted => Err(super::interrupted()),
        RunEnd::Stopped(fault) => Err(CommandError::infrastructure(text::line(&fault.to_string()))),
        RunEnd::Complete => Ok(told(id, &record, scratch.path())),
    }
}

/// A directory that is removed in the end, at the latest by the next [`Scratch`] when this process
/// is killed.
struct Scratch {
    dir: TempDir,
    _lock: File,
}

impl Scratch {
    /// A new directory in `parent`, from which those of processes that are gone are removed.
    fn new(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        // Nobody else looks at one that is made and not locked yet.
        let whole = File::open(parent)?;
        whole.lock()?;
        for entry in fs::read_dir(parent)? {
            let path = entry?.path();
            if File::open(&path)?.try_lock().is_ok() {
                fs::remove_dir_all(&path)?;
            }
        }
        let dir = TempDir::new_in(parent)?;
        let lock = File::open(dir.path())?;
        lock.lock()?;
        Ok(Self { dir, _lock: lock })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) fn find(library: &Source, id: &str) -> Result<Scenario, CommandError> {
    match library.scenarios()?.get(id) {
        Some(scenario) => Ok(scenario.clone()),
        None => Err(CommandError::usage(format!("no scenario `{id}`"))
            .hint("`kgate scenario list` shows all of them")),
    }
}

/// A workload of one scenario on such a machine, which starts within `boot`.
pub(crate) fn inputs(machine: MachineSpec, boot: Duration, scenario: Scenario) -> Inputs {
    // There is nobody that a template would spare a boot, and the console is one file.
    let scenario = Scenario { boot: Start::Cold, ..scenario };
    let timeouts = Timeouts { boot, ..Timeouts::default() };
    let policy = Policy { boots: 1, timeouts, ..Policy::default() };
    let workload = Workload {
        name: "boot".into(),
        summary: "one scenario".into(),
        machine,
        requires: Requires::default(),
        scenarios: Vec::new(),
        lab: None,
        policy: policy.clone(),
    };
    let selected = vec![Selected { scenario, boots: 1, overrides: Overrides::default() }];
    Inputs { workload, policy, selected, waivers: Waivers::default() }
}

/// The steps' output, shown as far as it has come.
struct Output {
    path: PathBuf,
    shown: u64,
}

impl Output {
    fn show(&mut self) -> Result<(), CommandError> {
        let mut new = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.shown))?;
            file.read_to_end(&mut new)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(at(&self.path))?,
        };
        self.shown += new.len() as u64;
        let new = if io::stdout().is_terminal() { text::clean(&new) } else { new };
        Ok(super::pass(&mut io::stdout(), &new)?)
    }
}

/// Puts the console where the user wants it: that of the last machine.
fn keep_console(to: Option<&Path>, record: &RunRecord, dir: &Path) -> Result<(), CommandError> {
    let last = record.boots.iter().filter_map(|boot| boot.consoles.last()).next_back();
    if let (Some(to), Some(console)) = (to, last) {
        fs::copy(dir.join(console), to).map_err(at(to))?;
    }
    Ok(())
}

/// Says how the trial ended, and picks the exit code.
fn told(id: &str, record: &RunRecord, dir: &Path) -> ExitCode {
    let outcome = record.trials.iter().find_map(|trial| trial.outcome.as_ref());
    let (code, how) = match outcome {
        Some(Outcome::Passed) => (PROMOTE, "passed".to_owned()),
        Some(Outcome::Skipped { reason }) => (SKIPPED, format!("was skipped: {reason}")),
        Some(Outcome::Failed { cause }) => (REJECT, format!("failed: {cause}")),
        Some(Outcome::Errored { cause }) if cause.blame == Blame::Scenario => {
            (USAGE, format!("is broken: {cause}"))
        }
        Some(Outcome::Errored { cause }) => (INFRASTRUCTURE, format!("errored: {cause}")),
        None => (INFRASTRUCTURE, "never ran".into()),
    };
    anstream::eprintln!("kgate: {id} {}", text::line(&how));
    if let Some(boot) = record.boots.iter().find(|boot| boot.fault.is_some()) {
        let console = boot.consoles.last().and_then(|name| fs::read(dir.join(name)).ok());
        let tail = text::tail(&console.unwrap_or_default(), 12);
        anstream::eprintln!("  hint: the console's end:\n{tail}");
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("console.log"), "x").unwrap();
        let first = Scratch::new(parent.path()).unwrap();
        assert!(!left.exists());
        let second = Scratch::new(parent.path()).unwrap();
        assert!(first.path().exists() && second.path().exists());
        drop((first, second));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
