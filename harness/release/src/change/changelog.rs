//! ChangeLog files of kernel.org, which are the output of `git log`: the release's own commit first,
//! then all others.

use jiff::civil::Date;

use super::{Format, Found, cves, released};
use crate::subsystem::Subsystem;
use crate::version::Version;

/// Whether a ChangeLog begins so.
pub(super) fn begins(line: &str) -> bool {
    line.strip_prefix("commit ").is_some_and(|hash| {
        let hash = hash.trim_end();
        hash.len() >= 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    release: Option<Version>,
    /// In the head of a commit, before its subject.
    head: bool,
}

impl Format for ChangeLog {
    fn line(&mut self, line: &str, found: &mut Found) {
        if begins(line) {
            self.head = true;
            return;
        }
        if let Some(date) = line.strip_prefix("Date:").filter(|_| self.head) {
            // The release's own commit is the last that was made.
            found.snapshot = found.snapshot.max(day(date));
        }
        let Some(text) = line.strip_prefix("    ") else { return };
        if !self.head {
            if let Some(changes) = self.release.and_then(|release| found.release(release)) {
                changes.cves.extend(cves(text));
            }
            return;
        }
        self.head = false;
        if let Some(version) = released(text) {
            self.release = Some(version);
            // One without any commit is a release as well.
            let _ = found.release(version);
        } else if let Some(changes) = self.release.and_then(|release| found.release(release)) {
            changes.add(Subsystem::of_subject(text));
            changes.cves.extend(cves(text));
        }
    }
}

/// `Thu Apr 20 12:35:15 2023 +0200`.
fn day(date: &str) -> Option<Date> {
    let mut words = date.split_whitespace().skip(1);
    let (month, day, _, year) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Date::strptime("%d %b %Y", format!("{day} {month} {year}")).ok()
}
