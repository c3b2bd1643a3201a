//! `kgate releases` alone: the branches, how far production is behind, what to do next.

use jiff::civil::Date;
use kgate_kernel::Kernel;
use kgate_model::kernel::KernelRecord;
use kgate_release::words::{ago, counted};
use kgate_release::{
    BranchEntry, BranchState, Catalogue, End, EndBasis, Fixes, KernelVersion, Standing, Step,
    Warning,
};
use serde::Serialize;

use super::subject::Subject;
use crate::text::line;

/// Of which format the JSON is.
const SCHEMA: &str = "kgate-releases/1";
/// Days for which a branch that ended is still shown to a person.
const ENDED_LATELY: i32 = 90;
/// Days for which one of unknown state is shown after its latest release.
const SILENT: i32 = 180;
/// Branches that a person is shown.
const SHOWN: usize = 20;
/// Days after which what a feed tells is old: a branch has about one release a week.
const OLD: i32 = 14;

/// All that is told.
#[derive(Serialize)]
pub(crate) struct Overview<'a> {
    schema: &'static str,
    production: Option<Production<'a>>,
    catalogue: &'a Catalogue,
}

/// The kernel in production.
#[derive(Serialize)]
pub(crate) struct Production<'a> {
    version: &'a KernelVersion,
    kernel: Option<KernelRecord>,
    /// `None` when it is on no branch: a linux-next.
    standing: Option<Standing>,
}

impl<'a> Overview<'a> {
    pub(crate) fn new(catalogue: &'a Catalogue, production: Option<&'a Subject>) -> Self {
        let production = production.map(|Subject { version, kernel }| Production {
            version,
            kernel: kernel.as_ref().map(Kernel::record),
            standing: version
                .branch
                .map(|branch| Standing::of(catalogue, branch, version.counts_as())),
        });
        Self { schema: SCHEMA, production, catalogue }
    }

    /// For a person.
    pub(crate) fn text(&self) -> String {
        let mut lines = match self.catalogue.branches.is_empty() {
            true => vec![format!("nothing that the feeds name is out on {}", self.catalogue.today)],
            false => self.branches(),
        };
        if let Some(production) = &self.production {
            lines.push(String::new());
            lines.extend(production.lines(self.catalogue));
        }
        lines.push(String::new());
        lines.extend(self.sources());
        lines.join("\n")
    }

    fn branches(&self) -> Vec<String> {
        let today = self.catalogue.today;
        let mine = self.production.as_ref().and_then(|production| production.version.branch);
        let days_since = |date: Date| (today - date).get_days();
        let lately = |entry: &BranchEntry| match entry.state {
            BranchState::EndOfLife => {
                entry.end.is_some_and(|end| days_since(end.date) <= ENDED_LATELY)
            }
            BranchState::Unknown => {
                let date = entry.latest().and_then(|(_, release)| release.date);
                date.is_none_or(|date| days_since(date) <= SILENT)
            }
            _ => true,
        };
        let all = self.catalogue.branches.iter().rev();
        let mut table = vec![["branch", "state", "latest", "out since", "ends"].map(str::to_owned)];
        let mut others = 0;
        for (branch, entry) in all {
            if Some(*branch) != mine && (!lately(entry) || table.len() > SHOWN) {
                others += 1;
                continue;
            }
            let (latest, since) = match entry.latest() {
                Some((version, release)) => (version.to_string(), since(release.date, today)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let mark = if Some(*branch) == mine { " *" } else { "" };
            let ends = ends(entry.state, entry.end, today);
            table.push([
                format!("{branch}{mark}"),
                entry.state.word().to_owned(),
                latest,
                since,
                ends,
            ]);
        }
        let mut lines = columns(&table);
        if others > 0 {
            lines.push(format!(
                "and {others} more, which ended or are older; --format json lists all"
            ));
        }
        lines
    }

    fn sources(&self) -> Vec<String> {
        let today = self.catalogue.today;
        let mut lines = Vec::new();
        for source in &self.catalogue.sources {
            let as_of = match source.as_of {
                Some(date) if (today - date).get_days() > OLD => {
                    format!(
                        "as of {date}: {} days old, so newer releases are missing",
                        (today - date).get_days()
                    )
                }
                Some(date) => format!("as of {date}"),
                None => "without dates".to_owned(),
            };
            lines.push(row("feed", &format!("{}, {as_of}", line(&source.name))));
        }
        lines.extend(self.catalogue.notes.iter().map(|note| row("note", &line(note))));
        lines
    }
}

impl Production<'_> {
    fn lines(&self, catalogue: &Catalogue) -> Vec<String> {
        let name = line(&self.version.text);
        let Some(standing) = &self.standing else {
            return vec![row("production", &format!("{name}, which is on no branch"))];
        };
        let mut lines = Vec::new();
        let which = match self.version.upstream {
            Some(upstream) if upstream.to_string() == name => name.clone(),
            Some(upstream) => format!("{name}, which is {upstream}"),
            None => format!("{name}, a kernel of {}", standing.branch),
        };
        let released = standing.released.map_or(String::new(), |date| {
            format!(", released {date} ({})", ago(date, catalogue.today))
        });
        lines.push(row("production", &format!("{which}{released}")));
        lines.push(row("behind", &behind(standing)));
        let ends = ends(standing.state, standing.end, catalogue.today);
        let branch = match ends.as_str() {
            "-" => standing.state.word().to_owned(),
            _ if standing.state == BranchState::EndOfLife => format!("ended {ends}"),
            ends => format!("{}, ends {ends}", standing.state.word()),
        };
        lines.push(row("branch", &format!("{}: {branch}", standing.branch)));
        lines.extend(standing.warnings.iter().map(|warning| {
            let text = match warning {
                Warning::UnknownBranch => "no feed names this branch",
                Warning::Ended => "this branch gets no more fixes",
                Warning::EndsSoon => "this branch ends soon",
                Warning::Overdue => "this branch is past its end and may get no more fixes any day",
                Warning::EndNotStated => {
                    "no feed states this branch's end, and two years is all that longterm promises"
                }
                Warning::NewerThanFeeds => "no feed knows of a release as new as this one",
                Warning::Candidate => "this is a release candidate",
            };
            row("warning", text)
        }));
        if self.version.fixes == Fixes::Vendor {
            lines.push(row(
                "warning",
                "its vendor picks fixes by hand: how many of the branch's it has can't be told from its version",
            ));
        }
        if let Some(next) = standing.next_longterm {
            let begin = match next.begin {
                Some(_) if next.due => "begin to evaluate it now".to_owned(),
                Some(date) => format!("begin to evaluate it on {date}"),
                None => "begin to evaluate it about a year after this branch began".to_owned(),
            };
            lines.push(row("longterm", &format!("{} is the newest: {begin}", next.branch)));
        }
        lines.push(row("next", &self.step(standing, catalogue)));
        lines
    }

    fn step(&self, standing: &Standing, catalogue: &Catalogue) -> String {
        let since = |release| {
            let date = catalogue.release(release).and_then(|release| release.date);
            date.map_or(String::new(), |date| {
                format!(" is out for {}", counted((catalogue.today - date).get_days(), "day"))
            })
        };
        match &standing.step {
            Step::Gate { release } => format!("{release}{}: kgate gate", since(release)),
            Step::Move { release } => {
                format!("go to another branch, such as that of {release}: kgate gate")
            }
            Step::Evaluate { release } => {
                format!("up to date; begin to evaluate {release}: kgate gate")
            }
            Step::Nothing => "nothing: production is up to date".to_owned(),
            Step::Unclear if self.version.fixes == Fixes::Vendor => {
                "see what its vendor offers: upstream's releases don't tell what it lacks"
                    .to_owned()
            }
            Step::Unclear if self.version.upstream.is_none() => format!(
                "give the version of the package, or the kernel: the name says only that it is of {}",
                standing.branch
            ),
            Step::Unclear => "nothing can be said: no feed names what would follow".to_owned(),
        }
    }
}

fn behind(standing: &Standing) -> String {
    let Some(releases) = standing.releases_behind else {
        return "can't be told: the release isn't known".to_owned();
    };
    let latest = standing.latest.map_or(String::new(), |latest| format!("{latest} is the latest"));
    match (releases, standing.days_behind) {
        (0, _) => "0 releases".to_owned(),
        (n, Some(d)) => format!("{}, {}; {latest}", counted(n, "release"), counted(d, "day")),
        (n, None) => format!("{}; {latest}", counted(n, "release")),
    }
}

/// `2027-12-31, in 404 days`.
fn ends(state: BranchState, end: Option<End>, today: Date) -> String {
    let Some(End { date, basis }) = end else { return "-".to_owned() };
    let about = match (basis, state) {
        (EndBasis::Stated, _) | (_, BranchState::EndOfLife) => "",
        (EndBasis::Projected, BranchState::Longterm) => "not before ",
        (EndBasis::Projected, _) => "about ",
    };
    match (date - today).get_days() {
        0 => format!("{about}{date}, today"),
        left @ 1.. => format!("{about}{date}, in {}", counted(left, "day")),
        _ => format!("{about}{date}, {}", ago(date, today)),
    }
}

fn since(date: Option<Date>, today: Date) -> String {
    date.map_or("-".to_owned(), |date| format!("{date}, {}", ago(date, today)))
}

fn row(name: &str, text: &str) -> String {
    format!("{name:<12}{text}")
}

/// Columns that are as wide as what is in them.
fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(n, cell)| format!("{cell:<0$}", width(n)));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
