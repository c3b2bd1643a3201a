//! The patch-lag clock: for how long a fix that a kernel lacks has been out. Information, never a reason
//! to promote or to reject.

use jiff::ToSpan;
use jiff::civil::Date;
use serde::Serialize;

use super::record::{Cve, Severity};
use crate::catalogue::Catalogue;
use crate::version::{Branch, Version};

/// For how long a CVE has been fixed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Days since `since`.
    pub days: i32,
    /// The day from which on there was a fix.
    pub since: Date,
    /// What day that is.
    pub basis: LagBasis,
    /// The first release of the baseline's branch that has the fix.
    pub branch: Option<BranchFix>,
    /// Critical or high, and out for more than one month: what PCI DSS 4.0 asks about in 6.3.3.
    pub over_a_month: bool,
}

/// From what on days are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LagBasis {
    /// The first release, of any branch, that fixed it.
    Release,
    /// The earliest of those releases whose day is known; others may have been before it.
    KnownRelease,
    /// The publication of the record: the day of no release is known.
    Published,
}

/// A release of the baseline's branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BranchFix {
    /// The release.
    pub release: Version,
    /// Days since it came out, where that is known.
    pub days: Option<i32>,
}

impl Lag {
    /// The clock of a CVE for a baseline on `branch`; `None` when no day is known.
    #[must_use]
    pub fn of(cve: &Cve, branch: Branch, catalogue: &Catalogue) -> Option<Self> {
        let day = |release: &Version| catalogue.release(release)?.date;
        let days = |since: Date| (catalogue.today - since).get_days();
        let fixes: Vec<Version> = cve.fixes().into_iter().map(|(release, _)| release).collect();
        let (since, basis) = match fixes.iter().filter_map(day).min() {
            Some(first) if fixes.iter().all(|fix| day(fix).is_some()) => (first, LagBasis::Release),
            Some(first) => (first, LagBasis::KnownRelease),
            None => (cve.published?, LagBasis::Published),
        };
        let own = fixes.iter().find(|fix| fix.branch == branch);
        let urgent = matches!(cve.severity(), Severity::Critical | Severity::High);
        Some(Self {
            days: days(since),
            since,
            basis,
            branch: own
                .map(|release| BranchFix { release: *release, days: day(release).map(days) }),
            over_a_month: urgent && over_a_month(since, catalogue.today),
        })
    }
}

/// More than a month of the calendar: from the 31st of January until the 28th of February is one.
pub(super) fn over_a_month(since: Date, today: Date) -> bool {
    since.checked_add(1.month()).is_ok_and(|due| due < today)
}
