//! The table of CVEs in the cache: one file, replaced as a whole.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use kgate_release::cve::Table;

use crate::context::Context;
use crate::error::{CommandError, at};
use crate::text::line;

/// The table's name.
const TABLE: &str = "table";
/// No table is larger.
const MAX_BYTES: u64 = 512 << 20;
/// Days after which records count as old: hundreds are published in a week.
const OLD: i32 = 7;

const UPDATE: &str = "`kgate releases cves update` reads what the CNA has published since";

/// Where it is; made when it is missing.
pub(super) fn directory(context: &Context) -> Result<PathBuf, CommandError> {
    let dir = context.cache()?.join("cves");
    fs::create_dir_all(&dir).map_err(at(&dir))?;
    Ok(dir)
}

/// Replaces the table; tells its size.
pub(super) fn write(dir: &Path, table: &Table) -> Result<usize, CommandError> {
    let bytes = table.encode()?;
    let mut file = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir).map_err(at(dir))?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(at(dir))?;
    file.persist(dir.join(TABLE)).map_err(|error| at(dir)(error.error))?;
    Ok(bytes.len())
}

/// The table; `None` when none was made yet.
pub(super) fn read(context: &Context) -> Result<Option<Table>, CommandError> {
    let path = context.cache_dir()?.join("cves").join(TABLE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(at(&path))?;
    let table = Table::decode(&bytes).map_err(|error| {
        let path = line(&path.display().to_string());
        CommandError::infrastructure(format!("{path}: {error}"))
            .hint("`kgate releases cves update` makes it anew")
    })?;
    Ok(Some(table))
}

/// The table, which the command can't do without.
pub(super) fn needed(context: &Context) -> Result<Table, CommandError> {
    read(context)?.ok_or_else(|| {
        CommandError::usage("no CVE records were read yet")
            .hint("`kgate releases cves update` reads those that the kernel's CNA publishes")
    })
}

/// What it is made of, in a line.
pub(super) fn described(table: &Table) -> String {
    let snapshot = &table.snapshot;
    let mut text = format!("{} records of {}", table.cves.len(), snapshot.date);
    if let Some(commit) = &snapshot.commit {
        text += &format!(" ({})", line(commit.get(..12).unwrap_or(commit)));
    }
    text += &format!(" from {}", line(&snapshot.source));
    for (count, what) in [(table.rejected, "rejected"), (table.broken, "that can't be read")] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// A warning, when the records are older than a week.
pub(super) fn old(table: &Table, today: Date) -> Option<String> {
    let age = table.snapshot.age(today);
    (age > OLD).then(|| {
        let date = table.snapshot.date;
        format!("OLD: the CVE records are of {date}, {age} days ago. What was published since isn't in any figure here; {UPDATE}.")
    })
}
