//! `kgate explain`: where the instructions of an exact run went, function by function.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kgate_compare::{Assessment, Decision, Place};
use kgate_explain::{Explanation, Profile, Side, Symbols, Titles, explain, flame_graph, reached};
use kgate_machine::{Pool, Profile as Wanted};
use kgate_model::outcome::Role;
use kgate_model::plan::{PlannedBoot, Start};
use kgate_qemu::{Accel, AccelChoice};
use kgate_runner::{Profiled, RunDir};
use kgate_scenario::Glob;

use crate::args::ExplainArgs;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE, at};
use crate::guests::Budget;
use crate::reports::{as_planned, columns};
use crate::run::again;
use crate::signals::watch_signals;
use crate::text;

/// Below the run directory.
const DIRECTORY: &str = "explain";
/// Functions shown on a terminal for each operation; the files have all of them.
const ROWS: usize = 12;
/// Columns of the tables in files.
const WIDTH: usize = 120;
/// Operations shown on a terminal when none is named.
const SHOWN: usize = 3;

/// One kernel, counted.
struct Counted {
    profile: Profile,
    symbols: Symbols,
    profiled: Profiled,
}

/// `kgate explain`.
pub(crate) fn command(context: &Context, args: &ExplainArgs) -> Result<ExitCode, CommandError> {
    let dir = RunDir::open(&args.dir)?;
    let budget = Budget { accel: AccelChoice::Only(Accel::Tcg), cpus: None, memory: None };
    let assessment = as_planned(context, &dir.record()?, dir.inputs());
    let globs: Vec<Glob> = args.metrics.iter().map(Glob::new).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = watch_signals()?;
        let pool = again(context, &dir, &args.library, &budget).await?;
        tokio::select! {
            explained = all(&dir, pool.as_ref(), &assessment, &globs) => explained,
            _ = signals.wait_for(|&asked| asked) => {
                Err(CommandError::interrupted("interrupted; nothing is running"))
            }
        }
    })?;
    Ok(ExitCode::from(PROMOTE))
}

/// Whether something became so much worse in exact mode that its reason is wanted unasked.
pub(crate) fn is_called_for(assessment: &Assessment) -> bool {
    exact(assessment, |decision| decision == Decision::Regression).next().is_some()
}

/// Explains the metrics that `globs` name; without any, all that differ.
pub(crate) async fn all(
    dir: &RunDir,
    pool: &dyn Pool,
    assessment: &Assessment,
    globs: &[Glob],
) -> Result<(), CommandError> {
    let directory = dir.path().join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(at(&directory))?;
    anstream::eprintln!("  counting the instructions of both kernels");
    let of = async |role| count(dir, pool, exact_boot(dir, role)?, &directory).await;
    let (baseline, candidate) =
        futures::future::try_join(of(Role::Baseline), of(Role::Candidate)).await?;
    let differs = |d| matches!(d, Decision::Worse | Decision::Better | Decision::Regression);
    let differing: Vec<_> = exact(assessment, differs).collect();
    let mut shown = 0;
    let mut found = false;
    for (index, operation) in candidate.profiled.measured.iter().enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let (scenario, metric) = (&operation.scenario, &operation.metric);
        let (Some(old), Some(new)) =
            (baseline.profile.segment(number), candidate.profile.segment(number))
        else {
            continue;
        };
        let old = Side { segment: old, symbols: &baseline.symbols };
        let new = Side { segment: new, symbols: &candidate.symbols };
        let place = directory.join(scenario).join(metric);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        for (role, side) in [(Role::Baseline, old), (Role::Candidate, new)] {
            let names: String = reached(side).iter().map(|f| format!("{f}\n")).collect();
            write(&place, &format!("{role}.reached.txt"), names.as_bytes())?;
        }
        let named = |glob: &Glob| {
            glob.matches(metric) || glob.matches(scenario) || {
                glob.matches(&format!("{scenario}/{metric}"))
            }
        };
        let wanted = match globs {
            [] => differing.iter().any(|(s, m)| s == scenario && m == metric),
            globs => globs.iter().any(named),
        };
        if !wanted || new.segment.batches == 0 || old.segment.batches == 0 {
            continue;
        }
        found = true;
        let explanation = explain(old, new, operation.operations);
        let title = format!("{scenario}: {metric}");
        let subtitle = "instructions of the candidate by stack; red is more than the baseline has";
        let graph = flame_graph(old, new, Titles { title: &title, subtitle })
            .map_err(|e| CommandError::infrastructure(e.to_string()))?;
        let table = explanation.table(WIDTH, usize::MAX);
        write(&place, "txt", table.as_bytes())?;
        write(&place, "svg", graph.as_bytes())?;
        let json = serde_json::to_vec_pretty(&explanation)?;
        write(&place, "json", &json)?;
        if !globs.is_empty() || shown < SHOWN {
            shown += 1;
            show(&title, &explanation, &place);
        }
    }
    if !found {
        let what = if globs.is_empty() { "no metric differs" } else { "no metric has such a name" };
        anstream::println!("nothing to explain: {what} ({})", directory.display());
    } else {
        anstream::println!("all of it: {}", directory.display());
    }
    Ok(())
}

fn show(title: &str, explanation: &Explanation, place: &Path) {
    let width = columns(&io::stdout());
    anstream::println!("\n{}\n{}", text::line(title), explanation.table(width, ROWS));
    anstream::println!("  {}", place.with_extension("svg").display());
}

/// The boot of a role whose first clone is carried out once more.
fn exact_boot(dir: &RunDir, role: Role) -> Result<&PlannedBoot, CommandError> {
    let boots = dir.plan().boots.iter();
    boots
        .filter(|boot| boot.start == Start::Exact && boot.number == 1)
        .find(|boot| boot.role == role)
        .ok_or_else(|| {
            CommandError::usage(
                "this run has no exact scenario: only instructions can be explained",
            )
        })
}

async fn count(
    dir: &RunDir,
    pool: &dyn Pool,
    boot: &PlannedBoot,
    directory: &Path,
) -> Result<Counted, CommandError> {
    let path = directory.join(format!("{}.profile", boot.role));
    let wanted = Wanted { path: path.clone(), stacks: true };
    let profiled = kgate_runner::profile(dir, pool, boot, wanted)
        .await
        .map_err(|fault| CommandError::infrastructure(format!("{}: {fault}", boot.id)))?;
    let bytes = fs::read(&path).map_err(at(&path))?;
    let broken = |what: String| CommandError::infrastructure(format!("{}: {what}", boot.id));
    let profile = Profile::read(&bytes).map_err(|e| broken(e.to_string()))?;
    let symbols = Symbols::parse(&profiled.symbols).map_err(|e| broken(e.to_string()))?;
    // Hundreds of megabytes that nobody reads again.
    fs::remove_file(&path).map_err(at(&path))?;
    Ok(Counted { profile, symbols, profiled })
}

/// Scenario and metric of exact comparisons that came to such a decision.
fn exact(
    assessment: &Assessment,
    such: impl Fn(Decision) -> bool,
) -> impl Iterator<Item = (&str, &str)> {
    assessment.comparisons.iter().filter_map(move |c| match &c.place {
        Place::Scenario { scenario, .. } if c.exact && such(c.decision) => {
            Some((scenario.as_str(), c.metric.as_str()))
        }
        _ => None,
    })
}

/// Writes a file beside the others of a metric.
fn write(place: &Path, extension: &str, content: &[u8]) -> Result<(), CommandError> {
    let mut path = place.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    let path = PathBuf::from(path);
    fs::write(&path, content).map_err(at(&path))
}
