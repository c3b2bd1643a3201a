//! What the records say of two versions: fixed, newly exposed, still open.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::clock::Lag;
use super::presence::Absence;
use super::record::{Cve, Severity};
use super::table::{Snapshot, Table};
use crate::catalogue::Catalogue;
use crate::subsystem::Subsystem;
use crate::version::Version;

/// The CVEs between two versions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CveDelta {
    /// The version in production.
    pub from: Version,
    /// The version that should replace it.
    pub to: Version,
    /// The records that were asked.
    pub snapshot: Snapshot,
    /// Records that name no versions, and so say nothing of these.
    pub without_versions: usize,
    /// Affected before and not after.
    pub fixed: Part,
    /// Affected after and not before.
    pub newly_exposed: Part,
    /// Affected before and after.
    pub still_open: Part,
}

/// One of the three.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// How many there are.
    pub count: usize,
    /// How many of them are only in what the kernel doesn't have.
    pub apart: usize,
    /// All of them by severity.
    pub by_severity: Tally,
    /// Those that aren't set apart by subsystem, those of the workload first, then the largest.
    pub by_subsystem: Vec<Group>,
    /// The patch-lag clock of all of them.
    pub clock: Clock,
    /// They themselves, those set apart last, the worst first, the oldest of them first.
    pub cves: Vec<Row>,
}

/// How many there are of each severity, none left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally(pub BTreeMap<Severity, usize>);

/// The CVEs of a subsystem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Which.
    pub subsystem: Subsystem,
    /// The workload touches it.
    pub workload: bool,
    /// How many there are.
    pub count: usize,
    /// By severity.
    pub by_severity: Tally,
}

/// How long fixes have been out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Clock {
    /// CVEs of which a day is known.
    pub known: usize,
    /// CVEs whose day is that of the record, since that of no release is known.
    pub by_record: usize,
    /// The longest, in days.
    pub longest: Option<i32>,
    /// In the middle, in days.
    pub median: Option<i32>,
    /// Critical and high ones that have been out for more than one month.
    pub over_a_month: Tally,
    /// Those without a score that have been out for more than one month.
    pub unscored_over_a_month: usize,
}

/// One CVE.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its identifier.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its class.
    pub severity: Severity,
    /// Base score, where there is one.
    pub score: Option<f64>,
    /// The score's vector.
    pub vector: Option<String>,
    /// The subsystem that most of its files are in.
    pub subsystem: Subsystem,
    /// Files that its fix touches.
    pub files: Vec<String>,
    /// The release that brought the fix to the new version's branch, or else to the old one's.
    pub fixed_in: Option<Version>,
    /// The commit of that.
    pub commit: Option<String>,
    /// Why the kernel doesn't have it.
    pub absent: Option<Absence>,
    /// Its patch-lag clock; not for what is newly exposed.
    pub lag: Option<Lag>,
}

/// What else is known when two versions are asked about.
pub struct DeltaContext<'a> {
    /// Days of releases, and today.
    pub catalogue: &'a Catalogue,
    /// What the workload touches.
    pub workload: &'a [Subsystem],
    /// Why the new kernel has none of these files; `None` when it has, or when that can't be told.
    pub absent: &'a dyn Fn(&[String]) -> Option<Absence>,
}

impl Tally {
    fn add(&mut self, severity: Severity) {
        *self.0.entry(severity).or_default() += 1;
    }

    /// How many of a severity.
    #[must_use]
    pub fn of(&self, severity: Severity) -> usize {
        self.0.get(&severity).copied().unwrap_or_default()
    }
}

impl CveDelta {
    /// What the table says of moving from `from` to `to`.
    #[must_use]
    pub fn new(table: &Table, from: Version, to: Version, context: &DeltaContext<'_>) -> Self {
        let (mut fixed, mut newly_exposed, mut still_open) = (Vec::new(), Vec::new(), Vec::new());
        let mut without_versions = 0;
        for cve in &table.cves {
            let (Some(before), Some(after)) = (cve.affects(&from), cve.affects(&to)) else {
                without_versions += 1;
                continue;
            };
            let rows = match (before, after) {
                (true, false) => &mut fixed,
                (false, true) => &mut newly_exposed,
                (true, true) => &mut still_open,
                (false, false) => continue,
            };
            let lag = before.then(|| Lag::of(cve, from.branch, context.catalogue)).flatten();
            rows.push(row(cve, from, to, lag, context));
        }
        let part = |rows| Part::new(rows, context);
        Self {
            from,
            to,
            snapshot: table.snapshot.clone(),
            without_versions,
            fixed: part(fixed),
            newly_exposed: part(newly_exposed),
            still_open: part(still_open),
        }
    }
}

fn row(cve: &Cve, from: Version, to: Version, lag: Option<Lag>, context: &DeltaContext<'_>) -> Row {
    let fixes = cve.fixes();
    let on = |version: Version| fixes.iter().find(|(fix, _)| fix.branch == version.branch);
    let fix = on(to).or_else(|| on(from));
    Row {
        id: cve.id.clone(),
        title: cve.title.clone(),
        severity: cve.severity(),
        score: cve.score.as_ref().map(|score| f64::from(score.tenths) / 10.0),
        vector: cve.score.as_ref().map(|score| score.vector.clone()),
        subsystem: Subsystem::of_files(cve.files.iter().map(String::as_str)),
        files: cve.files.clone(),
        fixed_in: fix.map(|(release, _)| *release),
        commit: fix.and_then(|(_, commit)| commit.map(ToOwned::to_owned)),
        absent: (context.absent)(&cve.files),
        lag,
    }
}

impl Part {
    fn new(mut rows: Vec<Row>, context: &DeltaContext<'_>) -> Self {
        let rank = |row: &Row| {
            let days = row.lag.as_ref().map_or(0, |lag| lag.days);
            let place = Severity::ALL.iter().position(|s| *s == row.severity);
            let tenths = row.score.map_or(0, |score| (score * 10.0).round() as u32);
            (row.absent.is_some(), place, Reverse((tenths, days)))
        };
        // Within a rank by identifier, which is the table's order.
        rows.sort_by_key(rank);
        let mut by_severity = Tally::default();
        let mut groups: BTreeMap<Subsystem, (usize, Tally)> = BTreeMap::new();
        for row in &rows {
            by_severity.add(row.severity);
            if row.absent.is_none() {
                let (count, tally) = groups.entry(row.subsystem).or_default();
                *count += 1;
                tally.add(row.severity);
            }
        }
        let mut by_subsystem: Vec<Group> = groups
            .into_iter()
            .map(|(subsystem, (count, by_severity))| Group {
                subsystem,
                workload: context.workload.contains(&subsystem),
                count,
                by_severity,
            })
            .collect();
        by_subsystem.sort_by_key(|group| (!group.workload, Reverse(group.count)));
        Self {
            count: rows.len(),
            apart: rows.iter().filter(|row| row.absent.is_some()).count(),
            by_severity,
            by_subsystem,
            clock: Clock::new(&rows, context),
            cves: rows,
        }
    }
}

impl Clock {
    fn new(rows: &[Row], context: &DeltaContext<'_>) -> Self {
        let mut days: Vec<i32> = Vec::new();
        let mut clock = Self::default();
        for row in rows {
            let Some(lag) = &row.lag else { continue };
            days.push(lag.days);
            clock.by_record += usize::from(lag.basis == super::clock::LagBasis::Published);
            if lag.over_a_month {
                clock.over_a_month.add(row.severity);
            } else if row.severity == Severity::Unscored
                && super::clock::over_a_month(lag.since, context.catalogue.today)
            {
                clock.unscored_over_a_month += 1;
            }
        }
        days.sort_unstable();
        clock.known = days.len();
        clock.longest = days.last().copied();
        clock.median = days.get(days.len() / 2).copied();
        clock
    }
}
