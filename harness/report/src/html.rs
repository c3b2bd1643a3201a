//! One HTML page with all of a run: the verdict, why, and the evidence, in one file that needs nothing else.
//!
//! It has no script and loads nothing, so that it can be read offline and in the viewers of CI systems. Some of
//! these (Jenkins) switch style sheets off as well: the page says everything in words and in the order of its
//! elements, and pictures are SVG whose colours are attributes. It is well-formed XML besides.

use kgate_compare::{
    About, Case, Class, Comparison, Decision, Effect, FindingDelta, Place, Reason, Subject, Verdict,
};
use kgate_klog::delta::{Change, LogLine};
use kgate_model::finding::Frame;
use kgate_model::sample::Better;

use crate::evidence::{Tails, evidence};
use crate::results::timestamp;
use crate::text::{bounded, clean, clean_block};
use crate::{Report, log, view};

/// The page is never longer, in bytes.
pub const HTML_BOUND: usize = 6 << 20;
/// Of these, for what is always there: headings, the heads of tables, ends of elements.
const FRAMEWORK: usize = 64 << 10;
/// Bytes of one text of a cell or sentence, before it is escaped.
const SENTENCE: usize = 1200;
/// Bytes of a finding's excerpt.
const EXCERPT: usize = 16 << 10;
/// Findings whose stacks are shown.
const FINDINGS: usize = 100;
/// Lines of the kernel log in one list.
const LINES: usize = 200;

/// What of the run directory a page can have.
pub struct Files<'a> {
    /// Gives the last bytes, at most so many, of a file.
    pub tail: &'a mut dyn FnMut(&str, usize) -> Option<Vec<u8>>,
    /// Gives the path from the page to a file that is there, where the two go together.
    pub link: &'a dyn Fn(&str) -> Option<String>,
}

/// The run as one page of HTML.
pub fn html(report: &Report<'_>, files: Files<'_>) -> String {
    let Files { tail, link } = files;
    let mut tails = Tails::new(tail);
    let mut page = Page::default();
    head(report, &mut page);
    reasons(report, &mut tails, &mut page);
    overview(report, &mut page);
    function(report, &mut page);
    kernel_log(report, link, &mut page);
    performance(report, link, &mut page);
    memory(report, &mut page);
    waivers(report, &mut page);
    notes(report, &mut page);
    kernels(report, &mut page);
    run(report, link, &mut page);
    reproduce(report, &mut page);
    page.close()
}

/// Text that is bounded: items that no longer fit are counted, elements are always closed.
#[derive(Default)]
struct Page {
    text: String,
    left_out: usize,
}

impl Page {
    /// Markup that is always there.
    fn always(&mut self, markup: &str) {
        self.text += markup;
        self.text.push('\n');
    }

    /// A whole element that may be left out.
    fn item(&mut self, markup: &str) {
        if self.left_out > 0 || self.text.len() + markup.len() > HTML_BOUND - FRAMEWORK {
            self.left_out += 1;
        } else {
            self.always(markup);
        }
    }

    fn heading(&mut self, id: &str, text: &str) {
        self.always(&format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{text}</h2>"));
    }

    fn end_section(&mut self) {
        self.always("</section>");
    }

    /// A table with its rows; nothing without any.
    fn table(&mut self, caption: &str, columns: &[&str], rows: impl Iterator<Item = String>) {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return;
        }
        let head: String = columns.iter().map(|c| format!("<th scope=\"col\">{c}</th>")).collect();
        let name = format!("role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"");
        self.always(&format!("<div class=\"wide\" {name}><table><caption>{caption}</caption>"));
        self.always(&format!("<thead><tr>{head}</tr></thead><tbody>"));
        rows.for_each(|row| self.item(&row));
        self.always("</tbody></table></div>");
    }

    /// A list; nothing without items.
    fn list(&mut self, kind: &str, items: impl Iterator<Item = String>) {
        let mut items = items.peekable();
        if items.peek().is_some() {
            self.always(&format!("<{kind}>"));
            items.for_each(|item| self.item(&format!("<li>{item}</li>")));
            self.always(&format!("</{kind}>"));
        }
    }

    fn close(mut self) -> String {
        let left_out = self.left_out;
        if left_out > 0 {
            self.always(&format!(
                "<p><strong>{left_out} more entries were left out: results.json has all of them.</strong></p>"
            ));
        }
        self.always("</main>\n<footer>Made by kgate, from the run directory alone.</footer>\n</body>\n</html>");
        self.text
    }
}

/// Text for an element or a quoted attribute, in one line.
fn escape(text: &str) -> String {
    escape_clean(&bounded(&clean(text), SENTENCE))
}

/// Lines of text for a `pre` element.
fn escape_block(text: &str) -> String {
    escape_clean(clean_block(text.as_bytes()).trim_matches('\n'))
}

/// Text that has no control characters left.
fn escape_clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// A path as a relative link.
fn href(path: &str) -> String {
    let mut out = String::from("./");
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// A file of the run directory: a link where it can be followed, else its name.
fn file(path: &str, link: &dyn Fn(&str) -> Option<String>) -> String {
    match link(path) {
        Some(to) => format!("<a href=\"{}\">{}</a>", href(&to), escape(path)),
        None => format!("<code>{}</code>", escape(path)),
    }
}

fn row(first: &str, cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr><th scope=\"row\">{first}</th>{cells}</tr>")
}

fn details(summary: &str, body: &str) -> String {
    format!("<details><summary>{summary}</summary>{body}</details>")
}

fn head(report: &Report<'_>, page: &mut Page) {
    let assessment = report.assessment;
    let word = assessment.verdict.as_str().to_uppercase();
    let (mark, meaning) = match assessment.verdict {
        Verdict::Promote => ("✔", "the candidate may replace the baseline"),
        Verdict::Reject => ("✘", "the candidate must not replace the baseline"),
        Verdict::Inconclusive => ("?", "it could not be decided"),
        Verdict::Infrastructure => ("!", "the harness failed, which says nothing of the candidate"),
    };
    let (workload, kernels) =
        (escape(&report.record.plan.workload), escape(&view::kernels(report)));
    // Should a guest's text ever get past the escapes, it still can't load, run or send anything.
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    page.always(&format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{word}: {workload}, {kernels}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>",
        include_str!("html.css")
    ));
    page.always(&format!("<h1>{workload}: {kernels}</h1>"));
    page.always(&format!(
        "<div class=\"verdict {}\"><strong>{mark} {word}</strong>: {meaning}<p>{}</p></div>",
        assessment.verdict.as_str(),
        escape(&view::conclusion(report))
    ));
}

/// The reasons with what shows them best.
fn reasons(report: &Report<'_>, tails: &mut Tails<'_>, page: &mut Page) {
    page.heading("why", "Why");
    let reasons = &report.assessment.reasons;
    if reasons.is_empty() {
        page.always("<p>No regression was found, and enough was tried.</p>");
    }
    page.list("ol", reasons.iter().map(|reason| self::reason(report, reason, tails)));
    page.end_section();
}

fn reason(report: &Report<'_>, reason: &Reason, tails: &mut Tails<'_>) -> String {
    let class = if reason.effect == Effect::Reject { "bad" } else { "open" };
    let (effect, text) = (reason.effect.as_str(), escape(&reason.text));
    let assessment = report.assessment;
    let case = match &reason.about {
        About::Scenario { scenario, subtest } => assessment.cases.iter().find(|case| {
            case.subject.scenario() == Some(scenario)
                && case.subject.subtest() == subtest.as_deref()
        }),
        About::Boot { image } => (assessment.boots.iter())
            .find(|case| matches!(&case.subject, Subject::Boot { image: of } if of == image)),
        _ => None,
    };
    let more = match (&reason.about, case) {
        (_, Some(case)) => {
            let shown = evidence(report, case, tails);
            details("Evidence", &format!("<pre>{}</pre>", escape_block(&shown)))
        }
        (About::Finding { signature }, _) => {
            let same = |delta: &FindingDelta| delta.finding.signature == *signature;
            let at = assessment.findings.iter().position(same).filter(|at| *at < FINDINGS);
            at.map_or_else(String::new, |at| format!(" <a href=\"#finding-{at}\">The finding</a>"))
        }
        (About::Metric { .. }, _) => " <a href=\"#performance\">The numbers</a>".to_owned(),
        _ => String::new(),
    };
    format!("<strong class=\"{class}\">{effect}</strong>: {text}{more}")
}

fn overview(report: &Report<'_>, page: &mut Page) {
    let performance: Vec<_> = report.assessment.performance().collect();
    let decided = [view::decision_counts(&performance), view::sees(report)];
    let rows = [
        ("function", view::function_counts(report).join(", ")),
        ("kernel log", view::kernel_log(report)),
        (
            "performance",
            decided.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("; "),
        ),
        ("memory", view::memory(report)),
        ("boot", view::ready(report).unwrap_or_default()),
        ("lab", view::hosts(report).join("; ")),
    ];
    page.heading("overview", "Overview");
    let rows = rows.iter().filter(|(_, text)| !text.is_empty());
    page.table(
        "The run in short",
        &["what", "result"],
        rows.map(|(name, text)| row(name, &[escape(text)])),
    );
    page.end_section();
}

fn function(report: &Report<'_>, page: &mut Page) {
    page.heading("function", "Function");
    let cases = || report.assessment.boots.iter().chain(&report.assessment.cases);
    let (passed, notable): (Vec<&Case>, Vec<_>) = cases().partition(|c| c.class == Class::Passed);
    if notable.is_empty() {
        page.always("<p>Everything passed on both kernels.</p>");
    }
    page.table(
        "Boots, scenarios and subtests that did not simply pass",
        &["what", "class", "counts", "cause"],
        notable.iter().map(|case| {
            let class = match case.effect {
                Effect::None => view::class(case).to_owned(),
                Effect::Reject => format!("<span class=\"bad\">{}</span>", view::class(case)),
                _ => format!("<span class=\"open\">{}</span>", view::class(case)),
            };
            row(
                &escape(&case.subject.to_string()),
                &[class, escape(&case.statement), escape(&view::cause(case))],
            )
        }),
    );
    if !passed.is_empty() {
        page.always(&format!("<details><summary>{} passed</summary>", passed.len()));
        page.list("ul", passed.iter().map(|case| escape(&case.subject.to_string())));
        page.always("</details>");
    }
    page.end_section();
}

fn kernel_log(report: &Report<'_>, link: &dyn Fn(&str) -> Option<String>, page: &mut Page) {
    page.heading("kernel-log", "Kernel log");
    page.always(&format!("<p>{}</p>", escape(&view::kernel_log(report))));
    let findings = &report.assessment.findings;
    page.table(
        "Findings",
        &["finding", "severity", "novelty", "baseline", "candidate", "during", "effect"],
        findings.iter().enumerate().map(|(at, delta)| {
            let title = escape(&delta.finding.title);
            let title = match at < FINDINGS {
                true => format!("<a href=\"#finding-{at}\">{title}</a>"),
                false => title,
            };
            let share = |seen: kgate_compare::Sightings| format!("{} of {}", seen.boots, seen.of);
            let effect = match (&delta.waiver, delta.effect) {
                (Some(waiver), _) => format!("waived by {}", escape(waiver)),
                (None, Effect::Reject) => "<strong class=\"bad\">reject</strong>".to_owned(),
                (None, effect) => effect.as_str().to_owned(),
            };
            row(
                &title,
                &[
                    delta.finding.severity.to_string(),
                    delta.novelty.as_str().to_owned(),
                    share(delta.baseline),
                    share(delta.candidate),
                    escape(&delta.scenarios.join(", ")),
                    effect,
                ],
            )
        }),
    );
    for (at, delta) in findings.iter().enumerate().take(FINDINGS) {
        page.item(&finding(report, at, delta, link));
    }
    if let Some(delta) = report.log {
        lines("Lines that are new", &delta.new_lines, page);
        lines("Lines that are gone", &delta.gone_lines, page);
        if delta.left_out > 0 {
            page.always(&format!("<p>{}</p>", escape(&log::left_out(delta.left_out))));
        }
    }
    page.end_section();
}

/// A finding with its stacks.
fn finding(
    report: &Report<'_>,
    at: usize,
    delta: &FindingDelta,
    link: &dyn Fn(&str) -> Option<String>,
) -> String {
    let finding = &delta.finding;
    let console = (report.record.boots.iter())
        .find(|boot| boot.planned.id == delta.boot)
        .and_then(|boot| boot.consoles.last())
        .map_or_else(String::new, |console| file(console, link));
    let facts = [
        ("kind", escape(&log::kind(finding))),
        ("where", escape(&log::location(finding))),
        ("who", escape(&log::who(finding))),
        ("kernel", escape(&log::kernel(finding))),
        ("first seen", format!("boot {}", escape(&delta.boot))),
        ("console", console),
        ("damaged", escape(finding.corrupted.as_deref().unwrap_or_default())),
        ("doubt", escape(delta.doubt.as_deref().unwrap_or_default())),
        ("signature", format!("<code>{}</code>", escape(&finding.signature))),
    ];
    let facts = facts.iter().filter(|(_, text)| !text.is_empty());
    let mut body = String::from("<table><tbody>");
    facts.for_each(|(name, text)| body += &row(name, std::slice::from_ref(text)));
    body += "</tbody></table>";
    body += &stack("Stack", &finding.frames, log::FRAMES);
    for stack in finding.stacks.iter().take(log::STACKS) {
        body += &self::stack(&escape(&stack.label), &stack.frames, log::OTHER_FRAMES);
    }
    let excerpt = escape_block(&bounded(&finding.excerpt, EXCERPT));
    body += &details("As the kernel printed it", &format!("<pre>{excerpt}</pre>"));
    let open = if delta.is_news() { " open=\"open\"" } else { "" };
    let title = format!("{}: {}", delta.novelty.as_str(), escape(&finding.title));
    format!("<details id=\"finding-{at}\"{open}><summary>{title}</summary>{body}</details>")
}

fn stack(label: &str, frames: &[Frame], most: usize) -> String {
    if frames.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for frame in frames.iter().take(most) {
        let mark = if frame.reliable { "  " } else { "? " };
        text += &format!("{mark}{}\n", escape(&log::frame(frame)));
    }
    if frames.len() > most {
        text += &format!("… and {} more\n", frames.len() - most);
    }
    format!("<h3>{label}</h3><pre>{text}</pre>")
}

fn lines(caption: &str, lines: &[Change<LogLine>], page: &mut Page) {
    page.table(
        caption,
        &["level", "line", "how sure"],
        lines.iter().take(LINES).map(|change| {
            let text = format!("<code>{}</code>", escape(&change.what.text));
            row(log::level_name(&change.what), &[text, escape(&log::sureness(change))])
        }),
    );
    if lines.len() > LINES {
        page.always(&format!("<p>… and {} more lines</p>", lines.len() - LINES));
    }
}

fn performance(report: &Report<'_>, link: &dyn Fn(&str) -> Option<String>, page: &mut Page) {
    page.heading("performance", "Performance");
    let all: Vec<_> = report.assessment.performance().collect();
    if all.is_empty() {
        page.always("<p>Nothing was measured.</p>");
    } else {
        let counts = [view::decision_counts(&all), view::sees(report)];
        let counts: Vec<&str> =
            counts.iter().map(String::as_str).filter(|t| !t.is_empty()).collect();
        page.always(&format!("<p>{}</p>", escape(&counts.join("; "))));
    }
    numbers("Performance", &all, link, page);
    let promises = report.assessment.families.statements();
    page.list("ul", promises.iter().map(|promise| escape(promise)));
    page.end_section();
}

fn memory(report: &Report<'_>, page: &mut Page) {
    page.heading("memory", "Memory");
    page.always(&format!("<p>{}</p>", escape(&view::memory(report))));
    let all: Vec<_> = report.assessment.memory().collect();
    numbers("Memory", &all, &|_| None, page);
    let slab = report.assessment.slab.iter().map(|moves| {
        let caches = view::caches(moves, usize::MAX);
        format!("slab caches, {}: {}", escape(&moves.place.to_string()), escape(&caches))
    });
    page.list("ul", slab);
    page.end_section();
}

/// Comparisons: first those that came to something, the rest on demand.
fn numbers(
    title: &str,
    all: &[&Comparison],
    link: &dyn Fn(&str) -> Option<String>,
    page: &mut Page,
) {
    const COLUMNS: [&str; 9] = [
        "where",
        "metric",
        "baseline",
        "candidate",
        "change (95 % interval)",
        "better ← limits → worse",
        "sees",
        "how sure",
        "decision",
    ];
    let (calm, notable): (Vec<&&Comparison>, Vec<_>) =
        all.iter().partition(|c| c.decision == Decision::Unchanged);
    let number = |c: &&&Comparison| self::number(c, link);
    page.table(
        &format!("{title}: what changed or could not be decided"),
        &COLUMNS,
        notable.iter().map(number),
    );
    if !calm.is_empty() {
        page.always(&format!("<details><summary>{} unchanged</summary>", calm.len()));
        page.table(&format!("{title}: unchanged"), &COLUMNS, calm.iter().map(number));
        page.always("</details>");
    }
}

fn number(c: &Comparison, link: &dyn Fn(&str) -> Option<String>) -> String {
    let graph = match &c.place {
        Place::Scenario { scenario, .. } if c.exact => {
            link(&format!("explain/{scenario}/{}.svg", c.metric))
        }
        _ => None,
    };
    let mut metric = escape(&c.label());
    if let Some(to) = graph {
        metric += &format!(" <a href=\"{}\">flame graph</a>", href(&to));
    }
    let class = match c.decision {
        Decision::Regression => "bad",
        Decision::Better => "good",
        Decision::Unchanged => "",
        Decision::Worse | Decision::Inconclusive | Decision::Missing => "open",
    };
    let short = |text: String| format!("<span class=\"number\">{}</span>", escape(&text));
    row(
        &escape(&c.place.to_string()),
        &[
            metric,
            short(view::side(c.baseline.as_ref(), &c.unit)),
            short(view::side(c.candidate.as_ref(), &c.unit)),
            escape(&view::change(c)),
            bar(c, class),
            short(view::resolution(c)),
            escape(&view::sureness(c)),
            format!("<span class=\"{class}\">{}</span>", escape(&view::decision(c))),
        ],
    )
}

/// The interval of a change between the limits: worse is always to the right, the full lines are the limit
/// that rejects, the dashed ones that from which on a change is shown.
fn bar(c: &Comparison, class: &str) -> String {
    const WIDTH: f64 = 160.0;
    const END: f64 = WIDTH / 2.0 - 2.0;
    // Two thirds of the way to the end.
    let unit = END / 1.5 / c.fail.max(f64::MIN_POSITIVE);
    let sign = if c.better == Better::Lower { 1.0 } else { -1.0 };
    let at = |ratio: f64| {
        let x = sign * ratio * unit;
        WIDTH / 2.0 + if x.is_nan() { 0.0 } else { x.clamp(-END, END) }
    };
    let Some(change) = c.change else { return "–".to_owned() };
    let (low, high) = c.interval.unwrap_or((change, change));
    let (left, right) = (at(low).min(at(high)), at(low).max(at(high)));
    let line = |ratio: f64, more: &str| {
        let x = at(ratio);
        format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"1\" y2=\"15\" stroke=\"currentColor\" stroke-opacity=\"0.5\"{more}/>"
        )
    };
    let dashes = " stroke-dasharray=\"1.5 2.5\"";
    let lines: String = [
        line(0.0, ""),
        line(c.fail, ""),
        line(-c.fail, ""),
        line(c.warn, dashes),
        line(-c.warn, dashes),
    ]
    .concat();
    let name = format!(
        "{}; shown from {:.2} %, rejected from {:.2} % on",
        view::change(c),
        100.0 * c.warn,
        100.0 * c.fail
    );
    format!(
        "<svg class=\"{class}\" role=\"img\" aria-label=\"{}\" width=\"{WIDTH}\" height=\"16\" viewBox=\"0 0 {WIDTH} 16\">\
         {lines}<rect x=\"{left:.1}\" y=\"6\" width=\"{:.1}\" height=\"4\" fill=\"currentColor\" fill-opacity=\"0.6\"/>\
         <circle cx=\"{:.1}\" cy=\"8\" r=\"3\" fill=\"currentColor\"/></svg>",
        escape(&name),
        (right - left).max(1.0),
        at(change),
    )
}

fn waivers(report: &Report<'_>, page: &mut Page) {
    let waivers = &report.assessment.waivers;
    if waivers.is_empty() {
        return;
    }
    page.heading("waivers", "Waivers");
    page.table(
        "Accepted differences",
        &["waiver", "state", "owner", "expires", "reason", "covers"],
        waivers.iter().map(|used| {
            let waiver = &used.waiver;
            row(
                &escape(&waiver.id),
                &[
                    used.state.as_str().to_owned(),
                    escape(&waiver.owner),
                    waiver.expires.to_string(),
                    escape(&waiver.reason),
                    escape(&used.covers.join(", ")),
                ],
            )
        }),
    );
    page.end_section();
}

fn notes(report: &Report<'_>, page: &mut Page) {
    let notes = &report.assessment.notes;
    if !notes.is_empty() {
        page.heading("notes", "Notes");
        page.list("ul", notes.iter().map(|note| escape(note)));
        page.end_section();
    }
}

fn kernels(report: &Report<'_>, page: &mut Page) {
    let (base, new) = (&report.record.plan.baseline, &report.record.plan.candidate);
    let unknown = || "–".to_owned();
    let fact = |name: &str, base: String, new: String| row(name, &[escape(&base), escape(&new)]);
    let known = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
    page.heading("kernels", "Kernels");
    let rows = [
        fact("release", base.release.clone(), new.release.clone()),
        fact("upstream", known(&base.upstream), known(&new.upstream)),
        fact("origin", base.origin.clone(), new.origin.clone()),
        fact("reference", base.reference.clone(), new.reference.clone()),
        fact("banner", base.banner.clone(), new.banner.clone()),
        fact("SHA-256 of the image", base.image_sha256.clone(), new.image_sha256.clone()),
        fact("SHA-256 of the package", known(&base.package_sha256), known(&new.package_sha256)),
    ];
    page.table("Both kernels", &["", "baseline", "candidate"], rows.into_iter());
    page.end_section();
}

fn run(report: &Report<'_>, link: &dyn Fn(&str) -> Option<String>, page: &mut Page) {
    let record = report.record;
    page.heading("run", "Run");
    let facts = [
        ("started", record.started_at.and_then(timestamp).unwrap_or_default()),
        ("time", view::duration(record.wall_ms)),
        ("kgate", record.plan.kgate.clone()),
        ("run directory", report.directory.to_owned()),
    ];
    let facts = facts.iter().map(|(name, text)| (*name, text));
    let facts = facts.chain(record.facts.iter().map(|(name, text)| (&**name, text)));
    page.table(
        "How it was run",
        &["what", "value"],
        facts.map(|(name, text)| row(&escape(name), &[escape(text)])),
    );
    let hosts = &report.assessment.hosts;
    if !hosts.is_empty() {
        page.table(
            "Lab hosts",
            &["host", "boots", "now", "state that changes what it measures"],
            hosts.iter().map(|host| {
                let now = match &host.returned {
                    None => "",
                    Some(None) => "back on production",
                    Some(Some(left)) => left,
                };
                let state = host.conditions.iter().map(|(name, value)| format!("{name} {value}"));
                let state: Vec<String> = host.uneven.iter().cloned().chain(state).collect();
                let cells = [host.boots.to_string(), escape(now), escape(&state.join("; "))];
                row(&escape(&host.name), &cells)
            }),
        );
    }
    page.always(&format!("<details><summary>{} boots</summary>", record.boots.len()));
    page.table(
        "Boots",
        &["boot", "attempts", "ready", "fault", "consoles"],
        record.boots.iter().map(|boot| {
            let ready: Vec<_> = boot.ready_ms.iter().map(|ms| view::duration(*ms)).collect();
            let fault = boot.fault.as_ref().map(ToString::to_string).unwrap_or_default();
            let consoles: Vec<_> =
                boot.consoles.iter().map(|console| file(console, link)).collect();
            row(
                &escape(&boot.planned.id),
                &[boot.attempts.to_string(), ready.join(", "), escape(&fault), consoles.join(", ")],
            )
        }),
    );
    page.always("</details>");
    page.end_section();
}

/// The commands that do it again.
fn reproduce(report: &Report<'_>, page: &mut Page) {
    let plan = &report.record.plan;
    let [baseline, candidate, workload] =
        [&plan.baseline.reference, &plan.candidate.reference, &plan.workload]
            .map(|w| view::quoted(w));
    let directory = view::quoted(report.directory);
    let tier = plan.tier.as_ref().map(|choice| format!(" --tier {}", choice.tier.as_str()));
    let tier = tier.unwrap_or_default();
    let mut lab = view::lab_options(report);
    if !lab.is_empty() {
        lab += &format!(" --hosts {}", plan.hosts().join(","));
    }
    let mut commands = vec![
        (
            "the whole run",
            format!(
                "kgate run --baseline {baseline} --candidate {candidate} --workload {workload}{tier}{lab}"
            ),
        ),
        ("the verdict from what was recorded", format!("kgate compare {directory}")),
    ];
    if report.assessment.performance().any(|c| c.exact) {
        commands.push(("where instructions went", format!("kgate explain {directory}")));
    }
    let rejecting = report.assessment.scenarios().filter(|case| case.effect == Effect::Reject);
    for scenario in rejecting.filter_map(|case| case.subject.scenario()) {
        commands.push((scenario, view::reproduce(report, scenario)));
    }
    page.heading("reproduce", "How to reproduce");
    page.table(
        "Commands",
        &["what", "command"],
        commands.iter().map(|(what, command)| {
            row(&escape(what), &[format!("<code>{}</code>", escape(command))])
        }),
    );
    page.end_section();
}
