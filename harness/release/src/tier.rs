//! How much is to be tried of a release, and why: from what it is to production's.

use jiff::civil::Date;
use kgate_model::plan::{Shift, Tier, TierChoice};

use crate::catalogue::{BranchState, Catalogue, End, EndBasis};
use crate::relation::Relation;
use crate::standing::Standing;
use crate::version::Version;
use crate::words::{ago, counted};

/// What is known of a candidate beside production. What is `None` is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What is in production.
    pub production: Option<Version>,
    /// What should replace it.
    pub candidate: Option<Version>,
    /// What is going on with the candidate's branch.
    pub state: Option<BranchState>,
    /// When the candidate's branch ends.
    pub end: Option<End>,
    /// When the candidate came out.
    pub released: Option<Date>,
    /// The day that ages are reckoned to.
    pub today: Option<Date>,
    /// The candidate is of the longterm branch that comes after production's.
    pub next_longterm: bool,
    /// Commits between the two, in words: `1,474 commits at least`.
    pub commits: Option<String>,
    /// CVEs that are fixed between the two, in words.
    pub cves: Option<String>,
    /// Subsystems that change between the two.
    pub changed: Option<Vec<String>>,
}

/// What a major upgrade needs and kgate doesn't do.
const ADVICE: &str = "Before such a kernel goes out, decide on two things that are not part of this \
    plan: trials on lab hosts with the hardware of production, and a comparison of what the kernels \
    show to programs (configuration, modules, sysctls, files in /proc and /sys).";

impl Facts {
    /// What a catalogue knows of two releases.
    #[must_use]
    pub fn of(catalogue: &Catalogue, production: Version, candidate: Version) -> Self {
        let branch = catalogue.branch_of(&candidate);
        let next = Standing::of(catalogue, production.branch, Some(production)).next_longterm;
        Self {
            production: Some(production),
            candidate: Some(candidate),
            state: branch.map(|branch| branch.state),
            end: branch.and_then(|branch| branch.end),
            released: catalogue.release(&candidate).and_then(|release| release.date),
            today: Some(catalogue.today),
            next_longterm: next.is_some_and(|next| next.due && next.branch == candidate.branch),
            ..Self::default()
        }
    }

    /// The tier for these facts, unless one is `given`.
    #[must_use]
    pub fn tier(&self, shifts: &[Shift], given: Option<Tier>) -> TierChoice {
        let (own, what, reason) = self.own();
        let mut why = vec![what];
        why.extend(self.circumstances());
        let shifted = shifts.iter().find_map(|shift| Some((shift.to, self.meets(shift)?)));
        let tier = match (given, shifted) {
            (Some(given), _) => {
                why.push(format!("The {} tier was asked for.", given.as_str()));
                given
            }
            (None, Some((to, because))) if to != own => {
                why.push(format!(
                    "By itself that is the {} tier; the policy makes it the {} tier {because}.",
                    own.as_str(),
                    to.as_str()
                ));
                to
            }
            (None, _) => {
                why.push(reason.to_owned());
                own
            }
        };
        if tier != Tier::Bugfix && own != Tier::Bugfix {
            why.push(ADVICE.to_owned());
        }
        TierChoice { tier, why: why.join(" ") }
    }

    /// The tier by the two versions, what they are to each other, and what that means.
    fn own(&self) -> (Tier, String, &'static str) {
        let (Some(ours), Some(theirs)) = (self.production, self.candidate) else {
            let what = "It is not known which upstream releases the two kernels are, so nothing says how \
                far they are apart.";
            return (
                Tier::Major,
                what.to_owned(),
                "So everything is tried, in more boots: the major tier.",
            );
        };
        let branch = theirs.branch;
        let apart = counted(ours.patch.abs_diff(theirs.patch), "release");
        match Relation::of(&ours, &theirs) {
            Relation::Same => (
                Tier::Bugfix,
                format!("Both are {theirs}, perhaps built or configured otherwise."),
                "A short look is enough: the bugfix tier.",
            ),
            Relation::BugfixForward => (
                Tier::Bugfix,
                format!(
                    "{theirs} is a bug-fix release of {branch}, the branch in production, {apart} after \
                     {ours}."
                ),
                "Such releases bring fixes only and rarely break anything, so a short look is enough: \
                 the bugfix tier.",
            ),
            Relation::BugfixBackward => (
                Tier::Bugfix,
                format!(
                    "{theirs} is {apart} before {ours}, which is in production: fixes go away."
                ),
                "The branch is the same, so a short look is enough: the bugfix tier.",
            ),
            _ if self.next_longterm => (
                Tier::NextLongterm,
                format!("{theirs} is of the longterm branch to go to from {}.", ours.branch),
                "It is time to look at it, so everything is tried, in more boots: the next-longterm \
                 tier. Its verdict is advice for the move to that branch, and gates nothing in production.",
            ),
            relation => (
                Tier::Major,
                format!(
                    "{theirs} is of {} branch than {ours}, which is in production: a major release, \
                     whatever the first number says.",
                    if relation.is_forward() { "a later" } else { "an earlier" }
                ),
                "Much changes at once, so everything is tried, in more boots: the major tier.",
            ),
        }
    }

    /// State, age and size of the change, as far as they are known.
    fn circumstances(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let (Some(released), Some(today), Some(candidate)) =
            (self.released, self.today, self.candidate)
        {
            all.push(format!("{candidate} came out {}.", ago(released, today)));
        }
        if let (Some(candidate), Some(state)) = (self.candidate, self.state)
            && state != BranchState::Unknown
        {
            let branch = candidate.branch;
            let mut text = match state {
                BranchState::EndOfLife => format!("{branch} has reached its end of life"),
                state => format!("{branch} is {}", state.word()),
            };
            if let Some(End { date, basis }) = self.end
                && state != BranchState::EndOfLife
            {
                let basis = if basis == EndBasis::Stated { "" } else { "about " };
                text.push_str(&format!(", with fixes until {basis}{date}"));
            }
            all.push(text + ".");
        }
        match (&self.commits, &self.cves) {
            (Some(commits), Some(cves)) => {
                all.push(format!("The step brings {commits} and {cves}."));
            }
            (Some(some), None) | (None, Some(some)) => {
                all.push(format!("The step brings {some}."));
            }
            (None, None) => {}
        }
        all
    }

    /// Why a shift is about this release; `None` when it isn't.
    fn meets(&self, shift: &Shift) -> Option<String> {
        let mut because = Vec::new();
        if !shift.branches.is_empty() {
            let branch = self.candidate?.branch.to_string();
            shift.branches.contains(&branch).then_some(())?;
            because.push(format!("for releases of {branch}"));
        }
        if !shift.subsystems.is_empty() {
            match &self.changed {
                // To try too much costs minutes; to try too little may cost more.
                None => because.push(format!(
                    "for what changes {}, since it isn't known here what changes",
                    shift.subsystems.join(", ")
                )),
                Some(changed) => {
                    let of = |name: &&String| {
                        let below = |one: &String| {
                            one.strip_prefix(*name).is_some_and(|rest| rest.starts_with('/'))
                        };
                        changed.iter().any(|one| one == *name || below(one))
                    };
                    let name = shift.subsystems.iter().find(of)?;
                    because.push(format!("because it changes {name}"));
                }
            }
        }
        Some(because.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn facts(production: &str, candidate: &str) -> Facts {
        Facts {
            production: production.parse().ok(),
            candidate: candidate.parse().ok(),
            today: Some(date(2026, 8, 22)),
            ..Facts::default()
        }
    }

    fn why(facts: &Facts, shifts: &[Shift], given: Option<Tier>) -> String {
        let TierChoice { tier, why } = facts.tier(shifts, given);
        format!("{}: {why}", tier.as_str())
    }

    #[test]
    fn the_reason_tells_what_is_known() {
        let known = Facts {
            state: Some(BranchState::Longterm),
            end: Some(End { date: date(2027, 12, 31), basis: EndBasis::Stated }),
            released: Some(date(2026, 8, 19)),
            commits: Some("1,474 commits".into()),
            cves: Some("35 fixes of CVEs".into()),
            ..facts("6.1.170", "6.1.183")
        };
        insta::assert_snapshot!(why(&known, &[], None));
        insta::assert_snapshot!(why(&facts("6.1.183", "6.1.182"), &[], None));
        insta::assert_snapshot!(why(&facts("6.1.183", "6.1.183"), &[], None));
        insta::assert_snapshot!(why(&facts("4.19.300", "4.20"), &[], None));
        insta::assert_snapshot!(why(&facts("6.1.183", "no version"), &[], None));
        let next = Facts { next_longterm: true, ..facts("6.1.183", "6.6.150") };
        insta::assert_snapshot!(why(&next, &[], None));
        insta::assert_snapshot!(why(&next, &[], Some(Tier::Bugfix)));
    }

    #[test]
    fn a_policy_shifts_by_branch_and_by_what_changes() {
        let shift = |branches: &[&str], subsystems: &[&str]| Shift {
            to: Tier::Major,
            branches: branches.iter().map(|&b| b.to_owned()).collect(),
            subsystems: subsystems.iter().map(|&s| s.to_owned()).collect(),
        };
        let release = facts("6.1.182", "6.1.183");
        let changes = |changed: &[&str]| Facts {
            changed: Some(changed.iter().map(|&c| c.to_owned()).collect()),
            ..release.clone()
        };
        for (facts, shift, tier) in [
            (&release, shift(&["6.1"], &[]), Tier::Major),
            (&release, shift(&["6.6"], &[]), Tier::Bugfix),
            (&release, shift(&[], &["fs/xfs"]), Tier::Major),
            (&changes(&["fs/xfs"]), shift(&[], &["fs"]), Tier::Major),
            (&changes(&["fs/xfs"]), shift(&[], &["f"]), Tier::Bugfix),
            (&changes(&["fs/xfs"]), shift(&["6.6"], &["fs"]), Tier::Bugfix),
            (&changes(&["net"]), shift(&["6.1"], &["fs"]), Tier::Bugfix),
        ] {
            assert_eq!(facts.tier(std::slice::from_ref(&shift), None).tier, tier, "{shift:?}");
        }
        insta::assert_snapshot!(why(&release, &[shift(&["6.1"], &["fs/xfs", "net"])], None));
        insta::assert_snapshot!(why(&changes(&["net"]), &[shift(&[], &["net"])], None));
    }
}
