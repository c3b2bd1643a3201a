//! How the parser does on a public corpus of console logs, where it is at hand: the shares of
//! crashes detected, named and told to be damaged must not fall.

use std::path::{Path, PathBuf};

use kgate_klog::{Parser, Source, convention, parse};
use kgate_model::finding::Finding;

/// A log of the corpus, and what is in it.
struct Case {
    name: String,
    log: Vec<u8>,
    /// None of them: there is nothing to find.
    titles: Vec<String>,
    kind: String,
    corrupted: bool,
    panicked: bool,
}

/// Where the corpus is; tells when it is not there.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn corpus() -> Option<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/klog-dev");
    if corpus.join("index.jsonl").exists() {
        return Some(corpus);
    }
    eprintln!("skipped: no corpus at {}", corpus.display());
    None
}

fn cases(corpus: &Path) -> Vec<Case> {
    let index = std::fs::read_to_string(corpus.join("index.jsonl")).unwrap();
    let case = |entry: &str| {
        let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        let flag = |key: &str| entry[key].as_bool().unwrap();
        let alternates = entry["alt_titles"].as_array().unwrap().iter();
        let mut titles = vec![text("title")];
        titles.extend(alternates.map(|title| title.as_str().unwrap().to_owned()));
        Case {
            log: raw_log(&std::fs::read(corpus.join(text("file"))).unwrap()),
            name: text("file"),
            titles: if flag("expect_crash") { titles } else { Vec::new() },
            kind: text("type"),
            corrupted: flag("corrupted"),
            panicked: flag("panicked"),
        }
    };
    index.lines().map(case).collect()
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

/// What the convention knows.
fn known(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| !convention::is_extra(finding)).collect()
}

#[test]
fn public_corpus() {
    let Some(corpus) = corpus() else { return };
    let cases = cases(&corpus);
    let (mut crashes, mut clean, mut detected, mut alarms) = (0, 0, 0, 0);
    let (mut titles, mut first, mut types, mut corrupted, mut panicked) = (0, 0, 0, 0, 0);
    let (mut starts, mut ends, mut extras) = (0, 0, 0);
    for case in &cases {
        let findings = parse(Source::Console, &case.log);
        if case.titles.is_empty() {
            clean += 1;
            alarms += usize::from(!findings.is_empty());
            for finding in findings {
                println!("{}: false alarm: {}", case.name, finding.title);
            }
            continue;
        }
        crashes += 1;
        detected += usize::from(!findings.is_empty());
        let told = findings.iter().any(|finding| finding.panicked);
        panicked += usize::from(told == case.panicked);
        let extra = findings.first().is_some_and(convention::is_extra);
        extras += usize::from(extra);
        let findings = known(&findings);
        let Some(finding) = findings.first() else {
            println!("{}: not detected: {}", case.name, case.titles[0]);
            continue;
        };
        let same = |titles: &[String]| titles.contains(&finding.title);
        first += usize::from(same(&case.titles[..1]));
        titles += usize::from(same(&case.titles));
        if !same(&case.titles) {
            println!("{}: title {:?}, not {:?}", case.name, finding.title, case.titles[0]);
        }
        let kind = convention::type_of(finding);
        types += usize::from(kind == case.kind);
        if kind != case.kind {
            println!("{}: type {kind:?}, not {:?}", case.name, case.kind);
        }
        corrupted += usize::from(finding.corrupted.is_some() == case.corrupted);
        if finding.corrupted.is_some() != case.corrupted {
            println!("{}: {}: corrupted {:?}", case.name, case.titles[0], finding.corrupted);
        }
        if told != case.panicked {
            println!("{}: panicked {told}", case.name);
        }
        let again = parse(Source::Console, &case.log[finding.start as usize..]);
        let same = known(&again)
            .first()
            .is_some_and(|again| again.title == finding.title && again.start == 0);
        starts += usize::from(same);
        if !same {
            println!("{}: not the same from its start", case.name);
        }
        let after = parse(Source::Console, &case.log[finding.end as usize..]);
        let again = |after: &&Finding| after.title == finding.title;
        ends += usize::from(!known(&after).first().is_some_and(again));
    }
    println!("detected {detected} of {crashes}; false alarms {alarms} of {clean}");
    println!(
        "titles {titles} (first {first}), types {types}, corrupted {corrupted}, panicked {panicked}"
    );
    println!("with something else on top of the convention before {extras}");
    println!("the same from the start {starts}, another from the end {ends}");
    // Shares of all, as the targets are set; what is reached is more.
    let share = |count: usize| count as f64 / f64::from(u32::try_from(crashes).unwrap());
    assert_eq!(alarms, 0);
    assert!(share(detected) >= 0.995 && share(panicked) >= 0.995);
    assert!(share(titles) >= 0.99 && share(types) >= 0.99 && share(corrupted) >= 0.98);
    assert!(starts == detected && ends == detected);
}

/// Any division of the corpus's logs into chunks gives the same findings.
#[test]
fn chunks_do_not_matter() {
    let Some(corpus) = corpus() else { return };
    // Sizes that grow past lines and past the longest piece of a line, and one byte.
    let sizes = [1, 61, 997, 8191, 8192, 20_000];
    for (case, size) in cases(&corpus).iter().zip(sizes.iter().cycle()) {
        let whole = parse(Source::Console, &case.log);
        let mut parser = Parser::new(Source::Console);
        let mut findings: Vec<_> =
            case.log.chunks(*size).flat_map(|chunk| parser.push(chunk)).collect();
        findings.extend(parser.finish());
        assert_eq!(whole, findings, "{} in chunks of {size}", case.name);
    }
}

/// All logs in one, as from a machine that crashes again and again: nothing is lost, but for what
/// the log before has left open.
#[test]
fn joined_logs() {
    let Some(corpus) = corpus() else { return };
    let cases = cases(&corpus);
    let stamped = |case: &&Case| case.log.starts_with(b"[");
    let joined: Vec<_> = cases.iter().filter(stamped).collect();
    let log: Vec<u8> = joined.iter().flat_map(|case| [&case.log[..], b"\n"].concat()).collect();
    let apart: usize = joined.iter().map(|case| parse(Source::Console, &case.log).len()).sum();
    let together = parse(Source::Console, &log).len();
    println!("{apart} findings in {} logs, {together} in all of them joined", joined.len());
    assert!(together * 100 >= apart * 90);
}
