//! The streaming parser: bytes to lines, lines to reports, reports to findings.

use kgate_model::finding::{Finding, FindingKind, Severity};

use crate::line;
use crate::report::{Next, Report};
use crate::table::TABLE;

/// A line is looked at in pieces of this many bytes; no kernel line is as long.
const MAX_LINE: usize = 8 << 10;

/// So much is taken into the buffer at once.
const CHUNK: usize = 64 << 10;

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
/// findings.
#[derive(Debug)]
pub struct Parser {
    source: Source,
    /// Bytes not looked at yet: less than a line between calls.
    buffer: Vec<u8>,
    /// Offset in the log of the buffer's first byte.
    offset: u64,
    /// Whether the last piece looked at had no line end.
    inside_line: bool,
    /// Whether a line with the kernel's time stamp was seen.
    stamped: bool,
    open: Option<Report>,
}

impl Parser {
    /// A parser at the start of a log.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            offset: 0,
            inside_line: false,
            stamped: false,
            open: None,
        }
    }

    /// Takes the next bytes of the log and returns the findings that they complete.
    ///
    /// A finding is complete when what may follow from it (the panic after an oops) can no longer
    /// come; [`pending`](Self::pending) tells of it before that.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        for part in bytes.chunks(CHUNK) {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.extend_from_slice(part);
            let used = self.scan(&buffer, &mut found);
            buffer.drain(..used);
            self.offset += used as u64;
            self.buffer = buffer;
        }
        found
    }

    /// Ends an unfinished last line and report: at the end of the log, or when a live console has
    /// been quiet for long enough. More bytes may be pushed afterwards.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut found = Vec::new();
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            self.piece(&buffer, self.offset, &mut found);
            self.offset += buffer.len() as u64;
        }
        self.inside_line = false;
        found.extend(self.open.take().map(Report::into_finding));
        found
    }

    /// The report that has begun and not ended; for those who watch a live console and cannot
    /// wait for its end.
    pub fn pending(&self) -> Option<Pending> {
        self.open.as_ref().map(Report::pending)
    }

    /// Looks at the complete lines of `buffer` and returns how many bytes they are.
    fn scan(&mut self, buffer: &[u8], found: &mut Vec<Finding>) -> usize {
        let mut at = 0;
        loop {
            if self.open.is_none() && self.stamped && !self.inside_line {
                at += skip_healthy(&buffer[at..]);
            }
            let rest = &buffer[at..];
            let len = match memchr::memchr(b'\n', &rest[..rest.len().min(MAX_LINE)]) {
                Some(end) => end + 1,
                None if rest.len() >= MAX_LINE => MAX_LINE,
                None => return at,
            };
            self.piece(&rest[..len], self.offset + at as u64, found);
            at += len;
        }
    }

    /// Looks at one line, or at one piece of a line that is too long.
    fn piece(&mut self, raw: &[u8], start: u64, found: &mut Vec<Finding>) {
        let continues = std::mem::replace(&mut self.inside_line, !raw.ends_with(b"\n"));
        if continues {
            return;
        }
        let line = line::split(self.source, raw);
        self.stamped |= line.stamped;
        if line.foreign || (self.stamped && !line.stamped) {
            return;
        }
        let end = start + raw.len() as u64;
        let header = TABLE.header(&line.message);
        let header = header.filter(|header| line.stamped || !header.compiled.rule.vague);
        let next = match &mut self.open {
            Some(report) => report.line(&line, header.as_ref(), end),
            None => Next::Other,
        };
        if next != Next::Continues {
            found.extend(self.open.take().map(Report::into_finding));
        }
        if next == Next::Other {
            self.open = header.map(|header| Report::new(&header, &line, start, end));
        }
    }
}

/// Length of the complete lines at the start of `buffer` that no rule can match.
fn skip_healthy(buffer: &[u8]) -> usize {
    let Some(last) = memchr::memrchr(b'\n', buffer) else { return 0 };
    match TABLE.literals.find(&buffer[..=last]) {
        Some(hit) => memchr::memrchr(b'\n', &buffer[..hit.start()]).map_or(0, |end| end + 1),
        None => last + 1,
    }
}

/// The findings of a whole log.
pub fn parse(source: Source, log: &[u8]) -> Vec<Finding> {
    let mut parser = Parser::new(source);
    let mut findings = parser.push(log);
    findings.extend(parser.finish());
    findings
}
