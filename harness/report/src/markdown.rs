//! Markdown for the summary of a CI job.

use kgate_compare::{Class, Comparison, Decision, Effect};

use crate::Report;
use crate::text::{bounded, clean, clean_block};
use crate::{log, view};

/// The text is never longer, in bytes.
pub const MARKDOWN_BOUND: usize = 60_000;
/// Room for the line that says what was left out.
const LAST_LINE: usize = 200;
/// Lines of the kernel log in one list.
const LINES: usize = 30;
/// Bytes of a finding's excerpt.
const EXCERPT: usize = 4000;

/// The run as GitHub-flavoured Markdown.
pub fn markdown(report: &Report<'_>) -> String {
    let mut page = Page::default();
    let assessment = report.assessment;
    let record = report.record;
    page.line(&format!(
        "## {}: {}, {}",
        assessment.verdict.as_str().to_uppercase(),
        escape(&record.plan.workload),
        escape(&view::kernels(report)),
    ));
    page.line("");
    for reason in &assessment.reasons {
        page.line(&format!("- **{}**: {}", reason.effect.as_str(), escape(&reason.text)));
    }
    if assessment.reasons.is_empty() {
        page.line("No regression was found.");
    }
    page.line("");
    overview(report, &mut page);
    cases(report, &mut page);
    findings(report, &mut page);
    lines(report, &mut page);
    numbers("Performance", &assessment.performance().collect::<Vec<_>>(), &mut page);
    let promises = assessment.families.statements();
    for promise in &promises {
        page.line(&format!("- {}", escape(promise)));
    }
    if !promises.is_empty() {
        page.line("");
    }
    numbers("Memory", &assessment.memory().collect::<Vec<_>>(), &mut page);
    for moves in &assessment.slab {
        let place = escape(&moves.place.to_string());
        page.line(&format!("- slab caches, {place}: {}", escape(&view::caches(moves, usize::MAX))));
    }
    if !assessment.slab.is_empty() {
        page.line("");
    }
    waivers(report, &mut page);
    if !assessment.notes.is_empty() {
        page.line("### Notes");
        for note in &assessment.notes {
            page.line(&format!("- {}", escape(note)));
        }
    }
    page.close()
}

#[derive(Default)]
struct Page {
    text: String,
    left_out: usize,
}

impl Page {
    fn line(&mut self, line: &str) {
        if self.left_out > 0 || self.text.len() + line.len() + 1 > MARKDOWN_BOUND - LAST_LINE {
            self.left_out += 1;
            return;
        }
        self.text += line;
        self.text.push('\n');
    }

    fn close(mut self) -> String {
        if self.left_out > 0 {
            let lines = self.left_out;
            self.text += &format!("\n…and {lines} more lines: see results.json.\n");
        }
        self.text
    }
}

/// Text that Markdown and HTML show as it is, in one line, also inside a table.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in clean(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            // A mention or a link to an issue.
            '@' => out += "&#64;",
            '#' => out += "&#35;",
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '|' | '!' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    bounded(&out, 2000)
}

fn overview(report: &Report<'_>, page: &mut Page) {
    let function = view::function_counts(report);
    let ready = view::ready(report).unwrap_or_else(|| "not measured".to_owned());
    let plan = &report.record.plan;
    for (name, text) in [
        ("", ""),
        ("---", "---"),
        ("baseline", &*escape(&format!("{} ({})", plan.baseline.release, plan.baseline.origin))),
        ("candidate", &*escape(&format!("{} ({})", plan.candidate.release, plan.candidate.origin))),
        ("function", &function.join(", ")),
        ("kernel log", &view::kernel_log(report)),
        (
            "performance",
            &view::decision_counts(&report.assessment.performance().collect::<Vec<_>>()),
        ),
        ("memory", &view::memory(report)),
        ("boot", &ready),
        ("lab", &view::hosts(report).iter().map(|h| escape(h)).collect::<Vec<_>>().join("<br>")),
        ("time", &view::duration(report.record.wall_ms)),
    ] {
        if name != "lab" || !text.is_empty() {
            page.line(&format!("| {name} | {text} |"));
        }
    }
    page.line("");
}

/// Boots, scenarios and subtests that are not simply passed.
fn cases(report: &Report<'_>, page: &mut Page) {
    let assessment = report.assessment;
    let notable: Vec<_> = (assessment.boots.iter().chain(&assessment.cases))
        .filter(|case| case.class != Class::Passed)
        .collect();
    if notable.is_empty() {
        return;
    }
    page.line("### Function");
    page.line("| what | class | counts | cause |");
    page.line("| --- | --- | --- | --- |");
    for case in notable {
        page.line(&format!(
            "| {} | {} | {} | {} |",
            escape(&case.subject.to_string()),
            view::class(case),
            escape(&case.statement),
            escape(&view::cause(case))
        ));
    }
    page.line("");
    let rejecting = assessment.scenarios().filter(|case| case.effect == Effect::Reject);
    for scenario in rejecting.filter_map(|case| case.subject.scenario()) {
        page.line(&format!("    {}", clean(&view::reproduce(report, scenario))));
    }
    page.line("");
}

fn findings(report: &Report<'_>, page: &mut Page) {
    let findings = &report.assessment.findings;
    if findings.is_empty() {
        return;
    }
    page.line("### Kernel log");
    page.line("| finding | severity | | baseline | candidate | during |");
    page.line("| --- | --- | --- | --- | --- | --- |");
    for delta in findings {
        page.line(&format!(
            "| {} | {} | {} | {} of {} | {} of {} | {} |",
            escape(&delta.finding.title),
            delta.finding.severity,
            delta.novelty.as_str(),
            delta.baseline.boots,
            delta.baseline.of,
            delta.candidate.boots,
            delta.candidate.of,
            escape(&delta.scenarios.join(", ")),
        ));
    }
    page.line("");
    for delta in findings.iter().filter(|delta| delta.is_news()).take(5) {
        page.line(&format!(
            "<details><summary>{}</summary><pre>",
            html(&clean(&delta.finding.title))
        ));
        let excerpt = clean_block(bounded(&delta.finding.excerpt, EXCERPT).as_bytes());
        // A blank line would end the block of HTML.
        for line in excerpt.lines().filter(|line| !line.trim().is_empty()) {
            page.line(&html(line));
        }
        page.line("</pre></details>");
        page.line("");
    }
}

/// How the lines of the kernel logs differ.
fn lines(report: &Report<'_>, page: &mut Page) {
    let Some(delta) = report.log else { return };
    for (heading, lines) in [
        ("New lines in the kernel log", &delta.new_lines),
        ("Lines gone from the kernel log", &delta.gone_lines),
    ] {
        if lines.is_empty() {
            continue;
        }
        page.line(&format!("### {heading}"));
        page.line("| level | line | how sure |");
        page.line("| --- | --- | --- |");
        for change in lines.iter().take(LINES) {
            page.line(&format!(
                "| {} | {} | {} |",
                log::level_name(&change.what),
                escape(&change.what.text),
                log::sureness(change)
            ));
        }
        if lines.len() > LINES {
            page.line(&format!("| | and {} more | |", lines.len() - LINES));
        }
        page.line("");
    }
    if delta.left_out > 0 {
        page.line(&log::left_out(delta.left_out));
        page.line("");
    }
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('@', "&#64;")
}

fn numbers(title: &str, comparisons: &[&Comparison], page: &mut Page) {
    if comparisons.is_empty() {
        return;
    }
    page.line(&format!("### {title}"));
    let all = comparisons.len();
    page.line(&format!("{all} compared: {}", view::decision_counts(comparisons)));
    page.line("");
    let notable: Vec<_> =
        comparisons.iter().filter(|c| c.decision != Decision::Unchanged).collect();
    if notable.is_empty() {
        return;
    }
    page.line(
        "| where | metric | baseline | candidate | change (95 % interval) | sees | how sure | decision |",
    );
    page.line("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for c in notable {
        page.line(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            escape(&c.place.to_string()),
            escape(&c.label()),
            escape(&view::side(c.baseline.as_ref(), &c.unit)),
            escape(&view::side(c.candidate.as_ref(), &c.unit)),
            view::change(c),
            view::resolution(c),
            view::sureness(c),
            escape(&view::decision(c)),
        ));
    }
    page.line("");
}

fn waivers(report: &Report<'_>, page: &mut Page) {
    if report.assessment.waivers.is_empty() {
        return;
    }
    page.line("### Waivers");
    page.line("| waiver | state | owner | expires | reason | covers |");
    page.line("| --- | --- | --- | --- | --- | --- |");
    for used in &report.assessment.waivers {
        page.line(&format!(
            "| {} | {} | {} | {} | {} | {} |",
            escape(&used.waiver.id),
            used.state.as_str(),
            escape(&used.waiver.owner),
            used.waiver.expires,
            escape(&used.waiver.reason),
            escape(&used.covers.join(", ")),
        ));
    }
    page.line("");
}
