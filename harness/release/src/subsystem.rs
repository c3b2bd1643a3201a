//! Subsystems of the kernel, coarse enough to be told alike from the path of a file, from the subject
//! of a commit and from the names in a workload. The table is `subsystems.txt`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Serialize, Serializer};

/// A part of the kernel, such as `net`, `fs/ext4` or `drivers/gpu`.
///
/// Ordered as in the table, which is the order of reports when numbers are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subsystem(u8);

#[derive(Default)]
struct Table {
    names: Vec<&'static str>,
    paths: Vec<(&'static str, Subsystem)>,
    subjects: HashMap<&'static str, Subsystem>,
    /// Those with `*` at the end.
    open_subjects: Vec<(&'static str, Subsystem)>,
    words: HashMap<&'static str, Vec<Subsystem>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| table(include_str!("subsystems.txt")));

fn table(text: &'static str) -> Table {
    let mut table = Table::default();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let Some(line) = line.strip_prefix("  ") else {
            table.names.push(line);
            continue;
        };
        let last = Subsystem((table.names.len() - 1) as u8);
        let (key, values) = line.split_once(' ').unwrap_or((line, ""));
        for value in values.split(' ') {
            match key {
                "paths" => table.paths.push((value, last)),
                "subjects" => match value.strip_suffix('*') {
                    Some(open) => table.open_subjects.push((open, last)),
                    None => drop(table.subjects.insert(value, last)),
                },
                _ => table.words.entry(value).or_default().push(last),
            }
        }
    }
    table
}

impl Subsystem {
    /// All of them, in the table's order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        (0..TABLE.names.len()).map(|n| Self(n as u8))
    }

    /// What isn't known to belong anywhere.
    #[must_use]
    pub fn other() -> Self {
        Self((TABLE.names.len() - 1) as u8)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE.names[usize::from(self.0)]
    }

    /// The subsystem that a file is in, by its path in the kernel's tree.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let fits = TABLE.paths.iter().filter(|(prefix, _)| path.starts_with(prefix));
        fits.max_by_key(|(prefix, _)| prefix.len()).map_or_else(Self::other, |(_, found)| *found)
    }

    /// Prefixes of the paths that are in it, its own directory first.
    pub fn paths(self) -> impl Iterator<Item = &'static str> {
        TABLE.paths.iter().filter(move |(_, found)| *found == self).map(|(prefix, _)| *prefix)
    }

    /// The subsystem of a change: the one that most of its files are in, the first of them where that
    /// is not decided. Headers, documentation and tools count only in changes of nothing else.
    #[must_use]
    pub fn of_files<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        // What program files say, and what all others do.
        let mut counts: [Vec<(Self, usize)>; 2] = [Vec::new(), Vec::new()];
        for path in paths {
            let aside = ["include/", "Documentation/", "tools/", "samples/", "MAINTAINERS"];
            let counts = &mut counts[usize::from(aside.iter().any(|dir| path.starts_with(dir)))];
            let found = Self::of_path(path);
            match counts.iter_mut().find(|(subsystem, _)| *subsystem == found) {
                Some((_, count)) => *count += 1,
                None => counts.push((found, 1)),
            }
        }
        let counts = counts.iter().find(|counts| !counts.is_empty());
        // `max_by_key` takes the last of equals.
        let most = counts.and_then(|counts| counts.iter().rev().max_by_key(|(_, count)| *count));
        most.map_or_else(Self::other, |(found, _)| *found)
    }

    /// The subsystem of a commit, by how its subject begins: `net: sched: …`, `KVM: x86: …`.
    #[must_use]
    pub fn of_subject(subject: &str) -> Self {
        let words = tag_words(subject);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let places = ["net", "fs", "drivers", "treewide"];
        let found = match longest(&words) {
            // What follows the name of a directory says more than the directory, if it is known.
            Some((found, 1)) if places.contains(&words[0]) => {
                Some(longest(&words[1..]).map_or(found, |(inner, _)| inner))
            }
            Some((found, _)) => Some(found),
            None if words.first().is_some_and(|first| places.contains(first)) => {
                longest(&words[1..]).map(|(inner, _)| inner)
            }
            None => None,
        };
        found.unwrap_or_else(|| Self::of_path(&format!("{}/", words.join("/"))))
    }

    /// Which subsystems names are about: ids of scenarios, operations, modules and config options, as
    /// the table knows their parts. What every workload uses is always among them.
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut found = TABLE.words.get("*").cloned().unwrap_or_default();
        for name in names {
            let name = name.to_ascii_lowercase();
            for part in name.split(['/', '-', '_', '.', ' ']) {
                found.extend(TABLE.words.get(part).into_iter().flatten());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The words before a subject's description, in lower case. Reverts are about what they revert.
fn tag_words(subject: &str) -> Vec<String> {
    // Longer ones are no subjects.
    let end = subject.char_indices().nth(200).map_or(subject.len(), |(at, _)| at);
    let mut rest = &subject[..end];
    while let Some(inner) = ["Revert ", "Reapply ", "\""].iter().find_map(|w| rest.strip_prefix(w))
    {
        rest = inner;
    }
    let mut words = Vec::new();
    while let Some((tag, after)) = rest.split_once(':') {
        let parts = tag.split([' ', '/', ',']).filter(|word| !word.is_empty());
        let parts: Vec<String> = parts.map(str::to_lowercase).collect();
        // A sentence with a colon in it.
        if tag.split_whitespace().count() > 3 || parts.is_empty() {
            break;
        }
        words.extend(parts);
        rest = after;
    }
    words
}

/// What the most of the first words is known as, and how many these are.
fn longest(words: &[&str]) -> Option<(Subsystem, usize)> {
    (1..=words.len().min(3)).rev().find_map(|count| {
        let prefix = words[..count].join("/");
        let open = || {
            let fits = TABLE.open_subjects.iter().filter(|(start, _)| {
                prefix.strip_prefix(start).is_some_and(|rest| !rest.contains('/'))
            });
            fits.max_by_key(|(start, _)| start.len()).map(|(_, found)| *found)
        };
        TABLE.subjects.get(prefix.as_str()).copied().or_else(open).map(|found| (found, count))
    })
}

/// A text that is no subsystem's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a subsystem")]
pub struct SubsystemError {
    /// The text.
    pub text: String,
}

impl FromStr for Subsystem {
    type Err = SubsystemError;

    fn from_str(text: &str) -> Result<Self, SubsystemError> {
        let found = Self::all().find(|subsystem| subsystem.name() == text);
        found.ok_or_else(|| SubsystemError { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Subsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Subsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Subsystem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_says_each_thing_once() {
        assert_eq!(Subsystem::other().name(), "other");
        let mut seen = HashSet::new();
        assert!(TABLE.names.iter().all(|name| seen.insert(*name)));
        for (path, _) in &TABLE.paths {
            assert!(seen.insert(path) || path.is_empty(), "{path}");
        }
        let text = include_str!("subsystems.txt");
        let subjects = text.lines().filter_map(|line| line.strip_prefix("  subjects "));
        let mut seen = HashSet::new();
        for subject in subjects.flat_map(|line| line.split(' ')) {
            assert!(seen.insert(subject), "{subject}");
            assert_eq!(subject, subject.to_lowercase());
        }
    }
}
