//! Which versions a record calls affected.

use serde::{Deserialize, Serialize};

use crate::version::{Branch, Version};

/// What a record says of versions. Where two of its entries disagree, the version is affected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// Its entries for the kernel that name versions.
    pub entries: Vec<Entry>,
}

/// One entry: a status for all versions, and ranges that have another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whether a version is affected that no range takes in.
    pub default: bool,
    /// The ranges.
    pub ranges: Vec<Range>,
}

/// Versions from one on, with their status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first version; from the beginning when `None`.
    pub from: Option<Version>,
    /// Where it ends.
    pub end: End,
    /// Whether these versions are affected.
    pub affected: bool,
}

/// Where a range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It is one version.
    Same,
    /// Before this version.
    Before(Version),
    /// With this version.
    With(Version),
    /// With the last release of this branch.
    Branch(Branch),
    /// Never.
    Open,
}

impl Range {
    /// Whether the version is one of these.
    #[must_use]
    pub fn contains(&self, version: &Version) -> bool {
        self.from.is_none_or(|from| from <= *version)
            && match self.end {
                End::Same => self.from == Some(*version),
                End::Before(end) => *version < end,
                End::With(end) => *version <= end,
                End::Branch(branch) => version.branch <= branch,
                End::Open => true,
            }
    }
}

impl Entry {
    fn affects(&self, version: &Version) -> bool {
        let mut known = self.ranges.iter().filter(|range| range.contains(version)).peekable();
        if known.peek().is_none() { self.default } else { known.any(|range| range.affected) }
    }
}

impl Affected {
    /// Whether the version is affected. A release candidate counts as affected when it would be so as
    /// the release that it leads to, or as what came before: the ranges name releases only.
    #[must_use]
    pub fn affects(&self, version: &Version) -> bool {
        let release = Version { candidate: None, ..*version };
        self.entries.iter().any(|entry| entry.affects(version) || entry.affects(&release))
    }

    /// The releases that fixed it, in their order: where an unaffected range begins, and where an
    /// affected one ends within its branch.
    #[must_use]
    pub fn fixes(&self) -> Vec<Version> {
        let ranges = self.entries.iter().flat_map(|entry| &entry.ranges);
        let mut fixes: Vec<Version> = ranges
            .filter_map(|range| match (range.affected, range.end) {
                (false, _) => range.from,
                (true, End::Before(end)) if end.is_stable() => Some(end),
                (true, _) => None,
            })
            .collect();
        fixes.sort_unstable();
        fixes.dedup();
        fixes
    }
}
