//! How the parser does on a public corpus of console logs, where it is at hand: the share of
//! crashes detected and named must not fall.

use std::path::Path;

use kgate_klog::{Source, parse};
use kgate_model::finding::FindingKind;

#[test]
fn public_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/klog-dev");
    let Ok(index) = std::fs::read_to_string(corpus.join("index.jsonl")) else {
        eprintln!("skipped: no corpus at {}", corpus.display());
        return;
    };
    let (mut crashes, mut detected, mut named, mut panics) = (0, 0, 0, 0);
    let (mut clean, mut alarms) = (0, 0);
    for entry in index.lines() {
        let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        let file = std::fs::read(corpus.join(text("file"))).unwrap();
        let log = raw_log(&file);
        let findings = parse(Source::Console, &log);
        if !entry["expect_crash"].as_bool().unwrap() {
            clean += 1;
            alarms += usize::from(!findings.is_empty());
            for finding in findings {
                println!("{}: false alarm: {}", text("file"), finding.title);
            }
            continue;
        }
        crashes += 1;
        detected += usize::from(!findings.is_empty());
        let mut titles = vec![text("title")];
        let alternates = entry["alt_titles"].as_array().unwrap();
        titles.extend(alternates.iter().map(|title| title.as_str().unwrap().to_owned()));
        // The corpus counts no storage errors, and says so when a report names no function.
        let storage = [FindingKind::Filesystem, FindingKind::BlockError, FindingKind::OomKill];
        let first = findings.iter().find(|finding| !storage.contains(&finding.kind));
        let got = first.map_or("", |finding| &finding.title);
        if titles.iter().any(|title| title == got || title.trim_end_matches(" in corrupted") == got)
        {
            named += 1;
        } else {
            println!("{}: expected {:?}, got {got:?}", text("file"), titles[0]);
        }
        let panicked = findings.iter().any(|finding| finding.panicked);
        panics += usize::from(panicked == entry["panicked"].as_bool().unwrap());
    }
    println!("detected {detected} of {crashes}, named {named}, panics told {panics}");
    println!("false alarms {alarms} of {clean}");
    assert_eq!(alarms, 0);
    assert!(detected >= 400 && named >= 300 && panics >= 418);
}

/// The log of a case file: after the first empty line, up to a line `REPORT:`, without `\r`.
fn raw_log(file: &[u8]) -> Vec<u8> {
    let plain: Vec<u8> = file.iter().copied().filter(|byte| *byte != b'\r').collect();
    let start = plain.windows(2).position(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
    let log = &plain[start..];
    let marker = b"\n\nREPORT:\n";
    let end = log.windows(marker.len()).position(|window| window == marker);
    log[..end.map_or(log.len(), |end| end + 1)].to_vec()
}
