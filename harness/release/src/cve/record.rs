//! One published record (CVE JSON 5.x), and what is kept of it.

use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::affected::{Affected, End, Entry, Range};
use crate::version::{Branch, Version};

/// No record is larger.
pub const MAX_RECORD: u64 = 4 << 20;
/// Characters of a title, a path or a vector that are kept.
const TEXT: usize = 300;
/// Files, ranges or commits of one record that are kept.
const LIST: usize = 1_000;

/// What is kept of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cve {
    /// `CVE-2026-31694`.
    pub id: String,
    /// Its title: the subject of the commit that fixed it.
    pub title: String,
    /// When it was published, where that is known.
    pub published: Option<Date>,
    /// The affected versions; `None` for a record that names none.
    pub affected: Option<Affected>,
    /// Source files that the fix touches.
    pub files: Vec<String>,
    /// Commits that fixed it, one for each branch, oldest release first.
    pub commits: Vec<String>,
    /// How bad it is, where the record says so.
    pub score: Option<Score>,
}

/// A CVSS score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// The base score in tenths, 0 to 100.
    pub tenths: u8,
    /// The class of the base score.
    pub severity: Severity,
    /// The vector: `CVSS:3.1/AV:L/…`.
    pub vector: String,
}

/// How bad a CVE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// 9.0 and more.
    Critical,
    /// 7.0 and more.
    High,
    /// 4.0 and more.
    Medium,
    /// More than 0.
    Low,
    /// 0.
    None,
    /// Nobody has said: which is not low.
    Unscored,
}

impl Severity {
    /// All of them, the worst first and what is not known last.
    pub const ALL: [Self; 6] =
        [Self::Critical, Self::High, Self::Medium, Self::Low, Self::None, Self::Unscored];

    fn of(tenths: u8) -> Self {
        match tenths {
            90.. => Self::Critical,
            70.. => Self::High,
            40.. => Self::Medium,
            1.. => Self::Low,
            0 => Self::None,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::None => "none",
            Self::Unscored => "unscored",
        })
    }
}

impl Cve {
    /// Its class.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.score.as_ref().map_or(Severity::Unscored, |score| score.severity)
    }

    /// Whether a version is affected; `None` when the record doesn't say.
    #[must_use]
    pub fn affects(&self, version: &Version) -> Option<bool> {
        self.affected.as_ref().map(|affected| affected.affects(version))
    }

    /// The releases that fixed it, each with its commit where the record tells which it is: it names
    /// commits and releases in the same order, and not always as many of both.
    #[must_use]
    pub fn fixes(&self) -> Vec<(Version, Option<&str>)> {
        let releases = self.affected.as_ref().map(Affected::fixes).unwrap_or_default();
        let paired = releases.len() == self.commits.len();
        let commit = |n: usize| self.commits.get(n).map(String::as_str).filter(|_| paired);
        releases.into_iter().enumerate().map(|(n, release)| (release, commit(n))).collect()
    }
}

/// Why a record can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is no JSON, or not of this shape.
    #[error("not a CVE record: {0}")]
    Json(String),
    /// Its identifier is none.
    #[error("{0:?} is not a CVE identifier")]
    Id(String),
    /// A version in a range is none.
    #[error("{place}: {text:?} is not a kernel version")]
    Version {
        /// Where in the record.
        place: String,
        /// What is there.
        text: String,
    },
    /// More of something than a record has.
    #[error("{0}: more than {LIST}")]
    TooMany(&'static str),
    /// It is too large.
    #[error("larger than {} MiB", MAX_RECORD >> 20)]
    Large,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    cve_metadata: Metadata,
    containers: Containers,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    // As records of 5.0 had it.
    #[serde(alias = "cveID")]
    cve_id: String,
    #[serde(default)]
    state: String,
    date_published: Option<String>,
}

#[derive(Deserialize)]
struct Containers {
    cna: Cna,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cna {
    #[serde(default)]
    title: String,
    #[serde(default)]
    affected: Vec<Product>,
    #[serde(default)]
    metrics: Vec<Metric>,
    date_public: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    #[serde(default)]
    product: String,
    #[serde(default)]
    default_status: String,
    #[serde(default)]
    program_files: Vec<String>,
    #[serde(default)]
    versions: Vec<Versions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    version: String,
    #[serde(default)]
    status: String,
    version_type: Option<String>,
    less_than: Option<String>,
    less_than_or_equal: Option<String>,
}

#[derive(Deserialize)]
struct Metric {
    #[serde(rename = "cvssV4_0")]
    v4_0: Option<Cvss>,
    #[serde(rename = "cvssV3_1")]
    v3_1: Option<Cvss>,
    #[serde(rename = "cvssV3_0")]
    v3_0: Option<Cvss>,
    #[serde(rename = "cvssV2_0")]
    v2_0: Option<Cvss>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cvss {
    base_score: f64,
    #[serde(default)]
    vector_string: String,
}

impl Cve {
    /// Reads a record; `None` for one that was rejected.
    ///
    /// # Errors
    /// When it is no record, or names versions that are none.
    pub fn read(json: &[u8]) -> Result<Option<Self>, RecordError> {
        let json: Json =
            serde_json::from_slice(json).map_err(|e| RecordError::Json(e.to_string()))?;
        let Json { cve_metadata: metadata, containers: Containers { cna } } = json;
        // An entry of a rejected record need not be there, let alone be right.
        if metadata.state == "REJECTED" {
            return Ok(None);
        }
        if !is_id(&metadata.cve_id) {
            return Err(RecordError::Id(short(&metadata.cve_id)));
        }
        let published = metadata.date_published.or(cna.date_public);
        let products: Vec<_> = cna
            .affected
            .iter()
            .enumerate()
            .filter(|(_, product)| product.product.eq_ignore_ascii_case("linux"))
            .collect();
        let mut affected = Affected::default();
        let (mut files, mut commits) = (Vec::new(), Vec::new());
        for (n, product) in products {
            affected.entries.extend(entry(n, product)?);
            add(&mut files, product.program_files.iter(), "programFiles")?;
            let git = product.versions.iter().filter(|v| v.is_git());
            add(&mut commits, git.filter_map(|v| v.less_than.as_ref()), "commits")?;
        }
        Ok(Some(Self {
            id: metadata.cve_id,
            title: short(&cna.title),
            published: published.and_then(|text| text.get(..10)?.parse().ok()),
            affected: (!affected.entries.is_empty()).then_some(affected),
            files,
            commits,
            score: score(cna.metrics),
        }))
    }
}

fn version(text: &str) -> Result<Version, &str> {
    text.parse().map_err(|_| text)
}

/// `CVE-YEAR-NUMBER`.
fn is_id(text: &str) -> bool {
    let digits = |text: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    let numbers = text.strip_prefix("CVE-").and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(year, number)| digits(year, 4..=4) && digits(number, 4..=19))
}

fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

fn add<'a>(
    list: &mut Vec<String>,
    more: impl Iterator<Item = &'a String>,
    what: &'static str,
) -> Result<(), RecordError> {
    for text in more.map(|text| short(text)) {
        if !list.contains(&text) {
            list.push(text);
        }
        if list.len() > LIST {
            return Err(RecordError::TooMany(what));
        }
    }
    Ok(())
}

/// What a product's entry says of versions; `None` when it names commits only, or nothing.
fn entry(n: usize, product: &Product) -> Result<Option<Entry>, RecordError> {
    if product.versions.len() > LIST {
        return Err(RecordError::TooMany("versions"));
    }
    let mut ranges = Vec::new();
    for (m, versions) in product.versions.iter().enumerate().filter(|(_, v)| !v.is_git()) {
        let place = || format!("affected[{n}].versions[{m}]");
        let wrong = |text: &str| RecordError::Version { place: place(), text: short(text) };
        // What isn't known to be affected or not says nothing of a version.
        let affected = match versions.status.as_str() {
            "affected" => true,
            "unaffected" => false,
            _ => continue,
        };
        ranges.push(versions.range(affected).map_err(wrong)?);
    }
    let default = product.default_status == "affected";
    Ok((!ranges.is_empty()).then_some(Entry { default, ranges }))
}

impl Versions {
    fn is_git(&self) -> bool {
        self.version_type.as_deref() == Some("git")
    }

    fn range(&self, affected: bool) -> Result<Range, &str> {
        let from = match self.version.as_str() {
            "0" | "*" => None,
            text => Some(version(text)?),
        };
        let end = match (self.less_than.as_deref(), self.less_than_or_equal.as_deref()) {
            (Some("*"), _) | (None, Some("*")) => End::Open,
            (None, None) if self.version == "*" => End::Open,
            (None, None) => End::Same,
            // As many numbers as a branch has now, but all that was before 3.0.
            (Some("2.6.*"), _) | (None, Some("2.6.*")) => End::Before(Branch::new(3, 0).mainline()),
            (Some(text), _) | (None, Some(text)) if text.ends_with(".*") => {
                let branch = text.strip_suffix(".*").and_then(|text| text.parse::<Branch>().ok());
                End::Branch(branch.ok_or(text)?)
            }
            (Some(text), _) => End::Before(version(text)?),
            (None, Some(text)) => End::With(version(text)?),
        };
        Ok(Range { from, end, affected })
    }
}

/// The score by the newest version of CVSS that the record has; one that is none is not there.
fn score(metrics: Vec<Metric>) -> Option<Score> {
    let rank = |m: &Metric| [&m.v4_0, &m.v3_1, &m.v3_0, &m.v2_0].iter().position(|c| c.is_some());
    let best = metrics.into_iter().filter(|m| rank(m).is_some()).min_by_key(rank)?;
    let cvss = best.v4_0.or(best.v3_1).or(best.v3_0).or(best.v2_0)?;
    if !(0.0..=10.0).contains(&cvss.base_score) {
        return None;
    }
    let tenths = (cvss.base_score * 10.0).round() as u8;
    Some(Score { tenths, severity: Severity::of(tenths), vector: short(&cvss.vector_string) })
}
