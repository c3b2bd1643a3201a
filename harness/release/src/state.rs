//! What was gated: the events that a state file holds, and what they come to.
//!
//! Events are facts that stay true, whoever wrote them and in whichever order they are read: the files
//! of jobs that ran apart are put together by writing one after the other, and an event that is there
//! twice counts once. Whatever is lost makes a release open again, never gated.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::version::Version;

/// The format word of every line.
pub const FORMAT: &str = "kgate-gate/1";

/// A claim holds no longer than this, whatever it says of itself: a clock that ran ahead must not
/// keep a release from being gated.
const LONGEST_CLAIM: SignedDuration = SignedDuration::from_hours(24 * 8);

/// One line of a state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`FORMAT`].
    pub format: String,
    /// When it was written.
    pub at: Timestamp,
    /// Which history it belongs to.
    pub line: Line,
    /// Which release it is about.
    pub version: Version,
    /// What happened.
    pub event: Event,
}

/// One history of releases: what is gated for a workload, against the kernels of one track.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Line {
    /// The workload's name.
    pub workload: String,
    /// The branch in production, or what the user calls it.
    pub track: String,
}

/// What happened to a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Event {
    /// A feed named it.
    Seen {
        /// The day.
        on: Date,
    },
    /// A job began on it, or goes on with what a killed one left.
    Claimed {
        /// The claim's own name.
        by: String,
        /// When the claim ends by itself.
        until: Timestamp,
        /// The run's directory, relative to where the job keeps them.
        dir: String,
    },
    /// The job gave it back.
    Released {
        /// The claim.
        by: String,
    },
    /// The job got no verdict on it that settles anything.
    Tried {
        /// The claim.
        by: String,
        /// Why.
        why: String,
        /// The next try begins anew instead of going on with this one's run.
        anew: bool,
    },
    /// It has its verdict.
    Gated {
        /// The claim.
        by: String,
        /// The verdict.
        verdict: String,
        /// The day.
        on: Date,
        /// The run's directory, relative to where the job keeps them.
        dir: String,
        /// The release that was in production.
        production: String,
        /// The tier by which it was tried.
        tier: String,
    },
    /// A newer one was gated in its place.
    Superseded {
        /// The newer one.
        by: Version,
    },
}

/// What is known of one release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The first day on which a feed named it.
    pub seen: Option<Date>,
    /// The claim that was made last, unless its run has come to its end.
    pub claim: Option<Claim>,
    /// Tries without a settling verdict, by claim: why.
    pub tries: BTreeMap<String, String>,
    /// Its verdict; the last where there are more.
    pub gated: Option<Gated>,
    /// The newer one that was gated in its place.
    pub superseded: Option<Version>,
}

/// Who works on a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Its job gave it back: anybody may go on with its run.
    pub ended: bool,
    /// The run's directory.
    pub dir: String,
}

/// A verdict that a release has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gated {
    /// The day.
    pub on: Date,
    /// The verdict.
    pub verdict: String,
    /// The run's directory.
    pub dir: String,
    /// The release that was in production.
    pub production: String,
    /// The tier by which it was tried.
    pub tier: String,
}

/// What a job that looks for work finds a release to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// Nobody works on it, and it has no verdict.
    Open,
    /// Somebody works on it, or was killed at it.
    Claimed(&'a Claim),
    /// As often tried without a verdict as is allowed.
    Stuck(&'a BTreeMap<String, String>),
    /// It has its verdict.
    Gated(&'a Gated),
    /// A newer one has it in its place.
    Superseded(Version),
}

/// Everything that a state file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    lines: BTreeMap<Line, BTreeMap<Version, Known>>,
}

impl State {
    /// What these events come to, whatever their order.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        entries.sort_by_key(|entry| entry.at);
        let mut state = Self::default();
        // How each claim ended, also where that was read first: whether its run can be gone on with.
        let mut ends: BTreeMap<String, bool> = BTreeMap::new();
        for Entry { at, line, version, event, .. } in entries {
            let known = state.lines.entry(line).or_default().entry(version).or_default();
            match event {
                Event::Seen { on } => known.seen = Some(known.seen.map_or(on, |seen| seen.min(on))),
                Event::Claimed { by, until, dir } => match ends.get(&by) {
                    Some(false) => {}
                    ended => {
                        let ended = ended.is_some();
                        known.claim = Some(Claim { by, since: at, until, ended, dir });
                    }
                },
                Event::Released { by } => known.end(by, true, &mut ends),
                Event::Tried { by, why, anew } => {
                    known.tries.insert(by.clone(), why);
                    known.end(by, !anew, &mut ends);
                }
                Event::Gated { by, verdict, on, dir, production, tier } => {
                    known.gated = Some(Gated { on, verdict, dir, production, tier });
                    known.end(by, false, &mut ends);
                }
                Event::Superseded { by } => known.superseded = Some(by),
            }
        }
        state
    }

    /// What is known of a release; nothing, where no event is about it.
    #[must_use]
    pub fn known(&self, line: &Line, version: &Version) -> Option<&Known> {
        self.lines.get(line)?.get(version)
    }

    /// All releases of a line that an event is about.
    pub fn releases(&self, line: &Line) -> impl DoubleEndedIterator<Item = (&Version, &Known)> {
        self.lines.get(line).into_iter().flatten()
    }

    /// What was in production when a release was last gated for a workload, on a track or any.
    #[must_use]
    pub fn last_production(&self, workload: &str, track: Option<&str>) -> Option<Version> {
        let of = |line: &&Line| {
            line.workload == workload && track.is_none_or(|track| line.track == track)
        };
        let last = self.lines.keys().filter(of).filter_map(|line| self.last_gated(line));
        last.max_by_key(|(_, gated)| gated.on)?.1.production.parse().ok()
    }

    /// The release of a line that was gated last, by its day.
    #[must_use]
    pub fn last_gated(&self, line: &Line) -> Option<(&Version, &Gated)> {
        let gated = self.releases(line).filter_map(|(v, known)| Some((v, known.gated.as_ref()?)));
        gated.max_by_key(|(version, gated)| (gated.on, **version))
    }
}

impl Known {
    fn end(&mut self, by: String, resumable: bool, ends: &mut BTreeMap<String, bool>) {
        if let Some(claim) = self.claim.as_mut().filter(|claim| claim.by == by) {
            claim.ended = true;
            if !resumable {
                self.claim = None;
            }
        }
        // What has come to its end is not gone on with, whatever else is said.
        let known = ends.entry(by).or_insert(resumable);
        *known &= resumable;
    }

    /// What a job finds it to be that looks for work at `now` and may try it `tries` times.
    #[must_use]
    pub fn status(&self, now: Timestamp, tries: u32) -> Status<'_> {
        if let Some(gated) = &self.gated {
            return Status::Gated(gated);
        }
        if let Some(claim) = self.claim.as_ref().filter(|claim| claim.holds(now)) {
            return Status::Claimed(claim);
        }
        if let Some(by) = self.superseded {
            return Status::Superseded(by);
        }
        if self.tries.len() >= usize::try_from(tries).unwrap_or(usize::MAX) {
            return Status::Stuck(&self.tries);
        }
        Status::Open
    }
}

impl Claim {
    /// Whether others have to keep off at `now`.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        !self.ended && now < self.until && self.until.duration_since(now) <= LONGEST_CLAIM
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).unwrap()
    }

    fn day() -> Date {
        jiff::civil::date(2026, 5, 8)
    }

    fn line() -> Line {
        Line { workload: "edge".into(), track: "6.1".into() }
    }

    fn version() -> Version {
        "6.1.172".parse().unwrap()
    }

    fn entry(seconds: i64, event: Event) -> Entry {
        Entry { format: FORMAT.into(), at: at(seconds), line: line(), version: version(), event }
    }

    fn claimed(seconds: i64, by: &str) -> Entry {
        let (until, dir) = (at(seconds + 100), format!("dir-{by}"));
        entry(seconds, Event::Claimed { by: by.into(), until, dir })
    }

    fn tried(seconds: i64, by: &str) -> Entry {
        entry(seconds, Event::Tried { by: by.into(), why: "no network".into(), anew: false })
    }

    fn gated(seconds: i64, by: &str) -> Entry {
        let text = |text: &str| text.to_owned();
        entry(
            seconds,
            Event::Gated {
                by: by.into(),
                verdict: text("promote"),
                on: day(),
                dir: format!("dir-{by}"),
                production: text("6.1.170"),
                tier: text("bugfix"),
            },
        )
    }

    fn status(entries: &[Entry], now: i64) -> String {
        let state = State::new(entries.iter().cloned());
        let known = state.known(&line(), &version()).unwrap();
        match known.status(at(now), 2) {
            Status::Open => "open".into(),
            Status::Claimed(claim) => format!("claimed {}", claim.by),
            Status::Stuck(tries) => format!("stuck {}", tries.len()),
            Status::Gated(gated) => format!("gated {}", gated.dir),
            Status::Superseded(by) => format!("superseded {by}"),
        }
    }

    #[test]
    fn a_release_goes_from_seen_to_gated() {
        let seen = entry(0, Event::Seen { on: day() });
        let released = entry(5, Event::Released { by: "a".into() });
        let newer = entry(9, Event::Superseded { by: "6.1.173".parse().unwrap() });
        let (a, b) = (claimed(1, "a"), claimed(2, "b"));
        for (entries, now, expected) in [
            (vec![seen.clone()], 0, "open"),
            (vec![seen.clone(), a.clone()], 2, "claimed a"),
            (vec![seen.clone(), a.clone()], 200, "open"),
            // The clock that wrote it was weeks ahead.
            (vec![a.clone()], -1_000_000, "open"),
            (vec![a.clone(), released.clone()], 6, "open"),
            (vec![a.clone(), tried(5, "a")], 6, "open"),
            (vec![a.clone(), tried(5, "a"), tried(7, "b")], 8, "stuck 2"),
            // The same line from two files is one try.
            (vec![a.clone(), tried(5, "a"), tried(5, "a")], 8, "open"),
            (vec![a.clone(), gated(5, "a")], 6, "gated dir-a"),
            (vec![a.clone(), b.clone(), gated(5, "b"), gated(6, "a")], 7, "gated dir-a"),
            (vec![seen, newer.clone()], 10, "superseded 6.1.173"),
            (vec![newer, gated(12, "a")], 13, "gated dir-a"),
            (vec![b, a, released], 6, "claimed b"),
        ] {
            assert_eq!(status(&entries, now), expected, "{entries:?}");
        }
    }

    #[test]
    fn lines_keep_apart() {
        let mut other = gated(1, "a");
        other.line.workload = "db".into();
        let state = State::new([other.clone()]);
        assert!(state.known(&line(), &version()).is_none());
        assert_eq!(state.last_gated(&line()), None);
        assert_eq!(state.last_gated(&other.line).unwrap().0, &version());
    }

    fn any_event() -> impl Strategy<Value = Entry> {
        (0_i64..300, 0_usize..5, 0_usize..3).prop_map(|(seconds, kind, by)| {
            let by = ["a", "b", "c"][by];
            match kind {
                0 => claimed(seconds, by),
                1 => tried(seconds, by),
                2 => gated(seconds, by),
                3 => entry(seconds, Event::Released { by: by.into() }),
                _ => entry(seconds, Event::Seen { on: day() }),
            }
        })
    }

    proptest! {
        #[test]
        fn files_may_be_put_together_and_lose_their_ends(
            entries in prop::collection::vec(any_event(), 1..30),
            cut in 0_usize..30,
            now in 0_i64..400,
        ) {
            let whole = status(&entries, now);
            let twice: Vec<_> = entries.iter().chain(&entries).cloned().collect();
            prop_assert_eq!(&status(&twice, now), &whole);
            // What is lost may make it open, never gated.
            let kept = &entries[..entries.len() - cut.min(entries.len() - 1)];
            if !whole.starts_with("gated") {
                prop_assert!(!status(kept, now).starts_with("gated"));
            }
            let written = serde_json::to_string(&entries).unwrap();
            let read: Vec<Entry> = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read, entries);
        }
    }
}
