//! Lists of versions, one on a line, with or without their dates: what `git tag`, `git for-each-ref`
//! and `git ls-remote --tags` print of a kernel repository.

use jiff::civil::Date;

use super::{Feed, FeedError, KINDS, Statement, error, shortened};
use crate::version::Version;

/// Reads a list: `v6.1.3`, `v6.1.3 2023-01-04`, `6.1.3<TAB>2023-01-04`, or
/// `HASH<TAB>refs/tags/v6.1.3` with or without `^{}`. Tags of anything else (`v6.1-rt4`,
/// `next-20240422`) are passed over.
///
/// # Errors
/// When no line names a version, or what stands where its date belongs is none.
pub fn tags(name: &str, text: &str) -> Result<Feed, FeedError> {
    let mut statements: Vec<Statement> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        let (tag, date) = match words.next() {
            Some(reference) if reference.starts_with("refs/") => (reference, None),
            second => (first, second),
        };
        let tag = tag.strip_prefix("refs/").unwrap_or(tag);
        let tag = tag.strip_prefix("tags/").unwrap_or(tag).trim_end_matches("^{}");
        let Ok(version) = tag.strip_prefix('v').unwrap_or(tag).parse::<Version>() else { continue };
        let date = match date {
            Some(text) => Some(text.parse::<Date>().map_err(|_| {
                let what = format!("{:?} is not a date", shortened(text));
                let place = Some(format!("line {}", index + 1));
                error(name, place, what, "write dates as 2026-11-21, or none")
            })?),
            None => None,
        };
        statements.push(Statement { date, ..Statement::release(version) });
    }
    if statements.is_empty() {
        return Err(error(name, None, "no line of it names a kernel version".to_owned(), KINDS));
    }
    Ok(Feed::new(name, statements))
}
