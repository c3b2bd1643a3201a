//! Lists of numbers: `version,commits`, with or without a line that names the columns.

use super::{Format, Found};
use crate::version::Version;

/// What the column with the number of commits may be called. Others are passed over.
const COLUMNS: &[&str] = &["commits", "count", "patches", "last"];

#[derive(Debug)]
pub(super) struct Counts {
    column: usize,
}

impl Counts {
    /// The reader, if a list may begin so.
    pub(super) fn begin(line: &str) -> Option<Self> {
        let mut columns = line.split(',').map(str::trim);
        let first = columns.next()?;
        if first == "version" {
            let names: Vec<&str> = columns.collect();
            let known = names.iter().position(|name| {
                COLUMNS.contains(name) || COLUMNS.iter().any(|c| name.ends_with(&format!("_{c}")))
            });
            return Some(Self { column: known? });
        }
        first.parse::<Version>().ok()?;
        columns.next()?.parse::<u64>().ok()?;
        Some(Self { column: 0 })
    }
}

impl Format for Counts {
    fn line(&mut self, line: &str, found: &mut Found) {
        let mut columns = line.split(',').map(str::trim);
        let version = columns.next().and_then(|version| version.parse().ok());
        // A release without a number is one that the list knows nothing of.
        let count = columns.nth(self.column).and_then(|count| count.parse::<u32>().ok());
        if let (Some(version), Some(count)) = (version, count)
            && let Some(changes) = found.release(version)
        {
            changes.commits = count.into();
        }
    }
}
