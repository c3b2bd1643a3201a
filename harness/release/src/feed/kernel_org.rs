//! kernel.org's `releases.json`: the latest release of every branch that lives, and what ended lately.

use jiff::civil::Date;
use serde::Deserialize;

use super::{Feed, FeedError, Statement, error, json, shortened};
use crate::catalogue::BranchState;
use crate::version::Version;

#[derive(Deserialize)]
struct Document {
    releases: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    version: String,
    moniker: String,
    #[serde(default)]
    iseol: bool,
    released: Option<Released>,
}

#[derive(Deserialize)]
struct Released {
    isodate: Option<String>,
}

/// Reads it. linux-next, which is no release, is passed over.
///
/// # Errors
/// When it is no such JSON, or a version or date in it is none.
pub fn kernel_org(name: &str, text: &str) -> Result<Feed, FeedError> {
    let document: Document = serde_json::from_str(text).map_err(|problem| json(name, &problem))?;
    let mut statements = Vec::new();
    for (index, entry) in document.releases.into_iter().enumerate() {
        if entry.moniker == "linux-next" {
            continue;
        }
        let fail = |field: &str, what: String| {
            error(name, Some(format!("releases[{index}].{field}")), what, "fetch it again")
        };
        let version: Version =
            entry.version.parse().map_err(|problem| fail("version", format!("{problem}")))?;
        let date = match entry.released.and_then(|released| released.isodate) {
            Some(date) => Some(date.parse::<Date>().map_err(|_| {
                fail("released.isodate", format!("{:?} is not a date", shortened(&date)))
            })?),
            None => None,
        };
        let state = match entry.moniker.as_str() {
            _ if entry.iseol => Some(BranchState::EndOfLife),
            "mainline" => Some(BranchState::Mainline),
            "stable" => Some(BranchState::Stable),
            "longterm" => Some(BranchState::Longterm),
            _ => None,
        };
        statements.push(Statement { date, state, ..Statement::release(version) });
    }
    Ok(Feed { names_all_alive: true, ..Feed::new(name, statements) })
}
