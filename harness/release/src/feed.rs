//! Feeds: what others publish of kernel releases, read into statements that
//! [`Catalogue::gather`](crate::Catalogue::gather) puts together. One file for each format.
//!
//! Feeds come from outside: their size is bounded, and whatever is wrong with one is an error that
//! says which feed, where in it, and what to do.

mod endoflife;
mod finger_banner;
mod kernel_org;
mod tags;

use std::collections::BTreeSet;

use jiff::civil::Date;

use crate::catalogue::BranchState;
use crate::version::{Branch, Version};

pub use endoflife::endoflife;
pub use finger_banner::finger_banner;
pub use kernel_org::kernel_org;
pub use tags::tags;

/// The longest text of a feed, in bytes. All tags of the kernel's stable repository take 1 MiB.
pub const MAX_TEXT: usize = 16 << 20;

/// The most statements that one feed may make.
const MAX_STATEMENTS: usize = 100_000;

/// The most branches that one feed may name; there are some hundred.
const MAX_BRANCHES: usize = 2000;

/// A feed that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("feed {feed}: {place}{what}; {advice}", place = place.as_ref().map(|p| format!("{p}: ")).unwrap_or_default())]
pub struct FeedError {
    /// The feed, as it was named.
    pub feed: String,
    /// Where in it.
    pub place: Option<String>,
    /// What is wrong there.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

/// What one feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// As the user named it.
    pub name: String,
    /// The day up to which it tells; the newest date in it unless whoever fetched it knows better.
    pub as_of: Option<Date>,
    /// Whether a branch that it does not name has ended. So it is with kernel.org's own feeds.
    pub names_all_alive: bool,
    /// What it says, in its order.
    pub statements: Vec<Statement>,
    /// What in it was left out, and why.
    pub notes: Vec<String>,
}

/// What a feed says of one branch or release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The branch.
    pub branch: Branch,
    /// A release of it.
    pub release: Option<Version>,
    /// When that came out.
    pub date: Option<Date>,
    /// A kernel reference that gives that release.
    pub kernel: Option<String>,
    /// What is going on with the branch.
    pub state: Option<BranchState>,
    /// The day on which the branch ends.
    pub end: Option<Date>,
}

impl Statement {
    /// That there is this release.
    #[must_use]
    pub fn release(version: Version) -> Self {
        Self {
            branch: version.branch,
            release: Some(version),
            date: None,
            kernel: None,
            state: None,
            end: None,
        }
    }
}

impl Feed {
    /// A feed with these statements, as of the newest date in them.
    #[must_use]
    pub fn new(name: &str, statements: Vec<Statement>) -> Self {
        let as_of = statements.iter().filter_map(|statement| statement.date).max();
        Self { name: name.to_owned(), as_of, names_all_alive: false, statements, notes: Vec::new() }
    }

    /// Reads a text in whichever format it is: kernel.org's `releases.json`, `finger_banner`,
    /// endoflife.date's JSON, or a list of tags or versions.
    ///
    /// # Errors
    /// When it is too long or in none of the formats, or says what can't be.
    pub fn read(name: &str, text: &str) -> Result<Self, FeedError> {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.len() > MAX_TEXT {
            return Err(error(
                name,
                None,
                format!("it is longer than {} MiB", MAX_TEXT >> 20),
                KINDS,
            ));
        }
        let feed = match text.as_bytes().first() {
            None => return Err(error(name, None, "it is empty".to_owned(), KINDS)),
            Some(b'{') => kernel_org(name, text)?,
            Some(b'[') => endoflife(name, text)?,
            Some(_) if text.starts_with("The latest ") => finger_banner(name, text)?,
            Some(_) => tags(name, text)?,
        };
        let branches: BTreeSet<Branch> = feed.statements.iter().map(|one| one.branch).collect();
        for (count, bound, what) in [
            (feed.statements.len(), MAX_STATEMENTS, "releases"),
            (branches.len(), MAX_BRANCHES, "branches"),
        ] {
            if count > bound {
                return Err(error(name, None, format!("it names more than {bound} {what}"), KINDS));
            }
        }
        Ok(feed)
    }
}

const KINDS: &str = "give kernel.org's releases.json or finger_banner, endoflife.date's linux.json, or \
a list of tags such as `git tag` prints";

fn error(feed: &str, place: Option<String>, what: String, advice: &'static str) -> FeedError {
    FeedError { feed: feed.to_owned(), place, what, advice }
}

/// What a JSON reader complains of, with its line and column.
fn json(feed: &str, problem: &serde_json::Error) -> FeedError {
    error(feed, None, shortened(&problem.to_string()), KINDS)
}

/// A text of a feed, short enough to be shown.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
