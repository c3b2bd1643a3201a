//! The verdict of a run, and the reasons that lead to it.

use std::fmt;

/// What a run says about the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Nothing speaks against it, and enough was tried.
    Promote,
    /// It could not be decided.
    Inconclusive,
    /// Something of ours failed; nothing is said about the candidate.
    Infrastructure,
    /// The candidate is worse in a way that the policy doesn't accept.
    Reject,
}

impl Verdict {
    /// The word used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Inconclusive => "inconclusive",
            Self::Infrastructure => "infrastructure",
            Self::Reject => "reject",
        }
    }

    /// Exit code of the program.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Promote => 0,
            Self::Reject => 1,
            Self::Inconclusive => 3,
            Self::Infrastructure => 4,
        }
    }
}

impl From<Effect> for Verdict {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::None => Self::Promote,
            Effect::Inconclusive => Self::Inconclusive,
            Effect::Infrastructure => Self::Infrastructure,
            Effect::Reject => Self::Reject,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What one thing does to the verdict: the strongest effect decides. Ordered, the strongest last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Leaves it open.
    Inconclusive,
    /// Makes it a matter of ours.
    Infrastructure,
    /// Rejects the candidate.
    Reject,
}

impl Effect {
    /// The word used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Inconclusive => "inconclusive",
            Self::Infrastructure => "infrastructure",
            Self::Reject => "reject",
        }
    }
}

/// What a reason is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The run as a whole.
    Run,
    /// Booting a kernel with this image.
    Boot {
        /// Image of the guest.
        image: String,
    },
    /// A scenario, or one subtest of it.
    Scenario {
        /// The scenario's id.
        scenario: String,
        /// Full path of the subtest.
        subtest: Option<String>,
    },
    /// A finding in the kernel log.
    Finding {
        /// Its signature.
        signature: String,
    },
    /// A measured number.
    Metric {
        /// Where it was measured: a scenario's id, or a moment of a boot.
        place: String,
        /// Its name.
        metric: String,
    },
}

/// One sentence that explains the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What it does to the verdict; never [`Effect::None`].
    pub effect: Effect,
    /// The sentence. May hold text of the guest's: escape it before printing.
    pub text: String,
    /// What it is about.
    pub about: About,
}
