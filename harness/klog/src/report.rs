//! One report while it is being read: what belongs to it, when it ends, what it comes to.

use kgate_model::finding::{Finding, FindingKind, Severity};

use crate::line::Line;
use crate::parser::Pending;
use crate::rules::{Blame, Join};
use crate::table::{Compiled, Header, Place, TABLE};

/// A report ends when so many kernel lines did not look like part of one.
const LINGER: usize = 32;

/// Bounds of what is kept of a report, and of its length in the log.
const MAX_EXCERPT: usize = 64 << 10;
const MAX_FRAMES: usize = 128;
const MAX_LENGTH: u64 = 1 << 20;

/// What a line means for the open report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is part of it, or does not end it.
    Continues,
    /// It is the last line of it.
    Ends,
    /// The report has ended before this line.
    Other,
}

/// A report that began and may go on.
#[derive(Debug)]
pub(crate) struct Report {
    compiled: &'static Compiled,
    groups: [String; 2],
    detail: Option<String>,
    caller: Option<String>,
    /// Functions, innermost first.
    frames: Vec<String>,
    severity: Severity,
    panicked: bool,
    start: u64,
    end: u64,
    excerpt: String,
    /// Length of the excerpt at `end`.
    kept: usize,
    /// Kernel lines since `end`.
    idle: usize,
    /// Whether an instruction pointer was seen.
    pointed: bool,
    /// Whether the trace's end mark was seen.
    traced: bool,
}

impl Report {
    /// A report that begins with `line`.
    pub(crate) fn new(header: &Header, line: &Line<'_>, start: u64, end: u64) -> Self {
        let rule = header.compiled.rule;
        let mut report = Self {
            compiled: header.compiled,
            groups: header.groups.clone(),
            detail: None,
            caller: line.caller.clone(),
            frames: header.function.iter().cloned().collect(),
            severity: rule.severity,
            panicked: rule.severity == Severity::Fatal,
            start,
            end,
            excerpt: String::new(),
            kept: 0,
            idle: 0,
            pointed: false,
            traced: false,
        };
        report.keep(&line.message, end);
        report
    }

    /// Takes the next line of the kernel; `header` is set when it could begin a report itself.
    pub(crate) fn line(&mut self, line: &Line<'_>, header: Option<&Header>, end: u64) -> Next {
        let message = line.message.as_ref();
        if let Some(header) = header {
            let rule = header.compiled.rule;
            let again = std::ptr::eq(header.compiled, self.compiled) && rule.blame == Blame::Nobody;
            let joins = match rule.join {
                Join::Never => again,
                Join::Severe => again || self.severity >= Severity::Severe,
                Join::Any => true,
            };
            if !joins {
                return Next::Other;
            }
            self.panicked |= rule.severity == Severity::Fatal;
        } else if end - self.start > MAX_LENGTH || self.idle >= LINGER {
            return Next::Other;
        } else if line.caller != self.caller && !all_cpus(self.compiled.rule.kind) {
            self.idle += 1;
            return Next::Continues;
        }
        if let Some((detail, function)) = self.compiled.detail(message)
            && self.detail.is_none()
        {
            self.detail = Some(detail.unwrap_or_default());
            self.frames.splice(0..0, function);
        }
        let place = TABLE.place(message);
        if header.is_some() || place != Place::None || TABLE.is_report_text(message) {
            self.keep(message, end);
            self.place(&place);
        } else {
            self.idle += 1;
            self.append(message);
        }
        self.traced |= message.starts_with("---[ end trace");
        if message.starts_with("---[ end Kernel panic") { Next::Ends } else { Next::Continues }
    }

    fn place(&mut self, place: &Place<'_>) {
        let name = match *place {
            Place::Pointer(name) if self.compiled.rule.blame != Blame::Stack => name,
            Place::Frame(name) => name,
            _ => return,
        };
        if self.traced || self.frames.len() >= MAX_FRAMES {
            return;
        }
        // Before the CPU's own state come the stacks of those that wait for it; and what the timer
        // interrupted is what it was busy with.
        let state = matches!(place, Place::Pointer(_)) && !self.pointed;
        if self.compiled.rule.blame == Blame::Looping
            && (state || name.contains("apic_timer_interrupt"))
        {
            self.frames.clear();
        }
        self.pointed |= state;
        self.frames.push(TABLE.name(name));
    }

    fn append(&mut self, message: &str) {
        if self.excerpt.len() + message.len() < MAX_EXCERPT {
            self.excerpt.push_str(message);
            self.excerpt.push('\n');
        }
    }

    fn keep(&mut self, message: &str, end: u64) {
        self.append(message);
        self.kept = self.excerpt.len();
        self.end = end;
        self.idle = 0;
    }

    pub(crate) fn pending(&self) -> Pending {
        Pending {
            kind: self.compiled.rule.kind,
            severity: self.final_severity(),
            start: self.start,
            panicked: self.panicked,
        }
    }

    fn final_severity(&self) -> Severity {
        if self.panicked { Severity::Fatal } else { self.severity }
    }

    /// What the report comes to.
    pub(crate) fn into_finding(mut self) -> Finding {
        let rule = self.compiled.rule;
        let function = self.compiled.blamed(&self.frames).cloned();
        let title = title(rule.title, &self.groups, self.detail.as_deref(), function.as_deref());
        let severity = self.final_severity();
        self.excerpt.truncate(self.kept);
        Finding {
            signature: format!("{}/{title}", rule.kind),
            function,
            start: self.start,
            end: self.end,
            panicked: self.panicked,
            excerpt: self.excerpt,
            ..Finding::new(rule.kind, severity, title)
        }
    }
}

/// Whether reports of this kind hold the stacks of other CPUs and tasks.
fn all_cpus(kind: FindingKind) -> bool {
    matches!(kind, FindingKind::RcuStall | FindingKind::SoftLockup | FindingKind::HardLockup)
}

/// Fills a rule's title.
fn title(
    template: &str,
    groups: &[String; 2],
    detail: Option<&str>,
    function: Option<&str>,
) -> String {
    let mut title = template.replace("{1}", &groups[0]).replace("{2}", &groups[1]);
    for (token, value) in [("{d}", detail), ("{f}", function)] {
        title = match value.filter(|value| !value.is_empty()) {
            Some(value) => title.replace(token, value),
            None => [" in ", ": ", " "]
                .iter()
                .fold(title, |title, joint| title.replace(&format!("{joint}{token}"), "")),
        };
    }
    title
}
