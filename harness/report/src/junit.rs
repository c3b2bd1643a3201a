//! JUnit XML for CI dashboards.
//!
//! One suite per scenario kind, and suites `run`, `boot`, `kernel-log` and `memory` for what is no
//! scenario. A test case is the candidate's result in the light of the baseline's:
//!
//! | what | test case |
//! |---|---|
//! | rejects the candidate | failure |
//! | ours, the scenario's fault, inconclusive | error, its type says which |
//! | unmet requirement, not reached because the kernel failed before | skipped |
//! | fails on both kernels, waived, only to be reported | skipped, so that it neither turns the build red nor passes for a success |
//! | everything else | success |
//!
//! `classname` is `kgate.` and the suite; `name` is made of ids alone, so both stay the same from
//! run to run. The schema of Jenkins allows no attributes on `skipped`: the reason is in
//! `system-out`.

use std::io;

use junit_report::{Duration, OffsetDateTime, Report as Xml, TestCase, TestResult, TestSuite};
use kgate_compare::{Case, Class, Comparison, Decision, Effect, Place, Subject, Verdict};
use kgate_model::outcome::Role;
use kgate_model::plan::Kind;

use crate::Report;
use crate::evidence::{TAIL, Tails, evidence};
use crate::text::{bounded, clean};
use crate::{log, view};

/// Bytes of a message.
const MESSAGE: usize = 2000;
/// Last second that a timestamp of four-digit years can tell.
const LAST_SECOND: u64 = 253_402_300_799;

/// Writes the report. `tail` gives the last bytes, at most so many, of a file of the run directory.
///
/// # Errors
/// Those of `sink`.
pub fn junit(
    report: &Report<'_>,
    tail: &mut dyn FnMut(&str, usize) -> Option<Vec<u8>>,
    sink: impl io::Write,
) -> io::Result<()> {
    let mut tails = Tails::new(tail);
    let mut xml = Xml::new();
    xml.add_testsuite(suite(report, "run", vec![run_case(report)]));
    let boots = report.assessment.boots.iter().map(|c| case(report, c, "boot", &mut tails));
    let boots = boots.collect();
    xml.add_testsuite(suite(report, "boot", boots));
    for kind in Kind::ALL {
        let cases = kind_cases(report, kind, &mut tails);
        xml.add_testsuite(suite(report, kind.as_str(), cases));
    }
    xml.add_testsuite(suite(report, "kernel-log", vec![kernel_log(report)]));
    let memory: Vec<TestCase> = (report.assessment.memory())
        .map(|c| {
            let (moment, image) = match &c.place {
                Place::AfterLoad { image } => ("after load", image.as_str()),
                Place::AfterBoot { image } => ("after boot", image.as_str()),
                Place::Scenario { scenario, .. } => ("during", scenario.as_str()),
            };
            comparison(c, "memory", &format!("{moment} ({image}): {}", c.metric))
        })
        .collect();
    xml.add_testsuite(suite(report, "memory", memory));
    xml.write_xml(sink).map_err(|error| match error {
        junit_report::Error::Io(error) => error,
        error => io::Error::other(error),
    })
}

fn suite(report: &Report<'_>, name: &str, testcases: Vec<TestCase>) -> TestSuite {
    let seconds = report.record.started_at.unwrap_or(0) / 1000;
    let seconds = i64::try_from(seconds.min(LAST_SECOND)).unwrap_or(0);
    // Built by hand: its constructor reads the clock.
    TestSuite {
        name: name.to_owned(),
        package: "kgate".to_owned(),
        timestamp: OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        hostname: "kgate".to_owned(),
        testcases,
        system_out: None,
        system_err: None,
    }
}

fn test(class: &str, name: &str, result: TestResult, ms: u64, out: &str) -> TestCase {
    let out = out.trim_matches('\n');
    TestCase {
        name: clean(name),
        time: Duration::milliseconds(i64::try_from(ms.min(1 << 40)).unwrap_or(0)),
        result,
        classname: Some(format!("kgate.{class}")),
        filepath: None,
        system_out: (!out.is_empty()).then(|| cdata(out)),
        system_err: None,
    }
}

/// The end mark of a CDATA section can't stand in one: it is split over two.
fn cdata(text: &str) -> String {
    text.replace("]]>", "]]]]><![CDATA[>")
}

fn result(effect: Effect, kind: &str, message: &str) -> TestResult {
    let message = bounded(&clean(message), MESSAGE);
    let cause = None;
    match effect {
        Effect::None => TestResult::Success,
        Effect::Reject => TestResult::Failure { type_: clean(kind), message, cause },
        Effect::Infrastructure | Effect::Inconclusive => {
            TestResult::Error { type_: effect.as_str().to_owned(), message, cause }
        }
    }
}

/// The verdict, so that no dashboard is green when the gate isn't open.
fn run_case(report: &Report<'_>) -> TestCase {
    let assessment = report.assessment;
    let reasons: Vec<String> = (assessment.reasons.iter())
        .map(|r| format!("{}: {}", r.effect.as_str(), clean(&r.text)))
        .collect();
    let effect = match assessment.verdict {
        Verdict::Promote => Effect::None,
        Verdict::Inconclusive => Effect::Inconclusive,
        Verdict::Infrastructure => Effect::Infrastructure,
        Verdict::Reject => Effect::Reject,
    };
    let first = assessment.reasons.first().map_or("", |r| &r.text);
    let hosts =
        view::hosts(report).iter().map(|host| format!("lab host {}", clean(host))).collect();
    let notes = assessment.notes.iter().map(|n| format!("note: {}", clean(n))).collect();
    let out = [reasons, hosts, notes];
    let out = bounded(&out.concat().join("\n"), TAIL);
    test("run", "verdict", result(effect, "reject", first), report.record.wall_ms, &out)
}

fn kind_cases(report: &Report<'_>, kind: Kind, tails: &mut Tails<'_>) -> Vec<TestCase> {
    let mut cases: Vec<TestCase> = (report.assessment.cases.iter())
        .filter(|c| matches!(&c.subject, Subject::Scenario { kind: of, .. } if *of == kind))
        .map(|c| case(report, c, kind.as_str(), tails))
        .collect();
    for c in report.assessment.performance() {
        if let Place::Scenario { scenario, kind: of } = &c.place
            && *of == kind
        {
            let name = format!("{} [{}]", tail_of(scenario, kind), c.label());
            cases.push(comparison(c, kind.as_str(), &name));
        }
    }
    cases
}

/// A scenario's id without its kind.
fn tail_of(scenario: &str, kind: Kind) -> &str {
    scenario.strip_prefix(kind.as_str()).and_then(|s| s.strip_prefix('/')).unwrap_or(scenario)
}

fn case(report: &Report<'_>, case: &Case, class: &str, tails: &mut Tails<'_>) -> TestCase {
    let name = match &case.subject {
        Subject::Boot { image } => image.clone(),
        Subject::Scenario { scenario, kind, subtest: None } => tail_of(scenario, *kind).to_owned(),
        Subject::Scenario { scenario, kind, subtest: Some(path) } => {
            format!("{} / {path}", tail_of(scenario, *kind))
        }
    };
    let cause = match (&case.cause, &case.skip_reason) {
        (Some(fault), _) => bounded(&clean(&fault.to_string()), MESSAGE),
        (None, Some(reason)) => bounded(&clean(reason), MESSAGE),
        (None, None) if case.class == Class::Missing => "no result in some boots".to_owned(),
        (None, None) => case.class.as_str().to_owned(),
    };
    let label = case.cause.as_ref().map_or(case.class.as_str(), |fault| fault.kind.label());
    let unreached =
        case.class == Class::Missing && case.candidate.missing + case.baseline.missing == 0;
    let known = match case.class {
        Class::Regression | Class::StillFailing | Class::Skipped | Class::Missing => true,
        Class::Uncontrolled | Class::Flaky => case.candidate.failed > 0,
        Class::Passed | Class::Fixed | Class::Errored => false,
    };
    let result = if unreached || (known && case.effect == Effect::None) {
        TestResult::Skipped
    } else {
        result(case.effect, label, &format!("{cause} ({})", case.statement))
    };
    let mut out = String::new();
    if case.class != Class::Passed {
        out += &format!("{}: {cause}\n{}\n", case.class.as_str(), clean(&case.statement));
    }
    if let Some(waiver) = &case.waiver {
        out += &format!("waived by {}\n", clean(waiver));
    }
    if case.effect != Effect::None && case.class != Class::Missing {
        out += &evidence(report, case, tails);
    }
    test(class, &name, result, time(report, case), &out)
}

/// What the candidate took: all trials of a scenario, all boots up to the agent's first word.
fn time(report: &Report<'_>, case: &Case) -> u64 {
    let record = report.record;
    match &case.subject {
        Subject::Scenario { subtest: Some(_), .. } => 0,
        Subject::Scenario { scenario, subtest: None, .. } => (record.trials.iter())
            .filter(|t| t.role == Role::Candidate && t.planned.scenario == *scenario)
            .fold(0, |sum, t| sum.saturating_add(t.wall_ms)),
        Subject::Boot { image } => (record.boots.iter())
            .filter(|b| b.planned.role == Role::Candidate && b.planned.image == *image)
            .flat_map(|b| &b.ready_ms)
            .fold(0, |sum, ms| sum.saturating_add(*ms)),
    }
}

fn kernel_log(report: &Report<'_>) -> TestCase {
    let findings = &report.assessment.findings;
    let effect = findings.iter().map(|f| f.effect).max().unwrap_or_default();
    let worst = findings.iter().find(|f| f.effect == effect && effect != Effect::None);
    let message = worst.map_or_else(String::new, |f| {
        format!(
            "{} ({} of {} boots; baseline {} of {})",
            f.finding.title, f.candidate.boots, f.candidate.of, f.baseline.boots, f.baseline.of
        )
    });
    let lines = findings.iter().map(|f| {
        format!("{} {}: {}", f.novelty.as_str(), f.finding.severity, clean(&f.finding.title))
    });
    let new = report.log.iter().flat_map(|log| &log.new_lines).map(|change| {
        let (level, text) = (log::level_name(&change.what), clean(&change.what.text));
        format!("new {level}: {text} ({})", log::sureness(change))
    });
    let lines: Vec<String> = lines.chain(new).collect();
    let out = bounded(&lines.join("\n"), TAIL);
    test("kernel-log", "new findings", result(effect, "kernel log", &message), 0, &out)
}

fn comparison(c: &Comparison, class: &str, name: &str) -> TestCase {
    let side = |side: &Option<kgate_compare::Side>| {
        side.as_ref().map_or("nothing".to_owned(), |s| view::value(s.value, &c.unit))
    };
    let sure = match c.evidence {
        Some(_) => format!("; sees {}, {}", view::resolution(c), view::sureness(c)),
        None => String::new(),
    };
    let told = format!(
        "{}: {} to {}, {}{}",
        c.decision.as_str(),
        side(&c.baseline),
        side(&c.candidate),
        view::change(c),
        sure,
    );
    let told = if c.doubt.is_empty() { told } else { format!("{told}; {}", c.doubt) };
    let known = c.effect == Effect::None && c.decision == Decision::Regression;
    let result = if known { TestResult::Skipped } else { result(c.effect, "performance", &told) };
    let waiver = c.waiver.as_ref().map(|w| format!("\nwaived by {}", clean(w)));
    test(class, name, result, 0, &(clean(&told) + &waiver.unwrap_or_default()))
}
