//! kernel.org's `finger_banner`: the latest release of every branch that lives, without dates.

use super::{Feed, FeedError, KINDS, Statement, error, shortened};
use crate::catalogue::BranchState;
use crate::version::Version;

/// Reads it. `latest stable version` repeats a branch's line; linux-next is no release.
///
/// # Errors
/// When a line is none of its lines.
pub fn finger_banner(name: &str, text: &str) -> Result<Feed, FeedError> {
    let mut statements = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |what: String| error(name, Some(format!("line {}", index + 1)), what, KINDS);
        let (kind, rest) = line
            .strip_prefix("The latest ")
            .and_then(|rest| rest.split_once("of the Linux kernel is:"))
            .ok_or_else(|| fail(format!("{:?} is no line of a finger_banner", shortened(line))))?;
        let kind = kind.split_whitespace().next().unwrap_or_default();
        if kind == "linux-next" {
            continue;
        }
        let (version, ended) = match rest.trim().strip_suffix("(EOL)") {
            Some(version) => (version.trim(), true),
            None => (rest.trim(), false),
        };
        let version: Version = version.parse().map_err(|problem| fail(format!("{problem}")))?;
        let state = match kind {
            _ if ended => Some(BranchState::EndOfLife),
            "mainline" => Some(BranchState::Mainline),
            "stable" => Some(BranchState::Stable),
            "longterm" => Some(BranchState::Longterm),
            _ => None,
        };
        statements.push(Statement { state, ..Statement::release(version) });
    }
    Ok(Feed { names_all_alive: true, ..Feed::new(name, statements) })
}
