//! What no file may contain, whatever its language.

use super::{File, Violation};

const OWN_PATH: &str = "a path of one person's machine means nothing on any other";

/// Where people's own directories are, on the systems that kgate is developed on. Files below
/// `/root` that anyone sees are a guest's; caches and settings there are somebody's own.
const HOMES: &[&str] = &["/home/", "/root/.", "/Users/"];

/// Finds paths into somebody's home, or into this very checkout. Recorded data may name homes: it
/// is what some machine really said.
pub(super) fn check(file: &File, own_paths: &[String]) -> Vec<Violation> {
    let homes = if file.path.contains("/testdata/") { &[] } else { HOMES };
    let wanted = || homes.iter().copied().chain(own_paths.iter().map(String::as_str));
    let mut violations = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if let Some(path) = wanted().find(|path| contains_path(line, path)) {
            violations.push(Violation {
                file: file.path.clone(),
                line: index + 1,
                rule: "own-path",
                what: format!("a path below {path}"),
                why: OWN_PATH,
            });
        }
    }
    violations
}

/// Whether `line` has a path that starts with `start` and goes on.
fn contains_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + start.len()..].chars().next();
        let in_name = |c: char| c.is_alphanumeric() || "._-~".contains(c);
        !before.is_some_and(in_name) && after.is_some_and(in_name)
    })
}
