//! Findings and log deltas by themselves, in every form.

use kgate_klog::Source;
use kgate_klog::delta::{Census, Digest, LogDelta, Origin};
use kgate_model::finding::{
    Access, Finding, FindingKind, Frame, Operation, Severity, SourceLine, Stack,
};
use kgate_model::outcome::Role;
use kgate_report::{
    LogPlace, Style, annotation, finding, finding_again, finding_json, log_delta,
    log_delta_annotations, log_delta_json,
};
use proptest::prelude::*;
use serde_json::Value;

fn frame(function: &str, offset: u64) -> Frame {
    Frame {
        function: function.into(),
        offset: Some(offset),
        size: Some(0x100),
        module: None,
        inlined: false,
        reliable: true,
        source: None,
    }
}

/// One with everything.
fn everything() -> Finding {
    let source = SourceLine { file: "net/ipv4/tcp_input.c".to_owned(), line: 3914 };
    let title = "KASAN: slab-use-after-free Read in tcp_ack";
    Finding {
        alt_titles: vec!["KASAN: use-after-free Read in tcp_ack".to_owned()],
        function: Some("tcp_ack".to_owned()),
        signature: "kasan/slab-use-after-free Read in tcp_ack".to_owned(),
        start: 4711,
        end: 6000,
        time_us: Some(7_123_456),
        panicked: true,
        corrupted: Some("the stack is mixed with another CPU's".to_owned()),
        access: Some(Access {
            operation: Some(Operation::Read),
            size: Some(8),
            address: Some(0xffff_8880_1234_5678),
        }),
        frames: vec![
            Frame { inlined: true, offset: None, size: None, ..frame("tcp_clean_rtx_queue", 0) },
            Frame { source: Some(source), ..frame("tcp_ack", 0x42) },
            Frame { reliable: false, ..frame("do_softirq", 1) },
            Frame { module: Some("kfault".into()), ..frame("kfault_write", 0x10) },
        ],
        stacks: vec![Stack {
            label: "Allocated by task 77:".to_owned(),
            frames: vec![frame("kmem_cache_alloc", 5), frame("tcp_alloc", 6)],
        }],
        cpu: Some(1),
        pid: Some(83),
        command: Some("nginx\u{1b}[2J".to_owned()),
        taint: Some("WOE".to_owned()),
        modules: vec!["kfault".into()],
        release: Some("6.12.117-cloud-amd64".to_owned()),
        excerpt: "BUG: KASAN: slab-use-after-free in tcp_ack+0x42/0x100\n".to_owned(),
        ..Finding::new(FindingKind::Kasan, Severity::Fatal, title)
    }
}

/// One of which next to nothing is known.
fn little() -> Finding {
    Finding {
        excerpt: "WARNING: CPU: 0 PID: 83 at /src/kfault.c:14 kfault_warn+0x5/0x10\n".to_owned(),
        ..Finding::new(FindingKind::Warning, Severity::Warning, "WARNING in kfault_warn")
    }
}

const PLACE: LogPlace<'_> = LogPlace { file: "console, 1.log", line: 42 };

#[test]
fn findings_for_a_person() {
    insta::assert_snapshot!("person_everything", finding(&everything(), PLACE, 90, Style::Plain));
    insta::assert_snapshot!("person_little", finding(&little(), PLACE, 90, Style::Plain));
    let stdin = LogPlace { file: "-", line: 7 };
    insta::assert_snapshot!(finding_again(&little(), stdin, 90, Style::Plain), @r"
    warning       WARNING in kfault_warn, again
      log         standard input, line 7
    ");
    // Without a stack, the lines say it all.
    let lines =
        "I/O error, dev sda, sector 8\n------\n\nI/O error, dev sda, sector 9\n---[ end ]---\n";
    let disk = Finding { excerpt: lines.repeat(9), ..little() };
    let shown = finding(&disk, PLACE, 90, Style::Plain);
    insta::assert_snapshot!(shown.lines().skip(2).take(4).collect::<Vec<_>>().join("\n"), @r"
      printed     I/O error, dev sda, sector 8
                  I/O error, dev sda, sector 9
                  I/O error, dev sda, sector 8
                  I/O error, dev sda, sector 9
    ");
    let coloured = finding(&everything(), PLACE, 90, Style::Colour);
    assert!(coloured.starts_with("\x1b[1m\x1b[31mfatal\x1b[0m"), "{coloured:?}");
    assert!(coloured.contains("\x1b[2mdo_softirq+0x1/0x100\x1b[0m"), "{coloured:?}");
}

#[test]
fn annotations_are_escaped_by_github_s_rules() {
    insta::assert_snapshot!("github_everything", annotation(&everything(), PLACE));
    insta::assert_snapshot!("github_little", annotation(&little(), PLACE));
    let nowhere = Finding { title: "100 %, a:b\n::error::c".to_owned(), ..everything() };
    let nowhere = Finding { frames: Vec::new(), ..nowhere };
    insta::assert_snapshot!("github_without_source", annotation(&nowhere, PLACE));
    // Standard input is no file of the repository.
    let piped = annotation(&nowhere, LogPlace { file: "-", line: 7 });
    assert!(!piped.contains("file="), "{piped}");
    assert!(piped.contains(" in standard input, line 7%0A"), "{piped}");
}

#[test]
fn json_holds_what_is_promised() {
    let value = finding_json(&everything());
    for (key, expected) in [
        ("corrupted", Value::from(true)),
        ("corrupted_reason", "the stack is mixed with another CPU's".into()),
        ("kind", "kasan".into()),
        ("function", "tcp_ack".into()),
        ("panicked", true.into()),
        ("start", 4711.into()),
        ("end", 6000.into()),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
    let value = finding_json(&little());
    assert_eq!(value["corrupted"], false);
    assert!(value["corrupted_reason"].is_null());
    for key in ["title", "alt_titles", "signature"] {
        assert!(value.get(key).is_some(), "{key}");
    }
    for list in ["frames", "stacks", "modules"] {
        assert!(value[list].as_array().is_some_and(Vec::is_empty), "{list}");
    }
}

fn delta(baseline: &[&str], candidate: &[&str]) -> LogDelta {
    let mut census = Census::default();
    for (role, logs) in [(Role::Baseline, baseline), (Role::Candidate, candidate)] {
        for log in logs {
            let mut digest = Digest::new(Source::Console);
            digest.push(log.as_bytes());
            census.add(Origin { role, group: String::new(), whole: true }, digest);
        }
    }
    census.delta()
}

const OLD: &str = "[    1.000000] usual\n[    2.000000] gone: 100 %\n";
const NEW: &str = "\
[    1.000000] usual
<3>[    2.000000] foo: probe of 0000:00:1f.2 failed with error -22
<6>[    3.000000] bar: ready, at last
[    4.000000] WARNING: CPU: 0 PID: 83 at /src/kfault.c:14 kfault_warn+0x5/0x10 [kfault]
[    4.000001] RIP: 0010:kfault_warn+0x5/0x10 [kfault]
[    4.000002] Call Trace:
[    4.000003]  <TASK>
[    4.000004]  kfault_write+0x5/0x10 [kfault]
[    4.000005]  ksys_write+0x6b/0xf0
[    4.000006]  </TASK>
[    4.000007] ---[ end trace 0000000000000000 ]---
";

#[test]
fn deltas_for_a_person() {
    insta::assert_snapshot!(
        "delta_unsure",
        log_delta(&delta(&[OLD; 5], &[NEW, NEW, NEW, OLD, NEW]), 90, Style::Plain)
    );
    insta::assert_snapshot!(
        "delta_sure",
        log_delta(&delta(&[OLD; 5], &[NEW; 5]), 90, Style::Plain)
    );
    insta::assert_snapshot!("delta_nothing", log_delta(&delta(&[OLD], &[OLD]), 90, Style::Plain));
    insta::assert_snapshot!(
        "delta_without_a_baseline",
        log_delta(&delta(&[], &[NEW]), 90, Style::Plain)
    );
}

#[test]
fn long_deltas_are_cut_for_a_person() {
    let many: String = (0..500).map(|n| format!("[    1.000000] {}\n", word(n))).collect();
    let shown = |baseline: &str, candidate: &str| {
        log_delta(&delta(&[baseline], &[candidate]), 90, Style::Plain)
    };
    let new = shown("", &many);
    assert!(new.starts_with("new: 500 lines\n"), "{new}");
    assert!(new.contains("  …           and 400 more lines; --format jsonl has all of them\n"));
    let gone = shown(&many, "");
    assert!(gone.contains("  …           and 480 more lines; --format jsonl has all of them\n"));
    assert!(gone.lines().count() < 30, "{gone}");
    assert_eq!(log_delta_json(&delta(&[&many], &[""])).len(), 500);
}

/// A word of its own for each number, without a digit in it.
fn word(n: u32) -> String {
    let letter = |n| char::from(b'g' + n % 19);
    [n / 361, n / 19, n].map(|n| letter((n % 19) as u8)).iter().collect()
}

#[test]
fn deltas_for_programs() {
    let delta = delta(&[OLD; 5], &[NEW; 5]);
    insta::assert_snapshot!("delta_github", log_delta_annotations(&delta));
    let rows = log_delta_json(&delta);
    let lines: Vec<_> = rows.iter().filter(|row| row.get("line").is_some()).collect();
    insta::assert_snapshot!("delta_json", serde_json::to_string_pretty(&lines[0]).unwrap());
    assert_eq!(rows[0]["finding"]["title"], "WARNING in kfault_warn");
    assert_eq!(rows.last().unwrap()["change"], "gone");
}

proptest! {
    #[test]
    fn whatever_a_kernel_prints_is_harmless(text in "\\PC{0,40}|[\\x00-\\x1f\\x7f-\\x9f:,%\u{202e}a-z]{0,60}") {
        let hostile = Finding {
            title: text.clone(),
            function: Some(text.clone()),
            command: Some(text.clone()),
            taint: Some(text.clone()),
            corrupted: Some(text.clone()),
            excerpt: text.clone(),
            stacks: vec![Stack { label: text.clone(), frames: vec![frame(&text, 1)] }],
            frames: vec![frame(&text, 1)],
            ..everything()
        };
        let place = LogPlace { file: &text, line: 1 };
        let log = format!("[    1.000000] {text}\n");
        let delta = delta(&[OLD], &[&log]);
        let harmful = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        for shown in [
            finding(&hostile, place, 60, Style::Plain),
            annotation(&hostile, place),
            log_delta(&delta, 60, Style::Plain),
            log_delta_annotations(&delta),
        ] {
            prop_assert!(!shown.contains(harmful), "{shown:?}");
        }
        let told = annotation(&hostile, place);
        prop_assert_eq!(told.matches('\n').count(), 1);
        prop_assert!(told.starts_with("::error title="));
    }
}
