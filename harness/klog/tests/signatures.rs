//! Signatures of failures that were provoked on point releases of a kernel, several boots each.
//!
//! One file per failure in `signatures/`, with more for the same failure in other circumstances
//! (`null.txt`, `null.timer.txt`). A line `== RELEASE-BOOT` precedes each boot's console, which is
//! cut to what belongs to the failure. `record/` makes such recordings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kgate_klog::{Source, parse};

/// The signature of the first finding in each boot of a failure, by the boot's name.
fn signatures(recorded: &str) -> BTreeMap<&str, String> {
    recorded
        .split("== ")
        .skip(1)
        .map(|boot| {
            let (name, log) = boot.split_once('\n').unwrap();
            let first = parse(Source::Console, log.as_bytes()).into_iter().next();
            (name, first.map_or("nothing found".to_owned(), |finding| finding.signature))
        })
        .collect()
}

#[test]
fn one_signature_per_failure() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signatures");
    let mut failures = BTreeMap::<String, BTreeSet<String>>::new();
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    let mut unstable = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let failure = name.split('.').next().unwrap().to_owned();
        let recorded = std::fs::read_to_string(&path).unwrap();
        let boots = signatures(&recorded);
        let releases: BTreeSet<_> =
            boots.keys().map(|boot| boot.rsplit_once('-').unwrap().0).collect();
        assert!(boots.len() >= 4 && releases.len() >= 2, "{name}: {:?}", boots.keys());
        let distinct: BTreeSet<_> = boots.values().cloned().collect();
        if distinct.len() > 1 {
            unstable.push(format!("{name}: {boots:#?}"));
        }
        for signature in distinct {
            found.entry(failure.clone()).or_default().insert(signature.clone());
            failures.entry(signature).or_default().insert(failure.clone());
        }
    }
    assert!(failures.len() >= 20, "{}", failures.len());
    for (signature, failures) in &failures {
        println!("{failures:?}: {signature}");
    }
    assert!(unstable.is_empty(), "not the same on every boot: {}", unstable.join("\n"));
    found.retain(|_, signatures| signatures.len() > 1);
    assert!(found.is_empty(), "not the same in all circumstances: {found:#?}");
    failures.retain(|signature, failures| failures.len() > 1 || signature == "nothing found");
    assert!(failures.is_empty(), "not told apart: {failures:#?}");
}
