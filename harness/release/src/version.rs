//! Upstream versions and the branches they are on. Never semver: `X.Y` together is the major version,
//! the leftmost number means nothing, and `Z` counts the bug-fix releases of `X.Y`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no upstream version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a kernel version such as 6.1.192 or 7.2-rc3")]
pub struct VersionError {
    /// The text.
    pub text: String,
}

impl VersionError {
    /// Of a text, of which no more is kept than can be shown.
    pub(crate) fn of(text: &str) -> Self {
        Self { text: text.chars().take(80).collect() }
    }
}

/// What one mainline release and all bug-fix releases after it have in common: `6.1`, or `2.6.32` from
/// the time when the third number counted major versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Branch {
    first: u32,
    second: u32,
    /// 0 from 3.0 on.
    third: u32,
}

/// An upstream version: a release of a [`Branch`], or a candidate for one.
///
/// Ordered as released: `6.9-rc5` < `6.9` < `6.9.1-rc1` < `6.9.1` < `6.10`. `6.9` and `6.9.0` are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// The branch.
    pub branch: Branch,
    /// Which bug-fix release; 0 is the mainline release itself.
    pub patch: u32,
    /// Number of the release candidate, if it is one.
    pub candidate: Option<u32>,
}

impl Branch {
    /// The branch `FIRST.SECOND`.
    #[must_use]
    pub const fn new(first: u32, second: u32) -> Self {
        Self { first, second, third: 0 }
    }

    /// The mainline release that began it.
    #[must_use]
    pub const fn mainline(self) -> Version {
        Version { branch: self, patch: 0, candidate: None }
    }
}

impl Version {
    /// Whether it is a bug-fix release, and so from a stable branch rather than from mainline.
    #[must_use]
    pub const fn is_stable(&self) -> bool {
        self.patch > 0
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        parse(text).ok_or_else(|| VersionError::of(text))
    }
}

fn parse(text: &str) -> Option<Version> {
    let (numbers, candidate) = match text.split_once("-rc") {
        Some((numbers, candidate)) => (numbers, Some(number(candidate)?)),
        None => (text, None),
    };
    let numbers: Vec<u32> = numbers.split('.').map(number).collect::<Option<_>>()?;
    let (branch, rest) = match *numbers.as_slice() {
        // 2.6.39 is the last of its kind, 3.0 the first of the next.
        [first @ ..=2, second, third, ref rest @ ..] => (Branch { first, second, third }, rest),
        [first, second, ref rest @ ..] if first > 2 => (Branch::new(first, second), rest),
        _ => return None,
    };
    match rest {
        [] => Some(Version { branch, patch: 0, candidate }),
        [patch] => Some(Version { branch, patch: *patch, candidate }),
        _ => None,
    }
}

/// A number as versions have them: digits only, and few enough.
fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

impl FromStr for Branch {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let version: Version = text.parse()?;
        match version {
            Version { branch, patch: 0, candidate: None } => Ok(branch),
            _ => Err(VersionError::of(text)),
        }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |v: &Self| (v.branch, v.patch, v.candidate.is_none(), v.candidate);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.first, self.second)?;
        if self.first < 3 { write!(f, ".{}", self.third) } else { Ok(()) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.branch)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)?;
        }
        self.candidate.map_or(Ok(()), |candidate| write!(f, "-rc{candidate}"))
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl TryFrom<String> for Branch {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl From<Branch> for String {
    fn from(branch: Branch) -> Self {
        branch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_releases() {
        let order = [
            "2.6.11",
            "2.6.11.12",
            "2.6.12",
            "2.6.39.4",
            "3.0-rc1",
            "3.0",
            "4.19.325",
            "4.20",
            "5.0",
            "6.1",
            "6.1.9",
            "6.1.10",
            "6.9-rc5",
            "6.9-rc10",
            "6.9",
            "6.9.1-rc1",
            "6.9.1",
            "6.10",
        ];
        let versions: Vec<Version> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        for (text, version) in order.iter().zip(&versions) {
            assert_eq!(version.to_string(), *text);
        }
        assert_eq!("6.1.0".parse::<Version>(), "6.1".parse());
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            "6",
            "6.",
            ".1",
            "6.1.",
            "6.1.2.3",
            "v6.1",
            "6.1-rc",
            "6.1rc1",
            "6.1.99999999",
            "2.6",
            "6.1 ",
            "6.-1",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
        assert!("6.1.2".parse::<Branch>().is_err());
        assert_eq!("6.1".parse::<Branch>().unwrap().mainline().to_string(), "6.1");
    }
}
