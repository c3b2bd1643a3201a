//! The streaming parser: bytes to lines, lines to reports, reports to findings.

use kgate_model::finding::{Finding, FindingKind, Severity};

use crate::line::{self, Line};
use crate::report::Report;
use crate::rules::Join;
use crate::table::{Header, TABLE};

/// A line is looked at in pieces of this many bytes; no kernel line is as long.
const MAX_LINE: usize = 8 << 10;

/// Where the bytes come from, and so how kernel lines are told from everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A serial console, or text saved from one: firmware, boot loader, kernel and user space
    /// write to it. Once a line with the kernel's time stamp was seen, only such lines count.
    Console,
    /// Records of `/dev/kmsg` as read: `level,sequence,microseconds,flags;text`. What user space
    /// wrote there does not count.
    Kmsg,
}

/// A report whose end has not been seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What sort of failure.
    pub kind: FindingKind,
    /// How bad, as far as the text goes.
    pub severity: Severity,
    /// Offset in the log of the report's first byte.
    pub start: u64,
    /// Whether the kernel has panicked over it: nothing but the rest of the report will follow.
    pub panicked: bool,
}

/// Turns the bytes of one kernel log into findings while they arrive.
///
/// Memory is bounded whatever comes in, and any division of a log into chunks gives the same
/// findings. They come in the order in which their reports begin.
#[derive(Debug)]
pub struct Parser {
    source: Source,
    /// Bytes not looked at yet: less than a line between calls.
    buffer: Vec<u8>,
    /// Offset in the log of the buffer's first byte.
    offset: u64,
    /// Whether the last piece looked at had no line end.
    inside_line: bool,
    machine: Machine,
    /// Reports in the order of their beginnings.
    open: Vec<Report>,
    /// The finding before the report that begins at its end.
    held: Option<Finding>,
}

/// One line, or one piece of a line that is too long.
struct Piece<'a> {
    raw: &'a [u8],
    /// Offset in the log of its first byte.
    start: u64,
    /// Whether it may hold what headers begin with.
    hit: bool,
    /// Whether it has terminal control sequences.
    escaped: bool,
}

/// What the log has told of the machine.
#[derive(Debug, Default)]
struct Machine {
    /// A line with the kernel's time stamp was seen.
    stamped: bool,
    /// Anything was seen.
    spoke: bool,
    /// Firmware began again although something was running.
    reset: bool,
    /// The kernel said that it reboots, and has not begun anew.
    rebooting: bool,
}

/// So many tasks and CPUs can be in the middle of a report.
const MAX_OPEN: usize = 8;

impl Parser {
    /// A parser at the start of a log.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            offset: 0,
            inside_line: false,
            machine: Machine::default(),
            open: Vec::new(),
            held: None,
        }
    }

    /// Takes the next bytes of the log and returns the findings that they complete.
    ///
    /// A finding is complete when what may follow from it (the panic after an oops) can no longer
    /// come; [`pending`](Self::pending) tells of it before that.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut bytes = bytes;
        // Lines that began in an earlier chunk are completed in the buffer, all others are looked
        // at where they are.
        while !self.buffer.is_empty() && !bytes.is_empty() {
            let room = MAX_LINE.saturating_sub(self.buffer.len());
            let part = bytes.len().min(room.max(1));
            let part = memchr::memchr(b'\n', &bytes[..part]).map_or(part, |end| end + 1);
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            let used = self.scan(&buffer, &mut found);
            buffer.drain(..used);
            self.buffer = buffer;
        }
        let used = self.scan(bytes, &mut found);
        self.buffer.extend_from_slice(&bytes[used..]);
        found
    }

    /// Ends an unfinished last line and report: at the end of the log, or when a live console has
    /// been quiet for long enough. More bytes may be pushed afterwards.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut found = Vec::new();
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            let (start, escaped) = (self.offset, line::is_escaped(&buffer));
            self.piece(&Piece { raw: &buffer, start, hit: true, escaped }, &mut found);
            self.offset += buffer.len() as u64;
        }
        self.inside_line = false;
        self.open.iter_mut().for_each(Report::close);
        self.flush(&mut found);
        found.extend(self.held.take());
        found
    }

    /// The worst report that has begun and not ended; for those who watch a live console and
    /// cannot wait for its end.
    pub fn pending(&self) -> Option<Pending> {
        let open = self.open.iter().filter(|report| !report.is_done());
        open.map(Report::pending).rev().max_by_key(|pending| pending.severity)
    }

    /// Offset in the log before which no further finding begins.
    pub fn settled(&self) -> u64 {
        let open = self.open.iter().map(Report::start);
        open.chain(self.held.as_ref().map(|held| held.start)).min().unwrap_or(self.offset)
    }

    /// Looks at the complete lines of `buffer` and returns how many bytes they are.
    fn scan(&mut self, buffer: &[u8], found: &mut Vec<Finding>) -> usize {
        let mut at = 0;
        // Where the next of the texts is that headers begin with, once searched for.
        let mut candidate = 0;
        let mut searched = false;
        let complete = memchr::memrchr(b'\n', buffer).map_or(0, |end| end + 1);
        while at < buffer.len() {
            if at < complete && (!searched || candidate < at) {
                let next = TABLE.candidate(&buffer[at..complete]);
                candidate = next.map_or(complete, |next| at + next);
                searched = true;
            }
            if self.open.is_empty() && self.machine.is_settled() && !self.inside_line {
                // Nothing before the candidate's line matters; but for how long lines are.
                let healthy = &buffer[at..candidate.clamp(at, complete.max(at))];
                at += memchr::memrchr(b'\n', healthy).map_or(0, |end| end + 1);
                if at >= buffer.len() {
                    break;
                }
            }
            let rest = &buffer[at..];
            let (len, escaped) = match line::end(&rest[..rest.len().min(MAX_LINE)]) {
                Some(end) => end,
                None if rest.len() >= MAX_LINE => (MAX_LINE, line::is_escaped(&rest[..MAX_LINE])),
                None => break,
            };
            let start = self.offset + at as u64;
            let hit = at >= complete || candidate < at + len;
            self.piece(&Piece { raw: &rest[..len], start, hit, escaped }, found);
            at += len;
        }
        self.offset += at as u64;
        at
    }

    /// Looks at one line, or at one piece of a line that is too long.
    fn piece(&mut self, piece: &Piece<'_>, found: &mut Vec<Finding>) {
        let &Piece { raw, start, hit, escaped } = piece;
        let continues = std::mem::replace(&mut self.inside_line, !raw.ends_with(b"\n"));
        if continues {
            return;
        }
        let line = line::split(self.source, raw, escaped);
        if line.foreign {
            return;
        }
        let reset = self.machine.hear(&line, hit);
        if self.machine.stamped && !line.stamped && !reset {
            // User space, or the rest of a report in a log that had no times so far.
            self.notice(&line, hit);
            self.open.iter_mut().for_each(|report| report.pass(start));
            return self.flush(found);
        }
        let end = start + raw.len() as u64;
        let header = if hit { TABLE.header(&line) } else { None };
        let header = header
            .filter(|header| reset || header.compiled.rule.kind != FindingKind::UnexpectedReboot);
        if let Some(header) = header {
            self.header(header, &line, start, end);
        } else {
            self.notice(&line, hit);
            for report in &mut self.open {
                match report.owns(&line) {
                    true => report.take(&line, end),
                    false => report.pass(end),
                }
            }
        }
        self.flush(found);
    }

    /// Shows the reports a line that begins none; those that were none because of it go.
    fn notice(&mut self, line: &Line<'_>, hit: bool) {
        if hit {
            self.open.retain_mut(|report| !report.notice(&line.message));
        }
    }

    /// Takes a line that begins a report.
    fn header(&mut self, header: Header, line: &Line<'_>, start: u64, end: u64) {
        let joins = |report: &Report| report.joins(&header, line);
        let own = self.open.iter().rposition(|report| report.owns(line) && joins(report));
        if let Some(joined) = own.or_else(|| self.open.iter().rposition(joins)) {
            return self.open[joined].take_header(&header, line, end);
        }
        if header.compiled.rule.join != Join::Aside {
            let mut own = self.open.iter_mut().filter(|report| report.owns(line));
            if let Some(vague) = own.find(|report| report.is_vague())
                && header.compiled.rule.join == Join::Never
            {
                return vague.improve(header, line, end);
            }
            for report in self.open.iter_mut().filter(|report| report.owns(line)) {
                report.give_way(&header);
            }
        }
        if self.open.len() >= MAX_OPEN {
            self.open.iter_mut().for_each(Report::close);
        }
        self.open.push(Report::new(header, line, start, end));
    }

    /// Gives out the findings that are complete, in order.
    fn flush(&mut self, found: &mut Vec<Finding>) {
        let done = self.open.iter().take_while(|report| report.is_done()).count();
        for _ in 0..done {
            if let Some(finding) = self.open.remove(0).into_finding() {
                self.give(finding, found);
            }
        }
    }

    /// Gives out a finding, or holds it while the report that begins at its end is read: the same
    /// failure told again at once is one finding.
    fn give(&mut self, finding: Finding, found: &mut Vec<Finding>) {
        match &mut self.held {
            Some(held) if held.title == finding.title && held.end == finding.start => {
                held.end = finding.end;
                held.panicked |= finding.panicked;
                held.severity = held.severity.max(finding.severity);
            }
            held => found.extend(held.replace(finding)),
        }
        let goes_on = |held: &Finding| self.open.iter().any(|next| next.start() == held.end);
        if !self.held.as_ref().is_some_and(goes_on) {
            found.extend(self.held.take());
        }
    }
}

impl Machine {
    /// Whether lines without anything to find leave it as it is.
    fn is_settled(&self) -> bool {
        self.stamped && !self.rebooting
    }

    /// Hears a line. Returns whether it shows that a running kernel was reset.
    fn hear(&mut self, line: &Line<'_>, hit: bool) -> bool {
        let message = line.message.as_ref();
        let mut reset = false;
        if hit && !line.stamped {
            if message.starts_with(b"SeaBIOS (version") {
                self.reset |= self.spoke && !self.rebooting;
            }
            let boots = message.starts_with(b"Booting the kernel.");
            reset = boots && (self.reset || !self.spoke || self.stamped && !self.rebooting);
        } else if hit && message.starts_with(b"reboot: ") {
            self.rebooting = true;
        } else if self.rebooting && message.starts_with(b"Linux version ") {
            self.rebooting = false;
        }
        self.stamped |= line.stamped;
        self.spoke |= !message.is_empty();
        reset
    }
}

/// The findings of a whole log.
pub fn parse(source: Source, log: &[u8]) -> Vec<Finding> {
    let mut parser = Parser::new(source);
    let mut findings = parser.push(log);
    findings.extend(parser.finish());
    findings
}
