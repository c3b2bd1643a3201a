//! One line of a log: what is prefix, who printed it, what the kernel said.

use std::borrow::Cow;

use crate::Source;

/// A line with its prefixes taken off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// What was printed, without line end.
    pub(crate) message: Cow<'a, str>,
    /// `T123` or `C0`: the printing task or CPU, where the kernel is configured to tell.
    pub(crate) caller: Option<String>,
    /// Whether it carries the kernel's time stamp.
    pub(crate) stamped: bool,
    /// Whether it is known not to come from the kernel.
    pub(crate) foreign: bool,
}

/// Takes the prefixes off one line.
pub(crate) fn split(source: Source, raw: &[u8]) -> Line<'_> {
    match source {
        Source::Console => console(raw),
        Source::Kmsg => record(raw),
    }
}

/// Offset just after the first time stamp (`[   12.345678]`) of `bytes`.
fn stamp_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'[', bytes).find_map(|open| {
        let rest = &bytes[open + 1..];
        let blanks = rest.iter().take_while(|b| **b == b' ').count();
        let seconds = rest[blanks..].iter().take_while(|b| b.is_ascii_digit()).count();
        let tail = rest.get(blanks + seconds..blanks + seconds + 8)?;
        let micros = tail[1..7].iter().all(u8::is_ascii_digit);
        (seconds > 0 && tail[0] == b'.' && micros && tail[7] == b']')
            .then_some(open + 1 + blanks + seconds + 8)
    })
}

/// The `T123` or `C0` of a leading `[ T123]`, and its length.
fn caller(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix('[')?;
    let (name, _) = inner.split_once(']')?;
    let id = name.trim_start();
    let digits = id.strip_prefix(['T', 'C'])?;
    let valid = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    valid.then_some((id, name.len() + 2))
}

fn console(raw: &[u8]) -> Line<'_> {
    let text = match memchr::memchr(0x1b, raw) {
        Some(_) => {
            let plain = without_escapes(raw);
            Cow::Owned(String::from_utf8_lossy(plain.trim_ascii_end()).into_owned())
        }
        None => String::from_utf8_lossy(raw.trim_ascii_end()),
    };
    let mut at = 0;
    let mut id = None;
    while let Some(end) = stamp_end(&text.as_bytes()[at..]) {
        at += end;
        while let Some((name, len)) = caller(text[at..].trim_start_matches(' ')) {
            id = Some(name.to_owned());
            at += text[at..].len() - text[at..].trim_start_matches(' ').len() + len;
        }
        // A second stamp counts only directly after the first: a collector's, then the kernel's.
        if !text[at..].trim_start_matches(' ').starts_with('[') {
            break;
        }
    }
    let stamped = at > 0;
    if stamped {
        at += usize::from(text[at..].starts_with(' '));
    } else {
        at = unstamped_prefix(&text);
    }
    let message = match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[at..]),
        Cow::Owned(text) => Cow::Owned(text[at..].to_owned()),
    };
    Line { message, caller: id, stamped, foreign: false }
}

/// Length of what stands before the message when the kernel prints no times: a log level, or what
/// a log collector puts there.
fn unstamped_prefix(text: &str) -> usize {
    const COLLECTOR: &str = " kernel: ";
    if let Some(at) = text.find(COLLECTOR) {
        return at + COLLECTOR.len();
    }
    let level = text.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match level {
        Some((digits, _)) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.len() + 2,
        _ => 0,
    }
}

/// Takes terminal control sequences (`ESC [ … letter`, `ESC x`) out.
fn without_escapes(raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(0x1b, rest) {
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

/// A record of `/dev/kmsg`: `level,sequence,microseconds,flags[,key=value…];text`.
fn record(raw: &[u8]) -> Line<'_> {
    let text = String::from_utf8_lossy(raw.trim_ascii_end());
    let fields = text.split_once(';').and_then(|(head, _)| {
        let mut fields = head.split(',');
        let level: u32 = fields.next()?.parse().ok()?;
        let id = fields.find_map(|field| field.strip_prefix("caller=")).map(str::to_owned);
        Some((head.len() + 1, level >> 3, id))
    });
    // Continuation lines hold the record's device properties, not text.
    let Some((at, facility, caller)) = fields.filter(|_| !text.starts_with(' ')) else {
        return Line { message: text, caller: None, stamped: false, foreign: true };
    };
    let message = match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[at..]),
        Cow::Owned(text) => Cow::Owned(text[at..].to_owned()),
    };
    Line { message, caller, stamped: true, foreign: facility != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_consoles() {
        let cases: &[(&str, &str, Option<&str>, bool)] = &[
            ("[    0.000000] Linux version", "Linux version", None, true),
            ("[   12.345678][ T8428] BUG: x\r\n", "BUG: x", Some("T8428"), true),
            ("[   12.345678] [    C0]  f+0x1/0x2", " f+0x1/0x2", Some("C0"), true),
            ("<4>[12345.678901] x", "x", None, true),
            ("<4>x", "x", None, false),
            ("\x1b[32m[    1.000000] \x1b[0m\x1b[31mBUG: y\x1b[0m", "BUG: y", None, true),
            ("login: [    1.000000] BUG: y", "BUG: y", None, true),
            ("Jan  2 03:04:05 host kernel: [    1.000000] x", "x", None, true),
            ("Jan  2 03:04:05 host kernel: x", "x", None, false),
            ("[1767225600.000001] [    1.000000] x", "x", None, true),
            ("[    1.000000] see [    2.000000] x", "see [    2.000000] x", None, true),
            ("[    1.000000] [drm] x", "[drm] x", None, true),
            ("[  OK  ] Started x", "[  OK  ] Started x", None, false),
            ("[1.5] x", "[1.5] x", None, false),
            ("\x1bc\x1b[?7l\x1b[2J", "", None, false),
            ("", "", None, false),
        ];
        for (raw, message, caller, stamped) in cases {
            let line = split(Source::Console, raw.as_bytes());
            let got = (line.message.as_ref(), line.caller.as_deref(), line.stamped);
            assert_eq!(got, (*message, *caller, *stamped), "{raw:?}");
        }
    }

    #[test]
    fn records_of_kmsg() {
        let cases: &[(&str, &str, Option<&str>, bool)] = &[
            ("6,339,5140900,-;NET: Registered\n", "NET: Registered", None, false),
            ("4,1,7,c,caller=T12;x;y", "x;y", Some("T12"), false),
            ("12,340,5140901,-;BUG: not the kernel", "BUG: not the kernel", None, true),
            (" SUBSYSTEM=acpi", " SUBSYSTEM=acpi", None, true),
            ("no record", "no record", None, true),
        ];
        for (raw, message, caller, foreign) in cases {
            let line = split(Source::Kmsg, raw.as_bytes());
            let got = (line.message.as_ref(), line.caller.as_deref(), line.foreign);
            assert_eq!(got, (*message, *caller, *foreign), "{raw:?}");
        }
    }
}
