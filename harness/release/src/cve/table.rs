//! All published records in one compact table, as it is kept between runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::record::{Cve, RecordError};
use crate::version::{Branch, Version};

/// What a table begins with: its format's version, which any change of [`Table`] changes.
const MAGIC: &[u8] = b"kgate-cves/1\n";
/// No table is larger when it is unpacked.
const MAX_TABLE: u64 = 1 << 30;
/// Broken records that are named.
const NAMED: usize = 20;
/// Level at which packing takes half a second and little more can be had.
const LEVEL: i32 = 6;

/// The records of one snapshot, ordered by identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Where they come from, and of when.
    pub snapshot: Snapshot,
    /// Published records.
    pub cves: Vec<Cve>,
    /// Records that were rejected after they had been published.
    pub rejected: usize,
    /// Records that could not be read.
    pub broken: usize,
    /// The first of those, each with why.
    pub named: Vec<String>,
}

/// Where records come from, and of when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// URL or path.
    pub source: String,
    /// The commit; `None` for a directory that isn't a repository.
    pub commit: Option<String>,
    /// The day of the commit, or of the newest file of a directory.
    pub date: Date,
    /// When it was read.
    pub fetched: Timestamp,
}

impl Snapshot {
    /// Days between the snapshot and `today`.
    #[must_use]
    pub fn age(&self, today: Date) -> i32 {
        (today - self.date).get_days()
    }
}

/// A table that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is of another version of kgate, or no table at all.
    #[error("not a table of this version of kgate")]
    Format,
    /// It is damaged.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl Table {
    /// An empty table, to add records to.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, cves: Vec::new(), rejected: 0, broken: 0, named: Vec::new() }
    }

    /// Adds the record in a file. One that can't be read is counted, and the first are named.
    pub fn add(&mut self, file: &str, json: &[u8]) {
        match Cve::read(json) {
            Ok(Some(cve)) => self.cves.push(cve),
            Ok(None) => self.rejected += 1,
            Err(error) => self.add_broken(file, &error),
        }
    }

    /// Counts a file that can't be read.
    pub fn add_broken(&mut self, file: &str, error: &RecordError) {
        self.broken += 1;
        if self.named.len() < NAMED {
            let file: String = file.chars().take(200).collect();
            self.named.push(format!("{file}: {error}"));
        }
    }

    /// Puts the records in order, one for each identifier.
    pub fn sort(&mut self) {
        let number = |cve: &Cve| {
            let mut parts = cve.id.split('-').skip(1).map(|n| n.parse::<u64>().unwrap_or(u64::MAX));
            (parts.next(), parts.next())
        };
        self.cves.sort_by_cached_key(number);
        self.cves.dedup_by(|a, b| a.id == b.id);
    }

    /// The table as bytes.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let plain = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let mut packer = zstd::Encoder::new(MAGIC.to_vec(), LEVEL)?;
        packer.include_checksum(true)?;
        packer.write_all(&plain)?;
        packer.finish()
    }

    /// The table from bytes.
    ///
    /// # Errors
    /// When these are no table, one of another version, or a damaged one.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let packed = bytes.strip_prefix(MAGIC).ok_or(TableError::Format)?;
        let damaged = |error: &dyn std::fmt::Display| TableError::Damaged(error.to_string());
        let mut plain = Vec::new();
        let packed = zstd::Decoder::new(packed).map_err(|e| damaged(&e))?;
        packed.take(MAX_TABLE).read_to_end(&mut plain).map_err(|e| damaged(&e))?;
        postcard::from_bytes(&plain).map_err(|e| damaged(&e))
    }

    /// The branches in which something was fixed.
    #[must_use]
    pub fn branches(&self) -> BTreeSet<Branch> {
        self.cves.iter().flat_map(Cve::fixes).map(|(release, _)| release.branch).collect()
    }

    /// What each release of a branch fixed, its mainline release left out: that one has all that was
    /// fixed before it.
    #[must_use]
    pub fn fixed_by_release(&self, branch: Branch) -> BTreeMap<Version, Vec<&Cve>> {
        let mut releases: BTreeMap<Version, Vec<&Cve>> = BTreeMap::new();
        for cve in &self.cves {
            for (release, _) in cve.fixes() {
                if release.branch == branch && release.is_stable() {
                    releases.entry(release).or_default().push(cve);
                }
            }
        }
        releases
    }
}
