//! Waivers at work: which difference each one covers, and which cover nothing any more.

use jiff::civil::Date;
use kgate_scenario::{Waiver, Waivers};

/// What became of a waiver in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaiverState {
    /// It waived something.
    Used,
    /// It is in force, and nothing in this run needed it.
    Unmatched,
    /// Its last day has passed: it waived nothing.
    Expired,
}

impl WaiverState {
    /// The word used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Unmatched => "unmatched",
            Self::Expired => "expired",
        }
    }
}

/// A waiver and what it covered.
#[derive(Clone, Debug, PartialEq)]
pub struct WaiverUse {
    /// The waiver.
    pub waiver: Waiver,
    /// What became of it.
    pub state: WaiverState,
    /// What it covers in this run; what it would cover, when it has expired.
    pub covers: Vec<String>,
}

/// A difference that a waiver may cover.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Difference<'a> {
    /// The scenarios it was seen in.
    pub(crate) scenarios: &'a [&'a str],
    pub(crate) subtest: Option<&'a str>,
    pub(crate) metric: Option<&'a str>,
    /// Titles of the findings behind it.
    pub(crate) findings: &'a [&'a str],
}

impl Difference<'_> {
    /// Every key that the scope gives must match, and at least one must be given.
    fn is_covered(&self, waiver: &Waiver, release: &str) -> bool {
        let scope = &waiver.scope;
        let keys = [
            scope.scenario.as_ref().map(|glob| {
                !self.scenarios.is_empty() && self.scenarios.iter().all(|s| glob.matches(s))
            }),
            scope.subtest.as_ref().map(|glob| self.subtest.is_some_and(|s| glob.matches(s))),
            scope.metric.as_ref().map(|glob| {
                self.metric.is_some_and(|metric| {
                    let full = |s: &&str| glob.matches(&format!("{s}/{metric}"));
                    glob.matches(metric) || self.scenarios.iter().any(full)
                })
            }),
            scope.finding.as_ref().map(|pattern| {
                !self.findings.is_empty() && self.findings.iter().all(|t| pattern.is_match(t))
            }),
            scope.release.as_ref().map(|glob| glob.matches(release)),
        ];
        keys.iter().any(Option::is_some) && keys.into_iter().flatten().all(|matched| matched)
    }
}

/// The waivers of a run.
pub(crate) struct Book<'a> {
    waivers: &'a [Waiver],
    release: &'a str,
    today: Date,
    covers: Vec<Vec<String>>,
}

impl<'a> Book<'a> {
    pub(crate) fn new(waivers: &'a Waivers, release: &'a str, today: Date) -> Self {
        Self { waivers: &waivers.0, release, today, covers: vec![Vec::new(); waivers.0.len()] }
    }

    /// The id of the first waiver in force that covers a difference. All that cover it, expired ones
    /// too, are remembered.
    pub(crate) fn waive(&mut self, difference: &Difference<'_>, label: &str) -> Option<String> {
        let mut first = None;
        for (waiver, covers) in self.waivers.iter().zip(&mut self.covers) {
            if difference.is_covered(waiver, self.release) {
                if !covers.iter().any(|known| known == label) {
                    covers.push(label.to_owned());
                }
                if first.is_none() && self.today <= waiver.expires {
                    first = Some(waiver.id.clone());
                }
            }
        }
        first
    }

    pub(crate) fn close(self) -> Vec<WaiverUse> {
        let today = self.today;
        (self.waivers.iter().zip(self.covers))
            .map(|(waiver, covers)| {
                let state = match covers.is_empty() {
                    _ if today > waiver.expires => WaiverState::Expired,
                    true => WaiverState::Unmatched,
                    false => WaiverState::Used,
                };
                WaiverUse { waiver: waiver.clone(), state, covers }
            })
            .collect()
    }
}
