//! How much of a workload is tried of a new release, by what the release is to production's.

use std::collections::BTreeSet;

use kgate_model::plan::{Kind, Shift, Start, Tier};
use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::library::Selected;

/// Boots of each kernel in the bug-fix tier, unless the workload has fewer: the fewest from which
/// numbers that come from boots, such as memory, are compared.
const BUGFIX_BOOTS: u32 = 3;

/// Most boots that a tier comes to by itself.
const MOST_BOOTS: u32 = 1000;

/// What the tiers try, and what becomes of releases without a clear verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiers {
    /// Of a bug-fix release of production's branch.
    pub bugfix: TierRule,
    /// Of another branch.
    pub major: TierRule,
    /// Of the longterm branch after production's.
    pub next_longterm: TierRule,
    /// Releases that are tried by another tier than their own; the first that is about one holds.
    pub shifts: Vec<Shift>,
    /// Days from one evaluation of the next longterm branch to the following.
    pub evaluate_every: u32,
    /// What an inconclusive verdict comes to.
    pub inconclusive: Settles,
    /// How often a release is tried that gets no verdict.
    pub tries: u32,
}

impl Default for Tiers {
    fn default() -> Self {
        Self {
            bugfix: TierRule::default(),
            major: TierRule::default(),
            next_longterm: TierRule::default(),
            shifts: Vec::new(),
            evaluate_every: 28,
            inconclusive: Settles::Gated,
            tries: 3,
        }
    }
}

/// What a tier tries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierRule {
    /// Boots of each kernel; the tier's own number when `None`.
    pub boots: Option<u32>,
    /// Over the ids of the workload's scenarios; the tier's own choice when empty.
    pub scenarios: Vec<Glob>,
}

/// What an inconclusive verdict comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settles {
    /// The release counts as gated: to ask until the answer is another one proves nothing.
    Gated,
    /// It is gated again, as often as `tries` says.
    Again,
}

impl Tiers {
    /// What a tier tries.
    pub fn rule(&self, tier: Tier) -> &TierRule {
        match tier {
            Tier::Bugfix => &self.bugfix,
            Tier::Major => &self.major,
            Tier::NextLongterm => &self.next_longterm,
        }
    }

    /// Changes what a workload selected to what the tier tries of it, in `boots` boots if that is
    /// given, and says in a sentence what that is.
    pub fn apply(&self, tier: Tier, boots: Option<u32>, selected: &mut Vec<Selected>) -> String {
        let rule = self.rule(tier);
        let all = selected.len();
        let wanted = |one: &Selected| match (rule.scenarios.as_slice(), tier) {
            // A scenario that is left out by name costs nothing, and its reason is to be read.
            _ if one.overrides.skip.is_some() => true,
            ([], Tier::Bugfix) => {
                one.scenario.kind != Kind::Performance || one.scenario.boot == Start::Exact
            }
            ([], _) => true,
            (globs, _) => globs.iter().any(|glob| glob.matches(one.scenario.id.as_str())),
        };
        // A workload that only measures by the clock has nothing else to say of a release.
        let any = selected.iter().any(|one| one.overrides.skip.is_none() && wanted(one));
        if any {
            selected.retain(wanted);
        }
        for one in selected.iter_mut() {
            one.boots = match (boots.or(rule.boots), tier) {
                (Some(boots), _) => boots,
                (None, Tier::Bugfix) => one.boots.min(BUGFIX_BOOTS),
                (None, _) => one.boots.saturating_mul(2).min(MOST_BOOTS),
            };
        }
        let boots: BTreeSet<u32> = selected
            .iter()
            .filter(|one| one.scenario.boot != Start::Exact)
            .map(|one| one.boots)
            .collect();
        let boots = match (boots.first(), boots.last()) {
            (Some(least), Some(most)) if least < most => format!(" in {least} to {most} boots"),
            (Some(1), _) => " in one boot".to_owned(),
            (Some(boots), _) => format!(" in {boots} boots"),
            (None, _) => String::new(),
        };
        let count = selected.len();
        if count == all {
            let all =
                if all == 1 { "the one scenario".into() } else { format!("all {all} scenarios") };
            return format!("It runs {all} of the workload{boots} of each kernel.");
        }
        let left = match (rule.scenarios.is_empty(), all - count) {
            (true, 1) => "one that is measured by the clock is left out".to_owned(),
            (true, n) => format!("{n} that are measured by the clock are left out"),
            (false, n) => format!("{n} are left out by the policy"),
        };
        format!("It runs {count} of the workload's {all} scenarios{boots} of each kernel; {left}.")
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{Library, Workload};

    const SCENARIOS: [(&str, &str); 4] = [
        ("subsystem/quick", ""),
        ("integration/web", ""),
        ("performance/pipe", "boot: exact\n"),
        ("performance/tcp", ""),
    ];

    fn library() -> Library {
        let files = SCENARIOS.map(|(id, keys)| {
            let (kind, _) = id.split_once('/').unwrap();
            let text = format!("kind: {kind}\nsummary: s\n{keys}steps:\n  - measure: pipe\n");
            (PathBuf::from(format!("scenarios/{id}.yaml")), text)
        });
        Library::load(files).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn workload(scenarios: &str, policy: &str) -> Result<Workload, crate::Mistakes> {
        let text = format!("summary: s\nscenarios: {scenarios}\npolicy: {{ {policy} }}\n");
        Workload::load(Path::new("edge.yaml"), &text, &library())
    }

    /// What a tier leaves of a workload.
    fn left(tier: Tier, boots: Option<u32>, scenarios: &str, policy: &str) -> String {
        let workload = workload(scenarios, policy).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let mut selected = library().select(&workload);
        let told = workload.policy.tiers.apply(tier, boots, &mut selected);
        let names = selected.iter().map(|one| format!("{} {}", one.scenario.id, one.boots));
        format!("{}\n{told}", names.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn a_tier_leaves_what_it_tries() {
        use Tier::{Bugfix, Major, NextLongterm};
        let all = "['**']";
        insta::assert_snapshot!(left(Bugfix, None, all, "boots: 5"));
        insta::assert_snapshot!(left(Bugfix, None, all, "boots: 2"));
        insta::assert_snapshot!(left(Bugfix, Some(7), all, "boots: 2"));
        insta::assert_snapshot!(left(Major, None, all, "boots: 5"));
        insta::assert_snapshot!(left(
            NextLongterm,
            None,
            "[subsystem/quick: { boots: 1 }, integration/web]",
            ""
        ));
        insta::assert_snapshot!(left(Bugfix, None, "[performance/tcp]", "boots: 5"));
        insta::assert_snapshot!(left(
            Bugfix,
            None,
            "[subsystem/quick, performance/tcp: { skip: noisy }]",
            ""
        ));
        let own = "tiers: { bugfix: { boots: 1, scenarios: [performance/*] } }";
        insta::assert_snapshot!(left(Bugfix, None, all, own));
    }

    #[test]
    fn mistakes_are_told() {
        let tiers = "tiers: { bugfix: { boots: 0, scenarios: [subsytem/*] }, inconclusive: never, \
                     shift: [{ to: minor, branches: ['6.12.3'] }, { to: major }, { branches: [6.10] }] }";
        insta::assert_snapshot!(workload("['**']", tiers).unwrap_err());
        let right = "tiers: { shift: [{ to: major, branches: [6.10], subsystems: [fs/xfs] }], \
                     evaluate-every: 7, tries: 1, inconclusive: again }";
        let tiers = workload("['**']", right).unwrap().policy.tiers;
        assert_eq!(tiers.shifts[0].branches, ["6.10"]);
        assert_eq!((tiers.evaluate_every, tiers.tries, tiers.inconclusive), (7, 1, Settles::Again));
    }
}
