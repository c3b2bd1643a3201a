//! Where a kernel stands among the releases that there are: how far behind its branch it is, how near
//! the branch is to its end, and what to do next.

use jiff::ToSpan;
use jiff::civil::Date;
use serde::Serialize;

use crate::catalogue::{BranchState, Catalogue, End, EndBasis};
use crate::version::{Branch, Version};

/// Days before its end from which on a branch that lives for years is near it: time enough for an
/// evaluation of another.
const NEAR_LONGTERM: i32 = 180;
/// The same of a branch that lives for a quarter of a year.
const NEAR_STABLE: i32 = 28;
/// Years on a branch after which the evaluation of the next longterm begins.
const EVALUATE_AFTER_YEARS: i32 = 1;

/// Where a kernel stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its branch.
    pub branch: Branch,
    /// The release, where it is known.
    pub version: Option<Version>,
    /// State of the branch.
    pub state: BranchState,
    /// End of the branch.
    pub end: Option<End>,
    /// Days until that end; negative when it has passed.
    pub days_left: Option<i32>,
    /// When the release came out.
    pub released: Option<Date>,
    /// Days since then.
    pub age_days: Option<i32>,
    /// The branch's latest release.
    pub latest: Option<Version>,
    /// When that came out.
    pub latest_released: Option<Date>,
    /// Days since then.
    pub latest_age_days: Option<i32>,
    /// Releases of the branch after this one.
    pub releases_behind: Option<u32>,
    /// Days from this release to the latest.
    pub days_behind: Option<i32>,
    /// What is to be minded.
    pub warnings: Vec<Warning>,
    /// When to begin on another longterm branch, if there is a newer one.
    pub next_longterm: Option<NextLongterm>,
    /// What to do next.
    pub step: Step,
}

/// What is to be minded of a kernel's branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warning {
    /// No feed names the branch.
    UnknownBranch,
    /// It gets no more fixes.
    Ended,
    /// It will get none soon.
    EndsSoon,
    /// By the rule it should have ended; it may do so any day.
    Overdue,
    /// It has lived for longer than longterm branches do at least, and no feed states its end.
    EndNotStated,
    /// The feeds know of no release as new as this one.
    NewerThanFeeds,
    /// It is a candidate, not a release.
    Candidate,
}

/// The longterm branch to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NextLongterm {
    /// The newest longterm branch.
    pub branch: Branch,
    /// When its evaluation should begin; `None` when it is not known when the present branch began.
    pub begin: Option<Date>,
    /// Whether that is today or past.
    pub due: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Step {
    /// Gate the branch's latest release.
    Gate {
        /// That release.
        release: Version,
    },
    /// Go to another branch.
    Move {
        /// Its latest release.
        release: Version,
    },
    /// Begin to evaluate the next longterm branch.
    Evaluate {
        /// Its latest release.
        release: Version,
    },
    /// Production is up to date.
    Nothing,
    /// Nothing can be said.
    Unclear,
}

impl Standing {
    /// Where a release stands, or a kernel of which only the branch is known.
    #[must_use]
    pub fn of(catalogue: &Catalogue, branch: Branch, version: Option<Version>) -> Self {
        let days = |from: Date, to: Date| (to - from).get_days();
        let today = catalogue.today;
        let entry = catalogue.branches.get(&branch);
        let state = entry.map_or(BranchState::Unknown, |entry| entry.state);
        let end = entry.and_then(|entry| entry.end);
        let released = version.and_then(|version| catalogue.release(&version)?.date);
        let (latest, latest_released) = match entry.and_then(|entry| entry.latest()) {
            Some((version, release)) => (Some(*version), release.date),
            None => (None, None),
        };
        // Numbers of releases are counted up one by one, and feeds name only some.
        let releases_behind = version.zip(latest).map(|(version, latest)| {
            let unreleased = u32::from(version.candidate.is_some() && version < latest);
            latest.patch.saturating_sub(version.patch) + unreleased
        });
        let mut standing = Self {
            branch,
            version,
            state,
            end,
            days_left: end.map(|end| days(today, end.date)),
            released,
            age_days: released.map(|date| days(date, today)),
            latest,
            latest_released,
            latest_age_days: latest_released.map(|date| days(date, today)),
            releases_behind,
            days_behind: released
                .zip(latest_released)
                .map(|(released, latest)| days(released, latest).max(0)),
            warnings: Vec::new(),
            next_longterm: next_longterm(catalogue, branch),
            step: Step::Unclear,
        };
        standing.warnings = standing.warned();
        standing.step = standing.next(catalogue);
        standing
    }

    fn warned(&self) -> Vec<Warning> {
        let near = match self.state {
            BranchState::Longterm => NEAR_LONGTERM,
            _ => NEAR_STABLE,
        };
        let projected = self.end.is_some_and(|end| end.basis == EndBasis::Projected);
        let of_branch = match (self.state, self.days_left) {
            (BranchState::EndOfLife, _) => Some(Warning::Ended),
            (BranchState::Unknown, None) if self.latest.is_none() => Some(Warning::UnknownBranch),
            // A newer feed says that it lives, whatever was said of its end.
            (_, Some(..=0)) => Some(Warning::Overdue),
            (BranchState::Longterm, Some(_)) if projected => None,
            (_, Some(left)) if left <= near => Some(Warning::EndsSoon),
            (BranchState::Longterm, None) => Some(Warning::EndNotStated),
            _ => None,
        };
        let newer = self.version.zip(self.latest).is_some_and(|(version, latest)| version > latest);
        let candidate = self.version.is_some_and(|version| version.candidate.is_some());
        of_branch
            .into_iter()
            .chain(newer.then_some(Warning::NewerThanFeeds))
            .chain(candidate.then_some(Warning::Candidate))
            .collect()
    }

    fn next(&self, catalogue: &Catalogue) -> Step {
        let latest_of = |branch: Branch| Some(*catalogue.branches.get(&branch)?.latest()?.0);
        let newest = |state: BranchState| {
            let mut newer = catalogue.after(self.branch).rev();
            newer.find(|(_, entry)| entry.state == state).and_then(|(branch, _)| latest_of(*branch))
        };
        let longterm = self.next_longterm.and_then(|next| latest_of(next.branch));
        if self.state == BranchState::EndOfLife {
            let newer = longterm
                .or_else(|| newest(BranchState::Stable))
                .or_else(|| newest(BranchState::Mainline));
            return newer.map_or(Step::Unclear, |release| Step::Move { release });
        }
        let (Some(version), Some(latest)) = (self.version, self.latest) else {
            return Step::Unclear;
        };
        match (self.next_longterm, longterm) {
            _ if version < latest => Step::Gate { release: latest },
            _ if version > latest => Step::Unclear,
            (Some(next), Some(release)) if next.due => Step::Evaluate { release },
            _ => Step::Nothing,
        }
    }
}

/// The newest longterm branch after this one. Its evaluation begins when this branch is a year old: a
/// longterm branch is made every year.
fn next_longterm(catalogue: &Catalogue, branch: Branch) -> Option<NextLongterm> {
    let mut newer = catalogue.after(branch).rev();
    let (next, _) = newer.find(|(_, entry)| entry.state == BranchState::Longterm)?;
    let begin = catalogue
        .began(branch)
        .and_then(|date| date.checked_add(EVALUATE_AFTER_YEARS.years()).ok());
    let stays =
        catalogue.branches.get(&branch).is_some_and(|entry| entry.state == BranchState::Longterm);
    // Another branch than a longterm one ends before it is a year old.
    let begin = if stays { begin } else { Some(catalogue.today) };
    let due = begin.is_some_and(|begin| begin <= catalogue.today);
    Some(NextLongterm { branch: *next, begin, due })
}
