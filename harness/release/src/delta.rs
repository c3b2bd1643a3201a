//! What changes between two releases: how many commits, where, and how sure that is.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::Serialize;

use crate::catalogue::Catalogue;
use crate::change::{Bound, Changes, Origin, ReleaseChanges};
use crate::subsystem::Subsystem;
use crate::version::Version;

/// The commits from one release to a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommitDelta {
    /// All of them, of those releases of which the number is known.
    pub total: u64,
    /// How sure the total is.
    pub bound: Bound,
    /// Why it is not exact; empty when it is.
    pub why: Vec<String>,
    /// Release by release, oldest first.
    pub releases: Vec<ReleaseDelta>,
    /// By subsystem, those that the workload touches first, in each group the largest first.
    pub subsystems: Vec<SubsystemDelta>,
    /// Commits of which only the number is known.
    pub elsewhere: u64,
    /// By section of MAINTAINERS, the largest first; a commit may be in several.
    pub sections: Vec<SectionDelta>,
    /// Where the numbers come from, the most trusted first.
    pub sources: Vec<SourceDelta>,
}

/// One release of a [`CommitDelta`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleaseDelta {
    /// The release.
    pub version: Version,
    /// When it came out, where a feed says so.
    pub date: Option<Date>,
    /// Its commits; `None` where no source says.
    pub commits: Option<u64>,
    /// How sure that is.
    pub bound: Bound,
    /// Its commits and those of all before it.
    pub accumulated: u64,
}

/// One subsystem of a [`CommitDelta`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubsystemDelta {
    /// The subsystem.
    pub subsystem: Subsystem,
    /// Its commits.
    pub commits: u64,
    /// The workload touches it.
    pub touched: bool,
}

/// One section of MAINTAINERS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionDelta {
    /// Its title.
    pub section: String,
    /// Commits that change one of its files.
    pub commits: u64,
}

/// What a source gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceDelta {
    /// The source.
    pub origin: Origin,
    /// How sure its numbers are.
    pub bound: Bound,
    /// The releases that were taken from it.
    pub releases: u64,
    /// Their commits.
    pub commits: u64,
}

/// The releases after `from` up to `to` on one branch; `None` when they are not on one branch, or one of
/// them is a candidate, which only a repository knows of.
#[must_use]
pub fn releases_between(from: Version, to: Version) -> Option<Vec<Version>> {
    let plain = from.candidate.is_none() && to.candidate.is_none();
    (plain && from.branch == to.branch).then(|| {
        let patches = from.patch.saturating_add(1)..=to.patch;
        patches.map(|patch| Version { patch, ..from }).collect()
    })
}

impl CommitDelta {
    /// The commits of `releases`, each told by the most trusted of the sources that know it.
    #[must_use]
    pub fn new(
        releases: &[Version],
        sources: &[Changes],
        catalogue: Option<&Catalogue>,
        touched: &[Subsystem],
    ) -> Self {
        let mut order: Vec<&Changes> = sources.iter().collect();
        order.sort_by_key(|source| source.origin.kind);
        let mut used = vec![(0, 0); order.len()];
        let mut rows = Vec::new();
        let mut total = 0;
        let mut by_subsystem: BTreeMap<Subsystem, u64> = BTreeMap::new();
        let mut by_section: BTreeMap<&str, u64> = BTreeMap::new();
        for version in releases {
            let mut all = order.iter().enumerate();
            let told = all.find_map(|(n, source)| Some((n, source.releases.get(version)?)));
            if let Some((n, ReleaseChanges { commits, subsystems, sections, .. })) = told {
                total += commits;
                used[n].0 += 1;
                used[n].1 += commits;
                for (subsystem, commits) in subsystems {
                    *by_subsystem.entry(*subsystem).or_default() += commits;
                }
                for (section, commits) in sections {
                    *by_section.entry(section).or_default() += commits;
                }
            }
            rows.push(ReleaseDelta {
                version: *version,
                date: catalogue.and_then(|catalogue| catalogue.release(version)?.date),
                commits: told.map(|(_, changes)| changes.commits),
                bound: told.map_or(Bound::LowerBound, |(n, _)| order[n].origin.kind.bound()),
                accumulated: total,
            });
        }
        let mut subsystems: Vec<SubsystemDelta> = by_subsystem
            .into_iter()
            .map(|(subsystem, commits)| {
                let touched = touched.contains(&subsystem);
                SubsystemDelta { subsystem, commits, touched }
            })
            .collect();
        subsystems.sort_by_key(|row| (!row.touched, Reverse(row.commits), row.subsystem));
        let placed: u64 = subsystems.iter().map(|row| row.commits).sum();
        let mut sections: Vec<SectionDelta> = by_section
            .into_iter()
            .map(|(section, commits)| SectionDelta { section: section.to_owned(), commits })
            .collect();
        sections.sort_by(|a, b| (b.commits, &a.section).cmp(&(a.commits, &b.section)));
        let sources = order.into_iter().zip(used).filter(|(_, (releases, _))| *releases > 0);
        Self {
            total,
            bound: rows.iter().map(|row| row.bound).max().unwrap_or(Bound::Exact),
            why: why(&rows),
            releases: rows,
            subsystems,
            elsewhere: total.saturating_sub(placed),
            sections,
            sources: sources
                .map(|(source, (releases, commits))| SourceDelta {
                    origin: source.origin.clone(),
                    bound: source.origin.kind.bound(),
                    releases,
                    commits,
                })
                .collect(),
        }
    }
}

fn why(rows: &[ReleaseDelta]) -> Vec<String> {
    let of = |wanted: &dyn Fn(&ReleaseDelta) -> bool| {
        ranges(rows.iter().filter(|row| wanted(row)).map(|row| row.version))
    };
    let unknown = of(&|row| row.commits.is_none());
    let listed = of(&|row| row.commits.is_some() && row.bound == Bound::LowerBound);
    let stated = of(&|row| row.bound == Bound::Stated);
    [
        (unknown, "no source says how many commits are in"),
        (listed, "the distribution's changelog leaves commits out, in"),
        (stated, "it is as a list says, which can't be checked, for"),
    ]
    .into_iter()
    .filter(|(releases, _)| !releases.is_empty())
    .map(|(releases, words)| format!("{words} {releases}"))
    .collect()
}

/// Releases of a branch in short: `6.1.171, 6.1.173 to 6.1.180`. Many are told by their number.
#[must_use]
pub fn ranges(releases: impl IntoIterator<Item = Version>) -> String {
    const MOST: usize = 6;
    let mut runs: Vec<(Version, Version)> = Vec::new();
    for version in releases {
        match runs.last_mut() {
            Some((_, last)) if Version { patch: last.patch + 1, ..*last } == version => {
                *last = version;
            }
            _ => runs.push((version, version)),
        }
    }
    let more = runs.len().saturating_sub(MOST);
    let mut words: Vec<String> = runs
        .iter()
        .take(MOST)
        .map(|(first, last)| match () {
            () if first == last => first.to_string(),
            () if first.patch + 1 == last.patch => format!("{first}, {last}"),
            () => format!("{first} to {last}"),
        })
        .collect();
    if more > 0 {
        let left: u32 = runs[MOST..].iter().map(|(first, last)| last.patch - first.patch + 1).sum();
        words.push(format!("and {left} more"));
    }
    words.join(", ")
}
