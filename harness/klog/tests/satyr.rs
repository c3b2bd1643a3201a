//! How much of what oopses of many ages and architectures hold is read, against a public corpus
//! where it is at hand: first and last function, number of frames, taint flags and modules.

use std::path::Path;

use kgate_klog::{Source, parse};
use kgate_model::finding::{Finding, Frame};
use serde_json::Value;

/// Where the corpus is wrong: log, key, what its text says.
const CORRECTIONS: &[(&str, &str, Said)] = &[
    // Its reader does not know instruction pointers without an address …
    ("rhbz-1518943", "first_function", Said::Text("amdgpu_vm_sdma_commit")),
    ("rhbz-1518943", "frames", Said::Count(18)),
    // … nor lines with another program's output before them, …
    ("rhbz-836206", "frames", Said::Count(24)),
    // … and takes an address left on the stack for the innermost function.
    ("rhbz-1040900-s390x-2", "first_function", Said::Text("scsi_alloc_sgtable")),
];

enum Said {
    Text(&'static str),
    Count(u64),
}

fn correct(log: &str, key: &str, expected: &Value) -> Value {
    let known = CORRECTIONS.iter().find(|(name, what, _)| log.ends_with(name) && *what == key);
    match known {
        Some((_, _, Said::Text(text))) => Value::from(*text),
        Some((_, _, Said::Count(count))) => Value::from(*count),
        None => expected.clone(),
    }
}

/// Every frame of a log in the order of its text, whichever stack it belongs to.
fn frames(findings: &[Finding]) -> Vec<&Frame> {
    let mut all = Vec::new();
    for finding in findings {
        let at = |text: &str| finding.excerpt.find(text).unwrap_or(finding.excerpt.len());
        let own = finding.frames.first().map_or(0, |frame| {
            let place = frame.offset.map(|offset| format!("{}+0x{offset:x}", frame.function));
            at(place.as_deref().unwrap_or(&frame.function))
        });
        let mut groups = vec![(own, &finding.frames)];
        groups.extend(finding.stacks.iter().map(|stack| (at(&stack.label), &stack.frames)));
        groups.sort_by_key(|(at, _)| *at);
        all.extend(groups.into_iter().flat_map(|(_, frames)| frames));
    }
    all
}

/// The function a frame names; `None` for a bare address.
fn name<'a>(frame: Option<&&'a Frame>) -> Option<&'a str> {
    frame.map(|frame| frame.function.as_str()).filter(|name| !name.starts_with("0x"))
}

#[test]
fn oopses() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/satyr");
    let Ok(expected) = std::fs::read_to_string(corpus.join("expected.jsonl")) else {
        eprintln!("skipped: no corpus at {}", corpus.display());
        return;
    };
    let mut detected = 0;
    let mut right = [
        ("first function", 0),
        ("last function", 0),
        ("frames", 0),
        ("taint flags", 0),
        ("modules", 0),
    ];
    let cases: Vec<Value> =
        expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for case in &cases {
        let log = case["log"].as_str().unwrap();
        let text = std::fs::read(corpus.join(log)).unwrap();
        let findings = parse(Source::Console, &text);
        detected += usize::from(!findings.is_empty());
        let frames = frames(&findings);
        let taint = findings.iter().find_map(|finding| finding.taint.as_deref());
        let modules = findings.iter().map(|finding| finding.modules.len()).max();
        let got = [
            Value::from(name(frames.first())),
            Value::from(name(frames.last())),
            Value::from(frames.len()),
            Value::from(taint.map_or(0, str::len)),
            Value::from(modules.unwrap_or(0)),
        ];
        let keys = ["first_function", "last_function", "frames", "taint_flags", "modules"];
        for ((key, got), (what, count)) in keys.iter().zip(got).zip(&mut right) {
            let expected = correct(log, key, &case[key]);
            if expected == got {
                *count += 1;
            } else {
                println!("{log}: {what}: expected {expected}, got {got}");
            }
        }
    }
    println!("detected {detected} of {}", cases.len());
    for (what, count) in right {
        println!("{what}: {count} of {}", cases.len());
        assert!(count * 100 >= cases.len() * 95, "{what}: {count} of {}", cases.len());
    }
}
