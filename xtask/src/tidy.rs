//! `cargo xtask tidy`: the architecture invariants and house rules, checked by code.
//!
//! The rules are tables: who may know whom in [`edges`], what source code may not contain in
//! [`source`], what no file may contain in [`text`]. An exception is made where it stands, in a
//! comment on the line or the line above, with its reason:
//!
//! ```text
//! tidy-allow(RULE): why this one is right
//! ```
//! An exception that nothing needs any more is itself a violation.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

mod edges;
mod escapes;
mod source;
mod text;
mod tokens;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    /// Path below the root, with `/`.
    file: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    what: String,
    why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, rule, what, why } = self;
        write!(f, "{file}:{line}: [{rule}] {what}\n    {why}")
    }
}

/// A file of the repository.
struct File {
    /// Path below the root, with `/`.
    path: String,
    text: String,
}

/// Checks the repository at `root` and prints what is wrong with it.
pub(crate) fn main(root: &Path) -> ExitCode {
    let result = root.canonicalize().and_then(|root| Ok((read(&root)?, own_paths(&root))));
    let (text, code) = match result {
        Ok((files, own_paths)) => {
            let violations = check(&files, &own_paths);
            let mut text: String = violations.iter().map(|v| format!("{v}\n")).collect();
            text += &format!("tidy: {} files, {} violations\n", files.len(), violations.len());
            (text, u8::from(!violations.is_empty()))
        }
        Err(error) => (format!("tidy: {error}\n"), 2),
    };
    crate::print(&text);
    ExitCode::from(code)
}

/// Every violation in `files`, in the order of files and lines.
fn check(files: &[File], own_paths: &[String]) -> Vec<Violation> {
    let mut violations = edges::check(files);
    for file in files {
        violations.extend(source::check(file));
        violations.extend(text::check(file, own_paths));
    }
    let mut violations = escapes::apply(files, violations);
    violations.sort();
    violations.dedup();
    violations
}

/// The files that git tracks, and those that it would; only text.
fn read(root: &Path) -> io::Result<Vec<File>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr).trim().to_owned();
        return Err(io::Error::other(format!("git ls-files failed: {said}")));
    }
    let mut files = Vec::new();
    for path in listed.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        let path = String::from_utf8_lossy(path).into_owned();
        match std::fs::read(root.join(&path)) {
            // A binary file has no lines to check.
            Ok(bytes) => {
                files.extend(String::from_utf8(bytes).ok().map(|text| File { path, text }))
            }
            // Listed, but removed from the work tree.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A link to a directory.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
    Ok(files)
}

/// Where this very checkout is: paths that must not be in a file. The directory above it counts
/// too, unless it is one that any machine has.
fn own_paths(root: &Path) -> Vec<String> {
    let above = root.parent().filter(|above| {
        above.parent().is_some()
            && ["/tmp", "/var/tmp", "/usr/src"].iter().all(|c| *above != Path::new(c))
    });
    [Some(root), above].into_iter().flatten().map(|p| format!("{}/", p.display())).collect()
}

#[cfg(test)]
mod tests;
