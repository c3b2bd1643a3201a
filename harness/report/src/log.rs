//! Kernel logs by themselves: a finding and a log delta for a person, as annotations of a CI job,
//! and as JSON.

use anstyle::AnsiColor;
use kgate_klog::convention;
use kgate_klog::delta::{Change, Level, LogDelta, LogLine, Share};
use kgate_model::finding::{Finding, FindingKind, Frame, Operation, Severity, Stack, TAINTS};
use serde_json::{Value, json};

use crate::Style;
use crate::text::{bounded, clean, pad, width, wrap};

/// Columns before the text of a row.
const INDENT: usize = 14;
/// Frames shown of the failure's stack, and of any other.
pub(crate) const FRAMES: usize = 32;
pub(crate) const OTHER_FRAMES: usize = 8;
/// Other stacks shown.
pub(crate) const STACKS: usize = 6;
/// Lines of a report without a stack, which say all there is to say.
const LINES: usize = 4;
/// Lines of a log delta shown to a person, of new ones and of those that are gone.
const NEW_LINES: usize = 100;
const GONE_LINES: usize = 20;
/// Bytes of a frame.
const FRAME: usize = 300;
/// Frames in the text of an annotation.
const ANNOTATED: usize = 10;
/// Bytes of a title or of another text of the guest's in one line.
pub(crate) const SENTENCE: usize = 600;

/// Where a finding was read.
#[derive(Clone, Copy, Debug)]
pub struct LogPlace<'a> {
    /// The log, as the user named it; `-` is standard input.
    pub file: &'a str,
    /// The line at which the report begins, from 1.
    pub line: u64,
}

impl LogPlace<'_> {
    fn is_stdin(&self) -> bool {
        self.file == "-"
    }

    /// For a person.
    fn text(&self) -> String {
        match self.is_stdin() {
            true => format!("standard input, line {}", self.line),
            false => format!("{}:{}", clean(self.file), self.line),
        }
    }
}

/// A finding for a person, in lines of at most `columns`, without an empty line at its end.
pub fn finding(finding: &Finding, place: LogPlace<'_>, columns: usize, style: Style) -> String {
    let mut page = Page { columns: columns.max(40), style, text: String::new() };
    let title = bounded(&clean(&finding.title), SENTENCE);
    page.painted(&finding.severity.to_string(), severity_color(finding.severity), &title);
    page.row("kind", &kind(finding));
    let lines = if finding.frames.is_empty() { LINES } else { 1 };
    for (at, line) in printed(finding, lines).into_iter().enumerate() {
        page.row(if at == 0 { "printed" } else { "" }, &line);
    }
    page.row("where", &location(finding));
    page.row("who", &who(finding));
    page.row("kernel", &kernel(finding));
    page.row("log", &place.text());
    page.row("also", &bounded(&clean(&finding.alt_titles.join("; ")), SENTENCE));
    if let Some(why) = &finding.corrupted {
        page.painted("  damaged", AnsiColor::Yellow, &bounded(&clean(why), SENTENCE));
    }
    page.row("signature", &bounded(&clean(&finding.signature), SENTENCE));
    page.stack("stack", &finding.frames, FRAMES);
    for Stack { label, frames } in finding.stacks.iter().take(STACKS) {
        page.text += &format!("  {}\n", bounded(&clean(label), SENTENCE));
        page.stack("", frames, OTHER_FRAMES);
    }
    let more = finding.stacks.len().saturating_sub(STACKS);
    if more > 0 {
        page.text += &format!("  … and {more} more stacks\n");
    }
    page.text
}

/// A finding like one before it, in short.
pub fn finding_again(
    finding: &Finding,
    place: LogPlace<'_>,
    columns: usize,
    style: Style,
) -> String {
    let mut page = Page { columns: columns.max(40), style, text: String::new() };
    let title = bounded(&clean(&finding.title), SENTENCE);
    let label = finding.severity.to_string();
    page.painted(&label, severity_color(finding.severity), &format!("{title}, again"));
    page.row("who", &who(finding));
    page.row("log", &place.text());
    page.text
}

/// A finding as a workflow command of GitHub Actions, with its line end. It points at the source
/// where the report tells it, otherwise at the log.
pub fn annotation(finding: &Finding, place: LogPlace<'_>) -> String {
    let log = || (!place.is_stdin()).then(|| (place.file.to_owned(), place.line));
    let at = source(finding).or_else(log);
    let mut text = format!("{} in {}", kind(finding), place.text());
    let lines = if finding.frames.is_empty() { LINES } else { 1 };
    for line in printed(finding, lines) {
        text += &format!("\n{line}");
    }
    for (name, part) in [("where", location(finding)), ("kernel", kernel(finding))] {
        if !part.is_empty() {
            text += &format!("\n{name}: {part}");
        }
    }
    if let Some(why) = &finding.corrupted {
        text += &format!("\ndamaged: {}", clean(why));
    }
    for frame in finding.frames.iter().filter(|frame| frame.reliable).take(ANNOTATED) {
        text += &format!("\n    {}", self::frame(frame));
    }
    let level = if finding.severity == Severity::Warning { "warning" } else { "error" };
    command(level, &finding.title, at.as_ref().map(|(file, line)| (&**file, *line)), &text)
}

/// A finding as JSON: all its fields, `type` by the convention of public crash corpora, `corrupted`
/// as yes or no with its reason beside it, `extra` for what that convention does not count. Lists are
/// there when they are empty, so that programs can walk them.
pub fn finding_json(finding: &Finding) -> Value {
    let mut value = json!(finding);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("type".to_owned(), convention::type_of(finding).into());
        fields.insert("extra".to_owned(), convention::is_extra(finding).into());
        fields.insert("alt_titles".to_owned(), finding.alt_titles.clone().into());
        fields.insert("corrupted".to_owned(), finding.corrupted.is_some().into());
        fields.insert("corrupted_reason".to_owned(), finding.corrupted.clone().into());
        for list in ["frames", "stacks", "modules"] {
            fields.entry(list).or_insert_with(|| json!([]));
        }
    }
    value
}

/// A log delta for a person.
pub fn log_delta(delta: &LogDelta, columns: usize, style: Style) -> String {
    let mut page = Page { columns: columns.max(40), style, text: String::new() };
    let LogDelta { new_findings, new_lines, gone_findings, gone_lines, logs, .. } = delta;
    // One boot of each makes all equally unsure, which is said once.
    let single = *logs == (1, 1);
    let told = |sureness: String| if single { String::new() } else { format!(" ({sureness})") };
    for (heading, findings, lines, most) in [
        ("new", new_findings, new_lines, NEW_LINES),
        ("gone", gone_findings, gone_lines, GONE_LINES),
    ] {
        page.text += &format!("{heading}: {}\n", counts(findings, lines));
        for change in findings {
            let Finding { severity, title, .. } = &change.what;
            let text = bounded(&clean(title), SENTENCE) + &told(sureness(change));
            page.painted(&format!("  {severity}"), severity_color(*severity), &text);
        }
        for change in lines.iter().take(most) {
            let text = clean(&change.what.text) + &told(sureness(change));
            let label = format!("  {}", level_name(&change.what));
            match change.what.level.map(level_color) {
                Some(Some(color)) => page.painted(&label, color, &text),
                _ => page.row(label.trim_start(), &text),
            }
        }
        let more = lines.len().saturating_sub(most);
        if more > 0 {
            page.row("…", &format!("and {more} more lines; --format jsonl has all of them"));
        }
        page.text.push('\n');
    }
    let (baseline, candidate) = logs;
    let plural = if *baseline == 1 { "" } else { "s" };
    page.text += &format!("{baseline} boot{plural} of the baseline, {candidate} of the candidate");
    if delta.unsteady > 0 {
        page.text += &format!("; {} come and go in boots of one kernel", delta.unsteady);
    }
    page.text.push('\n');
    let lines = new_lines.iter().chain(gone_lines).any(|change| !change.sure);
    let findings = new_findings.iter().chain(gone_findings).any(|change| !change.sure);
    if lines || findings {
        page.text += match single {
            true => "not sure: one boot of each can't tell what is new from what is rare\n",
            false => "not sure: boots of equal kernels differ as well, and more boots would tell\n",
        };
    }
    if delta.left_out > 0 {
        page.text += &left_out(delta.left_out);
        page.text.push('\n');
    }
    page.text
}

/// What is new as workflow commands of GitHub Actions.
pub fn log_delta_annotations(delta: &LogDelta) -> String {
    let findings = delta.new_findings.iter().map(|change| {
        let Finding { severity, title, .. } = &change.what;
        let level = if *severity == Severity::Warning { "warning" } else { "error" };
        command(level, &format!("new: {title}"), None, &sureness(change))
    });
    let lines = delta.new_lines.iter().map(|change| {
        let title = format!("new line in the kernel log ({})", level_name(&change.what));
        let text = format!("{} ({})", change.what.text, sureness(change));
        command("notice", &title, None, &text)
    });
    findings.chain(lines).collect()
}

/// Each change as JSON, new ones first.
pub fn log_delta_json(delta: &LogDelta) -> Vec<Value> {
    fn counted<T>(change: &Change<T>, novelty: &str) -> Value {
        let share = |share: Share| json!({ "boots": share.boots, "of": share.of });
        json!({
            "change": novelty,
            "baseline": share(change.baseline),
            "candidate": share(change.candidate),
            "chance": change.chance,
            "sure": change.sure,
        })
    }
    let mut rows = Vec::new();
    for (novelty, findings, lines) in [
        ("new", &delta.new_findings, &delta.new_lines),
        ("gone", &delta.gone_findings, &delta.gone_lines),
    ] {
        for change in findings {
            let mut row = counted(change, novelty);
            row["finding"] = finding_json(&change.what);
            rows.push(row);
        }
        for change in lines {
            let mut row = counted(change, novelty);
            row["line"] = json!({
                "text": change.what.text,
                "pattern": change.what.pattern,
                "level": change.what.level.map(Level::name),
            });
            rows.push(row);
        }
    }
    rows
}

/// That lines could not be compared.
pub(crate) fn left_out(lines: u64) -> String {
    format!("{lines} lines were left out: their logs have too many different ones")
}

/// `5 of 5 boots; baseline 0 of 5; sure`.
pub(crate) fn sureness<T>(change: &Change<T>) -> String {
    let Change { baseline, candidate, chance, sure, .. } = change;
    let (share, other, whose) = match candidate.boots {
        0 => (baseline, candidate, "candidate"),
        _ => (candidate, baseline, "baseline"),
    };
    let sure = match sure {
        true => "sure".to_owned(),
        false => format!("not sure, by chance in {}", percent(*chance)),
    };
    format!(
        "{} of {} boots; {whose} {} of {}; {sure}",
        share.boots, share.of, other.boots, other.of
    )
}

/// A probability, never rounded to certainty.
fn percent(chance: f64) -> String {
    let percent = 100.0 * chance;
    match percent {
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 0.1 => format!("{p:.1} %"),
        _ => "less than 0.1 %".to_owned(),
    }
}

/// `2 findings, 3 lines`, `nothing`.
fn counts(findings: &[Change<Finding>], lines: &[Change<LogLine>]) -> String {
    let plural = |n: usize, word: &str| match n {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let parts: Vec<_> = [plural(findings.len(), "finding"), plural(lines.len(), "line")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

pub(crate) fn level_name(line: &LogLine) -> &'static str {
    line.level.map_or("line", Level::name)
}

pub(crate) fn level_color(level: Level) -> Option<AnsiColor> {
    match level {
        level if level <= Level::new(3) => Some(AnsiColor::Red),
        level if level <= Level::new(4) => Some(AnsiColor::Yellow),
        _ => None,
    }
}

pub(crate) const fn severity_color(severity: Severity) -> AnsiColor {
    match severity {
        Severity::Warning => AnsiColor::Yellow,
        Severity::Severe | Severity::Fatal => AnsiColor::Red,
    }
}

pub(crate) fn kind(finding: &Finding) -> String {
    let mut text = finding.kind.to_string();
    if let Some(access) = &finding.access {
        let operation = access.operation.map_or("access", |operation| match operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Execute => "execution",
            Operation::Free => "free",
        });
        text += &format!(", {operation}");
        if let Some(size) = access.size {
            text += &format!(" of {size} bytes");
        }
        if let Some(address) = access.address {
            text += &format!(" at {address:#018x}");
        }
    }
    if finding.panicked && finding.kind != FindingKind::Panic {
        text += "; the kernel panicked";
    }
    text
}

/// The function and its place in the source.
pub(crate) fn location(finding: &Finding) -> String {
    let function = finding.function.as_deref().map(|name| bounded(&clean(name), SENTENCE));
    let source = source(finding).map(|(file, line)| format!("{}:{line}", clean(&file)));
    match (function, source) {
        (Some(function), Some(source)) => format!("{function}, {source}"),
        (function, source) => function.or(source).unwrap_or_default(),
    }
}

/// Where in the source the failure is: by the frame of the function that is charged, otherwise as
/// the first lines say (`WARNING: … at FILE:LINE`, `kernel BUG at FILE:LINE!`).
pub(crate) fn source(finding: &Finding) -> Option<(String, u64)> {
    let charged = finding.frames.iter().find(|frame| {
        frame.source.is_some() && Some(frame.function.as_str()) == finding.function.as_deref()
    });
    if let Some(source) = charged.and_then(|frame| frame.source.as_ref()) {
        return Some((source.file.clone(), source.line.into()));
    }
    finding.excerpt.lines().take(3).find_map(|text| {
        let (_, rest) = text.split_once(" at ")?;
        let (file, line) = rest.split([' ', '!']).next()?.rsplit_once(':')?;
        let is_source = [".c", ".h", ".rs", ".S"].iter().any(|end| file.ends_with(end));
        is_source.then_some((file.to_owned(), line.parse().ok()?))
    })
}

/// The first lines of the report as the kernel printed them: which device, which file, what message.
fn printed(finding: &Finding, lines: usize) -> Vec<String> {
    let rule = |line: &String| line.chars().all(|c| matches!(c, '-' | '=' | ' '));
    let told = |line: &String| !rule(line) && !line.starts_with("---[ end");
    let lines = finding.excerpt.lines().map(clean).filter(told).take(lines);
    lines.map(|line| bounded(&line, SENTENCE)).collect()
}

pub(crate) fn who(finding: &Finding) -> String {
    let mut parts = Vec::new();
    match (finding.pid, &finding.command) {
        (Some(pid), Some(command)) => parts.push(format!("PID {pid} ({})", clean(command))),
        (Some(pid), None) => parts.push(format!("PID {pid}")),
        (None, Some(command)) => parts.push(clean(command)),
        (None, None) => {}
    }
    if let Some(cpu) = finding.cpu {
        parts.push(format!("CPU {cpu}"));
    }
    if let Some(time) = finding.time_us {
        parts.push(format!("{}.{:06} s after start", time / 1_000_000, time % 1_000_000));
    }
    parts.join(", ")
}

pub(crate) fn kernel(finding: &Finding) -> String {
    let release = finding.release.as_deref().map(clean);
    let taint = finding.taint.as_deref().map(|letters| match letters {
        "" => "not tainted".to_owned(),
        letters => {
            let word = |letter: char| {
                let known = TAINTS.iter().find(|(known, _)| *known == letter);
                known.map_or_else(
                    || clean(&letter.to_string()),
                    |(letter, word)| format!("{word} ({letter})"),
                )
            };
            format!("tainted: {}", letters.chars().map(word).collect::<Vec<_>>().join(", "))
        }
    });
    [release, taint].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// `function+0x1/0x2 [module] file:line`, with marks for what is inlined or need not be.
pub(crate) fn frame(frame: &Frame) -> String {
    let mut text = clean(&frame.function);
    if let Some(offset) = frame.offset {
        text += &format!("+{offset:#x}");
        if let Some(size) = frame.size {
            text += &format!("/{size:#x}");
        }
    }
    if let Some(module) = &frame.module {
        text += &format!(" [{}]", clean(module));
    }
    if let Some(source) = &frame.source {
        text += &format!(" {}:{}", clean(&source.file), source.line);
    }
    if frame.inlined {
        text += " (inlined)";
    }
    bounded(&text, FRAME)
}

/// A workflow command, escaped by GitHub's rules.
pub(crate) fn command(level: &str, title: &str, place: Option<(&str, u64)>, text: &str) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let title = bounded(&clean(title), SENTENCE);
    let place = place.map_or_else(String::new, |(file, line)| {
        format!(",file={},line={line}", property(&clean(file)))
    });
    let text: Vec<String> = text.lines().map(clean).collect();
    format!("::{level} title={}{place}::{}\n", property(&title), data(&text.join("\n")))
}

struct Page {
    columns: usize,
    style: Style,
    text: String,
}

impl Page {
    /// A label and its text, where there is one.
    fn row(&mut self, label: &str, text: &str) {
        if !text.is_empty() {
            let label = format!("  {label}");
            self.wrapped(&label, &label, text);
        }
    }

    fn painted(&mut self, label: &str, color: AnsiColor, text: &str) {
        let name = label.trim_start();
        let space = &label[..label.len() - name.len()];
        let painted = format!("{space}{}", self.style.paint(color, name));
        self.wrapped(label, &painted, text);
    }

    fn wrapped(&mut self, label: &str, painted: &str, text: &str) {
        let gap = " ".repeat(INDENT.saturating_sub(width(label)).max(1));
        for (i, line) in wrap(text, self.columns.saturating_sub(INDENT)).iter().enumerate() {
            match i {
                0 => self.text += &format!("{painted}{gap}{line}\n"),
                _ => self.text += &format!("{}{line}\n", " ".repeat(INDENT)),
            }
        }
    }

    fn stack(&mut self, label: &str, frames: &[Frame], most: usize) {
        for (at, frame) in frames.iter().take(most).enumerate() {
            let label = if at == 0 { label } else { "" };
            let mark = if frame.reliable { "  " } else { "? " };
            let text = self::frame(frame);
            let text = if frame.reliable { text } else { self.style.dim(&text) };
            self.text += &format!("{}{mark}{text}\n", pad(&format!("  {label}"), INDENT - 2));
        }
        let more = frames.len().saturating_sub(most);
        if more > 0 {
            self.text += &format!("{}… and {more} more\n", " ".repeat(INDENT));
        }
    }
}
