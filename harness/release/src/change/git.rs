//! The kernel's history, by `git log` of a repository that has the tags of its releases.

use std::collections::BTreeSet;

use super::{ReleaseChanges, cves, released};
use crate::maintainers::Maintainers;
use crate::subsystem::Subsystem;
use crate::version::Version;

/// Precedes each subject in the output of [`log_arguments`].
const MARK: char = '\u{1}';

/// A step of a history: what `to` has and `from` has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The release before.
    pub from: Version,
    /// The release.
    pub to: Version,
}

/// The steps from one release to a later one, of those that a repository has tags of.
///
/// On one branch these are its releases; to another one first the mainline releases, then those of
/// that branch. Each step's release contains all of the step before it except the bug fixes of the
/// branch that was left, so that the steps together are all that `to` has and `from` has not.
#[must_use]
pub fn segments(from: Version, to: Version, tags: &BTreeSet<Version>) -> Vec<Segment> {
    if from >= to {
        return Vec::new();
    }
    let on_the_way = |version: &&Version| {
        version.candidate.is_none()
            && (version.branch == to.branch || !version.is_stable())
            && **version > from
            && **version < to
    };
    let mut steps: Vec<Version> = tags.iter().filter(on_the_way).copied().collect();
    steps.push(to);
    let before = std::iter::once(from).chain(steps.iter().copied());
    before.zip(&steps).map(|(from, to)| Segment { from, to: *to }).collect()
}

/// Arguments of `git` that print a segment for [`read_log`].
#[must_use]
pub fn log_arguments(segment: Segment) -> Vec<String> {
    let tag = |version: Version| format!("refs/tags/v{version}");
    [
        "-c",
        "core.quotePath=false",
        "log",
        "--no-merges",
        "--no-renames",
        "--no-color",
        "--no-show-signature",
        "--format=%x01%s",
        "--name-only",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("{}..{}", tag(segment.from), tag(segment.to)), "--".to_owned()])
    .collect()
}

/// Reads what `git log` printed of a segment.
#[must_use]
pub fn read_log(output: &[u8], maintainers: Option<&Maintainers>) -> ReleaseChanges {
    let text = String::from_utf8_lossy(output);
    let mut changes = ReleaseChanges::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // Names of files with such a character are quoted.
        let Some(subject) = line.strip_prefix(MARK) else { continue };
        let mut files = Vec::new();
        while let Some(file) = lines.next_if(|line| !line.starts_with(MARK)) {
            files.extend((!file.is_empty()).then_some(file));
        }
        if released(subject).is_some() {
            continue;
        }
        // A commit without files has at least a subject.
        changes.add(match files.is_empty() {
            true => Subsystem::of_subject(subject),
            false => Subsystem::of_files(files.iter().copied()),
        });
        changes.cves.extend(cves(subject));
        let sections: BTreeSet<&str> = maintainers
            .into_iter()
            .flat_map(|maintainers| files.iter().filter_map(|file| maintainers.section_of(file)))
            .map(|section| section.title.as_str())
            .collect();
        for section in sections {
            *changes.sections.entry(section.to_owned()).or_default() += 1;
        }
    }
    changes
}
