//! Each format over hand-made runs that show every class, and over whatever a guest may print.

#[path = "../../compare/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use indicatif::{InMemoryTerm, MultiProgress, ProgressDrawTarget};
use kgate_compare::{Assessment, Inputs, Verdict};
use kgate_klog::Source;
use kgate_klog::delta::{Census, Digest, LogDelta, Origin};
use kgate_model::journal::{Entry, Event, OwnMachine, RunRecord};
use kgate_model::outcome::{Fault, FaultKind, Outcome, Role};
use kgate_model::sample::Better;
use kgate_model::wire::{Identity, KernelState};
use kgate_report::{
    Files, HTML_BOUND, Lines, MARKDOWN_BOUND, Observer, Progress, Report, Results, Style,
    annotations, html, junit, markdown, results_schema, summary,
};
use kgate_scenario::{Glob, Pattern, Policy, Reaction, WaiverScope, Waivers};
use proptest::prelude::*;
use support::{Run, errored, failed, panic, waiver, warning};

use Role::{Baseline, Candidate};

/// One of everything.
fn everything() -> (RunRecord, Assessment) {
    let skip = Outcome::Skipped { reason: "neither kernel has CONFIG_TLS".to_owned() };
    let fail = failed(FaultKind::Expectation, "exit code 1, expected 0");
    let broken = Outcome::from_fault(Fault::scenario("wrk: not found"));
    let ok = ("basic", Outcome::Passed);
    let bad = ("requeue / pi", failed(FaultKind::Subtest, "not ok 7 requeue / pi"));
    let mut run = Run::new(
        3,
        &[
            "subsystem/futex",
            "subsystem/landlock",
            "subsystem/tls",
            "subsystem/timers",
            "integration/nat-conntrack",
            "integration/wireguard",
            "integration/ipsec",
            "integration/broken",
            "performance/tcp-connect",
            "performance/syscall",
        ],
    )
    .finding(
        "integration/nat-conntrack",
        Candidate,
        1..=3,
        &warning("WARNING in tcp_rcv_state_process"),
    )
    .finding("integration/wireguard", Candidate, [2], &panic("panic in wg_packet_rx"))
    .subtests("subsystem/futex", Baseline, 1..=3, &[ok.clone(), ("requeue / pi", Outcome::Passed)])
    .subtests("subsystem/futex", Candidate, 1..=3, &[ok, bad])
    .outcome("subsystem/landlock", Baseline, 1..=3, &fail)
    .outcome("subsystem/landlock", Candidate, 1..=3, &fail)
    .outcome("subsystem/tls", Baseline, 1..=3, &skip)
    .outcome("subsystem/tls", Candidate, 1..=3, &skip)
    .outcome("subsystem/timers", Candidate, [3], &fail)
    .outcome("integration/ipsec", Candidate, 1..=3, &fail)
    .outcome("integration/broken", Candidate, [1], &broken)
    .missing("performance/syscall", Candidate, [3])
    .metric(
        "performance/tcp-connect",
        "tcp-connect",
        Better::Lower,
        Baseline,
        &[9000.0, 9010.0, 9020.0],
    )
    .metric(
        "performance/tcp-connect",
        "tcp-connect",
        Better::Lower,
        Candidate,
        &[9900.0, 9910.0, 9920.0],
    )
    .metric("performance/tcp-connect", "rate", Better::Higher, Baseline, &[100.0, 100.1, 100.2])
    .metric("performance/tcp-connect", "rate", Better::Higher, Candidate, &[103.0, 103.1, 103.2])
    .metric("performance/syscall", "getppid", Better::Lower, Baseline, &[100.0, 140.0, 60.0])
    .metric("performance/syscall", "getppid", Better::Lower, Candidate, &[100.0, 140.0]);
    run.boot_findings.insert((Baseline, 1), vec![warning("WARNING in gone")]);
    run.slab_growth = 1400;
    run.notes = vec!["KVM hangs guests on this machine: fell back to TCG".to_owned()];
    let scope =
        WaiverScope { scenario: Some(Glob::new("integration/ipsec")), ..WaiverScope::default() };
    let old =
        WaiverScope { finding: Some(Pattern::new("wg_packet").unwrap()), ..WaiverScope::default() };
    let waivers = vec![waiver("W-1", "2027-01-01", scope), waiver("W-2", "2026-01-01", old)];
    (run.record(), run.assess_with(&Policy::default(), &[], waivers))
}

fn promoted() -> (RunRecord, Assessment) {
    let run = Run::new(3, &["subsystem/futex", "integration/nat-conntrack"]);
    (run.record(), run.assess())
}

/// On two lab hosts, of which one is left and was not in one state.
fn on_hosts() -> (RunRecord, Assessment) {
    let mut run = Run::new(4, &["performance/pipe", "subsystem/futex"])
        .metric("performance/pipe", "pipe", Better::Lower, Baseline, &[9.0, 99.0, 9.1, 99.1])
        .metric("performance/pipe", "pipe", Better::Lower, Candidate, &[9.0, 99.0, 9.1, 99.1])
        .outcome("subsystem/futex", Candidate, 1..=4, &failed(FaultKind::Expectation, "exit 1"));
    run.hosts = vec!["edge-lab-1".to_owned(), "edge-lab-2".to_owned()];
    for (role, number, governor) in
        [(Baseline, 2, "performance"), (Candidate, 2, "<b>powersave</b>"), (Baseline, 1, "x")]
    {
        let state = [("governor".to_owned(), governor.to_owned())].into();
        run.conditions.insert((role, number), state);
    }
    let left =
        Event::HostReturned { host: "edge-lab-2".into(), left: Some("no answer for 600 s".into()) };
    let events = run.events().into_iter().chain([left]);
    let record = RunRecord::new(run.plan(), events.map(|event| Entry { at: 0, event }));
    let assessment = Assessment::new(&Inputs {
        record: &record,
        policy: &Policy::default(),
        selected: &[],
        waivers: &Waivers::default(),
        today: support::TODAY.parse().unwrap(),
        seed: 1,
    });
    (record, assessment)
}

#[test]
fn lab_hosts_are_told_of_in_every_format() {
    let run = on_hosts();
    let report = report(&run);
    insta::assert_snapshot!(summary(&report, 100, Style::Plain));
    let markdown = markdown(&report);
    let lab = markdown.lines().find(|line| line.starts_with("| lab |")).unwrap();
    insta::assert_snapshot!(lab);
    let results = serde_json::to_value(Results::new(&report)).unwrap();
    validator().validate(&results).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&results["hosts"]).unwrap());
    assert_eq!(results["boots"][0]["host"], "edge-lab-1");
    assert_eq!(results["boots"][0]["conditions"][0]["governor"], "x");
    assert_eq!(results["comparisons"][0]["hosts"][0], "edge-lab-1");
    let mut xml = Vec::new();
    junit(&report, &mut |_, _| None, &mut xml).unwrap();
    assert!(String::from_utf8(xml).unwrap().contains("lab host edge-lab-1: 4 boots, back on"));
    let page = html(&report, Files { tail: &mut |_, _| None, link: &|_| None });
    assert!(page.contains("governor &lt;b&gt;powersave&lt;/b&gt; in candidate-2"), "{page}");
    assert!(page.contains("--lab lab.yaml --hosts edge-lab-1,edge-lab-2</code>"), "{page}");
}

fn report<'a>((record, assessment): &'a (RunRecord, Assessment)) -> Report<'a> {
    Report { record, assessment, log: Some(&LOG), directory: "runs/2026-11-21T2216" }
}

/// Lines of all sorts: surely new and not, with levels and without, more than fit.
static LOG: LazyLock<LogDelta> = LazyLock::new(|| {
    let usual = "[    1.000000] usual\n";
    let new = format!(
        "{usual}<3>[    2.000000] foo: probe of 0000:00:1f.2 failed with error -22\n\
         [    3.000000] bar: ready\n<4>[    3.100000] a\n[    3.200000] b\n[    3.300000] c\n\
         [    3.400000] d\n"
    );
    let gone = format!("{usual}[    4.000000] gone | <b>today</b>\n");
    log_of(&[&gone, usual, usual], &[&format!("{new}[    5.000000] once\n"), &new, &new])
});

fn log_of(baseline: &[&str], candidate: &[&str]) -> LogDelta {
    let mut census = Census::default();
    for (role, logs) in [(Baseline, baseline), (Candidate, candidate)] {
        for log in logs {
            let mut digest = Digest::new(Source::Console);
            digest.push(log.as_bytes());
            census.add(Origin { role, group: String::new(), whole: true }, digest);
        }
    }
    census.delta()
}

const CONSOLE: &[u8] = b"[    1.2] Linux\r\n\x1b[31m]]>&<\xff\xfe\x00\xef\xbf\xbf\n";

fn junit_text(run: &(RunRecord, Assessment)) -> String {
    let mut out = Vec::new();
    junit(&report(run), &mut |_, _| Some(CONSOLE.to_vec()), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn terminal_of_everything() {
    insta::assert_snapshot!(summary(&report(&everything()), 100, Style::Plain));
}

#[test]
fn terminal_of_a_promotion() {
    insta::assert_snapshot!(summary(&report(&promoted()), 80, Style::Plain));
}

/// Counts of instructions that differ by some, in a mode that sees it, and slab caches that moved.
#[test]
fn exact_mode_in_words() {
    let base = |template: u32, clone: u32, batch: u32| {
        10_000.0 + f64::from((7 * template + 3 * clone) % 5) + if batch == 4 { 400.0 } else { 0.0 }
    };
    let mut record = Run::new(2, &["performance/pipe"]).counted(base, |template, clone, batch| {
        10_032.0 + f64::from((5 * template + 2 * clone) % 5) + if batch == 4 { 900.0 } else { 0.0 }
    });
    for boot in &mut record.boots {
        let more = if boot.planned.role == Candidate { 300_000 } else { 0 };
        let state = boot.after_boot.as_mut().unwrap();
        state.slab.insert("dentry".to_owned(), 900_000 + more);
    }
    let assessment = Assessment::new(&Inputs {
        record: &record,
        policy: &Policy::default(),
        selected: &[],
        waivers: &Waivers::default(),
        today: support::TODAY.parse().unwrap(),
        seed: 1,
    });
    let made = (record, assessment);
    let report = Report { log: None, ..report(&made) };
    insta::assert_snapshot!(summary(&report, 100, Style::Plain));
    let page = markdown(&report);
    let (_, numbers) = page.split_once("### Performance").unwrap();
    insta::assert_snapshot!(numbers);
    let json = Results::new(&report).to_json().unwrap();
    validator().validate(&serde_json::from_str(&json).unwrap()).unwrap();
}

/// A warning that the policy only reports is no reason, and is to be seen all the same.
#[test]
fn new_warnings_are_listed() {
    let mut run = Run::new(3, &["subsystem/futex"]);
    let title = "WARNING in tcp_rcv_state_process";
    run.boot_findings.insert((Candidate, 1), vec![warning(title)]);
    run.boot_findings.insert((Candidate, 3), vec![warning(title)]);
    let policy = Policy { new_warning: Reaction::Report, ..Policy::default() };
    let made = (run.record(), run.assess_with(&policy, &[], Vec::new()));
    assert_eq!(made.1.verdict, Verdict::Promote);
    let text = summary(&Report { log: None, ..report(&made) }, 80, Style::Plain);
    let row = "  new warning   WARNING in tcp_rcv_state_process (in 2 of 3 boots)\n";
    assert!(text.contains(row), "{text}");
}

#[test]
fn colours_change_no_text() {
    let run = everything();
    let coloured = summary(&report(&run), 100, Style::Colour);
    assert!(coloured.contains("\x1b[1m\x1b[31mREJECT\x1b[0m"), "{coloured:?}");
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain += before;
        rest = after.split_once('m').unwrap().1;
    }
    assert_eq!(plain + rest, summary(&report(&run), 100, Style::Plain));
}

#[test]
fn narrow_terminals_are_respected() {
    let text = summary(&report(&everything()), 50, Style::Plain);
    // Commands and paths are to be copied: they stay whole.
    for line in text.lines().filter(|l| !l.contains("kgate boot") && !l.contains("runs/")) {
        assert!(line.chars().count() <= 50, "{line}");
    }
}

#[test]
fn markdown_of_everything() {
    insta::assert_snapshot!(markdown(&report(&everything())));
}

#[test]
fn junit_of_everything() {
    insta::assert_snapshot!(junit_text(&everything()).replace("><", ">\n<"));
}

#[test]
fn junit_of_a_promotion_has_no_failure() {
    let text = junit_text(&promoted());
    assert!(!text.contains("<failure") && !text.contains("<error"), "{text}");
}

/// A page with all files of the run directory beside it.
fn page(report: &Report<'_>, console: &[u8]) -> String {
    let files = Files {
        tail: &mut |_, _| Some(console.to_vec()),
        link: &|path| (!path.ends_with("1-base.log")).then(|| path.to_owned()),
    };
    html(report, files)
}

/// Parses a page and checks what holds for each: no script, nothing from elsewhere, every link within it
/// leads somewhere, every table has headers.
fn checked(page: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(page, options).expect(page);
    let elements = || document.descendants().filter(roxmltree::Node::is_element);
    let ids: Vec<_> = elements().filter_map(|n| n.attribute("id")).collect();
    let unique: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
    for node in elements() {
        let known = [
            "html", "head", "meta", "title", "style", "body", "main", "section", "footer", "h1",
            "h2", "h3", "p", "div", "a", "strong", "span", "code", "pre", "ol", "ul", "li",
            "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "svg",
            "line", "rect", "circle",
        ];
        assert!(known.contains(&node.tag_name().name()), "{node:?}");
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(!name.starts_with("on") && !["src", "style"].contains(&name), "{node:?}");
        }
        if let Some(to) = node.attribute("href") {
            let leads = to.strip_prefix('#').map_or(to.starts_with("./"), |id| ids.contains(&id));
            assert!(leads, "{to}");
        }
        match node.tag_name().name() {
            "th" => assert!(node.has_attribute("scope"), "{node:?}"),
            "svg" => assert!(node.attribute("aria-label").is_some_and(|name| !name.is_empty())),
            _ => {}
        }
    }
    document
}

/// What stands on a page, without its head.
fn body(page: &str) -> &str {
    page.split_once("</head>").unwrap().1
}

#[test]
fn html_of_everything() {
    let run = everything();
    let text = page(&report(&run), CONSOLE);
    let document = checked(&text);
    let headings = document.descendants().filter(|n| n.has_tag_name("h2"));
    let headings: Vec<_> = headings.filter_map(|n| n.text()).collect();
    assert_eq!(
        headings,
        [
            "Why",
            "Overview",
            "Function",
            "Kernel log",
            "Performance",
            "Memory",
            "Waivers",
            "Notes",
            "Kernels",
            "Run",
            "How to reproduce"
        ]
    );
    insta::assert_snapshot!(body(&text));
}

#[test]
fn html_of_a_promotion() {
    let run = promoted();
    let text = page(&Report { log: None, ..report(&run) }, CONSOLE);
    checked(&text);
    insta::assert_snapshot!(body(&text));
}

/// Where a browser has no style sheet, no colour and no picture, each decision is still there in words.
#[test]
fn html_says_everything_in_words() {
    let run = everything();
    let text = page(&report(&run), CONSOLE);
    let document = checked(&text);
    let words: String = (document.descendants())
        .filter(|n| n.is_text() && n.parent().is_none_or(|p| !p.has_tag_name("style")))
        .filter_map(|n| n.text())
        .collect();
    assert!(words.contains("✘ REJECT: the candidate must not replace the baseline"), "{words}");
    for reason in &run.1.reasons {
        assert!(words.contains(&format!("{}: {}", reason.effect.as_str(), reason.text)), "{words}");
    }
    for comparison in run.1.performance() {
        assert!(words.contains(comparison.decision.as_str()), "{words}");
    }
}

#[test]
fn annotations_of_everything() {
    insta::assert_snapshot!(annotations(&report(&everything())));
    assert_eq!(annotations(&report(&promoted())), "");
}

/// GitHub shows ten of a sort in a step: the tenth says how many it would have dropped.
#[test]
fn annotations_keep_to_the_limits() {
    let names: Vec<String> = (0..30).map(|i| format!("subsystem/scenario-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (failing, errors) in [(10, 10), (11, 10), (30, 10)] {
        let mut run = Run::new(3, &names);
        for name in &names[..failing] {
            let long = format!("100 % wrong,\n::set-env name=x::y\n{}", "z".repeat(9000));
            run = run.outcome(name, Candidate, 1..=3, &failed(FaultKind::Expectation, &long));
        }
        let made = (run.record(), run.assess());
        let text = annotations(&report(&made));
        assert_eq!(text.lines().count(), errors, "{text}");
        assert!(text.lines().all(|line| line.starts_with("::error title=") && line.len() < 5000));
        let more = text.contains(&format!("::{} more reasons are in the report", failing - 9));
        assert_eq!(more, failing > 10, "{text}");
    }
}

#[test]
fn junit_names_are_unique_and_stay_the_same() {
    let names = |text: &str| -> Vec<(String, String)> {
        let document = roxmltree::Document::parse(text).unwrap();
        (document.descendants().filter(|n| n.has_tag_name("testcase")))
            .map(|n| {
                let attribute = |name| n.attribute(name).unwrap().to_owned();
                (attribute("classname"), attribute("name"))
            })
            .collect()
    };
    let worse = names(&junit_text(&everything()));
    let mut unique = worse.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), worse.len());
    let better = names(&junit_text(&{
        let run = Run::new(3, &["subsystem/landlock", "integration/nat-conntrack"]);
        (run.record(), run.assess())
    }));
    for name in better {
        assert!(worse.contains(&name), "{name:?}");
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn junit_is_valid_for_jenkins() {
    let schema = workspace().join("../shared/fixtures-release/schemas/junit-4-jenkins-dtkit.xsd");
    if !schema.exists() {
        eprintln!("skipped: {} is not there", schema.display());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, run) in [("everything.xml", everything()), ("promoted.xml", promoted())] {
        let file = directory.path().join(name);
        std::fs::write(&file, junit_text(&run)).unwrap();
        let mut command = Command::new("xmllint");
        match command.args(["--noout", "--schema"]).args([&schema, &file]).output() {
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{name}: {told}");
            }
            Err(error) => eprintln!("skipped: xmllint can't be started: {error}"),
        }
    }
}

#[test]
fn the_schema_of_results_is_the_one_in_the_repository() {
    let path = workspace().join("schemas/results.schema.json");
    let current = serde_json::to_string_pretty(&results_schema()).unwrap() + "\n";
    if std::env::var_os("KGATE_UPDATE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == current, "{} is old: run with KGATE_UPDATE=1", path.display());
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(results_schema().as_value()).unwrap()
}

#[test]
fn results_are_valid_and_hold_what_is_promised() {
    let validator = validator();
    for run in [everything(), promoted()] {
        let json = Results::new(&report(&run)).to_json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(value["verdict"], run.1.verdict.as_str());
        assert_eq!(value["candidate"]["release"], "6.1.192-cloud-amd64");
        assert_eq!(value["trials"].as_array().unwrap().len(), run.0.trials.len());
    }
    let mut value = serde_json::to_value(Results::new(&report(&everything()))).unwrap();
    // Their last digits are the mathematical library's.
    let numbers = value["comparisons"][0].as_object_mut().unwrap();
    let interval =
        (numbers["interval"][0].as_f64().unwrap(), numbers["interval"][1].as_f64().unwrap());
    assert!(0.095 < interval.0 && interval.0 < 0.0999 && 0.0999 < interval.1 && interval.1 < 0.105);
    assert!(numbers["p"].as_f64().unwrap() < 1e-4);
    for name in ["change", "interval", "p"] {
        numbers.remove(name);
    }
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&serde_json::json!({
            "reasons": value["reasons"],
            "trial": value["trials"][4],
            "comparison": value["comparisons"][0],
            "finding": value["findings"][0],
            "log": value["log"],
            "boot": value["boots"][0],
            "waivers": value["waivers"],
            "notes": value["notes"],
            "case": value["cases"][1],
            "started_at": value["started_at"],
        }))
        .unwrap()
    );
}

fn entries(run: &Run) -> Vec<Entry> {
    run.events()
        .into_iter()
        .zip(0..)
        .map(|(event, i)| Entry { at: 1_000_000 + 250 * i, event })
        .collect()
}

/// A record before anything ran.
fn planned(run: &Run) -> RunRecord {
    RunRecord::new(run.plan(), Vec::new())
}

#[test]
fn lines_tell_what_happened() {
    let run = Run::new(1, &["integration/nat", "subsystem/futex"])
        .finding("integration/nat", Candidate, [1], &warning("WARNING in \x1b[2Jx"))
        .outcome("subsystem/futex", Candidate, [1], &errored("the channel broke"));
    let mut out = Vec::new();
    let mut lines = Lines::new(&planned(&run), &mut out, Style::Plain);
    entries(&run).iter().for_each(|entry| lines.entry(entry));
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn bars_tell_what_each_boot_is_doing() {
    let run = Run::new(1, &["integration/nat", "subsystem/futex"]).outcome(
        "integration/nat",
        Baseline,
        [1],
        &failed(FaultKind::Expectation, "exit code 1"),
    );
    let term = InMemoryTerm::new(12, 100);
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
    let bars = MultiProgress::with_draw_target(target);
    let mut progress = Progress::new(&planned(&run), bars, 100, Style::Plain);
    let mut shown = Vec::new();
    for entry in entries(&run).iter().take(8) {
        progress.entry(entry);
        // The rate of drawing is limited by the clock.
        std::thread::sleep(std::time::Duration::from_millis(15));
        shown.push(term.contents());
    }
    // The times are the clock's.
    let last = shown.last().unwrap();
    assert!(
        last.starts_with(
            "FAILED      [1/4] integration/nat@baseline-1-base, 2.1 s: expectation: exit code 1"
        ),
        "{last}"
    );
    assert!(last.contains("1/4 trials") && last.contains("1 not passed"), "{last}");
    assert!(last.contains("baseline-1-base     subsystem/futex"), "{last}");
    assert!(shown.iter().any(|s| s.contains("integration/nat: run 1")), "{shown:#?}");
    assert!(shown.iter().any(|s| s.contains("booted in 1.5 s")), "{shown:#?}");
    for entry in entries(&run).iter().skip(8) {
        progress.entry(entry);
    }
    progress.finish();
    assert!(!term.contents().contains("trials"), "{}", term.contents());
}

#[test]
fn each_clone_has_a_line_while_it_runs() {
    let run = Run::new(1, &["integration/nat", "subsystem/futex"]);
    let boot = "candidate-1-base";
    let trial = |name: &str| format!("{name}@{boot}");
    let started = |name: &str| Event::TrialStarted {
        trial: trial(name),
        attempt: 1,
        machine: Some(OwnMachine {
            clone: true,
            ready_ms: 30,
            console: "consoles/c.log".into(),
            kernel_log: "kmsg/c.log".into(),
        }),
    };
    let events = [
        Event::BootStarted { boot: boot.into(), attempt: 1 },
        Event::BootReady {
            boot: boot.into(),
            attempt: 1,
            identity: Identity { release: "6.1.2".into(), ..Identity::default() },
            ready_ms: 1500,
            state: KernelState::default(),
            kept_since: Some(7),
            conditions: None,
        },
        started("integration/nat"),
        started("subsystem/futex"),
        Event::StepStarted { trial: trial("subsystem/futex"), step: 1, name: "wait".into() },
        Event::TrialEnded {
            trial: trial("integration/nat"),
            outcome: Outcome::Passed,
            wall_ms: 20,
            subtests: Vec::new(),
            before: None,
            after: None,
            log: None,
            diagnosis: None,
        },
    ];
    let term = InMemoryTerm::new(12, 100);
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
    let bars = MultiProgress::with_draw_target(target);
    let mut progress = Progress::new(&planned(&run), bars, 100, Style::Plain);
    let mut out = Vec::new();
    let mut lines = Lines::new(&planned(&run), &mut out, Style::Plain);
    let mut shown = Vec::new();
    for event in events {
        let entry = Entry { at: 0, event };
        progress.entry(&entry);
        lines.entry(&entry);
        std::thread::sleep(std::time::Duration::from_millis(15));
        // The first line has the clock's times.
        shown.push(term.contents().lines().skip(1).collect::<Vec<_>>().join("\n"));
    }
    insta::assert_snapshot!(shown.join("\n---\n"));
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

/// Text with everything that a guest may print to do harm.
fn hostile() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            4 => any::<char>().prop_map(String::from),
            1 => prop::sample::select(vec![
                "\x1b[31m", "]]>", "<![CDATA[", "&lt;", "</testcase>", "|", "```", "\n\n", "\r\n",
                "\u{fffe}", "\u{ffff}", "\u{202e}", "\0", "\u{9b}", "@everyone", "\"", "'",
                "<script>", "\u{85}", "\u{2028}",
            ]).prop_map(str::to_owned),
        ],
        0..30,
    )
    .prop_map(|parts| parts.concat())
}

fn no_control(text: &str) {
    let bad = text.chars().find(|&c| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{fffe}' | '\u{ffff}')
    });
    assert_eq!(bad, None, "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_a_guest_prints_is_harmless(
        message in hostile(),
        title in hostile(),
        path in hostile(),
        metric in hostile(),
        unit in hostile(),
        console in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let fail = failed(FaultKind::Subtest, &message);
        let mut run = Run::new(3, &["subsystem/futex", "performance/tcp"])
            .finding("performance/tcp", Candidate, [1], &warning(&title))
            .subtests("subsystem/futex", Baseline, 1..=3, &[(&path, Outcome::Passed)])
            .subtests("subsystem/futex", Candidate, 1..=3, &[(&path, fail)])
            .metric("performance/tcp", &metric, Better::Lower, Baseline, &[1.0, f64::MAX, 3.0])
            .metric("performance/tcp", &metric, Better::Lower, Candidate, &[1.0, 2.0, 3.0]);
        for samples in run.samples.values_mut().flatten() {
            samples.unit.clone_from(&unit);
        }
        run.notes = vec![message.clone()];
        let lines = log_of(&["[    1.000000] x\n"], &[&format!("[    1.000000] {message}\n")]);
        let mut made = (run.record(), run.assess());
        made.0.plan.workload = title;
        made.0.plan.candidate.reference = path;
        made.0.plan.candidate.upstream = None;
        made.0.plan.candidate.release = message;
        made.0.facts.insert("x".to_owned(), metric);
        for at in [None, Some(0), Some(u64::MAX)] {
            made.0.started_at = at;
            let report = Report { log: Some(&lines), ..report(&made) };
            no_control(&summary(&report, 60, Style::Plain));
            let page = markdown(&report);
            no_control(&page);
            prop_assert!(page.len() <= MARKDOWN_BOUND);
            // Code is shown as it is.
            let mut text = page.lines().filter(|line| !line.starts_with("    "));
            prop_assert!(!text.any(|line| line.contains("<script>") || line.contains("@everyone")));
            let mut xml = Vec::new();
            junit(&report, &mut |_, _| Some(console.clone()), &mut xml).unwrap();
            let xml = String::from_utf8(xml).unwrap();
            no_control(&xml);
            let document = roxmltree::Document::parse(&xml);
            prop_assert!(document.is_ok(), "{:?}\n{xml}", document.err());
            let cases = document.unwrap().descendants().filter(|n| n.has_tag_name("failure")).count();
            prop_assert_eq!(made.1.verdict, Verdict::Reject);
            prop_assert!(cases >= 2);
            let page = self::page(&report, &console);
            no_control(&page);
            checked(&page);
            let commands = annotations(&report);
            no_control(&commands);
            prop_assert!(commands.lines().all(|line| line.starts_with("::error ") || line.starts_with("::warning ")));
            let json = Results::new(&report).to_json().unwrap();
            // JSON escapes C0 itself; what it leaves is text that a reader has to clean.
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert!(validator().is_valid(&value));
        }
        let mut out = Vec::new();
        let mut lines = Lines::new(&planned(&run), &mut out, Style::Plain);
        entries(&run).iter().for_each(|entry| lines.entry(entry));
        no_control(&String::from_utf8(out).unwrap());
    }
}

#[test]
fn reports_of_huge_runs_are_bounded() {
    let names: Vec<String> = (0..800).map(|i| format!("subsystem/scenario-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let long = "x".repeat(10_000);
    let mut run = Run::new(1, &names);
    for name in names {
        run = run.outcome(name, Candidate, [1], &failed(FaultKind::Expectation, &long));
    }
    let made = (run.record(), run.assess());
    assert!(markdown(&report(&made)).len() <= MARKDOWN_BOUND);
    let mut xml = Vec::new();
    junit(&report(&made), &mut |_, most| Some(vec![b'y'; most]), &mut xml).unwrap();
    assert!(xml.len() < 16 << 20, "{}", xml.len());
    let text = page(&report(&made), &[b'<'; 8 << 10]);
    assert!(text.len() <= HTML_BOUND, "{}", text.len());
    checked(&text);
    assert!(summary(&report(&made), 80, Style::Plain).len() < 1 << 20);
}
