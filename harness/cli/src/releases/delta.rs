//! `kgate releases delta`: what changes between two kernels.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use kgate_release::change::Bound;
use kgate_release::words::{counted, grouped};
use kgate_release::{CommitDelta, Maintainers, Relation, SourceDelta, Subsystem, Version};
use kgate_scenario::Action;
use serde::Serialize;

use super::changes::{Known, known};
use super::cves::{self, CvePart};
use super::subject::{Subject, subject};
use crate::args::LibraryArgs;
use crate::args::changes::DeltaArgs;
use crate::args::releases::ReportFormat;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};
use crate::library::{Source, read_bytes};
use crate::text::line;

/// Names the form of the JSON.
const SCHEMA: &str = "kgate-delta/1";
/// MAINTAINERS takes less than 1 MiB.
const MAX_MAINTAINERS: u64 = 16 << 20;
/// Rows of a table, beyond those that the workload touches.
const ROWS: usize = 12;

/// What changes between two kernels.
#[derive(Debug, Serialize)]
struct Delta {
    schema: &'static str,
    from: Version,
    to: Version,
    relation: Relation,
    /// Releases from one to the other, where they are on one branch.
    releases: Option<u32>,
    workload: Option<String>,
    /// `None` where nothing at hand can tell.
    commits: Option<CommitDelta>,
    /// `None` where no CVE records were read, or they say nothing of these kernels.
    cves: Option<serde_json::Value>,
    #[serde(skip)]
    cves_text: Option<String>,
    notes: Vec<String>,
}

/// Runs the command.
pub(crate) fn delta(context: &Context, args: &DeltaArgs) -> Result<ExitCode, CommandError> {
    let subjects = [subject(context, &args.from)?, subject(context, &args.to)?];
    let versions = (counts_as(&subjects[0], &args.from)?, counts_as(&subjects[1], &args.to)?);
    let touched = match &args.workload {
        Some(name) => Some(touches(name, &args.library)?),
        None => None,
    };
    let touches = touched.as_ref().map_or_else(Vec::new, |(_, touched)| touched.clone());
    let maintainers = args.maintainers.as_deref().map(maintainers).transpose()?;
    let mut delta = Delta::new(context, args, versions, touched, maintainers.as_ref())?;
    delta.add_cves(cves::delta(context, &subjects[0], &subjects[1], &touches)?);
    let text = match args.format {
        ReportFormat::Text => delta.text(),
        ReportFormat::Json => serde_json::to_string_pretty(&delta)?,
    };
    anstream::println!("{}", text.trim_end());
    Ok(ExitCode::from(PROMOTE))
}

/// The upstream release that a kernel's changes can be counted from.
pub(super) fn upstream(context: &Context, text: &str) -> Result<Version, CommandError> {
    counts_as(&subject(context, text)?, text)
}

fn counts_as(subject: &Subject, text: &str) -> Result<Version, CommandError> {
    subject.version.counts_as().ok_or_else(|| {
        let text = line(text);
        CommandError::usage(format!("{text} doesn't say which upstream release it is"))
            .hint("give the version of its package, or the upstream version; vendors that pick fixes by hand have none")
    })
}

/// Reads a MAINTAINERS file.
///
/// # Errors
/// When it can't be read, or is none.
pub(crate) fn maintainers(path: &Path) -> Result<Maintainers, CommandError> {
    let bytes = read_bytes(path, MAX_MAINTAINERS)?;
    let maintainers = Maintainers::parse(&String::from_utf8_lossy(&bytes));
    if maintainers.sections().is_empty() {
        let path = line(&path.display().to_string());
        return Err(CommandError::usage(format!("{path}: it has no sections of MAINTAINERS")));
    }
    Ok(maintainers)
}

/// A workload by its name, and the subsystems that its profile is about.
pub(super) fn touches(
    name: &str,
    library: &LibraryArgs,
) -> Result<(String, Vec<Subsystem>), CommandError> {
    let library = Source::new(library)?;
    let scenarios = library.scenarios()?;
    let workload = library.workload(name, &scenarios)?;
    let selected = scenarios.select(&workload);
    let selected: Vec<_> = selected.iter().map(|one| &one.scenario).collect();
    let mut names: Vec<&str> = Vec::new();
    let requires = selected.iter().map(|scenario| &scenario.requires);
    for requires in std::iter::once(&workload.requires).chain(requires) {
        names.extend(requires.modules.iter().map(String::as_str));
        names.extend(requires.config.iter().map(|option| option.option.as_str()));
    }
    for scenario in selected {
        // What precedes the name is the kind, and perhaps a directory.
        names.extend(scenario.id.as_str().split_once('/').map(|(_, name)| name));
        names.extend(scenario.steps.iter().filter_map(|step| match &step.action {
            Action::Measure(measure) => Some(measure.op.as_str()),
            _ => None,
        }));
    }
    Ok((workload.name.clone(), Subsystem::of_names(names)))
}

impl Delta {
    fn new(
        context: &Context,
        args: &DeltaArgs,
        (from, to): (Version, Version),
        touched: Option<(String, Vec<Subsystem>)>,
        maintainers: Option<&Maintainers>,
    ) -> Result<Self, CommandError> {
        let relation = Relation::of(&from, &to);
        let mut notes = Vec::new();
        // What the later one has and the earlier one has not.
        let (early, late) = (from.min(to), from.max(to));
        let kernels = [args.from.as_str(), args.to.as_str()];
        let Known { releases, sources } =
            known(context, &args.changes, (early, late), &kernels, maintainers)?;
        let touches = touched.as_ref().map_or(&[][..], |(_, touched)| touched);
        let commits = releases
            .map(|releases| CommitDelta::new(&releases, &sources, None, touches))
            .filter(|commits| !commits.sources.is_empty() || commits.releases.is_empty());
        if commits.is_some() && to < from {
            notes.push(format!("the step is backward: {to} lacks what is counted here"));
        }
        match &commits {
            None if relation.is_major() || early.candidate.or(late.candidate).is_some() => notes
                .push(
                    "how many commits there are can't be told from what is at hand: a clone of the \
                     kernel's stable repository can tell (--git REPOSITORY)"
                        .to_owned(),
                ),
            None => notes.push(
                "how many commits there are can't be told from what is at hand: the ChangeLog files of \
                 kernel.org (--changelogs DIR), a clone of its stable repository (--git REPOSITORY) or the \
                 Debian package of the later kernel can tell"
                    .to_owned(),
            ),
            Some(_) if relation.is_major() => notes.push(format!(
                "fixes that {early} already has from its own branch are counted again"
            )),
            Some(_) => {}
        }
        if maintainers.is_some_and(|m| !m.unreadable().is_empty()) {
            notes.push("MAINTAINERS has patterns that are not understood here".to_owned());
        }
        Ok(Self {
            schema: SCHEMA,
            from,
            to,
            relation,
            releases: (!relation.is_major()).then(|| from.patch.abs_diff(to.patch)),
            workload: touched.map(|(name, _)| name),
            commits,
            cves: None,
            cves_text: None,
            notes,
        })
    }

    fn add_cves(&mut self, part: Option<Result<CvePart, String>>) {
        match part {
            Some(Ok(part)) => {
                self.cves = Some(part.summary_json());
                self.cves_text = Some(part.summary());
            }
            Some(Err(why)) => self.notes.push(why),
            None => self.notes.push(
                "no CVE records were read yet: `kgate releases cves update` reads them".to_owned(),
            ),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self { from, to, relation, .. } = self;
        let releases = match self.releases {
            Some(releases) => format!(", {}", counted(releases, "release")),
            None => String::new(),
        };
        writeln!(out, "{from} → {to}   {}{releases}\n", relation.words())?;
        if let Some(commits) = &self.commits {
            writeln!(out, "  commits      {}", amount(commits.total, commits.bound))?;
            for why in &commits.why {
                writeln!(out, "               {why}")?;
            }
            write_releases(out, commits)?;
            self.write_subsystems(out, commits)?;
            if !commits.sections.is_empty() {
                writeln!(out, "\n  {:<50}{:>9}", "section of MAINTAINERS", "commits")?;
                for row in commits.sections.iter().take(ROWS) {
                    let section: String = line(&row.section).chars().take(48).collect();
                    writeln!(out, "  {section:<50}{:>9}", grouped(row.commits))?;
                }
                write_more(out, commits.sections.len(), "sections")?;
            }
            out.push('\n');
            for source in &commits.sources {
                writeln!(out, "  source       {}", told(source))?;
            }
        }
        if let Some(cves) = &self.cves_text {
            writeln!(out, "\n{cves}")?;
        }
        for note in &self.notes {
            writeln!(out, "  note         {note}")?;
        }
        Ok(())
    }

    fn write_subsystems(&self, out: &mut String, commits: &CommitDelta) -> std::fmt::Result {
        if commits.subsystems.is_empty() {
            return Ok(());
        }
        let column = self.workload.as_deref().map(line).unwrap_or_default();
        let head = format!("  {:<18}{:>9}   {column}", "subsystem", "commits");
        writeln!(out, "\n{}", head.trim_end())?;
        let row = |out: &mut String, name: &str, commits: u64, mark: &str| {
            let row = format!("  {name:<18}{:>9}   {mark}", grouped(commits));
            writeln!(out, "{}", row.trim_end())
        };
        let (touched, rest): (Vec<_>, Vec<_>) =
            commits.subsystems.iter().partition(|row| row.touched);
        for one in &touched {
            row(out, one.subsystem.name(), one.commits, "touched")?;
        }
        if self.workload.is_some() {
            let all: u64 = touched.iter().map(|one| one.commits).sum();
            row(out, "all of these", all, "")?;
        }
        let shown = &rest[..rest.len().min(ROWS)];
        for one in shown {
            row(out, one.subsystem.name(), one.commits, "")?;
        }
        let more: u64 = rest[shown.len()..].iter().map(|one| one.commits).sum();
        if more > 0 {
            row(out, &format!("{} more", rest.len() - shown.len()), more, "")?;
        }
        if commits.elsewhere > 0 {
            row(out, "not told where", commits.elsewhere, "")?;
        }
        Ok(())
    }
}

fn write_releases(out: &mut String, commits: &CommitDelta) -> std::fmt::Result {
    let mut largest: Vec<_> = commits.releases.iter().filter(|row| row.commits > Some(0)).collect();
    if largest.is_empty() || commits.releases.len() < 2 {
        return Ok(());
    }
    largest.sort_by_key(|row| (std::cmp::Reverse(row.commits), row.version));
    let largest: Vec<String> = largest
        .iter()
        .take(5)
        .map(|row| format!("{} {}", row.version, grouped(row.commits.unwrap_or(0))))
        .collect();
    writeln!(out, "  the largest  {}", largest.join(", "))
}

fn write_more(out: &mut String, all: usize, what: &str) -> std::fmt::Result {
    match all.saturating_sub(ROWS) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more {what}"),
    }
}

/// A number, and how sure it is.
pub(super) fn amount(number: u64, bound: Bound) -> String {
    let number = grouped(number);
    match bound {
        Bound::Exact => format!("{number}, exactly"),
        Bound::Stated => format!("{number}, as stated"),
        Bound::LowerBound => format!("at least {number}"),
    }
}

/// A source in one line.
pub(super) fn told(source: &SourceDelta) -> String {
    let name = line(&source.origin.name);
    let day = match source.origin.snapshot {
        Some(day) => format!("as of {day}"),
        None => "undated".to_owned(),
    };
    let amount = amount(source.commits, source.bound);
    let kind = source.origin.kind.words();
    format!("{kind} {name}, {day}: {}, {amount}", counted(source.releases, "release"))
}
