//! What sources say of the commits in each release. One file for each format; what they have in
//! common is here.
//!
//! Sources come from outside and may be large: they are read in chunks, line by line, and what is kept
//! is numbers. Lines are cut at a bound, and so are the releases that a source may name.

mod changelog;
mod counts;
mod debian;
mod git;
mod lines;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::Serialize;

use crate::subsystem::Subsystem;
use crate::version::Version;

pub use git::{Segment, log_arguments, read_log, segments};
use lines::MAX_LINE;

/// The most releases that one source may name.
const MAX_RELEASES: usize = 100_000;

/// How sure a number of commits is, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// It is that many.
    Exact,
    /// As a list says, which can't be checked.
    Stated,
    /// At least that many.
    LowerBound,
}

/// What kind of source it is, the most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginKind {
    /// The kernel's own history.
    Git,
    /// The ChangeLog files that kernel.org publishes with each release: every commit.
    ChangeLog,
    /// The changelog of a distribution's package: the entries that it thought worth naming.
    Distribution,
    /// A list of numbers.
    Counts,
}

/// Where numbers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// What kind of source it is.
    pub kind: OriginKind,
    /// As the user named it.
    pub name: String,
    /// The day up to which it tells, where it says so.
    pub snapshot: Option<Date>,
}

impl OriginKind {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Git => "git history",
            Self::ChangeLog => "ChangeLog of kernel.org",
            Self::Distribution => "changelog of the distribution",
            Self::Counts => "list of numbers",
        }
    }

    /// How sure its number for a release is.
    #[must_use]
    pub const fn bound(self) -> Bound {
        match self {
            Self::Git | Self::ChangeLog => Bound::Exact,
            Self::Distribution => Bound::LowerBound,
            Self::Counts => Bound::Stated,
        }
    }
}

/// A number of a CVE: its year, and its number in it.
pub type CveNumber = (u16, u32);

/// The commits of one release. The one that only gives it its version isn't counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseChanges {
    /// How many.
    pub commits: u64,
    /// By subsystem; empty where the source has numbers only.
    pub subsystems: BTreeMap<Subsystem, u64>,
    /// By section of MAINTAINERS; empty where the source names no files.
    pub sections: BTreeMap<String, u64>,
    /// CVEs that the source names with them.
    pub cves: BTreeSet<CveNumber>,
}

impl ReleaseChanges {
    /// Adds a commit.
    fn add(&mut self, subsystem: Subsystem) {
        self.commits += 1;
        *self.subsystems.entry(subsystem).or_default() += 1;
    }
}

/// What one source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The source.
    pub origin: Origin,
    /// The releases of which it says something.
    pub releases: BTreeMap<Version, ReleaseChanges>,
}

/// A source that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {what}")]
pub struct ChangeError {
    /// The source, as it was named.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
}

/// One format, given line by line.
trait Format {
    fn line(&mut self, line: &str, into: &mut Found);
}

/// What was read so far.
#[derive(Debug, Default)]
struct Found {
    snapshot: Option<Date>,
    releases: BTreeMap<Version, ReleaseChanges>,
}

impl Found {
    fn release(&mut self, version: Version) -> Option<&mut ReleaseChanges> {
        let room = self.releases.len() < MAX_RELEASES || self.releases.contains_key(&version);
        room.then(|| self.releases.entry(version).or_default())
    }
}

/// Reads a list of changes that comes in chunks: a ChangeLog of kernel.org, the changelog of a
/// Debian package, or a list of numbers. Which one it is, its first line tells.
pub struct Reader {
    name: String,
    lines: lines::Lines,
    text: Text,
}

/// A text of which the format is not known before its first line.
#[derive(Default)]
struct Text {
    format: Option<(OriginKind, Box<dyn Format>)>,
    /// It is of no known format.
    unknown: bool,
    found: Found,
}

impl Reader {
    /// A reader of the source `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), lines: lines::Lines::default(), text: Text::default() }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes, |line| self.text.line(line));
    }

    /// What it says.
    ///
    /// # Errors
    /// When it is of no known format, or says nothing of any release.
    pub fn finish(mut self) -> Result<Changes, ChangeError> {
        self.lines.finish(|line| self.text.line(line));
        let Self { name, text: Text { format, found, .. }, .. } = self;
        let what = match format {
            Some((kind, _)) if !found.releases.is_empty() => {
                let origin = Origin { kind, name, snapshot: found.snapshot };
                return Ok(Changes { origin, releases: found.releases });
            }
            Some(_) => "it says nothing of any release",
            None => {
                "it is neither a ChangeLog of kernel.org, nor the changelog of a Debian package, nor a \
                 list of `version,commits`"
            }
        };
        Err(ChangeError { name, what: what.to_owned() })
    }
}

impl Text {
    fn line(&mut self, line: &str) {
        if self.format.is_none() && !self.unknown && !line.trim().is_empty() {
            self.format = begun(line);
            self.unknown = self.format.is_none();
        }
        if let Some((_, format)) = &mut self.format {
            format.line(line, &mut self.found);
        }
    }
}

/// The format of a text that begins with this line.
fn begun(line: &str) -> Option<(OriginKind, Box<dyn Format>)> {
    if changelog::begins(line) {
        Some((OriginKind::ChangeLog, Box::new(changelog::ChangeLog::default())))
    } else if debian::begins(line) {
        Some((OriginKind::Distribution, Box::new(debian::Debian::default())))
    } else {
        Some((OriginKind::Counts, Box::new(counts::Counts::begin(line)?)))
    }
}

/// The release that a commit only gives its version: `Linux 6.1.25`.
fn released(subject: &str) -> Option<Version> {
    subject.strip_prefix("Linux ")?.trim().parse().ok()
}

/// The CVEs that a line names.
fn cves(line: &str) -> impl Iterator<Item = CveNumber> {
    line.match_indices("CVE-").filter_map(|(at, word)| {
        let (year, rest) = line[at + word.len()..].split_once('-')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        (year.len() == 4 && (4..=9).contains(&end)).then_some(())?;
        Some((year.parse().ok()?, rest[..end].parse().ok()?))
    })
}
