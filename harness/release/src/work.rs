//! What there is to gate: from what has come out, what is in production and what was gated before.

use jiff::Timestamp;
use jiff::civil::Date;

use crate::catalogue::Catalogue;
use crate::standing::Standing;
use crate::state::{Claim, Line, State, Status};
use crate::version::{Branch, Version};

/// What is known, and what is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What has come out.
    pub catalogue: &'a Catalogue,
    /// What was gated.
    pub state: &'a State,
    /// The history that this is about.
    pub line: &'a Line,
    /// What is in production.
    pub production: Version,
    /// Now, for claims.
    pub now: Timestamp,
    /// How often a release is tried that gets no verdict.
    pub tries: u32,
    /// Days from one evaluation of the next longterm branch to the following.
    pub evaluate_every: u32,
    /// Of a branch only the newest release that a feed offers a kernel for.
    pub latest: bool,
}

/// What there is to do and what isn't, each the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// To be gated.
    pub candidates: Vec<Candidate>,
    /// Others are at it.
    pub busy: Vec<(Version, Claim)>,
    /// Tried as often as is allowed, without a verdict; nothing newer has one.
    pub stuck: Vec<(Version, String)>,
    /// Out, and no feed offers a kernel of it or of a newer one.
    pub not_offered: Vec<(Version, Option<Date>)>,
    /// No feed offers a kernel of it, but of a newer one.
    pub passed_over: Vec<Version>,
    /// To be left out for a newer one.
    pub superseded: Vec<Version>,
}

/// A release that is to be gated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The release.
    pub version: Version,
    /// A kernel reference that gives it.
    pub kernel: String,
}

impl Question<'_> {
    /// Finds what there is to do.
    #[must_use]
    pub fn work(&self) -> Work {
        let mut work = Work::default();
        self.production_branch(&mut work);
        self.next_longterm(&mut work);
        work
    }

    /// The branch whose evaluation is due.
    fn due(&self) -> Option<Branch> {
        let branch = self.production.branch;
        let next = Standing::of(self.catalogue, branch, Some(self.production)).next_longterm?;
        next.due.then_some(next.branch)
    }

    fn production_branch(&self, work: &mut Work) {
        let branch = self.production.branch;
        let newer = |version: &Version| {
            version.branch == branch && *version > self.production && version.candidate.is_none()
        };
        // What was seen once is not forgotten because a feed names it no more.
        let named =
            self.catalogue.branches.get(&branch).into_iter().flat_map(|b| b.releases.keys());
        let seen = self.state.releases(self.line).map(|(version, _)| version);
        let mut versions: Vec<Version> = named.chain(seen).copied().filter(newer).collect();
        versions.sort_unstable();
        versions.dedup();
        let offered = |version: &Version| self.kernel(version).is_some();
        let newest = versions.iter().rposition(offered);
        let gated = versions.iter().rposition(|v| matches!(self.status(v), Status::Gated(_)));
        for (at, version) in versions.iter().enumerate() {
            match (self.kernel(version), self.status(version)) {
                (_, Status::Gated(_) | Status::Superseded(_)) => {}
                (_, Status::Claimed(claim)) => work.busy.push((*version, claim.clone())),
                (_, Status::Stuck(tries)) => {
                    // Its successor's verdict is as good as its own.
                    if gated.is_none_or(|gated| gated < at) {
                        let why = tries.values().next_back().cloned().unwrap_or_default();
                        work.stuck.push((*version, why));
                    }
                }
                (Some(_), Status::Open) if self.latest && newest > Some(at) => {
                    work.superseded.push(*version);
                }
                (Some(kernel), Status::Open) => {
                    work.candidates.push(Candidate { version: *version, kernel });
                }
                (None, Status::Open) if newest > Some(at) => work.passed_over.push(*version),
                (None, Status::Open) => {
                    let date = self.catalogue.release(version).and_then(|release| release.date);
                    work.not_offered.push((*version, date));
                }
            }
        }
    }

    /// The newest release of the next longterm branch that there is a kernel of, once in a while.
    fn next_longterm(&self, work: &mut Work) {
        let Some(branch) = self.due() else { return };
        let evaluated = self.state.releases(self.line).filter(|(v, _)| v.branch == branch);
        let last = evaluated.filter_map(|(_, known)| Some(known.gated.as_ref()?.on)).max();
        let days = |on: Date| (self.catalogue.today - on).get_days();
        if last.is_some_and(|on| days(on) < self.evaluate_every.try_into().unwrap_or(i32::MAX)) {
            return;
        }
        let releases = self.catalogue.branches[&branch].releases.keys().rev();
        let mut offered = releases.filter(|version| version.candidate.is_none());
        let offered = offered.find_map(|version| Some((*version, self.kernel(version)?)));
        let Some((version, kernel)) = offered else { return };
        match self.status(&version) {
            Status::Open => work.candidates.push(Candidate { version, kernel }),
            Status::Claimed(claim) => work.busy.push((version, claim.clone())),
            // Advice that can't be had stops nobody.
            Status::Stuck(_) | Status::Gated(_) | Status::Superseded(_) => {}
        }
    }

    fn kernel(&self, version: &Version) -> Option<String> {
        self.catalogue.release(version)?.kernel.clone()
    }

    fn status(&self, version: &Version) -> Status<'_> {
        let known = self.state.known(self.line, version);
        known.map_or(Status::Open, |known| known.status(self.now, self.tries))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::civil::date;
    use kgate_model::plan::Tier;

    use super::*;
    use crate::catalogue::{BranchEntry, BranchState, Release};
    use crate::state::{Entry, Event, FORMAT};

    const TODAY: Date = date(2026, 8, 22);

    fn line() -> Line {
        Line { workload: "edge".into(), track: "6.1".into() }
    }

    fn now() -> Timestamp {
        "2026-08-22T12:00:00Z".parse().unwrap()
    }

    /// Releases, those with a `*` offered.
    fn catalogue(releases: &str) -> Catalogue {
        let mut catalogue = Catalogue::new(TODAY);
        for name in releases.split(' ') {
            let version: Version = name.trim_end_matches('*').parse().unwrap();
            let entry = catalogue.branches.entry(version.branch).or_insert(BranchEntry {
                state: BranchState::Longterm,
                end: None,
                releases: BTreeMap::new(),
            });
            let kernel = name.ends_with('*').then(|| format!("kernels/{version}"));
            let day = if version.patch == 0 { date(2022, 12, 11) } else { TODAY };
            entry.releases.insert(version, Release { date: Some(day), kernel });
        }
        catalogue
    }

    fn entry(version: &str, event: Event) -> Entry {
        let version = version.parse().unwrap();
        Entry { format: FORMAT.into(), at: now(), line: line(), version, event }
    }

    fn gated(version: &str, on: Date) -> Entry {
        let event = Event::Gated {
            by: version.into(),
            verdict: "promote".into(),
            on,
            dir: version.into(),
            production: "6.1.170".into(),
            tier: Tier::Bugfix.as_str().into(),
        };
        entry(version, event)
    }

    fn tried(version: &str, by: &str) -> Entry {
        entry(version, Event::Tried { by: by.into(), why: "no network".into(), anew: false })
    }

    fn told(releases: &str, entries: &[Entry], latest: bool) -> String {
        let (catalogue, state) = (catalogue(releases), State::new(entries.iter().cloned()));
        let question = Question {
            catalogue: &catalogue,
            state: &state,
            line: &line(),
            production: "6.1.170".parse().unwrap(),
            now: now(),
            tries: 2,
            evaluate_every: 28,
            latest,
        };
        let work = question.work();
        let names = |versions: Vec<Version>| {
            versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let parts = [
            ("gate", names(work.candidates.into_iter().map(|one| one.version).collect())),
            ("busy", names(work.busy.into_iter().map(|(version, _)| version).collect())),
            ("stuck", names(work.stuck.into_iter().map(|(version, _)| version).collect())),
            ("not offered", names(work.not_offered.into_iter().map(|(v, _)| v).collect())),
            ("passed over", names(work.passed_over)),
            ("superseded", names(work.superseded)),
        ];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        parts.map(|(what, names)| format!("{what}: {names}")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_is_new_is_what_came_out_after_production_and_was_not_gated() {
        let all = "6.1 6.1.169* 6.1.170* 6.1.171 6.1.172* 6.1.173* 6.1.174 6.1.175-rc1*";
        let seen = entry("6.1.168", Event::Seen { on: TODAY });
        let gone = entry("6.1.176", Event::Seen { on: TODAY });
        let claim = Event::Claimed {
            by: "a".into(),
            until: "2026-08-22T13:00:00Z".parse().unwrap(),
            dir: "6.1.172".into(),
        };
        let (first, second) = (tried("6.1.172", "a"), tried("6.1.172", "b"));
        let after = gated("6.1.173", TODAY);
        for (entries, latest, expected) in [
            (vec![], false, "gate: 6.1.172 6.1.173; not offered: 6.1.174; passed over: 6.1.171"),
            (
                vec![],
                true,
                "gate: 6.1.173; not offered: 6.1.174; passed over: 6.1.171; superseded: 6.1.172",
            ),
            (
                vec![after.clone()],
                false,
                "gate: 6.1.172; not offered: 6.1.174; passed over: 6.1.171",
            ),
            (
                vec![seen, gone],
                false,
                "gate: 6.1.172 6.1.173; not offered: 6.1.174 6.1.176; passed over: 6.1.171",
            ),
            (
                vec![entry("6.1.172", claim)],
                false,
                "gate: 6.1.173; busy: 6.1.172; not offered: 6.1.174; passed over: 6.1.171",
            ),
            (
                vec![first.clone()],
                false,
                "gate: 6.1.172 6.1.173; not offered: 6.1.174; passed over: 6.1.171",
            ),
            (
                vec![first.clone(), second.clone()],
                false,
                "gate: 6.1.173; stuck: 6.1.172; not offered: 6.1.174; passed over: 6.1.171",
            ),
            // Nobody waits any more for what has a successor.
            (vec![first, second, after], false, "not offered: 6.1.174; passed over: 6.1.171"),
        ] {
            assert_eq!(told(all, &entries, latest), expected, "{entries:?}");
        }
    }

    #[test]
    fn the_next_longterm_is_evaluated_once_in_a_while() {
        let all = "6.1 6.1.170* 6.6.40* 6.12.40* 6.12.41* 6.12.42";
        assert_eq!(told(all, &[], false), "gate: 6.12.41");
        assert_eq!(told(all, &[gated("6.12.40", date(2026, 7, 24))], false), "gate: 6.12.41");
        assert_eq!(told(all, &[gated("6.12.40", date(2026, 8, 1))], false), "");
        // The same is not evaluated twice.
        assert_eq!(told(all, &[gated("6.12.41", date(2026, 1, 1))], false), "");
        assert_eq!(told("6.1 6.1.170*", &[], false), "");
    }
}
