//! Titles: templates filled in, and whatever differs from boot to boot taken out.

use std::sync::LazyLock;

use regex::Regex;

use crate::blame::{Blame, Charged};
use crate::table::Header;

/// What a report may be called.
#[derive(Debug)]
pub(crate) struct Titles {
    /// What the title was made from; empty when the header's text had to do.
    pub(crate) template: &'static str,
    pub(crate) title: String,
    pub(crate) others: Vec<String>,
}

impl Titles {
    /// The titles of a report that begins with `header` and came to `blame`.
    pub(crate) fn of(header: &Header, blame: &Blame) -> Self {
        let rule = header.compiled.rule;
        let nameless = || rule.title.starts_with("{d}") && normal(blame.detail.clone()).is_empty();
        let template = if blame.met && !nameless() { rule.title } else { "" };
        let unknown = if rule.extra { "" } else { "corrupted" };
        let fields = Fields {
            groups: [&header.groups[0], &header.groups[1]],
            detail: &blame.detail,
            function: blame.charged.as_ref().map_or(unknown, |charged| &charged.name),
            origin: blame.origin.as_ref().map_or(unknown, |charged| &charged.name),
        };
        let title = if template.is_empty() {
            normal(header.text.clone())
        } else if rule.extra {
            let unset = [(": killed {d}", fields.detail), (" in {f}", fields.function)];
            let unset = unset.iter().filter(|(_, value)| value.is_empty());
            let template =
                unset.fold(template.to_owned(), |text, (part, _)| text.replace(part, ""));
            fill(&template, &fields)
        } else {
            fill(template, &fields)
        };
        let mut others = Vec::new();
        if !template.is_empty() && !rule.extra {
            let variants = blame.charged.iter().flat_map(Charged::variants);
            for function in std::iter::once(fields.function).chain(variants) {
                let fields = Fields { function, ..fields };
                for template in std::iter::once(&template).chain(rule.alt) {
                    let other = fill(template, &fields);
                    if other != title && !others.contains(&other) {
                        others.push(other);
                    }
                }
            }
        }
        Self { template, title, others }
    }
}

/// Titles end here; lines that ran into each other can be very long.
const MAX_TITLE: usize = 120;

/// What goes into a title in place of its tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Fields<'a> {
    /// `{1}` and `{2}`: captures of the header.
    groups: [&'a str; 2],
    /// `{d}`: what a step caught.
    detail: &'a str,
    /// `{f}`: the function that is charged.
    function: &'a str,
    /// `{g}`: the function of the second stack.
    origin: &'a str,
}

/// Fills a template.
fn fill(template: &str, fields: &Fields<'_>) -> String {
    let mut title = String::with_capacity(template.len() + 48);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        title.push_str(before);
        let (token, after) = after.split_once('}').unwrap_or((after, ""));
        title.push_str(match token {
            "1" => fields.groups[0],
            "2" => fields.groups[1],
            "d" => fields.detail,
            "g" => fields.origin,
            _ => fields.function,
        });
        rest = after;
    }
    title.push_str(rest);
    normal(title)
}

/// A replacement that is made until it changes nothing more.
struct Replacement {
    /// What all matches hold; cheaper to look for.
    part: &'static str,
    pattern: Regex,
    by: &'static str,
}

static REPLACEMENTS: LazyLock<Vec<Replacement>> = LazyLock::new(|| {
    [
        ("syz-executor", r"syz-executor\.?[0-9]+(?:[/:][0-9]+)?", "syz-executor"),
        ("syzkaller", r"syzkaller[0-9]+(?:[/:][0-9]+)?", "syzkaller"),
        ("", r"([^a-zA-Z0-9])(?:0x)?[0-9a-f]{6,}", "${1}ADDR"),
        (".", r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", "IP"),
        (":", r"(\.[0-9A-Za-z_]+)(?::[0-9]+)+", "${1}:LINE"),
        ("+0x", r"([a-zA-Z][a-zA-Z0-9_.]+)\+0x[0-9a-z]+/0x[0-9a-z]+", "${1}"),
        ("CPU#", r"CPU#[0-9]+", "CPU"),
        ("", r"([^0-9A-Za-z_])[0-9]+([^0-9A-Za-z_]|$)", "${1}NUM${2}"),
        ("", r"[0-9]{7,}", "NUM"),
    ]
    .into_iter()
    .map(|(part, pattern, by)| Replacement { part, pattern: compile(pattern), by })
    .collect()
});

fn compile(pattern: &str) -> Regex {
    // tidy-allow(no-panic): the patterns are the constants above, compiled by any test
    Regex::new(pattern).expect("the expressions of titles are valid")
}

/// Whether any replacement may apply: all need digits, but for addresses of letters only.
fn may_change(title: &str) -> bool {
    let mut hex = 0;
    title.bytes().any(|byte| {
        hex = if matches!(byte, b'a'..=b'f') { hex + 1 } else { 0 };
        byte.is_ascii_digit() || hex >= 6
    })
}

/// A title without addresses, numbers and lines, on one line of printable characters.
fn normal(mut title: String) -> String {
    if may_change(&title) {
        for Replacement { part, pattern, by } in REPLACEMENTS.iter() {
            if !title.contains(part) {
                continue;
            }
            // Each round shortens what can match; the bound is for patterns that may not.
            for _ in 0..64 {
                let std::borrow::Cow::Owned(next) = pattern.replace_all(&title, *by) else { break };
                if next == title {
                    break;
                }
                title = next;
            }
        }
    }
    let clean = title.len() <= MAX_TITLE
        && title.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !title.as_bytes().windows(2).any(|pair| pair == b"  ")
        && !title.starts_with(' ')
        && !title.ends_with(' ');
    if clean {
        return title;
    }
    let mut plain = String::with_capacity(MAX_TITLE);
    for byte in title.bytes().take(MAX_TITLE) {
        match byte {
            b' ' | b'\t' if plain.is_empty() || plain.ends_with(' ') => {}
            b' ' | b'\t' => plain.push(' '),
            b'!'..=b'~' => plain.push(char::from(byte)),
            _ => {}
        }
    }
    plain.truncate(plain.trim_end().len());
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_titles() {
        for (raw, title) in [
            ("WARNING in ext4_foo", "WARNING in ext4_foo"),
            ("INFO: Freed in f age=12 cpu=1 pid=7", "INFO: Freed in f age=NUM cpu=NUM pid=NUM"),
            (
                "use-after-free in f.part.23+0x12/0x34 at addr ffff88001234",
                "use-after-free in f.part.NUM at addr ADDR",
            ),
            ("a  b\tc\u{fffd} ", "a b c"),
            ("at mm/slub.c:123", "at mm/slub.c:LINE"),
            ("stuck 0,1,2", "stuck NUM,NUM,NUM"),
            ("on CPU#3!", "on CPU!"),
            ("from 10.0.0.1", "from IP"),
        ] {
            assert_eq!(normal(raw.to_owned()), title);
        }
        assert_eq!(normal("x".repeat(500)).len(), MAX_TITLE);
    }

    #[test]
    fn filled_titles() {
        let fields = Fields { groups: ["a", "b"], function: "f", ..Fields::default() };
        assert_eq!(fill("{1} {2} in {f}", &fields), "a b in f");
    }
}
