//! From a run directory to a verdict and its reports: after a run, and by `kgate compare`, `report`
//! and `merge`.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use kgate_compare::{Assessment, Inputs};
use kgate_klog::delta::LogDelta;
use kgate_model::journal::{Entry, RunRecord};
use kgate_report::{
    Files, Lines, Observer, Progress, Report, Results, Style, annotations, html, junit, markdown,
    summary,
};
use kgate_runner::RunDir;
use kgate_scenario::{Policy, Selected, Waivers};

use crate::args::regression::ReportCommand;
use crate::args::{CompareArgs, MergeArgs, Outputs, ReportArgs, Rules};
use crate::context::Context;
use crate::error::{CommandError, PROMOTE, at};
use crate::logs;
use crate::prepare::rules;
use crate::regression;

/// The bootstrap's seed: the same record gives the same verdict.
const SEED: u64 = 0x6b67_6174_6521;
/// Columns where there is no terminal to ask.
const COLUMNS: u16 = 100;

/// Shows a run while it goes on: bars on a terminal, plain lines elsewhere.
pub(crate) struct Live(Box<dyn Observer>);

impl Live {
    pub(crate) fn new(record: &RunRecord, context: &Context) -> Self {
        let style = style(context.colour);
        if io::stderr().is_terminal() {
            let bars = context.bars.clone();
            Self(Box::new(Progress::new(record, bars, columns(&io::stderr()), style)))
        } else {
            Self(Box::new(Lines::new(record, io::stderr(), Style::Plain)))
        }
    }

    pub(crate) fn take(&mut self, entry: &Entry) {
        self.0.entry(entry);
    }
}

pub(crate) fn style(colour: bool) -> Style {
    if colour { Style::Colour } else { Style::Plain }
}

pub(crate) fn columns(stream: &impl std::os::fd::AsFd) -> usize {
    usize::from(rustix::termios::tcgetwinsize(stream).map_or(COLUMNS, |size| size.ws_col.max(40)))
}

/// `kgate compare`.
pub(crate) fn compare(context: &Context, args: &CompareArgs) -> Result<ExitCode, CommandError> {
    decide(context, &open(&args.dir)?, Some(&args.rules), &args.outputs).map(exit_code)
}

/// `kgate report`: writes what is asked for, to standard output where nothing is.
pub(crate) fn report(context: &Context, args: &ReportArgs) -> Result<ExitCode, CommandError> {
    match (&args.command, &args.dir) {
        (Some(ReportCommand::Regression(args)), _) => regression::regression(context, args)?,
        (None, Some(dir)) => drop(decide(context, &open(dir)?, None, &args.outputs)?),
        // The parser asks for one of them.
        (None, None) => return Err(CommandError::usage("the run directory is missing")),
    }
    Ok(ExitCode::from(PROMOTE))
}

/// `kgate merge`.
pub(crate) fn merge(context: &Context, args: &MergeArgs) -> Result<ExitCode, CommandError> {
    let parts = args.parts.iter().map(|part| open(part)).collect::<Result<Vec<_>, _>>()?;
    let merged = kgate_runner::merge(&args.into, &parts)
        .map_err(|error| CommandError::usage(error.to_string()))?;
    decide(context, &merged, None, &args.outputs).map(exit_code)
}

fn exit_code(decided: Decided) -> ExitCode {
    ExitCode::from(decided.assessment.verdict.exit_code())
}

fn open(path: &Path) -> Result<RunDir, CommandError> {
    Ok(RunDir::open(path)?)
}

/// Computes the verdict, shows it, writes the reports.
pub(crate) fn decide(
    context: &Context,
    dir: &RunDir,
    replace: Option<&Rules>,
    outputs: &Outputs,
) -> Result<Decided, CommandError> {
    check(outputs)?;
    let decided = Decided::new(context, dir, replace)?;
    let report = decided.report();
    let text = summary(&report, columns(&io::stdout()), style(context.colour));
    anstream::println!("{text}");
    write_all(&report, dir, outputs)?;
    Ok(decided)
}

/// A run and what it comes to.
pub(crate) struct Decided {
    record: RunRecord,
    pub(crate) assessment: Assessment,
    log: LogDelta,
    directory: String,
}

impl Decided {
    fn new(context: &Context, dir: &RunDir, replace: Option<&Rules>) -> Result<Self, CommandError> {
        let record = dir.record()?;
        let planned = dir.inputs();
        let (mut policy, mut waivers) = (planned.policy.clone(), planned.waivers.clone());
        if let Some(replace) = replace {
            let (new_policy, new_waivers) = rules(replace, &policy, &planned.selected)?;
            policy = new_policy;
            if replace.waivers.is_some() {
                waivers = new_waivers;
            }
        }
        let assessment = assess(context, &record, &policy, &planned.selected, &waivers);
        let log = logs::of_run(dir, &record);
        Ok(Self { record, assessment, log, directory: dir.path().display().to_string() })
    }

    /// Writes the page again, with links to what has been made since.
    pub(crate) fn link_explanation(
        &self,
        dir: &RunDir,
        outputs: &Outputs,
    ) -> Result<(), CommandError> {
        outputs.html.as_ref().map_or(Ok(()), |path| write_page(&self.report(), dir, path))
    }

    fn report(&self) -> Report<'_> {
        let Self { record, assessment, log, directory } = self;
        Report { record, assessment, log: Some(log), directory }
    }
}

/// What a record comes to by the rules that its run was planned with.
pub(crate) fn as_planned(
    context: &Context,
    record: &RunRecord,
    planned: &kgate_runner::Inputs,
) -> Assessment {
    assess(context, record, &planned.policy, &planned.selected, &planned.waivers)
}

/// What a record comes to by these rules, on the day of the context.
fn assess(
    context: &Context,
    record: &RunRecord,
    policy: &Policy,
    selected: &[Selected],
    waivers: &Waivers,
) -> Assessment {
    Assessment::new(&Inputs {
        record,
        policy,
        selected,
        waivers,
        today: context.today(),
        seed: SEED,
    })
}

/// Checks before the work that reports can be where they are asked for, and makes the directories.
pub(crate) fn check(outputs: &Outputs) -> Result<(), CommandError> {
    let Outputs { junit, json, markdown, html, annotations } = outputs;
    for path in [junit, json, markdown, html, annotations].into_iter().flatten() {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        if path.is_dir() {
            return Err(at(path)(io::ErrorKind::IsADirectory.into()));
        }
    }
    Ok(())
}

fn write_all(report: &Report<'_>, dir: &RunDir, outputs: &Outputs) -> Result<(), CommandError> {
    let Outputs { junit: junit_to, json, markdown: markdown_to, html, annotations: annotations_to } =
        outputs;
    if let Some(path) = junit_to {
        let mut tail = |name: &str, bytes: usize| logs::tail(dir.path(), name, bytes);
        write(path, |out| junit(report, &mut tail, out))?;
    }
    if let Some(path) = json {
        let text = Results::new(report)
            .to_json()
            .map_err(|e| CommandError::infrastructure(format!("results: {e}")))?;
        write(path, |out| out.write_all(text.as_bytes()))?;
    }
    if let Some(path) = markdown_to {
        write(path, |out| out.write_all(markdown(report).as_bytes()))?;
    }
    if let Some(path) = html {
        write_page(report, dir, path)?;
    }
    if let Some(path) = annotations_to {
        write(path, |out| out.write_all(annotations(report).as_bytes()))?;
    }
    Ok(())
}

/// Writes the HTML page. In the run directory, it has links to files there.
fn write_page(report: &Report<'_>, dir: &RunDir, path: &Path) -> Result<(), CommandError> {
    let up = way_up(path, dir.path());
    let link = |name: &str| {
        let up = up.as_ref()?;
        logs::within(dir.path(), name)?.is_file().then(|| format!("{up}{name}"))
    };
    let mut tail = |name: &str, bytes: usize| logs::tail(dir.path(), name, bytes);
    let page = html(report, Files { tail: &mut tail, link: &link });
    write(path, |out| out.write_all(page.as_bytes()))
}

/// `../` for each directory between a file and a directory that it lies in; `None` where it doesn't.
fn way_up(file: &Path, dir: &Path) -> Option<String> {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (parent, dir) = (parent.canonicalize().ok()?, dir.canonicalize().ok()?);
    Some("../".repeat(parent.strip_prefix(dir).ok()?.components().count()))
}

/// Writes a file: beside it first, so that nobody ever reads half of one.
pub(crate) fn write(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CommandError> {
    // A pipe or a terminal can't be replaced.
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let mut file = File::options().write(true).open(path).map_err(at(path))?;
        return content(&mut file).map_err(at(path));
    }
    // A link stays one: what it leads to is replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut beside = target.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let written = File::create(beside).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()?;
        fs::rename(beside, &target)
    });
    written.map_err(|error| {
        // What is left of it helps nobody.
        let _ = fs::remove_file(beside);
        at(path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_finds_its_way_only_from_within_the_run_directory() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("run");
        fs::create_dir_all(run.join("reports")).unwrap();
        let way = |page: &str| way_up(&place.path().join(page), &run);
        assert_eq!(way("run/report.html"), Some(String::new()));
        assert_eq!(way("run/reports/report.html"), Some("../".to_owned()));
        assert_eq!(way("report.html"), None);
        assert_eq!(way("nowhere/report.html"), None);
    }

    #[test]
    fn a_link_stays_one() {
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("file"), place.path().join("link"));
        fs::write(&file, "a longer text than before").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write(&link, |out| out.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}
