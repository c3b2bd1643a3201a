//! `kgate releases waiting`: what comes together while a kernel stays as it is.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::process::ExitCode;

use kgate_release::change::Changes;
use kgate_release::plot::{Line, Plot, PlotPoint};
use kgate_release::waiting::{Curve, Growth, Point, Step};
use kgate_release::words::grouped;
use kgate_release::{Catalogue, CommitDelta, ReleaseDelta, Version, releases_between};
use serde::Serialize;

use super::changes::{known, listed, tags};
use super::cves::{self, Fixed};
use super::delta::{amount, told, upstream};
use super::feeds;
use crate::args::changes::WaitingArgs;
use crate::args::releases::{FeedArgs, ReportFormat};
use crate::context::Context;
use crate::error::{CommandError, PROMOTE, at};
use crate::reports::columns;

/// Names the form of the JSON.
const SCHEMA: &str = "kgate-waiting/1";
/// What to name where nothing is known.
const SOURCES: &str = "name a source: --git REPOSITORY, --changelogs FILE|DIR, or --to with the Debian package of a later one";
/// Rows of the table.
const ROWS: usize = 16;

/// What comes together while a kernel stays as it is.
#[derive(Debug, Serialize)]
struct Waiting {
    schema: &'static str,
    from: Version,
    to: Version,
    commits: CommitDelta,
    /// What comes together, each kind for itself.
    curves: Vec<Kind>,
    notes: Vec<String>,
}

/// One kind of what comes together.
#[derive(Debug, Serialize)]
struct Kind {
    /// `commits`, say.
    what: &'static str,
    curve: Curve,
    growth: Option<Growth>,
    /// In one sentence.
    sentence: Option<String>,
}

/// What a release adds, of another kind than commits, where that is known.
type PerRelease<'a> = &'a dyn Fn(&Version) -> Option<u64>;

/// Runs the command.
pub(crate) fn waiting(context: &Context, args: &WaitingArgs) -> Result<ExitCode, CommandError> {
    let from = upstream(context, &args.from)?;
    let catalogue = catalogue(context, args)?;
    let kernels: Vec<&str> = args.to.as_deref().into_iter().chain([args.from.as_str()]).collect();
    let to = match &args.to {
        Some(to) => upstream(context, to)?,
        None => latest(context, args, from, &kernels, catalogue.as_ref())?,
    };
    if releases_between(from, to).is_none_or(|releases| releases.is_empty()) {
        return Err(CommandError::usage(format!("{to} is no later release of the branch of {from}"))
            .hint("the cost of waiting is told on one branch; `kgate releases delta` compares any two kernels"));
    }
    let known = known(context, &args.changes, (from, to), &kernels, None)?;
    let releases = known.releases.unwrap_or_default();
    // CVEs that a changelog names beside the commits; the CNA's records know better.
    let fixed = cves::fixed_by_release(context, from.branch)?;
    let named = |version: &Version| named_cves(&known.sources, version);
    let recorded = |version: &Version| fixed.as_ref()?.of(version);
    let others: [(&'static str, PerRelease<'_>); 1] = match fixed {
        Some(_) => [("CVEs fixed", &recorded)],
        None => [("CVEs named", &named)],
    };
    let commits = CommitDelta::new(&releases, &known.sources, catalogue.as_ref(), &[]);
    let mut waiting = Waiting::new(from, to, commits, catalogue.as_ref(), &others)?;
    waiting.notes.extend(fixed.as_ref().map(Fixed::note));
    if let Some(path) = &args.svg {
        fs::write(path, waiting.plot().svg()).map_err(at(path))?;
    }
    let text = match args.format {
        ReportFormat::Text => waiting.text(columns(&io::stdout())),
        ReportFormat::Json => serde_json::to_string_pretty(&waiting)?,
    };
    anstream::println!("{}", text.trim_end());
    Ok(ExitCode::from(PROMOTE))
}

/// What tells dates: feeds that were asked for, or the repository.
fn catalogue(context: &Context, args: &WaitingArgs) -> Result<Option<Catalogue>, CommandError> {
    let mut feeds = FeedArgs { feed: args.feeds.feed.clone() };
    feeds.feed.extend(args.changes.git.iter().map(|path| format!("git:{}", path.display())));
    match feeds.feed.is_empty() {
        true => Ok(None),
        false => feeds::catalogue(context, &feeds).map(Some),
    }
}

/// The latest release of the branch that anything knows of.
fn latest(
    context: &Context,
    args: &WaitingArgs,
    from: Version,
    kernels: &[&str],
    catalogue: Option<&Catalogue>,
) -> Result<Version, CommandError> {
    let mut known: Vec<Version> = Vec::new();
    if let Some(repository) = &args.changes.git {
        known.extend(tags(context, repository)?);
    }
    for source in listed(context, &args.changes, kernels, None)? {
        known.extend(source.releases.keys());
    }
    known.extend(catalogue.into_iter().flat_map(|catalogue| {
        catalogue.branch_of(&from).into_iter().flat_map(|entry| entry.releases.keys())
    }));
    known.retain(|version| version.branch == from.branch && version.candidate.is_none());
    known.into_iter().max().filter(|latest| *latest > from).ok_or_else(|| {
        CommandError::usage(format!("nothing at hand knows a release after {from}")).hint(SOURCES)
    })
}

/// CVEs that the most trusted source that names any names with a release.
fn named_cves(sources: &[Changes], version: &Version) -> Option<u64> {
    let mut naming: Vec<&Changes> = sources
        .iter()
        .filter(|source| source.releases.values().any(|release| !release.cves.is_empty()))
        .collect();
    naming.sort_by_key(|source| source.origin.kind);
    let release = naming.iter().find_map(|source| source.releases.get(version));
    release.map(|release| release.cves.len() as u64)
}

impl Waiting {
    fn new(
        from: Version,
        to: Version,
        commits: CommitDelta,
        catalogue: Option<&Catalogue>,
        others: &[(&'static str, PerRelease<'_>)],
    ) -> Result<Self, CommandError> {
        if commits.sources.is_empty() {
            return Err(CommandError::usage(format!(
                "nothing at hand tells what came after {from}"
            ))
            .hint(SOURCES));
        }
        let date = catalogue.and_then(|catalogue| catalogue.release(&from)?.date);
        let curve = |adds: &dyn Fn(&ReleaseDelta) -> Option<u64>| {
            let rows = commits.releases.iter();
            let steps =
                rows.map(|row| Step { version: row.version, date: row.date, adds: adds(row) });
            Curve::new(from, date, steps)
        };
        let mut curves = vec![Kind::new("commits", curve(&|row| row.commits))];
        for (what, adds) in others {
            let kind = Kind::new(what, curve(&|row| adds(&row.version)));
            curves.extend((kind.total() > 0).then_some(kind));
        }
        let mut notes = Vec::new();
        if !curves.iter().all(Kind::has_dates) {
            notes.push(
                "no feed says when all of these releases came out (--feed SOURCE), so waiting is \
                 counted in releases, which come about weekly"
                    .to_owned(),
            );
        }
        Ok(Self { schema: SCHEMA, from, to, commits, curves, notes })
    }

    fn text(&self, width: usize) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = self.write(&mut out, width);
        out
    }

    fn write(&self, out: &mut String, width: usize) -> std::fmt::Result {
        let Some(first) = self.curves.first() else { return Ok(()) };
        let since = first.curve.date.map(|date| format!(", out since {date}")).unwrap_or_default();
        writeln!(out, "{}{since}: what comes together until {}\n", self.from, self.to)?;
        write!(
            out,
            "  {:>8}  {:<12}",
            if self.has_dates() { "weeks" } else { "releases" },
            "release"
        )?;
        for kind in &self.curves {
            write!(out, "{:>10}", kind.what.split(' ').next().unwrap_or_default())?;
        }
        out.push('\n');
        let points = &first.curve.points;
        let bar = width.saturating_sub(25 + 10 * self.curves.len() + 4).clamp(8, 60) as u64;
        let most = first.total().max(1);
        for n in spread(points.len(), ROWS) {
            let Point { weeks, releases, version, total, .. } = &points[n];
            let after = match weeks {
                Some(weeks) if self.has_dates() => format!("{weeks:.0}"),
                _ => releases.to_string(),
            };
            write!(out, "  {after:>8}  {:<12}", version.to_string())?;
            for kind in &self.curves {
                write!(out, "{:>10}", grouped(kind.curve.points[n].total))?;
            }
            let bar = "█".repeat((total * bar / most) as usize);
            writeln!(out, "{}{bar}", if bar.is_empty() { "" } else { "   " })?;
        }
        out.push('\n');
        for kind in &self.curves {
            if let Some(sentence) = &kind.sentence {
                writeln!(out, "  {sentence}")?;
            }
        }
        let CommitDelta { total, bound, why, sources, .. } = &self.commits;
        writeln!(out, "\n  commits      {}", amount(*total, *bound))?;
        for why in why {
            writeln!(out, "               {why}")?;
        }
        for source in sources {
            writeln!(out, "  source       {}", told(source))?;
        }
        for note in &self.notes {
            writeln!(out, "  note         {note}")?;
        }
        Ok(())
    }

    fn has_dates(&self) -> bool {
        self.curves.iter().all(Kind::has_dates)
    }

    fn plot(&self) -> Plot {
        let weekly =
            self.curves.iter().any(|kind| kind.curve.points.iter().any(|p| p.weeks.is_some()));
        let x = |point: &Point| match weekly {
            true => point.weeks,
            false => Some(point.releases as f64),
        };
        let line = |kind: &Kind| Line {
            label: kind.what.to_owned(),
            points: kind
                .curve
                .points
                .iter()
                .filter_map(|point| {
                    let title =
                        format!("{}: {} {}", point.version, grouped(point.total), kind.what);
                    Some(PlotPoint { x: x(point)?, y: point.total as f64, title })
                })
                .collect(),
        };
        Plot {
            title: format!("The cost of waiting: {} to {}", self.from, self.to),
            x_label: if weekly { "weeks" } else { "releases" }.to_owned(),
            lines: self.curves.iter().map(line).collect(),
        }
    }
}

impl Kind {
    fn new(what: &'static str, curve: Curve) -> Self {
        let growth = curve.growth();
        let sentence = growth.as_ref().map(|growth| growth.sentence(what));
        Self { what, curve, growth, sentence }
    }

    fn has_dates(&self) -> bool {
        self.curve.points.iter().all(|point| point.weeks.is_some())
    }

    fn total(&self) -> u64 {
        self.curve.points.last().map_or(0, |point| point.total)
    }
}

/// At most `most` of `all` numbers from 0 on, evenly, the last among them.
fn spread(all: usize, most: usize) -> impl Iterator<Item = usize> {
    let shown = all.min(most);
    (1..=shown).map(move |n| n * all / shown - 1)
}
