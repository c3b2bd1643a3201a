//! Partitions of one plan, run apart, put together again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kgate_model::journal::{Entry, Event, RunRecord};

use crate::plan::differences;
use crate::rundir::{ARTIFACTS, Journal, RunDir, RunDirError};

/// Deepest directory below the artifacts; scenario ids have few components.
const DEPTH_BOUND: usize = 16;

/// Why runs can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A directory can't be read or made.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// There is nothing to put together.
    #[error("no run directories to merge")]
    Nothing,
    /// They are not parts of one run.
    #[error("{} and {} are not parts of one run: {}", one.display(), other.display(), what.join("; "))]
    Different {
        /// The first directory.
        one: PathBuf,
        /// A later one.
        other: PathBuf,
        /// What differs.
        what: Vec<String>,
    },
    /// Two of them ran the same trial.
    #[error("{} and {} both ran the trial {trial}", one.display(), other.display())]
    Twice {
        /// The first directory.
        one: PathBuf,
        /// A later one.
        other: PathBuf,
        /// The trial.
        trial: String,
    },
}

/// Puts the partitions of one plan together in a new run directory at `path`: the journals one after
/// the other, and copies of the consoles and logs. A partition that is missing is noted.
///
/// # Errors
/// They aren't parts of one run, two ran the same trial, or a file can't be read or written.
pub fn merge(path: &Path, parts: &[RunDir]) -> Result<RunDir, MergeError> {
    let Some(first) = parts.first() else { return Err(MergeError::Nothing) };
    for other in &parts[1..] {
        let mut what = differences(first.plan(), other.plan());
        if let Err(RunDirError::Differs { what: more, .. }) = other.check_inputs(first.inputs()) {
            what.extend(more);
        }
        if !what.is_empty() {
            let (one, other) = (first.path().to_owned(), other.path().to_owned());
            return Err(MergeError::Different { one, other, what });
        }
    }
    let mut runs = Vec::new();
    for part in parts {
        let entries = part.entries()?;
        let record = RunRecord::new(part.plan().clone(), entries.iter().cloned());
        runs.push((part, entries, record));
    }
    for (at, (one, _, earlier)) in runs.iter().enumerate() {
        for (other, _, later) in &runs[at + 1..] {
            let twice = earlier.trials.iter().zip(&later.trials).find(|(a, b)| {
                a.planned.decided.is_none() && a.outcome.is_some() && b.outcome.is_some()
            });
            if let Some((trial, _)) = twice {
                let (one, other) = (one.path().to_owned(), other.path().to_owned());
                let trial = trial.planned.id.clone();
                return Err(MergeError::Twice { one, other, trial });
            }
        }
    }
    // One that was stopped comes last: that the run is not whole must not be forgotten.
    runs.sort_by_key(|(_, _, record)| record.stopped.is_some());

    let merged = RunDir::create(path, first.plan().clone(), first.inputs().clone())?;
    let mut journal = Journal::open(&merged)?;
    let mut last = 0;
    for (part, entries, _) in &runs {
        for entry in entries {
            journal.append(entry)?;
            last = entry.at;
        }
        for directory in ARTIFACTS {
            let (from, to) = (part.path().join(directory), merged.path().join(directory));
            copy_tree(&from, &to, DEPTH_BOUND)?;
        }
    }
    for partition in missing(first, &runs) {
        let total = first.plan().partitions;
        let text = format!("partition {partition} of {total} is missing");
        journal.append(&Entry { at: last, event: Event::Note { text } })?;
    }
    journal.sync()?;
    Ok(merged)
}

/// Partitions with trials to run of which no part ran any.
fn missing(first: &RunDir, runs: &[(&RunDir, Vec<Entry>, RunRecord)]) -> BTreeSet<u32> {
    let boots = &first.plan().boots;
    let open = boots.iter().filter(|boot| boot.trials.iter().any(|trial| trial.decided.is_none()));
    let mut missing: BTreeSet<u32> = open.map(|boot| boot.partition).collect();
    for boot in runs.iter().flat_map(|(_, _, record)| &record.boots) {
        if boot.attempts > 0 {
            missing.remove(&boot.planned.partition);
        }
    }
    missing
}

fn copy_tree(from: &Path, to: &Path, depth: usize) -> Result<(), RunDirError> {
    if depth == 0 || !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to).map_err(RunDirError::io("make", to))?;
    for entry in fs::read_dir(from).map_err(RunDirError::io("read", from))? {
        let entry = entry.map_err(RunDirError::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(RunDirError::io("read", &source))?;
        if kind.is_dir() {
            copy_tree(&source, &target, depth - 1)?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(RunDirError::io("copy to", &target))?;
        }
    }
    Ok(())
}
