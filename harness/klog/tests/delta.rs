//! The log delta over real boots: `delta/boots.xz` holds the records of `/dev/kmsg` of fifteen, five
//! of Debian's 6.1.192 and twice five of its 6.1.170, each after a line `==> NAME <==` as
//! `tail -n +1` prints it. All ran the scenario `integration/veth-netns` on the same machine.

use std::io::Read;
use std::path::Path;

use kgate_klog::Source;
use kgate_klog::delta::{Census, Change, Digest, Level, LogDelta, LogLine, Origin};
use kgate_model::outcome::Role;

/// Names and logs.
fn boots() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/delta/boots.xz");
    let mut text = String::from("\n");
    let file = std::fs::File::open(path).unwrap();
    liblzma::read::XzDecoder::new(file).read_to_string(&mut text).unwrap();
    let boots = text.split("\n==> ").skip(1).map(|part| part.split_once(" <==\n").unwrap());
    boots.map(|(name, log)| (name.to_owned(), log.to_owned())).collect()
}

fn compared(baseline: &str, candidate: &str, boots_each: usize) -> LogDelta {
    let mut census = Census::default();
    let boots = boots();
    for (role, set) in [(Role::Baseline, baseline), (Role::Candidate, candidate)] {
        let of_set = boots.iter().filter(|(name, _)| name.starts_with(set)).take(boots_each);
        for (_, log) in of_set {
            let mut digest = Digest::new(Source::Kmsg);
            digest.push(log.as_bytes());
            census.add(Origin { role, group: String::new(), whole: true }, digest);
        }
    }
    let delta = census.delta();
    assert_eq!(delta.logs, (boots_each as u32, boots_each as u32));
    assert_eq!((&*delta.new_findings, &*delta.gone_findings), (&[][..], &[][..]));
    assert_eq!(delta.left_out, 0);
    delta
}

/// One line for each change.
fn shown(changes: &[Change<LogLine>]) -> Vec<String> {
    let line = |change: &Change<LogLine>| {
        let Change { what, baseline, candidate, sure, .. } = change;
        format!(
            "{} {} {}/{} {}/{} {}",
            if *sure { "sure" } else { "?" },
            what.level.map_or("-", Level::name),
            candidate.boots,
            candidate.of,
            baseline.boots,
            baseline.of,
            what.text
        )
    };
    changes.iter().map(line).collect()
}

#[test]
fn equal_kernels_have_nothing_that_is_surely_new() {
    for boots in 1..=5 {
        for (one, other) in [("6.1.170-a", "6.1.170-b"), ("6.1.170-b", "6.1.170-a")] {
            let delta = compared(one, other, boots);
            let lines = delta.new_lines.iter().chain(&delta.gone_lines);
            let sure: Vec<_> = lines.clone().filter(|change| change.sure).collect();
            assert_eq!(sure, Vec::<&Change<LogLine>>::new(), "{boots} boots");
            assert!(lines.count() <= 4, "{boots} boots: {:?}", shown(&delta.new_lines));
        }
    }
}

#[test]
fn a_point_release_makes_a_short_list() {
    let delta = compared("6.1.170-a", "6.1.192", 5);
    assert_eq!(
        shown(&delta.new_lines),
        [
            "? warn 2/5 0/5 APIC calibration not consistent with PM-Timer: 102ms instead of 100ms",
            "sure info 5/5 0/5 cblist_init_generic: Setting shift to 0 and lim to 1 rcu_task_cpu_ids=1.",
            "? info 2/5 0/5 APIC delta adjusted to PM-Timer: 6250046 (6392873)",
        ]
    );
    assert_eq!(
        shown(&delta.gone_lines),
        [
            "? warn 0/5 1/5 hpet: Lost 1 RTC interrupts",
            "sure info 0/5 5/5 cblist_init_generic: Setting shift to 0 and lim to 1.",
        ]
    );
}

/// One boot of each can't tell a line that is new from one that is rare.
#[test]
fn one_boot_of_each_is_never_sure() {
    let delta = compared("6.1.170-a", "6.1.192", 1);
    assert!(!delta.new_lines.is_empty());
    assert!(delta.new_lines.iter().all(|change| !change.sure && change.chance == 0.5));
}
