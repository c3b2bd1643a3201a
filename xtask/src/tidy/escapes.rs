//! Exceptions to the rules, made where they stand and with a reason.

use super::{File, Violation};

const MARK: &str = "tidy-allow(";

const BARE: &str = "an exception without its reason can't be judged, nor ever removed";
const STALE: &str = "an exception that nothing needs hides the next one that does";

struct Escape<'a> {
    file: &'a str,
    line: usize,
    rule: &'a str,
    has_reason: bool,
}

impl Escape<'_> {
    fn covers(&self, violation: &Violation) -> bool {
        self.file == violation.file
            && self.rule == violation.rule
            && (self.line..=self.line + 1).contains(&violation.line)
    }
}

/// Takes out the violations that an exception covers, and adds those of the exceptions themselves.
pub(super) fn apply(files: &[File], violations: Vec<Violation>) -> Vec<Violation> {
    let escapes: Vec<Escape<'_>> = files.iter().flat_map(find).collect();
    let (covered, mut left): (Vec<_>, Vec<_>) =
        violations.into_iter().partition(|v| escapes.iter().any(|escape| escape.covers(v)));
    for escape in &escapes {
        let mut add = |rule, what: String, why| {
            left.push(Violation {
                file: escape.file.to_owned(),
                line: escape.line,
                rule,
                what,
                why,
            });
        };
        if !escape.has_reason {
            add("bare-exception", format!("no reason is given for '{}'", escape.rule), BARE);
        }
        if !covered.iter().any(|violation| escape.covers(violation)) {
            add("stale-exception", format!("nothing here breaks '{}'", escape.rule), STALE);
        }
    }
    left
}

/// The exceptions in a file: comments that start with the mark.
fn find(file: &File) -> impl Iterator<Item = Escape<'_>> {
    file.text.lines().enumerate().filter_map(|(index, line)| {
        let comment = if file.path.ends_with(".rs") { "// " } else { "# " };
        let (before, rest) = line.split_once(MARK)?;
        before.ends_with(comment).then_some(())?;
        let (rule, reason) = rest.split_once(')')?;
        let reason = reason.strip_prefix(':').unwrap_or_default();
        Some(Escape {
            file: &file.path,
            line: index + 1,
            rule,
            has_reason: !reason.trim().is_empty(),
        })
    })
}
