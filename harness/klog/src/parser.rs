//! The streaming parser: bytes to lines, lines to reports, reports to findings.

use kgate_model::finding::{Finding, FindingKind, Severity};

/// Where the bytes come from, and so how kernel lines are told from everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A serial console, or text saved from one: firmware, boot loader, kernel and user space
    /// write to it.
    Console,
    /// Records of `/dev/kmsg` as read: `level,seq,usec,flags;text`, continuation lines indented.
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
    line: Vec<u8>,
    offset: u64,
    open: Option<Finding>,
}

impl Parser {
    /// A parser at the start of a log.
    pub fn new(source: Source) -> Self {
        Self { source, line: Vec::new(), offset: 0, open: None }
    }

    /// Takes the next bytes of the log and returns the findings that they complete.
    ///
    /// A finding is complete when what may follow from it (the panic after an oops) can no longer
    /// come; [`pending`](Self::pending) tells of it before that.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                found.extend(self.end_line());
            }
        }
        found
    }

    /// Ends an unfinished last line and report: at the end of the log, or when a live console has
    /// been quiet for long enough. More bytes may be pushed afterwards.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut found: Vec<_> = self.end_line().into_iter().collect();
        found.extend(self.open.take());
        found
    }

    /// The report that has begun and not ended; for those who watch a live console and cannot
    /// wait for its end.
    pub fn pending(&self) -> Option<Pending> {
        let Finding { kind, severity, start, panicked, .. } = *self.open.as_ref()?;
        Some(Pending { kind, severity, start, panicked })
    }

    fn end_line(&mut self) -> Option<Finding> {
        let start = self.offset;
        self.offset += self.line.len() as u64;
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let (_, message) = line.split_once("Kernel panic - not syncing: ")?;
        debug_assert!(matches!(self.source, Source::Console | Source::Kmsg));
        let title = format!("kernel panic: {}", message.trim_end());
        self.open.replace(Finding {
            kind: FindingKind::Panic,
            severity: Severity::Fatal,
            signature: title.clone(),
            title,
            function: None,
            start,
            end: self.offset,
            panicked: true,
            excerpt: line,
        })
    }
}

/// The findings of a whole log.
pub fn parse(source: Source, log: &[u8]) -> Vec<Finding> {
    let mut parser = Parser::new(source);
    let mut findings = parser.push(log);
    findings.extend(parser.finish());
    findings
}
