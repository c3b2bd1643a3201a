//! How two upstream versions lie to each other.

use serde::{Deserialize, Serialize};

use crate::version::Version;

/// How a version lies to the one that it would replace. A major step leads to another branch, a bug-fix
/// step does not; candidates are of the branch of their release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It is the same.
    Same,
    /// Later, on the same branch.
    BugfixForward,
    /// Earlier, on the same branch.
    BugfixBackward,
    /// On a later branch.
    MajorForward,
    /// On an earlier branch.
    MajorBackward,
}

impl Relation {
    /// What the step from one version to another is.
    #[must_use]
    pub fn of(from: &Version, to: &Version) -> Self {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match (from.branch.cmp(&to.branch), from.cmp(to)) {
            (Less, _) => Self::MajorForward,
            (Greater, _) => Self::MajorBackward,
            (Equal, Less) => Self::BugfixForward,
            (Equal, Greater) => Self::BugfixBackward,
            (Equal, Equal) => Self::Same,
        }
    }

    /// The step back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Same => Self::Same,
            Self::BugfixForward => Self::BugfixBackward,
            Self::BugfixBackward => Self::BugfixForward,
            Self::MajorForward => Self::MajorBackward,
            Self::MajorBackward => Self::MajorForward,
        }
    }

    /// Whether it leads to another branch.
    #[must_use]
    pub const fn is_major(self) -> bool {
        matches!(self, Self::MajorForward | Self::MajorBackward)
    }

    /// Whether it leads to something later.
    #[must_use]
    pub const fn is_forward(self) -> bool {
        matches!(self, Self::BugfixForward | Self::MajorForward)
    }

    /// As it is written.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Same => "the same",
            Self::BugfixForward => "bugfix",
            Self::BugfixBackward => "bugfix, backward",
            Self::MajorForward => "major",
            Self::MajorBackward => "major, backward",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Branch;

    fn version() -> impl Strategy<Value = Version> {
        let old = (0..2_u32, 30..33_u32).prop_map(|(b, c)| format!("2.{}.{c}", b + 5));
        let new = (3..5_u32, 0..3_u32).prop_map(|(a, b)| format!("{a}.{b}"));
        let branch = prop_oneof![old, new].prop_map(|text| text.parse::<Branch>().unwrap());
        let candidate = prop_oneof![Just(None), (1..4_u32).prop_map(Some)];
        (branch, 0..3_u32, candidate).prop_map(|(branch, patch, candidate)| Version {
            branch,
            patch,
            candidate,
        })
    }

    #[test]
    fn steps() {
        for (from, to, relation) in [
            ("6.1.170", "6.1.192", Relation::BugfixForward),
            ("6.1.192", "6.1.170", Relation::BugfixBackward),
            ("6.1", "6.1.0", Relation::Same),
            ("4.19.325", "4.20", Relation::MajorForward),
            ("4.20.17", "5.0", Relation::MajorForward),
            ("6.12.1", "6.9.12", Relation::MajorBackward),
            ("6.9-rc5", "6.9", Relation::BugfixForward),
            ("6.9", "6.9.1-rc1", Relation::BugfixForward),
            ("6.8.7", "6.9-rc1", Relation::MajorForward),
            ("2.6.32.71", "2.6.33", Relation::MajorForward),
        ] {
            let [a, b] = [from, to].map(|text| text.parse().unwrap());
            assert_eq!(Relation::of(&a, &b), relation, "{from} {to}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_relation_is_an_order(a in version(), b in version(), c in version()) {
            let (ab, bc, ac) = (Relation::of(&a, &b), Relation::of(&b, &c), Relation::of(&a, &c));
            // Antisymmetric, and total: it is the same in exactly one case.
            prop_assert_eq!(Relation::of(&b, &a), ab.reversed());
            prop_assert_eq!(ab == Relation::Same, a == b);
            prop_assert_eq!(ab.is_forward(), a < b);
            prop_assert_eq!(ab.is_major(), a.branch != b.branch);
            // Transitive: two steps forward are one, which is major if either is.
            if ab.is_forward() && bc.is_forward() {
                prop_assert!(ac.is_forward());
                prop_assert_eq!(ac.is_major(), ab.is_major() || bc.is_major());
            }
            if ab == Relation::Same {
                prop_assert_eq!(ac, bc);
            }
            // And written and read back it is the same version.
            prop_assert_eq!(a.to_string().parse::<Version>().unwrap(), a);
        }
    }
}
