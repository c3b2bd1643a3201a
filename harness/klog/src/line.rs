//! One line of a log: what is prefix, who printed it, what the kernel said.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::Source;
use crate::text::alphanumeric_or;

/// Which task or CPU printed a line, where the kernel is configured to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The kernel does not tell.
    #[default]
    Unknown,
    /// `T123`: a task.
    Task(u32),
    /// `C0`: a CPU, outside of tasks.
    Cpu(u32),
}

/// A line with its prefixes taken off.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// What was printed, without line end.
    pub(crate) message: Cow<'a, [u8]>,
    pub(crate) caller: Caller,
    /// The number of its log level, with the facility's bits.
    pub(crate) level: Option<u32>,
    /// The kernel's time stamp, in microseconds.
    pub(crate) time_us: Option<u64>,
    /// Whether it is known to come from the kernel.
    pub(crate) stamped: bool,
    /// Whether it is known not to come from the kernel.
    pub(crate) foreign: bool,
}

const ESCAPE: u8 = 0x1b;

/// Length of the line that `text` begins with, and whether it has terminal control sequences.
/// `None`: it does not end here.
pub(crate) fn end(text: &[u8]) -> Option<(usize, bool)> {
    let first = memchr::memchr2(b'\n', ESCAPE, text)?;
    if text[first] == b'\n' {
        return Some((first + 1, false));
    }
    Some((first + memchr::memchr(b'\n', &text[first..])? + 1, true))
}

/// Whether a line has terminal control sequences.
pub(crate) fn is_escaped(raw: &[u8]) -> bool {
    memchr::memchr(ESCAPE, raw).is_some()
}

/// Takes the prefixes off one line; `escaped` tells whether it has terminal control sequences.
pub(crate) fn split(source: Source, raw: &[u8], escaped: bool) -> Line<'_> {
    match source {
        Source::Console => console(raw, escaped),
        Source::Kmsg => record(raw),
    }
}

/// The number that `text` begins with, and how many digits it has.
fn number(text: &[u8]) -> (u64, usize) {
    let mut value = 0u64;
    for (digits, byte) in text.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit >= 10 {
            return (value, digits);
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
    }
    (value, text.len())
}

fn blanks(text: &[u8]) -> usize {
    let mut blanks = 0;
    while text.get(blanks) == Some(&b' ') {
        blanks += 1;
    }
    blanks
}

/// More digits than seconds have.
const MAX_DIGITS: usize = 12;

/// The time of a stamp (`[   12.345678]`) that `text` begins with, and its length.
fn stamp(text: &[u8]) -> Option<(u64, usize)> {
    if text.first() != Some(&b'[') {
        return None;
    }
    let start = 1 + blanks(&text[1..]);
    let (seconds, digits) = number(&text[start..]);
    let [b'.', micros @ .., b']'] = text[start + digits..].first_chunk::<8>()? else { return None };
    if digits == 0 || digits > MAX_DIGITS || !micros.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((seconds * 1_000_000 + number(micros).0, start + digits + 8))
}

/// The printing task or CPU of a leading `[ T123]`, and its length with the blanks before.
fn caller(text: &[u8]) -> Option<(Caller, usize)> {
    let before = blanks(text);
    let rest = text[before..].strip_prefix(b"[")?;
    let blank = blanks(rest);
    let make = match rest.get(blank)? {
        b'T' => Caller::Task,
        b'C' => Caller::Cpu,
        _ => return None,
    };
    let (id, digits) = number(&rest[blank + 1..]);
    let closed = rest.get(blank + 1 + digits) == Some(&b']');
    let id = u32::try_from(id).ok().filter(|_| closed && digits > 0)?;
    Some((make(id), before + blank + digits + 3))
}

/// The first time stamp of a line: its time, and the offset after it.
fn find_stamp(text: &[u8]) -> Option<(u64, usize)> {
    let blank = blanks(text);
    if let Some((time, len)) = stamp(&text[blank..]) {
        return Some((time, blank + len));
    }
    // Names of hosts and consoles stand before, at the line's start.
    if blank > 0 {
        return None;
    }
    memchr::memchr_iter(b'[', text)
        .find_map(|open| stamp(&text[open..]).map(|(time, len)| (time, open + len)))
}

fn console(raw: &[u8], escaped: bool) -> Line<'_> {
    let text = match escaped {
        true => Cow::Owned(without_escapes(raw).trim_ascii_end().to_vec()),
        false => Cow::Borrowed(raw.trim_ascii_end()),
    };
    let mut line = Line { level: level(&text).map(|(level, _)| level), ..Line::default() };
    let mut at = 0;
    let mut next = find_stamp(&text);
    while let Some((time, end)) = next {
        at = end;
        line.stamped = true;
        line.time_us = Some(time);
        while let Some((caller, len)) = caller(&text[at..]) {
            line.caller = caller;
            at += len;
        }
        // A second stamp counts only directly after the first: a collector's, then the kernel's.
        let after = at + blanks(&text[at..]);
        next = stamp(&text[after..]).map(|(time, len)| (time, after + len));
    }
    if line.stamped {
        at += usize::from(text.get(at) == Some(&b' '));
        at += journal_tag(&text[at..], &mut line);
    } else {
        at = unstamped_prefix(&text, &mut line);
    }
    line.message = match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[at..]),
        Cow::Owned(mut text) => {
            text.drain(..at);
            Cow::Owned(text)
        }
    };
    line
}

/// Length of the `host kernel: ` that journals put after a monotonic time; of what programs say
/// there, the line is `foreign`.
fn journal_tag(text: &[u8], line: &mut Line<'_>) -> usize {
    if text.first().is_none_or(|byte| !byte.is_ascii_alphanumeric()) {
        return 0;
    }
    let Some(end) = text.iter().position(|byte| !HOST[usize::from(*byte)]) else { return 0 };
    let Some(rest) = text[end..].strip_prefix(b" ") else { return 0 };
    // Of a tag, the first colon ends the word after the host's name.
    if rest.iter().find(|byte| matches!(byte, b' ' | b':')) != Some(&b':') {
        return 0;
    }
    if rest.starts_with(b"kernel: ") {
        return end + 9;
    }
    line.foreign = program_tag(rest);
    0
}

/// Which bytes the name of a host may have.
static HOST: [bool; 256] = alphanumeric_or(b"-_.");

/// Whether `word` can be the name of a host.
fn is_host(word: &[u8]) -> bool {
    word.iter().all(|byte| HOST[usize::from(*byte)])
}

/// Whether `text` begins with `program[123]: `, as lines of the system log do.
pub(crate) fn program_tag(text: &[u8]) -> bool {
    let name = text.iter().take_while(|b| !b" []:".contains(b)).count();
    let Some(rest) = text[name..].strip_prefix(b"[") else { return false };
    let (_, digits) = number(rest);
    name > 0 && digits > 0 && rest[digits..].starts_with(b"]: ")
}

/// Length of what stands before the message when the kernel prints no times: a log level, and
/// what a terminal server or log collector puts there.
fn unstamped_prefix(text: &[u8], line: &mut Line<'_>) -> usize {
    const COLLECTOR: &[u8] = b" kernel: ";
    static FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(COLLECTOR));
    // Most lines of a report begin with a blank, and no prefix does.
    if !text.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"<[".contains(byte)) {
        return 0;
    }
    // A date and the host's name stand before.
    let tagged = |at: &usize| {
        let before = text[..*at].split(|b| *b == b' ');
        let host = before.clone().next_back().unwrap_or_default();
        is_host(host)
            && before.clone().any(|word| {
                word.iter().any(u8::is_ascii_digit)
                    && (word.contains(&b':')
                        || word.iter().all(|b| b.is_ascii_digit() || *b == b'.'))
            })
    };
    if let Some(at) = FINDER.find(text).filter(tagged) {
        line.stamped = true;
        return at + COLLECTOR.len();
    }
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let len = date(rest)
            .or_else(|| level(rest).map(|(_, len)| len))
            .or_else(|| stream(rest))
            .or_else(|| decoded(rest))
            .or_else(|| delta(rest));
        match len {
            Some(len) => at += len,
            None => return at,
        }
    }
}

/// The level of a leading `<4>`, and its length.
fn level(text: &[u8]) -> Option<(u32, usize)> {
    let rest = text.strip_prefix(b"<")?;
    let (level, digits) = number(rest);
    let closed = digits > 0 && rest.get(digits) == Some(&b'>');
    Some((u32::try_from(level).ok().filter(|_| closed)?, digits + 2))
}

/// Length of the `kern  :warn  : ` that dmesg decodes a level to.
fn decoded(text: &[u8]) -> Option<usize> {
    let names = [text.get(..6)?, text.get(7..13)?];
    let padded = |name: &[u8]| name.iter().all(|b| b.is_ascii_lowercase() || *b == b' ');
    (names.into_iter().all(padded) && text[6] == b':' && text[13..].starts_with(b": "))
        .then_some(15)
}

/// Length of the time since the line before, `[  +0.000488] ` or `[    5.225104 <    0.000488>] `.
fn delta(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"[")?;
    let len = inner.iter().take_while(|b| b.is_ascii_digit() || b" .+<>".contains(b)).count();
    let relative = memchr::memchr2(b'+', b'<', &inner[..len]).is_some();
    (relative && inner[len..].starts_with(b"] ")).then_some(len + 3)
}

/// Length of the `stdout F ` of container logs.
fn stream(text: &[u8]) -> Option<usize> {
    let tags: [&[u8]; 4] = [b"stdout F ", b"stderr F ", b"stdout P ", b"stderr P "];
    tags.iter().find(|tag| text.starts_with(tag)).map(|tag| tag.len())
}

/// Length of a leading date and time, in brackets or not: `2026-11-21T22:00:00.123Z `,
/// `2026/11/21 22:00:00 `, `[Sat Nov 21 22:00:00 2026] `, `[Nov21 22:00] `.
fn date(text: &[u8]) -> Option<usize> {
    // 9 = any digit, a = any letter, blank = digit or blank or T; the rest stands for itself.
    const FORMS: [&[u8]; 5] = [
        b"9999-99-99 99:99:99",
        b"9999/99/99 99:99:99",
        b"aaa aaa  9 99:99:99 9999",
        b"aaa99 99:99",
        b"99:99:99",
    ];
    let open = usize::from(text.first() == Some(&b'['));
    let rest = &text[open..];
    let fits = |form: &[u8]| {
        rest.len() > form.len()
            && form.iter().zip(rest).all(|(want, got)| match want {
                b'9' => got.is_ascii_digit(),
                b'a' => got.is_ascii_alphabetic(),
                b' ' => matches!(got, b' ' | b'T' | b'0'..=b'9'),
                _ => want == got,
            })
    };
    let form = FORMS.iter().find(|form| fits(form))?;
    let mut at = open + form.len();
    // Fractions and the zone.
    at += text[at..].iter().take_while(|b| b.is_ascii_digit() || b".,:+-Z".contains(b)).count();
    at += open;
    let closed = open == 0 || text.get(at - 1) == Some(&b']');
    (closed && text.get(at) == Some(&b' ')).then_some(at + 1)
}

/// Takes terminal control sequences (`ESC [ … letter`, `ESC x`) out.
fn without_escapes(raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(ESCAPE, rest) {
        text.extend_from_slice(&rest[..at]);
        rest = match rest.get(at + 1) {
            Some(b'[') => {
                let body = &rest[at + 2..];
                let end = body.iter().position(|b| (0x40..=0x7e).contains(b));
                &body[end.map_or(body.len(), |end| end + 1)..]
            }
            Some(_) => &rest[at + 2..],
            None => &[],
        };
    }
    text.extend_from_slice(rest);
    text
}

/// A record of `/dev/kmsg`: `level,sequence,microseconds,flags[,key=value…];text`. What is none is
/// foreign: continuation lines hold the record's device properties.
fn record(raw: &[u8]) -> Line<'_> {
    let text = raw.trim_ascii_end();
    try_record(text).unwrap_or(Line {
        message: Cow::Borrowed(text),
        foreign: true,
        ..Line::default()
    })
}

/// A record without its line end, if it is one.
pub(crate) fn try_record(text: &[u8]) -> Option<Line<'_>> {
    let end = memchr::memchr(b';', text)?;
    let mut fields = std::str::from_utf8(&text[..end]).ok()?.split(',');
    let level: u32 = fields.next()?.parse().ok()?;
    let _sequence: u64 = fields.next()?.parse().ok()?;
    let time_us = fields.next()?.parse().ok()?;
    let _flags = fields.next()?;
    let id = fields.find_map(|field| field.strip_prefix("caller="));
    let id = id.and_then(|id| caller(format!("[{id}]").as_bytes()));
    Some(Line {
        message: Cow::Borrowed(&text[end + 1..]),
        caller: id.map_or(Caller::Unknown, |(id, _)| id),
        level: Some(level),
        time_us: Some(time_us),
        stamped: true,
        foreign: level >> 3 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_consoles() {
        use Caller::{Cpu, Task, Unknown};
        let cases: &[(&str, &str, Caller, bool)] = &[
            ("[    0.000000] Linux version", "Linux version", Unknown, true),
            ("[   12.345678][ T8428] BUG: x\r\n", "BUG: x", Task(8428), true),
            ("[   12.345678] [    C0]  f+0x1/0x2", " f+0x1/0x2", Cpu(0), true),
            ("<4>[12345.678901] x", "x", Unknown, true),
            ("<4>x", "x", Unknown, false),
            ("\x1b[32m[    1.000000] \x1b[0m\x1b[31mBUG: y\x1b[0m", "BUG: y", Unknown, true),
            ("login: [    1.000000] BUG: y", "BUG: y", Unknown, true),
            ("Jan  2 03:04:05 host kernel: [    1.000000] x", "x", Unknown, true),
            ("Jan  2 03:04:05 host kernel: x", "x", Unknown, true),
            ("[    1.000000] host kernel: x", "x", Unknown, true),
            (
                "Kernel panic - not syncing: kernel: x",
                "Kernel panic - not syncing: kernel: x",
                Unknown,
                false,
            ),
            ("[1767225600.000001] [    1.000000] x", "x", Unknown, true),
            ("[    1.000000] see [    2.000000] x", "see [    2.000000] x", Unknown, true),
            ("[    1.000000] [drm] x", "[drm] x", Unknown, true),
            ("[  OK  ] Started x", "[  OK  ] Started x", Unknown, false),
            ("[1.5] x", "[1.5] x", Unknown, false),
            ("2026-11-21T22:00:00.123456789Z stdout F x", "x", Unknown, false),
            ("2026-11-21T22:00:00,123456+00:00 x", "x", Unknown, false),
            ("2018/01/09 14:28:48 BUG: x", "BUG: x", Unknown, false),
            ("[2026-11-21 22:00:00] x", "x", Unknown, false),
            ("[Sat Nov 21 22:00:00 2026] <1>x", "x", Unknown, false),
            ("[Sat Nov  1 22:00:00 2026]  f+0x1/0x2", " f+0x1/0x2", Unknown, false),
            ("22:00:00.123 x", "x", Unknown, false),
            ("\x1bc\x1b[?7l\x1b[2J", "", Unknown, false),
            ("", "", Unknown, false),
        ];
        for (raw, message, caller, stamped) in cases {
            let line = split(Source::Console, raw.as_bytes(), is_escaped(raw.as_bytes()));
            let got = (String::from_utf8_lossy(&line.message), line.caller, line.stamped);
            assert_eq!(got, ((*message).into(), *caller, *stamped), "{raw:?}");
        }
        let line = split(Source::Console, b"[   12.345678] x", false);
        assert_eq!(line.time_us, Some(12_345_678));
        assert!(split(Source::Console, b"[   12.345678] host systemd[1]: x", false).foreign);
    }

    #[test]
    fn records_of_kmsg() {
        use Caller::{Task, Unknown};
        let cases: &[(&str, &str, Caller, bool)] = &[
            ("6,339,5140900,-;NET: Registered\n", "NET: Registered", Unknown, false),
            ("4,1,7,c,caller=T12;x;y", "x;y", Task(12), false),
            ("12,340,5140901,-;BUG: not the kernel", "BUG: not the kernel", Unknown, true),
            (" SUBSYSTEM=acpi", " SUBSYSTEM=acpi", Unknown, true),
            ("no record", "no record", Unknown, true),
        ];
        for (raw, message, caller, foreign) in cases {
            let line = split(Source::Kmsg, raw.as_bytes(), false);
            let got = (String::from_utf8_lossy(&line.message), line.caller, line.foreign);
            assert_eq!(got, ((*message).into(), *caller, *foreign), "{raw:?}");
        }
        assert_eq!(split(Source::Kmsg, b"6,339,5140900,-;x", false).time_us, Some(5_140_900));
    }
}
