//! The changelog of a Debian kernel package. Below `New upstream stable update` it names, under the
//! address of each ChangeLog, those commits that Debian thought worth naming.

use jiff::civil::Date;

use super::{Format, Found, cves};
use crate::subsystem::Subsystem;
use crate::version::Version;

/// Whether a changelog begins so: `linux (6.1.192-1) bookworm-security; urgency=high`.
pub(super) fn begins(line: &str) -> bool {
    let Some((package, rest)) = line.split_once(" (") else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    !package.is_empty() && package.chars().all(plain) && rest.contains("; urgency=")
}

#[derive(Debug, Default)]
pub(super) struct Debian {
    /// The release whose commits are listed.
    release: Option<Version>,
    /// Below an entry for an upstream update.
    upstream: bool,
    /// An item, which may go on in the next line.
    item: String,
}

impl Format for Debian {
    fn line(&mut self, line: &str, found: &mut Found) {
        let listed = line.strip_prefix("    ").filter(|_| self.upstream);
        if let Some(more) = listed.and_then(|line| line.strip_prefix("  ")) {
            if !self.item.is_empty() && self.item.len() < super::MAX_LINE {
                self.item.push(' ');
                self.item.push_str(more.trim());
            }
            return;
        }
        self.end_item(found);
        match listed {
            Some(text) => match text.strip_prefix("- ") {
                Some(item) => item.trim().clone_into(&mut self.item),
                None => {
                    let name = text.trim().rsplit("ChangeLog-").next();
                    if let Some(version) = name.and_then(|name| name.parse().ok()) {
                        self.release = Some(version);
                        let _ = found.release(version);
                    }
                }
            },
            None => {
                self.release = None;
                self.upstream = line.starts_with("  * New upstream");
                if let Some(trailer) = line.strip_prefix(" -- ")
                    && found.snapshot.is_none()
                {
                    found.snapshot = date(trailer);
                }
            }
        }
    }
}

impl Debian {
    fn end_item(&mut self, found: &mut Found) {
        let item = std::mem::take(&mut self.item);
        let changes = self.release.and_then(|release| found.release(release));
        if let Some(changes) = changes.filter(|_| !item.is_empty()) {
            changes.add(subsystem(&item));
            changes.cves.extend(cves(&item));
        }
    }
}

/// Items about few architectures begin with them in brackets.
fn subsystem(item: &str) -> Subsystem {
    let tagged = item.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    let Some((tag, subject)) = tagged else { return Subsystem::of_subject(item) };
    let found = Subsystem::of_subject(subject);
    if found != Subsystem::other() {
        return found;
    }
    Subsystem::of_path(match tag {
        "x86" | "amd64" | "i386" => "arch/x86/",
        arm if arm.starts_with("arm") => "arch/arm/",
        _ => "arch/",
    })
}

/// The date at the end of a trailer: `NAME <ADDRESS>  Mon, 16 Nov 2026 11:17:40 +0100`.
fn date(trailer: &str) -> Option<Date> {
    let (_, date) = trailer.rsplit_once(">  ")?;
    Date::strptime("%d %b %Y", date.split_once(", ")?.1.get(..11)?.trim()).ok()
}
