//! One report while it is being read: what belongs to it, when it ends, what it comes to.

use kgate_model::finding::{Finding, FindingKind, Severity};

use crate::blame::{self, Blame};
use crate::content;
use crate::line::{Caller, Line};
use crate::parser::Pending;
use crate::rules::Join;
use crate::signature;
use crate::table::{Header, TABLE};
use crate::title::Titles;
use crate::words::INTRUDERS;

/// A report ends when so many lines of its own task or CPU did not look like part of one.
const LINGER: usize = 32;
/// A report ends after so many lines of others.
const PATIENCE: usize = 512;

/// Bounds of what is kept of a report, and of its length in the log.
const MAX_EXCERPT: usize = 64 << 10;
const MAX_LENGTH: u64 = 1 << 20;

/// So long is the text of most reports.
const USUAL_TEXT: usize = 6 << 10;

/// What stands before the header of a report, and so after another.
const NEXT: &[u8] = b"------------[ cut here";

/// A panic after a report of so many lines is the consequence: its stack repeats the report's.
const MIN_LINES: usize = 22;
const MIN_LINES_KMSAN: usize = 16;

/// A report that began and may go on.
#[derive(Debug)]
pub(crate) struct Report {
    header: Header,
    caller: Caller,
    stamped: bool,
    severity: Severity,
    panicked: bool,
    start: u64,
    end: u64,
    time_us: Option<u64>,
    text: Vec<u8>,
    /// Length of the text at `end`.
    kept: usize,
    /// Lines of the text, without unsure frames; counted up to `MIN_LINES`.
    lines: usize,
    /// Lines of its own since `end`.
    idle: usize,
    /// Lines of others since `end`.
    others: usize,
    /// Length of the text where the stack of a panic began that only repeats.
    repeats: Option<usize>,
    /// Length of the text where something else's stack began.
    mixed: Option<usize>,
    /// Whether it goes on with what other CPUs say.
    all_cpus: bool,
    /// Whether the console went away.
    hung_up: bool,
    done: bool,
}

impl Report {
    /// A report that begins with `line`.
    pub(crate) fn new(header: Header, line: &Line<'_>, start: u64, end: u64) -> Self {
        let severity = header.compiled.rule.severity;
        let mut report = Self {
            header,
            caller: line.caller,
            stamped: line.stamped,
            severity,
            panicked: severity == Severity::Fatal,
            start,
            end,
            time_us: line.time_us,
            text: Vec::with_capacity(USUAL_TEXT),
            kept: 0,
            lines: 0,
            idle: 0,
            others: 0,
            repeats: None,
            mixed: None,
            all_cpus: false,
            hung_up: false,
            done: false,
        };
        report.panicked &= report.header.compiled.rule.kind != FindingKind::UnexpectedReboot;
        report.keep(&line.message, end);
        report
    }

    fn join(&self) -> Join {
        self.header.compiled.rule.join
    }

    /// Whether nothing more is taken.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Offset of its first byte.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Takes nothing more.
    pub(crate) fn close(&mut self) {
        self.done = true;
    }

    /// Whether `line` comes from where the report comes from.
    pub(crate) fn owns(&self, line: &Line<'_>) -> bool {
        let same =
            self.caller == line.caller || self.all_cpus && matches!(line.caller, Caller::Cpu(_));
        same && self.stamped == line.stamped && self.join() != Join::Aside && !self.done
    }

    /// Whether `header` continues this report.
    pub(crate) fn joins(&self, header: &Header, line: &Line<'_>) -> bool {
        if self.done {
            return false;
        }
        let same = std::ptr::eq(header.compiled, self.header.compiled);
        match header.compiled.rule.join {
            Join::Never => {
                let repeats = header.compiled.rule.steps.is_empty() && header.compiled.rule.extra;
                same && repeats && self.owns(line)
            }
            // One finding for a run of them.
            Join::Aside => same && self.others < LINGER && header.function == self.header.function,
            Join::Severe => self.severity >= Severity::Severe && self.join() != Join::Aside,
            Join::Any => self.join() != Join::Aside,
        }
    }

    /// Takes the header of what follows from this report.
    pub(crate) fn take_header(&mut self, header: &Header, line: &Line<'_>, end: u64) {
        self.panicked |= header.compiled.rule.severity == Severity::Fatal;
        let min = match self.header.compiled.rule.kind {
            FindingKind::Kmsan => MIN_LINES_KMSAN,
            _ => MIN_LINES,
        };
        let own = self.header.compiled.rule.kind != FindingKind::StackOverflow;
        if header.compiled.rule.severity == Severity::Fatal && self.lines >= min && own {
            self.repeats.get_or_insert(self.text.len());
        }
        self.keep(&line.message, end);
    }

    /// Whether its header says little, and comes from a known task or CPU, so that a better one
    /// from there belongs to the same failure.
    pub(crate) fn is_vague(&self) -> bool {
        let rule = self.header.compiled.rule;
        rule.title.is_empty() && rule.steps.is_empty() && self.caller != Caller::Unknown
    }

    /// Puts a header that says more in the place of its own.
    pub(crate) fn improve(&mut self, header: Header, line: &Line<'_>, end: u64) {
        self.severity = header.compiled.rule.severity;
        self.header = header;
        self.text.clear();
        self.lines = 0;
        self.keep(&line.message, end);
    }

    /// Makes room for another report from where this one comes from. Without a stack so far, it
    /// goes on beside it: that one failed while this one was being printed.
    pub(crate) fn give_way(&mut self, other: &Header) {
        let own = self.caller != Caller::Unknown && TABLE.next_heading(&self.text).is_none();
        let aside = other.compiled.rule.extra && !self.header.compiled.rule.extra;
        self.done |= !own && !aside;
    }

    /// Takes the next line of its own.
    pub(crate) fn take(&mut self, line: &Line<'_>, end: u64) {
        let message = line.message.as_ref();
        if end - self.start > MAX_LENGTH || self.idle >= LINGER {
            self.done = true;
        } else if TABLE.is_report_text(message) && !message.starts_with(NEXT) {
            self.all_cpus |= message.starts_with(b"Sending NMI from CPU");
            self.keep(message, end);
            self.done = message.starts_with(b"---[ end Kernel panic");
        } else {
            self.idle += 1;
            self.append(message);
        }
    }

    /// Lets a line of others pass.
    pub(crate) fn pass(&mut self, end: u64) {
        self.others += 1;
        let patience = if self.join() == Join::Aside { LINGER } else { PATIENCE };
        self.done |= self.others >= patience || end - self.start > MAX_LENGTH;
    }

    /// Looks at a line that holds one of the texts searched for but begins no report. Returns
    /// whether the report was none: a console that repeats what it missed.
    pub(crate) fn notice(&mut self, message: &[u8]) -> bool {
        let contains = |text: &str| memchr::memmem::find(message, text.as_bytes()).is_some();
        self.hung_up |= contains("VM disconnected");
        if self.caller == Caller::Unknown && INTRUDERS.iter().any(|text| contains(text)) {
            self.mixed.get_or_insert(self.text.len());
        }
        self.lines == 1 && contains("** replaying previous printk message **")
    }

    fn append(&mut self, message: &[u8]) {
        self.lines += usize::from(self.lines < MIN_LINES && !blame::is_unsure(message));
        if self.text.len() + message.len() < MAX_EXCERPT {
            self.text.extend_from_slice(message);
            self.text.push(b'\n');
        }
    }

    fn keep(&mut self, message: &[u8], end: u64) {
        self.append(message);
        self.kept = self.text.len();
        self.end = end;
        self.idle = 0;
        self.others = 0;
    }

    pub(crate) fn pending(&self) -> Pending {
        Pending {
            kind: self.header.compiled.rule.kind,
            severity: self.final_severity(),
            start: self.start,
            panicked: self.panicked,
        }
    }

    fn final_severity(&self) -> Severity {
        if self.panicked { Severity::Fatal } else { self.severity }
    }

    /// What the report comes to; nothing when it turns out to be none.
    pub(crate) fn into_finding(mut self) -> Option<Finding> {
        let excerpt = self.excerpt();
        if !excerpt.contains(self.header.compiled.rule.confirm) {
            return None;
        }
        let own = self.repeats.and_then(|end| excerpt.get(..end)).unwrap_or(&excerpt);
        let blame = self.charge(self.mixed.and_then(|end| own.get(..end)).unwrap_or(own));
        let rule = self.header.compiled.rule;
        let titles = Titles::of(&self.header, &blame);
        let corrupted = self.damage(own, &blame, &titles);
        let mut finding = Finding {
            alt_titles: titles.others,
            function: blame.charged.map(|charged| charged.name),
            start: self.start,
            end: self.end,
            time_us: self.time_us,
            panicked: self.panicked,
            corrupted: corrupted.map(str::to_owned),
            excerpt,
            ..Finding::new(rule.kind, self.final_severity(), titles.title)
        };
        content::fill(&mut finding);
        finding.signature = signature::of(&finding);
        Some(finding)
    }

    /// The text in UTF-8; `repeats` and `mixed` are places in it from then on.
    fn excerpt(&mut self) -> String {
        self.text.truncate(self.kept);
        String::from_utf8(std::mem::take(&mut self.text)).unwrap_or_else(|error| {
            let text = error.as_bytes();
            for place in [&mut self.repeats, &mut self.mixed].into_iter().flatten() {
                *place = String::from_utf8_lossy(&text[..text.len().min(*place)]).len();
            }
            String::from_utf8_lossy(text).into_owned()
        })
    }

    /// Follows the rule of the header through the text; where lines that it needs are missing,
    /// the next rule that fits, which is the report's from then on.
    fn charge(&mut self, text: &str) -> Blame {
        let mut blame = blame::blame(&self.header, text);
        let mut next = TABLE.next_header(&self.header).filter(|_| !blame.met);
        while let Some(header) = next.take() {
            blame = blame::blame(&header, text);
            if blame.met {
                self.header = header;
            } else {
                next = TABLE.next_header(&header);
            }
        }
        blame
    }

    /// Why the text can't be trusted.
    fn damage(&self, own: &str, blame: &Blame, titles: &Titles) -> Option<&'static str> {
        let rule = self.header.compiled.rule;
        if !blame.met {
            Some("lines that such a report has are missing")
        } else if blame.lost && !rule.extra && titles.template.contains("{f}") {
            Some("no function of a stack can be charged")
        } else if !rule.damaged.is_empty() {
            Some(rule.damaged)
        } else if has_stamp(&titles.title) {
            Some("two lines ran into each other")
        } else if self.hung_up {
            Some("the console was disconnected")
        } else if titles.template.is_empty() || rule.stackless {
            None
        } else {
            blame::damage(own)
        }
    }
}

/// Whether a time stamp got into a title: `[ NUM.NUM]` by then.
fn has_stamp(title: &str) -> bool {
    title.split('[').skip(1).any(|rest| {
        let inner = rest.split(']').next().unwrap_or_default().trim_start();
        rest.contains(']')
            && inner.split_once('.').is_some_and(|(seconds, micros)| {
                let number = |text: &str| {
                    text == "NUM" || !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
                };
                number(seconds) && number(micros)
            })
    })
}
