//! What a person sees at the end of a run.

use anstyle::{AnsiColor, Color};
use kgate_compare::{About, Effect, Reason, Verdict};
use kgate_klog::delta::Level;
use kgate_model::journal::TrialRecord;
use kgate_model::outcome::Role;

use crate::Report;
use crate::text::{bounded, clean, fit, pad, width, wrap};
use crate::{log, view};

/// Whether colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Style {
    /// Text only.
    #[default]
    Plain,
    /// ANSI escape sequences for colour and weight.
    Colour,
}

impl Style {
    /// `text` in bold and a colour, or as it is.
    pub(crate) fn paint(self, color: AnsiColor, text: &str) -> String {
        let style = anstyle::Style::new().bold().fg_color(Some(Color::Ansi(color)));
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("{}{text}{}", style.render(), style.render_reset()),
        }
    }

    /// `text` fainter than the rest, or as it is.
    pub(crate) fn dim(self, text: &str) -> String {
        let style = anstyle::Style::new().dimmed();
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("{}{text}{}", style.render(), style.render_reset()),
        }
    }
}

/// Changes of performance that are shown and don't decide.
const CHANGES: usize = 8;
/// Columns before the text of an entry.
const INDENT: usize = 16;
/// Entries shown; the rest is counted.
const ENTRIES: usize = 12;
/// A line that is less bad has to be sure to be shown.
const WARN: Level = Level::new(4);
/// New findings without effect and new lines shown.
const NEWS: usize = 5;
/// Bytes of one reason, note or waiver.
const SENTENCE: usize = 600;

pub(crate) const fn color(verdict: Verdict) -> AnsiColor {
    match verdict {
        Verdict::Promote => AnsiColor::Green,
        Verdict::Reject => AnsiColor::Red,
        Verdict::Inconclusive | Verdict::Infrastructure => AnsiColor::Yellow,
    }
}

/// The run in a few lines of at most `columns`, ending in the verdict.
pub fn summary(report: &Report<'_>, columns: usize, style: Style) -> String {
    let mut page = Page { columns: columns.max(40), style, text: String::new() };
    header(report, &mut page);
    counts(report, &mut page);
    let reasons = &report.assessment.reasons;
    for reason in reasons.iter().take(ENTRIES) {
        page.blank();
        entry(report, reason, &mut page);
    }
    if reasons.len() > ENTRIES {
        page.blank();
        let more = reasons.len() - ENTRIES;
        page.row(
            "and more",
            &format!("{more} further reasons: kgate report {}", directory(report)),
        );
    }
    news(report, &mut page);
    asides(report, &mut page);
    page.blank();
    verdict(report, &mut page);
    page.text
}

struct Page {
    columns: usize,
    style: Style,
    text: String,
}

impl Page {
    fn blank(&mut self) {
        self.text.push('\n');
    }

    fn row(&mut self, label: &str, text: &str) {
        self.painted(label, label, text);
    }

    /// A label of which `painted` is the coloured form, then text wrapped beside it.
    fn painted(&mut self, label: &str, painted: &str, text: &str) {
        let gap = " ".repeat((INDENT - 2).saturating_sub(width(label)).max(1));
        for (i, line) in wrap(text, self.columns.saturating_sub(INDENT)).iter().enumerate() {
            if i == 0 {
                self.text += &format!("  {painted}{gap}{line}\n");
            } else {
                self.text += &format!("{}{line}\n", " ".repeat(INDENT));
            }
        }
    }

    /// A line that is to be copied: never wrapped.
    fn command(&mut self, text: &str) {
        self.text += &format!("{}{text}\n", " ".repeat(INDENT));
    }
}

fn directory(report: &Report<'_>) -> String {
    view::quoted(report.directory)
}

fn header(report: &Report<'_>, page: &mut Page) {
    let time = view::duration(report.record.wall_ms);
    let title = format!("{}   {}", clean(&report.record.plan.workload), view::kernels(report));
    let room = page.columns.saturating_sub(width(&time) + 2);
    page.text += &format!("{}  {time}\n\n", pad(&fit(&title, room), room));
}

fn counts(report: &Report<'_>, page: &mut Page) {
    let assessment = report.assessment;
    let function = view::function_counts(report);
    let function =
        if function.is_empty() { "nothing ran".to_owned() } else { function.join("    ") };
    page.row("function", &function);
    page.row("kernel log", &view::kernel_log(report));
    let performance = view::decision_counts(&assessment.performance().collect::<Vec<_>>());
    if !performance.is_empty() {
        let sees = view::sees(report);
        let sees = if sees.is_empty() { sees } else { format!("      {sees}") };
        page.row("performance", &format!("{performance}{sees}"));
        let shown = view::changes(report);
        for (count, told) in shown.iter().take(CHANGES).enumerate() {
            page.row(if count == 0 { "changed" } else { "" }, told);
        }
        if shown.len() > CHANGES {
            let more = shown.len() - CHANGES;
            page.row(
                "",
                &format!("and {more} more: kgate report {} --markdown FILE", directory(report)),
            );
        }
    }
    page.row("memory", &view::memory(report));
    for moves in &assessment.slab {
        let moment = moves.place.to_string();
        page.row("slab", &format!("{}: {}", clean(&moment), view::caches(moves, 4)));
    }
    if let Some(ready) = view::ready(report) {
        page.row("boot", &ready);
    }
    for (at, host) in view::hosts(report).iter().enumerate() {
        page.row(if at == 0 { "lab" } else { "" }, &clean(host));
    }
}

fn entry(report: &Report<'_>, reason: &Reason, page: &mut Page) {
    let (label, color) = match reason.effect {
        Effect::Reject => ("regression", AnsiColor::Red),
        Effect::Infrastructure => ("harness", AnsiColor::Yellow),
        Effect::Inconclusive | Effect::None => ("undecided", AnsiColor::Yellow),
    };
    let painted = page.style.paint(color, label);
    page.painted(label, &painted, &bounded(&clean(&reason.text), SENTENCE));
    match &reason.about {
        About::Scenario { scenario, subtest } => {
            let case = (report.assessment.cases.iter()).find(|c| {
                c.subject.scenario() == Some(scenario) && c.subject.subtest() == subtest.as_deref()
            });
            if let Some(log) = case.and_then(|c| c.trial.as_ref()).and_then(|id| {
                report.record.trials.iter().find(|t| t.planned.id == *id)?.log.clone()
            }) {
                page.command(&path(report, &log));
            }
            if reason.effect == Effect::Reject {
                page.command(&format!("{}     # reproduces it", view::reproduce(report, scenario)));
            }
        }
        About::Boot { image } => {
            let case = report.assessment.boots.iter().find(
                |c| matches!(&c.subject, kgate_compare::Subject::Boot { image: of } if of == image),
            );
            console(report, case.and_then(|c| c.boot.as_deref()), None, page);
        }
        About::Finding { signature } => {
            let delta =
                report.assessment.findings.iter().find(|f| f.finding.signature == *signature);
            // That of the trial's own machine, where the finding is in one.
            let boot = delta.map(|d| d.boot.as_str());
            let found = |t: &&TrialRecord| {
                Some(t.boot.as_str()) == boot
                    && t.machine.is_some()
                    && t.findings.iter().any(|f| f.signature == *signature)
            };
            let own = report.record.trials.iter().find(found).and_then(|t| t.console.as_deref());
            console(report, boot, own, page);
        }
        About::Run | About::Metric { .. } => {}
    }
}

fn path(report: &Report<'_>, file: &str) -> String {
    view::quoted(&format!("{}/{file}", report.directory.trim_end_matches('/')))
}

/// Where the console of a boot is, or that of a machine of one of its trials.
fn console(report: &Report<'_>, boot: Option<&str>, own: Option<&str>, page: &mut Page) {
    let boot = report.record.boots.iter().find(|b| Some(b.planned.id.as_str()) == boot);
    let Some(boot) = boot else { return };
    if let Some(file) = own.or(boot.consoles.last().map(String::as_str)) {
        page.command(&path(report, file));
    }
    if boot.planned.role == Role::Candidate {
        let reference = view::quoted(&report.record.plan.candidate.reference);
        let tries = match &boot.planned.host {
            Some(host) => format!("lab boot {host} {reference}{}", view::lab_options(report)),
            None => format!("boot {reference}"),
        };
        page.command(&format!("kgate {tries}     # tries it"));
    }
}

/// What is new in the kernel log and no reason: warnings that the policy only reports, and lines,
/// but for those that are neither sure nor bad.
fn news(report: &Report<'_>, page: &mut Page) {
    let findings = report.assessment.findings.iter();
    let reported =
        findings.filter(|f| f.is_news() && f.effect == Effect::None && f.waiver.is_none());
    let reported = reported.map(|delta| {
        let (severity, candidate) = (delta.finding.severity, delta.candidate);
        let text = format!(
            "{} (in {} of {} boots)",
            bounded(&clean(&delta.finding.title), SENTENCE),
            candidate.boots,
            candidate.of
        );
        (severity.to_string(), Some(log::severity_color(severity)), text)
    });
    let new = report.log.map_or(&[][..], |log| &log.new_lines);
    let lines = new.iter().filter(|change| change.sure || change.what.rank() <= WARN);
    let lines = lines.map(|change| {
        let color = change.what.level.and_then(log::level_color);
        let text = format!("{} ({})", clean(&change.what.text), log::sureness(change));
        (log::level_name(&change.what).to_owned(), color, text)
    });
    let all = reported.clone().count() + new.len();
    let shown: Vec<_> = reported.chain(lines).take(NEWS).collect();
    for (at, (label, color, text)) in shown.iter().enumerate() {
        if at == 0 {
            page.blank();
        }
        let painted = color.map_or_else(|| label.clone(), |color| page.style.paint(color, label));
        page.painted(&format!("new {label}"), &format!("new {painted}"), text);
    }
    if all > shown.len() && !shown.is_empty() {
        let more = all - shown.len();
        page.row(
            "and",
            &format!("{more} more: kgate report {} --markdown FILE", directory(report)),
        );
    }
}

/// Waivers in use, and notes.
fn asides(report: &Report<'_>, page: &mut Page) {
    let assessment = report.assessment;
    for used in &assessment.waivers {
        if used.state == kgate_compare::WaiverState::Used {
            let waiver = &used.waiver;
            page.blank();
            let text = format!(
                "{} by {} of {} until {}: {}",
                used.covers.join(", "),
                waiver.id,
                waiver.owner,
                waiver.expires,
                waiver.reason
            );
            page.row("waived", &bounded(&clean(&text), SENTENCE));
        }
    }
    for (i, note) in assessment.notes.iter().take(ENTRIES).enumerate() {
        if i == 0 {
            page.blank();
        }
        page.row("note", &bounded(&clean(note), SENTENCE));
    }
}

fn verdict(report: &Report<'_>, page: &mut Page) {
    let assessment = report.assessment;
    let word = assessment.verdict.as_str().to_uppercase();
    let why = bounded(&clean(&view::conclusion(report)), SENTENCE);
    let painted = page.style.paint(color(assessment.verdict), &word);
    let indent = width(&word) + 3;
    for (i, line) in wrap(&why, page.columns.saturating_sub(indent)).iter().enumerate() {
        if i == 0 {
            page.text += &format!("{painted}   {line}\n");
        } else {
            page.text += &format!("{}{line}\n", " ".repeat(indent));
        }
    }
}
