//! endoflife.date's JSON of the Linux kernel: branches with their first and latest release, and the
//! day on which each ends.

use jiff::civil::Date;
use serde::Deserialize;
use serde_json::Value;

use super::{Feed, FeedError, Statement, error, json, shortened};
use crate::catalogue::BranchState;
use crate::version::{Branch, Version};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cycle {
    cycle: String,
    /// A date instead of `true` is when longterm support begins.
    #[serde(default)]
    lts: Value,
    release_date: Option<String>,
    /// A date, whether it has ended, or nothing.
    #[serde(default)]
    eol: Value,
    latest: Option<String>,
    latest_release_date: Option<String>,
}

/// Reads it.
///
/// # Errors
/// When it is no such JSON, or a version or date in it is none.
pub fn endoflife(name: &str, text: &str) -> Result<Feed, FeedError> {
    let cycles: Vec<Cycle> = serde_json::from_str(text).map_err(|problem| json(name, &problem))?;
    let mut statements = Vec::new();
    for (index, cycle) in cycles.iter().enumerate() {
        let fail = |field: &str, what: String| {
            error(name, Some(format!("[{index}].{field}")), what, "fetch it again")
        };
        let date = |field: &str, text: Option<&str>| {
            text.map(|text| {
                text.parse::<Date>()
                    .map_err(|_| fail(field, format!("{:?} is not a date", shortened(text))))
            })
            .transpose()
        };
        let branch: Branch =
            cycle.cycle.parse().map_err(|problem| fail("cycle", format!("{problem}")))?;
        let latest = match &cycle.latest {
            Some(text) => {
                text.parse::<Version>().map_err(|problem| fail("latest", format!("{problem}")))?
            }
            None => branch.mainline(),
        };
        if latest.branch != branch {
            return Err(fail("latest", format!("{latest} is not of branch {branch}")));
        }
        let lts = matches!(cycle.lts, Value::Bool(true) | Value::String(_));
        let state = match cycle.eol {
            Value::Bool(true) => BranchState::EndOfLife,
            _ if lts => BranchState::Longterm,
            _ if latest.is_stable() => BranchState::Stable,
            _ => BranchState::Mainline,
        };
        let first = date("releaseDate", cycle.release_date.as_deref())?;
        statements.push(Statement {
            date: first,
            state: Some(state),
            end: date("eol", cycle.eol.as_str())?,
            ..Statement::release(branch.mainline())
        });
        if latest.is_stable() {
            let date = date("latestReleaseDate", cycle.latest_release_date.as_deref())?;
            statements.push(Statement { date, ..Statement::release(latest) });
        }
    }
    Ok(Feed::new(name, statements))
}
