//! Whatever comes in: logs can be gathered and compared without a panic, in the same way for any
//! division into chunks, and nothing is new in a log against itself.
#![no_main]

use kgate_fuzz::{Dice, source};
use kgate_klog::delta::{Census, Digest, Origin};
use kgate_model::outcome::Role;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|log: &[u8]| {
    let source = source(log);
    let digest = |pieces: &[&[u8]]| {
        let mut digest = Digest::new(source);
        pieces.iter().for_each(|piece| digest.push(piece));
        digest
    };
    let delta = |logs: [Digest; 2]| {
        let mut census = Census::default();
        for (role, log) in [Role::Baseline, Role::Candidate].into_iter().zip(logs) {
            census.add(Origin { role, group: "boot".to_owned(), whole: true }, log);
        }
        census.delta()
    };
    let pieces = Dice::new(log).divide(log);
    let same = delta([digest(&[log]), digest(&pieces)]);
    assert!(same.new_lines.is_empty() && same.gone_lines.is_empty(), "{same:?}");
    assert!(same.new_findings.is_empty() && same.gone_findings.is_empty(), "{same:?}");
    let (first, second) = log.split_at(log.len() / 2);
    let other = delta([digest(&[first]), digest(&[second])]);
    assert_eq!(other.logs, (1, 1));
});
