//! One catalogue from what several feeds say: what counts where they differ, and when a branch ends
//! of which none says it.
//!
//! - What is dated after today is not out yet, and left out.
//! - The date of a release is that of the first feed, in the order given, that has one.
//! - The state of a branch is that of the newest feed; between two of one day, the first.
//! - A day stated for the end of a branch ends it on that day, unless a feed from after it knows better.
//! - kernel.org names all branches that live: an older one that it leaves out has ended, unless a feed
//!   says that it is longterm.
//! - A list of releases states nothing of branches, and may be of some only: what no feed says of a
//!   branch stays unknown.
//! - Where feeds contradict each other, a note says so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan;
use jiff::civil::{Date, date};

use crate::catalogue::{BranchEntry, BranchState, Catalogue, End, EndBasis, Release, Source};
use crate::feed::Feed;
use crate::version::{Branch, Version};

/// Days from one mainline release to the next. Of the 32 from 5.10 to 7.2, 24 took at most 64 and
/// none more than 70.
const CYCLE: i64 = 63;

/// Days that a stable branch goes on after the next mainline release: the median of 25 branches from
/// 5.11 to 7.0, of which the first ended after 10 days and the last after 32.
const OVERLAP: i64 = 21;

/// Years that a longterm branch has fixes, at least.
const LONGTERM_YEARS: i64 = 2;

/// Notes about one catalogue that are kept.
const MAX_NOTES: usize = 100;

/// Longterm branches and when their mainline release came out, for feeds that name only what is
/// latest. Past facts, from https://www.kernel.org/category/releases.html; a feed that has the
/// date itself is believed instead.
const BEGAN: &[(Branch, Date)] = &[
    (Branch::new(4, 4), date(2016, 1, 10)),
    (Branch::new(4, 9), date(2016, 12, 11)),
    (Branch::new(4, 14), date(2017, 11, 12)),
    (Branch::new(4, 19), date(2018, 10, 22)),
    (Branch::new(5, 4), date(2019, 11, 24)),
    (Branch::new(5, 10), date(2020, 12, 13)),
    (Branch::new(5, 15), date(2021, 10, 31)),
    (Branch::new(6, 1), date(2022, 12, 11)),
    (Branch::new(6, 6), date(2023, 10, 29)),
    (Branch::new(6, 12), date(2024, 11, 17)),
    (Branch::new(6, 18), date(2025, 11, 30)),
];

/// What a feed says of something, and up to when it tells.
#[derive(Clone)]
struct Said<'a, T> {
    value: T,
    as_of: Option<Date>,
    feed: &'a str,
}

/// Up to when a feed tells that names all branches that live, and which they are.
type Complete = (Option<Date>, BTreeSet<Branch>);

impl Catalogue {
    /// Puts feeds together as they were on `today`, the most trusted first.
    #[must_use]
    pub fn gather(today: Date, feeds: &[Feed]) -> Self {
        let mut catalogue = Self::new(today);
        let mut states: BTreeMap<Branch, Vec<Said<'_, BranchState>>> = BTreeMap::new();
        let mut ends: BTreeMap<Branch, Vec<Said<'_, Date>>> = BTreeMap::new();
        for feed in feeds {
            let as_of = feed.as_of.map(|date| date.min(today));
            let mut dated: BTreeMap<Version, Date> = BTreeMap::new();
            let mut kernels: BTreeMap<Version, &str> = BTreeMap::new();
            for statement in &feed.statements {
                if statement.date.is_some_and(|date| date > today) {
                    continue;
                }
                let entry = catalogue.branches.entry(statement.branch).or_insert(BranchEntry {
                    state: BranchState::Unknown,
                    end: None,
                    releases: BTreeMap::new(),
                });
                if let Some(version) = statement.release {
                    entry.releases.entry(version).or_insert(Release { date: None, kernel: None });
                    dated.extend(statement.date.map(|date| (version, date)));
                    kernels.extend(statement.kernel.as_deref().map(|kernel| (version, kernel)));
                }
                let ended = statement.end.filter(|end| *end <= today);
                let state = ended.map_or(statement.state, |_| Some(BranchState::EndOfLife));
                states.entry(statement.branch).or_default().extend(state.map(|value| Said {
                    value,
                    as_of: as_of.max(ended),
                    feed: &feed.name,
                }));
                ends.entry(statement.branch).or_default().extend(statement.end.map(|value| Said {
                    value,
                    as_of,
                    feed: &feed.name,
                }));
            }
            catalogue.take_in(feed, &dated, &kernels);
            for note in &feed.notes {
                catalogue.note(format!("{}: {note}", feed.name));
            }
            let releases = feed.statements.iter().filter(|one| one.release.is_some()).count();
            catalogue.sources.push(Source { name: feed.name.clone(), as_of, releases });
        }
        for (branch, began) in BEGAN {
            if let Some(entry) = catalogue.branches.get_mut(branch)
                && *began <= today
            {
                let first = Release { date: None, kernel: None };
                let first = entry.releases.entry(branch.mainline()).or_insert(first);
                first.date.get_or_insert(*began);
            }
        }
        let complete: Vec<Complete> = feeds
            .iter()
            .filter(|feed| feed.names_all_alive)
            .map(|feed| {
                let named = feed.statements.iter().map(|statement| statement.branch).collect();
                (feed.as_of.map(|date| date.min(today)), named)
            })
            .collect();
        let branches: Vec<Branch> = catalogue.branches.keys().copied().collect();
        for branch in branches {
            let said = states.remove(&branch).unwrap_or_default();
            catalogue.settle_state(branch, said, &complete);
            catalogue.settle_end(branch, ends.remove(&branch).unwrap_or_default());
        }
        catalogue
    }

    fn take_in(
        &mut self,
        feed: &Feed,
        dated: &BTreeMap<Version, Date>,
        kernels: &BTreeMap<Version, &str>,
    ) {
        for (version, date) in dated {
            let Some(release) = self.release_mut(version) else { continue };
            let first = *release.date.get_or_insert(*date);
            // A day's difference is one of time zones.
            if (first - *date).get_days().abs() > 1 {
                self.note(format!("{version}: {} dates it {date}, not {first}", feed.name));
            }
        }
        for (version, kernel) in kernels {
            if let Some(release) = self.release_mut(version) {
                release.kernel.get_or_insert_with(|| (*kernel).to_owned());
            }
        }
    }

    fn release_mut(&mut self, version: &Version) -> Option<&mut Release> {
        self.branches.get_mut(&version.branch)?.releases.get_mut(version)
    }

    fn settle_state(
        &mut self,
        branch: Branch,
        said: Vec<Said<'_, BranchState>>,
        complete: &[Complete],
    ) {
        let mut said = said;
        // The newest last; of one day the first feed's last.
        said.reverse();
        said.sort_by_key(|one| one.as_of);
        let Some(entry) = self.branches.get_mut(&branch) else { return };
        let fixes = entry.releases.keys().any(Version::is_stable);
        let unreleased = entry.releases.keys().all(|version| version.candidate.is_some());
        let mut state = said.last().map_or(BranchState::Unknown, |one| one.value);
        let told = said.last().and_then(|one| one.as_of);
        if matches!(state, BranchState::Unknown | BranchState::Mainline | BranchState::Stable) {
            let silent = complete.iter().any(|(as_of, named)| {
                (said.is_empty() || *as_of > told)
                    && !named.contains(&branch)
                    && named.last().is_some_and(|newest| branch < *newest)
            });
            if silent {
                state = BranchState::EndOfLife;
            }
        }
        entry.state = match state {
            BranchState::Unknown if unreleased => BranchState::Mainline,
            BranchState::Mainline if fixes => BranchState::Stable,
            state => state,
        };
        let contradicts = |a: &Said<'_, BranchState>, b: &Said<'_, BranchState>| {
            let early = |state| matches!(state, BranchState::Mainline | BranchState::Stable);
            let one_day = a.as_of == b.as_of;
            let forward = rank(a.value) <= rank(b.value);
            a.value != b.value && !(early(a.value) && early(b.value)) && (one_day || !forward)
        };
        if let Some(pair) = said.windows(2).find(|pair| contradicts(&pair[0], &pair[1])) {
            let [a, b] = pair else { return };
            self.note(format!(
                "{branch}: {} by {}, {} by {}",
                b.value.word(),
                b.feed,
                a.value.word(),
                a.feed,
            ));
        }
    }

    fn settle_end(&mut self, branch: Branch, said: Vec<Said<'_, Date>>) {
        let mut said = said;
        said.reverse();
        said.sort_by_key(|one| one.as_of);
        if let Some(pair) = said.windows(2).find(|pair| pair[0].value != pair[1].value) {
            let [a, b] = pair else { return };
            self.note(format!(
                "{branch}: ends on {} by {}, on {} by {}",
                b.value, b.feed, a.value, a.feed,
            ));
        }
        let stated = said.last().map(|one| End { date: one.value, basis: EndBasis::Stated });
        let end = stated.or_else(|| {
            let date = self.projected(branch)?;
            Some(End { date, basis: EndBasis::Projected })
        });
        if let Some(entry) = self.branches.get_mut(&branch) {
            entry.end = end;
        }
    }

    /// The end of a branch by the rule for its state.
    fn projected(&self, branch: Branch) -> Option<Date> {
        let entry = self.branches.get(&branch)?;
        let began = self.began(branch);
        match entry.state {
            BranchState::Mainline | BranchState::Stable => {
                let next = self.after(branch).find_map(|(next, _)| self.began(*next));
                let next = match next {
                    Some(next) => next,
                    None => began?.checked_add(CYCLE.days()).ok()?,
                };
                next.checked_add(OVERLAP.days()).ok()
            }
            BranchState::Longterm => {
                let least = began?.checked_add(LONGTERM_YEARS.years()).ok()?;
                (least > self.today).then_some(least)
            }
            BranchState::EndOfLife => entry.latest()?.1.date,
            BranchState::Unknown => None,
        }
    }

    fn note(&mut self, note: String) {
        match self.notes.len() {
            0..MAX_NOTES => self.notes.push(note),
            MAX_NOTES => self.notes.push("and more where feeds differ".to_owned()),
            _ => {}
        }
    }
}

/// The order in which a branch goes through its states.
const fn rank(state: BranchState) -> u8 {
    match state {
        BranchState::Unknown => 0,
        BranchState::Mainline => 1,
        BranchState::Stable => 2,
        BranchState::Longterm => 3,
        BranchState::EndOfLife => 4,
    }
}
