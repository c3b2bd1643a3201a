//! The rule table compiled: which line begins a report, which line is a stack frame, which
//! function to charge.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::Regex;

use crate::rules::{Blame, DISPATCHERS, ENTRY_PREFIXES, HELPERS, RULES, Rule, TEXT, WAITERS};

/// What `FUNC` in the table stands for.
const FUNC: &str =
    r"(?P<f>[A-Za-z_][\w.]*)(?:\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?| [\w./-]+:\d+ \[inline\])";

pub(crate) static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

pub(crate) struct Table {
    /// Finds the places where a header may be.
    pub(crate) literals: AhoCorasick,
    rules: Vec<Compiled>,
    frame: Regex,
    pointer: Regex,
    helper: Regex,
    waiter: Regex,
    dispatcher: Regex,
    text: Regex,
    suffix: Regex,
    address: Regex,
    number: Regex,
}

/// A rule with its expressions compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rule: &'static Rule,
    pattern: Regex,
    detail: Option<Regex>,
    skip: Option<Regex>,
}

/// The first line of a report.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) compiled: &'static Compiled,
    /// What the pattern's groups `1` and `2` caught.
    pub(crate) groups: [String; 2],
    /// The function it names.
    pub(crate) function: Option<String>,
}

/// What a line inside a report says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// A stack frame that the unwinder is sure of.
    Frame(&'a str),
    /// The instruction pointer.
    Pointer(&'a str),
    /// Nothing about where.
    None,
}

fn compile(pattern: &str) -> Regex {
    // tidy-allow(no-panic): all patterns are constants of this crate, compiled by any test
    Regex::new(pattern).expect("the expressions of the rule table are valid")
}

fn optional(pattern: &str) -> Option<Regex> {
    (!pattern.is_empty()).then(|| compile(&pattern.replace("FUNC", FUNC)))
}

impl Table {
    fn new() -> Self {
        let mut literals: Vec<_> = RULES.iter().map(|rule| rule.literal).collect();
        literals.sort_unstable();
        literals.dedup();
        let rules = RULES.iter().map(|rule| Compiled {
            rule,
            pattern: compile(&format!("^(?:{})", rule.pattern.replace("FUNC", FUNC))),
            detail: optional(rule.detail),
            skip: optional(rule.skip),
        });
        Self {
            // Leftmost, so that no literal begins before a hit.
            literals: AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .kind(Some(AhoCorasickKind::DFA))
                .build(literals)
                // tidy-allow(no-panic): fails only for more literals than a table can have
                .expect("the literals of the rule table are few"),
            rules: rules.collect(),
            frame: compile(&format!(
                r"^ *(?:\[<[0-9a-f]+>\] ?){{0,2}} *(?:[0-9a-f]{{16}} )?(\? )?{FUNC}"
            )),
            pointer: compile(&format!(r"^(?:[RE]?IP|NIP|pc|PC is at)\b.*?[ :]{FUNC}")),
            helper: compile(&format!("^_*(?:{})", HELPERS.join("|"))),
            waiter: compile(WAITERS),
            dispatcher: compile(DISPATCHERS),
            text: compile(&format!("^(?:{})", TEXT.join("|"))),
            suffix: compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv)\b.*$|\.cold$"),
            address: compile(r"\b(?:0x[0-9a-f]+|[0-9a-f]{8,})\b"),
            number: compile(r"\b\d+\b"),
        }
    }

    /// Whether `message` begins a report, and which.
    pub(crate) fn header(&'static self, message: &str) -> Option<Header> {
        let first = self.literals.find(message)?;
        // No literal begins before the first hit; most rules are out by that alone.
        let tail = &message[first.start()..];
        self.rules.iter().filter(|compiled| tail.contains(compiled.rule.literal)).find_map(
            |compiled| {
                let caught = compiled.pattern.captures(message)?;
                let group =
                    |at| caught.get(at).map_or(String::new(), |text| self.plain(text.as_str()));
                let function = caught.name("f").map(|name| self.name(name.as_str()));
                Some(Header { compiled, groups: [group(1), group(2)], function })
            },
        )
    }

    /// Whether a line looks like what reports are made of: registers, traces, memory tables.
    pub(crate) fn is_report_text(&self, message: &str) -> bool {
        self.text.is_match(message)
    }

    /// Where the CPU was, according to one line of a report.
    pub(crate) fn place<'a>(&self, message: &'a str) -> Place<'a> {
        if let Some(caught) = self.pointer.captures(message) {
            return caught.name("f").map_or(Place::None, |name| Place::Pointer(name.as_str()));
        }
        match self.frame.captures(message) {
            Some(caught) if caught.get(1).is_none() => {
                caught.name("f").map_or(Place::None, |name| Place::Frame(name.as_str()))
            }
            _ => Place::None,
        }
    }

    /// A function's name as in its source: without what the compiler or an entry macro added.
    pub(crate) fn name(&self, function: &str) -> String {
        let plain = self.suffix.replace(function, "");
        let entry = ENTRY_PREFIXES.iter().find_map(|prefix| plain.strip_prefix(prefix));
        entry.filter(|rest| !rest.is_empty()).unwrap_or(&plain).to_owned()
    }

    /// Text without what differs from boot to boot.
    fn plain(&self, text: &str) -> String {
        let text = self.address.replace_all(text, "ADDR");
        self.number.replace_all(&text, "NUM").into_owned()
    }
}

impl Compiled {
    /// The groups `d` and `f` of the rule's detail.
    pub(crate) fn detail(&self, message: &str) -> Option<(Option<String>, Option<String>)> {
        let caught = self.detail.as_ref()?.captures(message)?;
        let group = |name| caught.name(name).map(|text| text.as_str().to_owned());
        Some((group("d"), group("f").map(|name| TABLE.name(&name))))
    }

    /// The one of `frames`, innermost first, that the finding is charged to.
    pub(crate) fn blamed<'a>(&self, frames: &'a [String]) -> Option<&'a String> {
        let skipped = |name: &str| self.skip.as_ref().is_some_and(|skip| skip.is_match(name));
        let mut own = frames.iter().filter(|name| !skipped(name));
        let found = match self.rule.blame {
            Blame::Nobody => return None,
            Blame::First | Blame::Stack => own.find(|name| !TABLE.helper.is_match(name)),
            Blame::Waiter => own.find(|name| {
                let common = name.contains("rtnl_lock") || name.starts_with("synchronize_");
                common || !TABLE.waiter.is_match(name) && !TABLE.helper.is_match(name)
            }),
            Blame::Looping => {
                let own: Vec<_> = own.collect();
                let outer = own.iter().position(|name| TABLE.dispatcher.is_match(name));
                let inner = own.iter().find(|name| !TABLE.helper.is_match(name)).copied();
                outer.and_then(|at| own[..at].last().copied()).or(inner)
            }
        };
        found.or(frames.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let cases: &[(&str, Place<'_>)] = &[
            (" kfault_list+0xbc/0x126 [kfault]", Place::Frame("kfault_list")),
            (" ? do_filp_open+0xaf/0x160", Place::None),
            ("[<ffffffff81a2b3c4>] dump_stack+0x12/0x20", Place::Frame("dump_stack")),
            (" [<ffffffff81a2b3c4>] ? dump_stack+0x12/0x20", Place::None),
            (" tcp_ack net/ipv4/tcp_input.c:3000 [inline]", Place::Frame("tcp_ack")),
            ("RIP: 0010:tcp_ack+0x12/0x20", Place::Pointer("tcp_ack")),
            (
                "RIP: 0010:[<ffffffff81a2b3c4>]  [<ffffffff81a2b3c4>] tcp_ack+0x1/0x2",
                Place::Pointer("tcp_ack"),
            ),
            ("RIP: 0033:0x47fbe9", Place::None),
            ("pc : tcp_ack+0x12/0x20", Place::Pointer("tcp_ack")),
            ("Call Trace:", Place::None),
        ];
        for (line, place) in cases {
            assert_eq!(TABLE.place(line), *place, "{line}");
        }
    }

    #[test]
    fn names() {
        for (raw, name) in [
            ("tcp_ack.isra.0", "tcp_ack"),
            ("__list_del_entry_valid.cold", "__list_del_entry_valid"),
            ("do_con_write.part.12", "do_con_write"),
            ("__do_sys_finit_module", "finit_module"),
            ("sys_", "sys_"),
        ] {
            assert_eq!(TABLE.name(raw), name);
        }
    }

    #[test]
    fn rules_are_well_formed() {
        for Compiled { rule, pattern, detail, .. } in &TABLE.rules {
            let title = rule.title;
            assert!(rule.literal.len() >= 4, "{title}: would match too many healthy lines");
            assert!(!title.contains("{1}") || pattern.captures_len() > 1, "{title}");
            assert!(!title.contains("{f}") || rule.blame != Blame::Nobody, "{title}");
            let caught = detail.iter().flat_map(Regex::capture_names).flatten();
            assert_eq!(
                title.contains("{d}"),
                caught.into_iter().any(|name| name == "d"),
                "{title}"
            );
        }
    }
}
