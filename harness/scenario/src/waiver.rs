//! Waivers: known differences that don't reject until a date.

use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::pattern::Pattern;

/// All waivers of one file, in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waivers(pub Vec<Waiver>);

/// One known difference that somebody answers for until a date.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiver {
    /// Unique in its file.
    pub id: String,
    /// What it is about; every key given must match.
    pub scope: WaiverScope,
    /// Why the difference is accepted for now.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// The last day on which it waives anything.
    pub expires: jiff::civil::Date,
    /// Line in its file, from 1.
    pub line: usize,
}

/// What a waiver is about. At least one of `scenario`, `metric` and `finding` is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaiverScope {
    /// Over scenario ids.
    pub scenario: Option<Glob>,
    /// Over the full path of a subtest.
    pub subtest: Option<Glob>,
    /// Over metric names.
    pub metric: Option<Glob>,
    /// Matches somewhere in the title of a finding.
    pub finding: Option<Pattern>,
    /// Over the candidate's release.
    pub release: Option<Glob>,
}
