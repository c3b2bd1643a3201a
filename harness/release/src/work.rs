//! What there is to gate: from what has come out, what is in production and what was gated before.

use jiff::Timestamp;
use jiff::civil::Date;

use crate::catalogue::Catalogue;
use crate::standing::Standing;
use crate::state::{Claim, Gated, Line, State, Status};
use crate::version::Version;

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
    #[must_use]
    pub fn due(&self) -> Option<crate::version::Branch> {
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

    /// The release of this line that was gated last.
    #[must_use]
    pub fn last(&self) -> Option<(&Version, &Gated)> {
        self.state.last_gated(self.line)
    }
}
