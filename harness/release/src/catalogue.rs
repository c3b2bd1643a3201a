//! What is known of branches and their releases, put together from one or more feeds.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::version::{Branch, Version};

/// What is going on with a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchState {
    /// Its bug-fix releases have not begun.
    Mainline,
    /// Bug fixes until about the next major release.
    Stable,
    /// Bug fixes for years.
    Longterm,
    /// No more fixes.
    EndOfLife,
    /// No feed says.
    Unknown,
}

/// When a branch ends, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The day.
    pub date: Date,
    /// How it is known.
    pub basis: EndBasis,
}

/// How the end of a branch is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndBasis {
    /// A feed names the day.
    Stated,
    /// By the rule for branches of its state.
    Projected,
}

/// One release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// When it came out, where a feed says so.
    pub date: Option<Date>,
    /// A kernel reference that gives this release, where a feed offers kernels: `apt:PACKAGE=VERSION`
    /// or a path.
    pub kernel: Option<String>,
}

/// One branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchEntry {
    /// What is going on with it.
    pub state: BranchState,
    /// Its end.
    pub end: Option<End>,
    /// Its releases that a feed named.
    pub releases: BTreeMap<Version, Release>,
}

/// Branches and releases as the feeds tell them on a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// The day that ages are reckoned to.
    pub today: Date,
    /// All branches that a feed named.
    pub branches: BTreeMap<Branch, BranchEntry>,
    /// The feeds, in the order in which they are trusted.
    pub sources: Vec<Source>,
    /// Where they contradict each other.
    pub notes: Vec<String>,
}

/// A feed of which something is in a [`Catalogue`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As the user named it.
    pub name: String,
    /// The day up to which it tells.
    pub as_of: Option<Date>,
    /// How many releases it names.
    pub releases: usize,
}

impl BranchState {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mainline => "mainline",
            Self::Stable => "stable",
            Self::Longterm => "longterm",
            Self::EndOfLife => "end of life",
            Self::Unknown => "unknown",
        }
    }
}

impl Catalogue {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(today: Date) -> Self {
        Self { today, branches: BTreeMap::new(), sources: Vec::new(), notes: Vec::new() }
    }

    /// The branch of a version.
    #[must_use]
    pub fn branch_of(&self, version: &Version) -> Option<&BranchEntry> {
        self.branches.get(&version.branch)
    }

    /// The branches after one, in order.
    pub fn after(
        &self,
        branch: Branch,
    ) -> impl DoubleEndedIterator<Item = (&Branch, &BranchEntry)> {
        self.branches.range((Bound::Excluded(branch), Bound::Unbounded))
    }

    /// When the mainline release of a branch came out.
    #[must_use]
    pub fn began(&self, branch: Branch) -> Option<Date> {
        self.release(&branch.mainline())?.date
    }

    /// A release, by its version.
    #[must_use]
    pub fn release(&self, version: &Version) -> Option<&Release> {
        self.branch_of(version)?.releases.get(version)
    }
}

impl BranchEntry {
    /// The newest release, release candidates left out where there is any other.
    #[must_use]
    pub fn latest(&self) -> Option<(&Version, &Release)> {
        let released = self.releases.iter().rev().find(|(version, _)| version.candidate.is_none());
        released.or_else(|| self.releases.last_key_value())
    }
}
