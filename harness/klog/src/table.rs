//! The rule table compiled: where a header may be, whether it is one, and which.

use std::sync::LazyLock;

use aho_corasick::packed;
use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};

use crate::frame;
use crate::line::{Line, program_tag};
use crate::rules::{GROUPS, Group, Rule, Sure};
use crate::words::{DISPATCHERS, HELPERS, STACKS, TEXT};

/// What the names in the table's patterns stand for.
const NAMES: &[(&str, &str)] = &[
    ("FUNC", r"(?P<f>[a-zA-Z0-9_]+)[.+]"),
    ("SRC", r"[a-zA-Z0-9_/.-]+\.[a-z]+:[0-9]+"),
    ("PC", r"\[<?(?:0x)?[0-9a-f]+>?\]"),
];

/// So many words of a line are looked at for the name of a program.
const MAX_WORDS: usize = 8;
/// So many places of a line are looked at for a header, and so much of each.
const MAX_CANDIDATES: usize = 8;
const MAX_HEADER: usize = 1 << 10;

pub(crate) static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

pub(crate) struct Table {
    literals: Literals,
    groups: Vec<CompiledGroup>,
    pub(crate) helper: Regex,
    pub(crate) dispatcher: Regex,
    /// Report text by its first byte.
    text: Vec<Vec<&'static [u8]>>,
    /// Headings of stacks.
    stacks: Literals,
}

struct CompiledGroup {
    #[cfg(test)]
    group: &'static Group,
    not: Option<Regex>,
    rules: Vec<Compiled>,
}

/// A rule with its expressions compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rule: &'static Rule,
    /// What the pattern's matches begin with.
    start: &'static [u8],
    /// What they go on with, if that comes after anything.
    then: Finder<'static>,
    pattern: Regex,
    pub(crate) skip: Option<Regex>,
}

/// The first line of a report.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) compiled: &'static Compiled,
    /// What the pattern's groups `1` and `2` caught.
    pub(crate) groups: [String; 2],
    /// The function it names.
    pub(crate) function: Option<String>,
    /// The line from the group's literal on.
    pub(crate) text: String,
}

/// A few texts, searched for all at once.
pub(crate) struct Literals {
    texts: Vec<&'static [u8]>,
    searcher: Option<packed::Searcher>,
}

impl Literals {
    fn new(texts: impl IntoIterator<Item = &'static str>) -> Self {
        let texts: Vec<_> = texts.into_iter().map(str::as_bytes).collect();
        // Leftmost first: where two begin at the same place, the first of them counts.
        let searcher = packed::Config::new().builder().extend(&texts).build();
        Self { texts, searcher }
    }

    /// Offset of the first text in `bytes`, and which.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        match &self.searcher {
            Some(searcher) if bytes.len() >= searcher.minimum_len() => {
                searcher.find(bytes).map(|hit| (hit.start(), hit.pattern().as_usize()))
            }
            // Short, or a processor without vector instructions.
            _ => {
                let find = |text: &&[u8]| memchr::memmem::find(bytes, text);
                let hits = self.texts.iter().enumerate();
                hits.filter_map(|(at, text)| Some((find(text)?, at))).min()
            }
        }
    }
}

fn compile(pattern: &str) -> Regex {
    let named = NAMES.iter().fold(pattern.to_owned(), |text, (name, by)| text.replace(name, by));
    let built = RegexBuilder::new(&named).unicode(false).build();
    // tidy-allow(no-panic): all patterns are constants of this crate, compiled by any test
    built.expect("the expressions of the rule table are valid")
}

fn optional(pattern: &str) -> Option<Regex> {
    (!pattern.is_empty()).then(|| compile(pattern))
}

/// The plain text that all matches of `pattern` begin with.
fn literal_start(pattern: &'static str) -> &'static str {
    let end = pattern.find(['\\', '.', '[', '(', '?', '*', '+', '|', '$']).unwrap_or(pattern.len());
    let names = NAMES.iter().filter_map(|(name, _)| pattern.find(name));
    let end = names.fold(end, usize::min);
    match pattern[end..].chars().next() {
        // The character before may be missing.
        Some('?' | '*') => &pattern[..end.saturating_sub(1)],
        Some('|') => "",
        _ => &pattern[..end],
    }
}

impl Table {
    fn new() -> Self {
        let mut text = vec![Vec::new(); 256];
        for start in TEXT {
            text[usize::from(start.as_bytes()[0])].push(start.as_bytes());
        }
        let rules = |group: &'static Group| {
            let compiled = group.rules.iter().map(|rule| {
                let start = literal_start(rule.pattern);
                let then = rule.pattern[start.len()..].strip_prefix(".*").map_or("", literal_start);
                Compiled {
                    rule,
                    start: start.as_bytes(),
                    then: Finder::new(then),
                    pattern: compile(&format!("^(?:{})", rule.pattern)),
                    skip: optional(rule.skip),
                }
            });
            compiled.collect()
        };
        let groups = GROUPS.iter().map(|group| CompiledGroup {
            #[cfg(test)]
            group,
            not: optional(group.not),
            rules: rules(group),
        });
        Self {
            literals: Literals::new(GROUPS.iter().map(|group| group.literal)),
            groups: groups.collect(),
            helper: compile(&HELPERS.join("|")),
            dispatcher: compile(&DISPATCHERS.join("|")),
            text,
            stacks: Literals::new(STACKS.iter().copied()),
        }
    }

    /// The header by the next rule of its group, for when lines that this one needs are missing.
    pub(crate) fn next_header(&'static self, header: &Header) -> Option<Header> {
        let group = self.groups.iter().find(|group| {
            group.rules.as_ptr_range().contains(&std::ptr::from_ref(header.compiled))
        })?;
        let own = group.rules.iter().position(|rule| std::ptr::eq(rule, header.compiled))?;
        // The rules for whatever is left do not explain a known header.
        let rules = group.rules[own + 1..].iter().filter(|rule| !rule.rule.title.is_empty());
        rules.into_iter().find_map(|rule| rule.header(header.text.as_bytes()))
    }

    /// Offset of the first place in `bytes` where a header may begin.
    pub(crate) fn candidate(&self, bytes: &[u8]) -> Option<usize> {
        self.literals.find(bytes).map(|(at, _)| at)
    }

    /// Whether `line` begins a report, and which.
    pub(crate) fn header(&'static self, line: &Line<'_>) -> Option<Header> {
        let message = line.message.as_ref();
        let mut best: Option<(usize, Header)> = None;
        let mut from = 0;
        for _ in 0..MAX_CANDIDATES {
            let Some((at, rank)) = self.literals.find(&message[from..]) else { break };
            let at = from + at;
            if best.as_ref().is_none_or(|(best, _)| rank < *best)
                && let Some(header) = self.groups[rank].header(line, at)
            {
                best = Some((rank, header));
            }
            from = at + 1;
        }
        best.map(|(_, header)| header)
    }

    /// Whether a line looks like what reports are made of: registers, traces, memory tables.
    pub(crate) fn is_report_text(&self, message: &[u8]) -> bool {
        let Some(first) = message.first() else { return false };
        // Most of them are frames.
        if *first == b' ' {
            return true;
        }
        self.text[usize::from(*first)].iter().any(|start| message.starts_with(start))
            || is_value(message)
            || std::str::from_utf8(message)
                .is_ok_and(|line| frame::trace(line).is_some_and(|frame| frame.offset.is_some()))
    }

    /// Offset of the first heading of a stack in a text, and which of [`STACKS`] it is.
    pub(crate) fn next_heading(&self, text: &[u8]) -> Option<(usize, usize)> {
        let mut from = 0;
        loop {
            let (at, which) = self.stacks.find(&text[from..])?;
            let at = from + at;
            // `stack backtrace:` heads the stack of the lock checkers, which begins after it.
            if !STACKS[which].starts_with(" backtrace") || at > 0 && text[at - 1] != b'k' {
                return Some((at, which));
            }
            from = at + 1;
        }
    }
}

/// Whether `message` is `x29: ffff800012345678` or `anon 4096`.
fn is_value(message: &[u8]) -> bool {
    let name = message.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let rest = message[name..].trim_ascii_start();
    if let Some(value) = rest.strip_prefix(b":") {
        let value = value.trim_ascii_start();
        let digits = value.iter().take(8).take_while(|b| b.is_ascii_hexdigit()).count();
        return (1..=8).contains(&name) && digits == 8;
    }
    name > 0 && message.len() > name && !rest.is_empty() && rest.iter().all(u8::is_ascii_digit)
}

impl CompiledGroup {
    /// The header of this group at `at`, if it is one.
    fn header(&'static self, line: &Line<'_>, at: usize) -> Option<Header> {
        let message = line.message.as_ref();
        if self.not.as_ref().is_some_and(|not| not.is_match(message)) {
            return None;
        }
        let (before, text) = message.split_at(at);
        let text = &text[..text.len().min(MAX_HEADER)];
        let place = Place::of(before);
        self.rules.iter().find_map(|compiled| {
            let allowed = match compiled.rule.sure {
                Sure::Anywhere => place != Place::Program,
                Sure::Start => matches!(place, Place::Start | Place::Subsystem),
                Sure::Device => is_device(before),
                Sure::Stamped => line.stamped && matches!(place, Place::Start | Place::Subsystem),
                Sure::Within => line.stamped && place != Place::Program,
                Sure::Unstamped => !line.stamped && place == Place::Start,
            };
            if !allowed {
                return None;
            }
            compiled.header(text)
        })
    }
}

impl Compiled {
    /// The header that `text` is by this rule.
    fn header(&'static self, text: &[u8]) -> Option<Header> {
        if !text.starts_with(self.start) || self.then.find(text).is_none() {
            return None;
        }
        let owned = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        if self.pattern.captures_len() == 1 {
            return self.pattern.is_match(text).then(|| Header {
                compiled: self,
                groups: Default::default(),
                function: None,
                text: owned(text),
            });
        }
        let caught = self.pattern.captures(text)?;
        // Groups are numbered together with the function's.
        let name = caught.name("f");
        let mut numbered = caught
            .iter()
            .skip(1)
            .flatten()
            .filter(|group| Some(group.start()) != name.map(|name| name.start()))
            .map(|group| owned(group.as_bytes()));
        Some(Header {
            compiled: self,
            groups: [numbered.next().unwrap_or_default(), numbered.next().unwrap_or_default()],
            function: name.map(|name| owned(name.as_bytes())),
            text: owned(text),
        })
    }
}

/// Whether `before` is `usb 5-1: ` or the like: a driver and its device.
fn is_device(before: &[u8]) -> bool {
    let Some(names) = before.strip_suffix(b": ") else { return false };
    let mut words = names.split(|byte| *byte == b' ');
    let (Some(driver), Some(device), None) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
    !driver.is_empty()
        && driver.iter().chain(device).all(name)
        && device.iter().any(|byte| b"-.:".contains(byte))
        && device.iter().any(u8::is_ascii_digit)
}

/// What stands before a header in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing, or ornaments.
    Start,
    /// The name of a subsystem, a driver or a device.
    Subsystem,
    /// The name of a program: it only quotes.
    Program,
    /// Something else, as when two lines ran into each other.
    Middle,
}

impl Place {
    fn of(line: &[u8]) -> Self {
        let before = line.trim_ascii();
        if before.iter().all(|b| b"=*-[]#! ".contains(b)) {
            return Self::Start;
        }
        let text = before.strip_suffix(b"[").unwrap_or(before).trim_ascii_end();
        // Tags of hosts and programs come first in a line.
        let mut tags = line;
        for _ in 0..MAX_WORDS {
            if program_tag(tags) {
                return Self::Program;
            }
            match memchr::memchr(b' ', tags) {
                Some(end) => tags = &tags[end + 1..],
                None => break,
            }
        }
        if text.ends_with(b":") { Self::Subsystem } else { Self::Middle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title(text: &str, stamped: bool) -> Option<&'static str> {
        let message = std::borrow::Cow::Borrowed(text.as_bytes());
        let line = Line { message, stamped, ..Line::default() };
        TABLE.header(&line).map(|header| header.compiled.rule.title)
    }

    #[test]
    fn headers() {
        for (text, expected) in [
            ("BUG: KASAN: use-after-free in f+0x1/0x2", Some("KASAN: {1} {d} in {f}")),
            ("watchdog: BUG: soft lockup - CPU#1 stuck", Some("BUG: soft lockup in {f}")),
            ("systemd[1]: BUG: soft lockup - CPU#1 stuck", None),
            ("[ INFO: inconsistent lock state ]", Some("inconsistent lock state in {f}")),
            ("mixed upWARNING: CPU: 0 PID: 1 at a/b.c:12 f+0x1/0x2", Some("WARNING in {f}")),
            ("WARNING: Caches not enabled", None),
            ("DEBUG: BUG: x", None),
            ("Oops: 0000 [#1] SMP", Some("Oops in {f}")),
        ] {
            assert_eq!(title(text, true), expected, "{text}");
        }
        assert_eq!(title("BUG: spurious wakeup of the management engine", false), None);
        assert_eq!(title("BUG: arch topology borken", true), Some(""));
    }

    #[test]
    fn report_text() {
        for (text, expected) in [
            ("RAX: 0000000000000000 RBX: ffff8881", true),
            ("x29: ffff800012345678 x28: 0", true),
            ("anon 4096", true),
            ("Code: 00 00", true),
            ("EXT4-fs (vda1): mounted filesystem", false),
            ("", false),
        ] {
            assert_eq!(TABLE.is_report_text(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn rules_are_well_formed() {
        for group in &TABLE.groups {
            assert!(group.group.literal.len() >= 4, "{}: too frequent", group.group.literal);
            for Compiled { rule, pattern, .. } in &group.rules {
                let title = rule.title;
                let numbered = pattern.captures_len() - 1;
                let named = pattern.capture_names().flatten().count();
                let wanted =
                    usize::from(title.contains("{1}")) + usize::from(title.contains("{2}"));
                assert!(numbered - named >= wanted, "{title}");
                let mut depth = 0;
                let plain = rule.pattern.replace(r"\(", "").replace(r"\)", "").replace("[^)]", "");
                let alternatives = plain.chars().any(|c| {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    c == '|' && depth == 0
                });
                assert!(!alternatives, "{title}: its matches begin in several ways");
                let charged = !rule.steps.is_empty() || !rule.needs.is_empty();
                assert!(!title.contains("{f}") || charged, "{title}");
            }
        }
    }
}
