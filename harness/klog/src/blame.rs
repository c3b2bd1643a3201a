//! From the lines of a finished report to the function it is charged to, and to whether the
//! report is damaged.

use std::borrow::Cow;

use crate::frame;
use crate::rules::{Pick, Step};
use crate::table::{Compiled, Header, TABLE};
use crate::text::{self, contains, find};
use crate::words::{COMMON_WAITS, ENTRY_PREFIXES, STACKS, WAITERS};

/// What the steps of a rule came to.
#[derive(Debug, Default)]
pub(crate) struct Blame {
    /// Whether the lines that the rule needs were there.
    pub(crate) met: bool,
    /// Whether a stack was asked for and none found, or one of another report in between.
    pub(crate) lost: bool,
    /// What a step caught.
    pub(crate) detail: String,
    /// The function that is charged.
    pub(crate) charged: Option<Charged>,
    /// The function of the second stack.
    pub(crate) origin: Option<Charged>,
}

/// A function that is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Charged {
    /// The name in the source: without what entry macros add.
    pub(crate) name: String,
    /// The name as printed, but for suffixes of the compiler.
    pub(crate) raw: String,
}

impl Charged {
    fn plain(raw: &str) -> Self {
        Self { name: without_prefix(raw).to_owned(), raw: raw.to_owned() }
    }

    fn whole(raw: &str) -> Self {
        Self { name: raw.to_owned(), raw: raw.to_owned() }
    }

    /// The other names that the function may go by.
    pub(crate) fn variants(&self) -> impl Iterator<Item = &str> {
        let stripped = ENTRY_PREFIXES.iter().filter_map(|prefix| self.raw.strip_prefix(prefix));
        let names = std::iter::once(self.raw.as_str()).chain(stripped);
        names.filter(|name| *name != self.name)
    }
}

/// The name without the longest prefix that system call entries add.
fn without_prefix(raw: &str) -> &str {
    let stripped = ENTRY_PREFIXES.iter().filter_map(|prefix| raw.strip_prefix(prefix));
    stripped.min_by_key(|name| name.len()).unwrap_or(raw)
}

/// The lines of a report, one after the other, those of unsure frames left out.
#[derive(Clone, Copy)]
struct Lines<'a>(&'a str);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while !self.0.is_empty() {
            let end = memchr::memchr(b'\n', self.0.as_bytes()).unwrap_or(self.0.len());
            let line = &self.0[..end];
            self.0 = self.0.get(end + 1..).unwrap_or_default();
            if !is_unsure(line.as_bytes()) {
                return Some(line);
            }
        }
        None
    }
}

/// Whether a line is a frame that need not have been called: ` ? f+0x1/0x2`.
pub(crate) fn is_unsure(line: &[u8]) -> bool {
    let rest = line.trim_ascii_start();
    let rest = match rest.first() {
        Some(b'[') => match memchr::memmem::find(rest, b"] ") {
            Some(end) => &rest[end + 2..],
            None => return false,
        },
        _ => rest,
    };
    rest.starts_with(b"? ")
}

/// Names as compilers of other languages mangle them, in their own words.
fn readable(name: &str) -> Cow<'_, str> {
    let mangled = name.strip_prefix("_Z").and_then(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let len: usize = rest[..digits].parse().ok()?;
        rest.get(digits..digits.checked_add(len)?)
    });
    if let Some(plain) = mangled {
        return Cow::Borrowed(plain);
    }
    match rustc_demangle::try_demangle(name) {
        Ok(symbol) => Cow::Owned(format!("{symbol:#}")),
        Err(_) => Cow::Borrowed(name),
    }
}

/// The functions that the steps meet.
struct Walk<'a> {
    compiled: &'static Compiled,
    lines: Lines<'a>,
    names: Vec<Cow<'a, str>>,
    /// Which of them is the first that hands out work, where that matters.
    anchor: Option<usize>,
    /// A stack of a provoked failure ran into the report.
    mixed: bool,
}

impl<'a> Walk<'a> {
    /// Whether no function to come can be the one to charge.
    fn is_enough(&self) -> bool {
        match self.compiled.rule.pick {
            Pick::First => !self.names.is_empty(),
            Pick::Looping => self.anchor.is_some(),
            Pick::Waiting => false,
        }
    }

    /// Takes a function for a candidate, unless it is a helper.
    fn meet(&mut self, function: &'a str) {
        if self.is_enough() {
            return;
        }
        let name = function.split('.').next().unwrap_or_default();
        if name.is_empty() {
            return;
        }
        let name = readable(name);
        let plain = name.as_bytes();
        let skip = self.compiled.skip.as_ref();
        if TABLE.helper.is_match(plain) || skip.is_some_and(|skip| skip.is_match(plain)) {
            return;
        }
        let looping = self.compiled.rule.pick == Pick::Looping;
        if looping && TABLE.dispatcher.is_match(without_prefix(&name).as_bytes()) {
            self.anchor = Some(self.names.len());
        }
        self.names.push(name);
    }

    /// The next line that `test` takes something from. Ends at a stack that does not belong here.
    fn seek<T>(&mut self, mut test: impl FnMut(&'a str) -> Option<T>) -> Option<T> {
        for line in self.lines.by_ref() {
            if intrudes(line) {
                self.mixed = true;
                return None;
            }
            if let Some(found) = test(line) {
                return Some(found);
            }
        }
        None
    }

    /// Goes on after the next line that holds one of `texts`.
    fn line(&mut self, texts: &[&str]) {
        let text = self.lines.0;
        let first = texts.iter().filter_map(|part| search(text, part)).min();
        let end = first.and_then(|at| Some(at + find(&text[at..], "\n")? + 1));
        let end = end.unwrap_or(text.len());
        if search(&text[..end], INTRUDER).is_some() {
            // As for any step, what does not belong here ends the search.
            let mut passed = Lines(&text[..end]);
            if passed.any(intrudes) {
                self.mixed = true;
                self.lines = Lines(&text[end - passed.0.len()..]);
                return;
            }
        }
        self.lines = Lines(&text[end..]);
    }

    /// Takes one step; `next` is the one after it. Returns whether the next step is taken, too.
    fn step(&mut self, header: &'a Header, step: Step, next: Option<Step>) -> bool {
        match step {
            Step::Header => {
                self.lines.next();
                if let Some(function) = &header.function {
                    self.meet(function);
                }
            }
            Step::Pointer => {
                if let Some(Some(function)) = self.seek(pointer) {
                    self.meet(function);
                }
            }
            Step::CallTrace => {
                self.line(&["Call Trace:", "Call trace:", "Backtrace:"]);
            }
            Step::Trap => {
                let place = self.seek(|line| pointer(line).or_else(|| interrupted(line)));
                if let Some(Some(function)) = place {
                    self.meet(function);
                }
            }
            Step::Line(texts) => {
                self.line(texts);
            }
            Step::Lock => {
                if let Some(function) = self.seek(lock) {
                    self.meet(function);
                }
            }
            Step::Address => {
                if let Some(function) = self.seek(addressed) {
                    self.meet(function);
                }
            }
            Step::Owner => {
                if let Some(function) = self.seek(owner) {
                    self.meet(function);
                }
            }
            Step::Trace => return self.trace(next),
            Step::Access | Step::Victim | Step::Named(_) | Step::Next | Step::Source => {}
        }
        false
    }

    /// Takes the functions of a stack. Returns whether it ended where the step after it leads.
    fn trace(&mut self, next: Option<Step>) -> bool {
        while let Some(line) = self.lines.next() {
            if intrudes(line) {
                self.mixed = true;
                return false;
            }
            if let Some(Step::Line(texts)) = next
                && texts.iter().any(|text| contains(line, text))
            {
                return true;
            }
            match frame::trace(line) {
                Some(frame) if !frame.reliable || frame.inlined || frame.is_address() => {}
                Some(frame) => {
                    self.meet(frame.function);
                    if let Some((caller, _)) = frame.caller.and_then(frame::symbol) {
                        self.meet(caller.function);
                    }
                    // Old kernels print the first one after the heading.
                    if contains(line, "Call Trace") {
                        return false;
                    }
                }
                None if TABLE.next_heading(line.as_bytes()).is_some() => return false,
                None => {}
            }
            if self.is_enough() && next.is_none() {
                // All that is left to see is whether another stack intrudes.
                self.mixed |= intruded(self.lines.0);
                return false;
            }
        }
        false
    }

    /// The function to charge among those met.
    fn charged(&self) -> Option<Charged> {
        match self.compiled.rule.pick {
            Pick::First => self.names.first().map(|name| Charged::plain(name)),
            Pick::Looping => {
                let anchor = self.anchor?;
                if contains(&self.names[anchor], "smp_call_function") {
                    return Some(Charged::whole("smp_call_function"));
                }
                self.names.get(anchor.saturating_sub(1)).map(|name| Charged::plain(name))
            }
            Pick::Waiting => {
                for name in self.names.iter().map(|name| without_prefix(name)) {
                    if let Some((_, common)) =
                        COMMON_WAITS.iter().find(|(part, _)| contains(name, part))
                    {
                        return Some(Charged::whole(if common.is_empty() { name } else { common }));
                    }
                }
                let waits = |name: &str| WAITERS.iter().any(|waiter| contains(name, waiter));
                let own = self.names.iter().find(|name| !waits(without_prefix(name)));
                own.map(|name| Charged::plain(name))
            }
        }
    }
}

/// Offset of `part` in a whole text.
fn search(text: &str, part: &str) -> Option<usize> {
    memchr::memmem::find(text.as_bytes(), part.as_bytes())
}

/// How the function that fault injection adds to a stack begins.
const INTRUDER: &str = "should_fail";

/// Whether a line is of the stack that fault injection prints.
fn intrudes(line: &str) -> bool {
    let Some(rest) = line.strip_prefix(' ') else { return false };
    let rest = match rest.strip_prefix('[') {
        Some(rest) => text::split(rest, "] ").map_or(rest, |(_, rest)| rest),
        None => rest,
    };
    let Some(rest) = rest.strip_prefix(INTRUDER) else { return false };
    let rest = rest.strip_prefix("slab").unwrap_or(rest);
    rest.starts_with("+0x") || rest.starts_with('.')
}

/// Whether such a line comes before the stack's end.
fn intruded(text: &str) -> bool {
    search(text, INTRUDER).is_some()
        && Lines(text)
            .take_while(|line| {
                frame::trace(line).is_some() || TABLE.next_heading(line.as_bytes()).is_none()
            })
            .any(intrudes)
}

/// Whether a line gives an instruction pointer, and the function it gives.
fn pointer(line: &str) -> Option<Option<&str>> {
    const STARTS: &[&str] = &[
        "RIP: ",
        "EIP: ",
        "IP: ",
        "NIP ",
        "NIP: ",
        "pc :",
        "pc ",
        "epc :",
        "PC is at ",
        "EIP is at ",
    ];
    let text = line.trim_ascii_start();
    if !matches!(text.as_bytes().first()?, b'R' | b'E' | b'I' | b'N' | b'p' | b'e' | b'P') {
        return None;
    }
    let start = STARTS.iter().find(|start| text.starts_with(**start))?;
    // `IP:` is how old kernels print it under their first line.
    let frame = match *start {
        "IP: " => frame::trace(&text[3..]),
        _ => frame::pointer(line),
    };
    let frame = frame.filter(|frame| !frame.is_address());
    match frame {
        Some(frame) => Some(Some(frame.function)),
        // User space, or a jump to nowhere: a pointer all the same.
        None => (contains(text, ":0x") || contains(text, "(null)") || contains(text, " 0x"))
            .then_some(None),
    }
}

/// The function of PowerPC's `--- interrupt: 700 at f+0x1/0x2`.
fn interrupted(line: &str) -> Option<Option<&str>> {
    let place = text::after(line.strip_prefix("--- interrupt: ")?, " at ")?;
    Some(Some(frame::symbol(place)?.0.function))
}

/// The function of `at: f+0x1/0x2` or `at: [<ffffffff81000000>] f+0x1/0x2`.
fn lock(line: &str) -> Option<&str> {
    let rest = text::after(line, "at: ")?.trim_ascii_start();
    let rest = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1.trim_ascii_start(),
        None => rest,
    };
    named(rest)
}

/// The function of `[<ffffffff81000000>] f+0x1/0x2`, wherever in the line.
fn addressed(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some((_, inside)) = rest.split_once('[') {
        let (inner, after) = inside.split_once(']')?;
        let inner = inner.strip_prefix('<').unwrap_or(inner);
        let inner = inner.strip_suffix('>').unwrap_or(inner);
        if inner.len() >= 8
            && inner.bytes().all(|b| b.is_ascii_hexdigit())
            && after.starts_with(' ')
            && let Some(name) = named(after.trim_ascii_start())
        {
            return Some(name);
        }
        rest = inside;
    }
    None
}

/// The function that `text` begins with, when an offset or a compiler's suffix follows.
fn named(text: &str) -> Option<&str> {
    let (frame, _) = frame::symbol(text)?;
    let certain = frame.offset.is_some() || frame.function.contains('.');
    (certain && !frame.is_address()).then_some(frame.function)
}

/// The place in the source that a line names: `net/ipv4/tcp.c:123`.
fn source(line: &str) -> Option<()> {
    let mut rest = line;
    while let Some((file, after)) = rest.split_once(':') {
        let stem = file.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let named = stem.strip_suffix('.').is_some_and(|stem| {
            stem.ends_with(|c: char| c.is_ascii_alphanumeric() || "-_/.".contains(c))
        });
        rest = after;
        if stem.len() < file.len() && named && rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Some(());
        }
    }
    None
}

/// Follows a rule through the text of its report.
pub(crate) fn blame(header: &Header, text: &str) -> Blame {
    let compiled = header.compiled;
    let rule = compiled.rule;
    let mut blame = Blame { met: true, ..Blame::default() };
    let walk =
        || Walk { compiled, lines: Lines(text), names: Vec::new(), anchor: None, mixed: false };
    let mut needed = walk();
    // The header's own line is none of those that follow.
    let first = needed.lines.next().is_some();
    for step in rule.needs {
        let function = match *step {
            Step::Line(texts) => needed
                .lines
                .find(|line| texts.iter().any(|text| contains(line, text)))
                .map(|_| None),
            Step::Lock => needed.lines.find_map(lock).map(Some),
            Step::Address => needed.lines.find_map(addressed).map(Some),
            Step::Source => needed.lines.find_map(source).map(|()| None),
            Step::Header => match header.function.as_deref() {
                None if rule.extra => Some(None),
                function => function.map(Some),
            },
            Step::Next => needed.lines.next().map(|line| {
                blame.detail = line.to_owned();
                None
            }),
            Step::Access => needed.lines.find_map(access).map(|operation| {
                blame.detail = operation.to_owned();
                None
            }),
            Step::Victim => {
                let name = needed.lines.find_map(victim);
                blame.detail = name.unwrap_or_default().to_owned();
                Some(None)
            }
            Step::Named(text) => needed
                .lines
                .find_map(|line| Some(Some(frame::symbol(text::after(line, text)?)?.0.function))),
            _ => None,
        };
        match function {
            None => blame.met = false,
            Some(None) => {}
            Some(Some(function)) => {
                let name = readable(function.split('.').next().unwrap_or_default());
                blame.charged = Some(Charged::whole(&name));
            }
        }
    }
    blame.met &= first;
    if rule.steps.is_empty() || !blame.met {
        return blame;
    }
    let mut found = follow(walk(), header, rule.steps);
    let mut ways = rule.instead.iter();
    while !matches!(found[..], [Ok(_), ..])
        && let Some(way) = ways.next()
    {
        found = follow(walk(), header, way);
    }
    let mut found = found.into_iter();
    let first = found.next().unwrap_or(Err(None));
    blame.lost = first.is_err();
    blame.charged = first.unwrap_or_else(|charged| charged);
    if let Some(second) = found.next() {
        blame.lost |= second.is_err();
        blame.origin = second.unwrap_or_else(|charged| charged);
    }
    blame
}

/// What each stack on the way comes to; an error when its functions say nothing or are not all
/// its own.
fn follow<'a>(
    mut walk: Walk<'a>,
    header: &'a Header,
    steps: &[Step],
) -> Vec<Result<Option<Charged>, Option<Charged>>> {
    let mut found = Vec::new();
    let mut stacks = 0;
    let mut result = |walk: &mut Walk<'_>| {
        let charged = walk.charged();
        let good = charged.is_some() && !std::mem::take(&mut walk.mixed);
        walk.names.clear();
        walk.anchor = None;
        found.push(if good { Ok(charged) } else { Err(charged) });
    };
    let mut skipped = false;
    for (at, step) in steps.iter().enumerate() {
        if std::mem::take(&mut skipped) {
            continue;
        }
        if *step == Step::Trace {
            stacks += 1;
            if stacks > 1 {
                result(&mut walk);
            }
        }
        skipped = walk.step(header, *step, steps.get(at + 1).copied());
    }
    result(&mut walk);
    found
}

/// What an access was, of `Read of size 8 at addr …`.
fn access(line: &str) -> Option<&'static str> {
    [
        ("Read", "Read of size "),
        ("Read", "Read at addr "),
        ("Write", "Write of size "),
        ("Write", "Write at addr "),
    ]
    .into_iter()
    .find_map(|(name, text)| {
        let rest = text::after(line, text)?;
        rest.starts_with(|c: char| c.is_ascii_hexdigit()).then_some(name)
    })
}

/// The function of `Allocated in f+0x1/0x2 age=0 cpu=0 pid=83`.
fn owner(line: &str) -> Option<&str> {
    named(text::after(line, "Allocated in ")?)
}

/// The process that the out-of-memory killer chose.
fn victim(line: &str) -> Option<&str> {
    let (before, rest) = text::split(line, " process ")?;
    let (_, name) = rest.split_once('(').filter(|_| before.ends_with("Killed"))?;
    Some(name.split_once(')')?.0)
}

/// Whether a line is a function of a stack.
fn is_frame(line: &str) -> bool {
    frame::trace(line).is_some_and(|frame| {
        frame.reliable && !frame.inlined && (frame.offset.is_some() || frame.caller.is_some())
    }) || contains(line, "(stack is not available)")
}

/// How far behind its heading a stack may begin.
const NEAR: usize = 15;

/// What is wrong with the stacks of a report that must have one.
pub(crate) fn damage(text: &str) -> Option<&'static str> {
    let mut complete = false;
    let mut seen = [false; 16];
    let mut at = 0;
    while let Some((offset, which)) = TABLE.next_heading(&text.as_bytes()[at..]) {
        let line = at + offset;
        at = line + 1;
        // The first of each sort tells enough.
        if std::mem::replace(&mut seen[which % seen.len()], true) {
            continue;
        }
        let Some(end) = find(&text[line..], "\n") else {
            return Some("the log ends within a stack");
        };
        let rest = &text[line + end + 1..];
        if Lines(rest).take(2).count() < 2 {
            return Some("the log ends within a stack");
        }
        let stack = Lines(rest)
            .take(NEAR)
            .take_while(|line| is_frame(line) || TABLE.next_heading(line.as_bytes()).is_none());
        if !stack.into_iter().any(is_frame) {
            return Some("a stack has no functions");
        }
        complete = true;
    }
    if complete || riscv(text) { None } else { Some("the report has no stack") }
}

/// Whether registers of a RISC-V kernel are followed by a stack, which has no heading there.
fn riscv(text: &str) -> bool {
    let Some(at) = search(text, " badaddr: ") else { return false };
    Lines(&text[at..]).skip(1).take(NEAR).any(is_frame)
}

const _: () = assert!(STACKS.len() <= 16);
