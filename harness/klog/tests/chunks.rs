//! However a recorded log is divided, it comes to the same; what the fuzz targets (`fuzz/`) check of
//! any bytes, here of every case.

use std::fs;
use std::path::Path;

use kgate_klog::delta::{Census, Digest, Origin};
use kgate_klog::{Parser, Source, parse};
use kgate_model::outcome::Role;

/// The cases, with their names.
fn cases() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect();
    cases.sort();
    assert!(cases.len() > 30);
    cases
}

const SIZES: &[usize] = &[1, 61, 1000, 20_000];

#[test]
fn findings_do_not_depend_on_chunks() {
    for (name, log) in cases() {
        let whole = parse(Source::Console, &log);
        for size in SIZES {
            let mut parser = Parser::new(Source::Console);
            let mut found = Vec::new();
            for chunk in log.chunks(*size) {
                found.extend(parser.push(chunk));
            }
            found.extend(parser.finish());
            assert_eq!(found, whole, "{name} in chunks of {size}");
        }
    }
}

#[test]
fn lines_outside_of_findings_do_not_depend_on_chunks() {
    let digest = |log: &[u8], size: usize| {
        let mut digest = Digest::new(Source::Console);
        log.chunks(size).for_each(|chunk| digest.push(chunk));
        digest
    };
    for (name, log) in cases() {
        for size in SIZES {
            let mut census = Census::default();
            for (role, size) in [(Role::Baseline, log.len().max(1)), (Role::Candidate, *size)] {
                let origin = Origin { role, group: "boot".to_owned(), whole: true };
                census.add(origin, digest(&log, size));
            }
            let delta = census.delta();
            let new: Vec<_> = delta.new_lines.iter().map(|change| &change.what.text).collect();
            let gone: Vec<_> = delta.gone_lines.iter().map(|change| &change.what.text).collect();
            assert_eq!((new, gone), (vec![], vec![]), "{name} in chunks of {size}");
        }
    }
}
