//! Exact mode, tails and slab caches from the record of a run to what it comes to.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kgate_compare::{Assessment, Decision, Effect, Evidence, Inputs, Statistic, Verdict};
use kgate_model::journal::RunRecord;
use kgate_model::outcome::Role;
use kgate_model::sample::{Better, Samples};
use kgate_scenario::{Library, Policy, Selected, Waivers, Workload};
use support::{Count, Run, TODAY};

use Role::{Baseline, Candidate};

const PIPE: &str = "performance/pipe";
const PATH: f64 = 10_000.0;

/// A run in exact mode of one scenario.
fn counted(templates: u32, baseline: Count, candidate: Count) -> RunRecord {
    Run::new(templates, &[PIPE]).counted(baseline, candidate)
}

fn assess(record: &RunRecord, policy: &Policy, selected: &[Selected]) -> Assessment {
    let today = TODAY.parse().unwrap();
    let waivers = &Waivers::default();
    Assessment::new(&Inputs { record, policy, selected, waivers, today, seed: 1 })
}

/// Decision and change in percent of the path and of the mean, and the verdict.
fn told(record: &RunRecord) -> (Decision, String, Decision, String, Verdict) {
    let assessment = assess(record, &Policy::default(), &[]);
    let all: Vec<_> = assessment.performance().collect();
    let [path, mean] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((path.statistic, mean.statistic), (Statistic::Path, Statistic::Mean));
    assert_eq!((path.label(), mean.label()), ("pipe".to_owned(), "pipe mean".to_owned()));
    let percent = |change: Option<f64>| format!("{:+.2}", 100.0 * change.unwrap());
    let changes = (percent(path.change), percent(mean.change));
    (path.decision, changes.0, mean.decision, changes.1, assessment.verdict)
}

/// Clones differ by a few instructions, and every fifth batch has an interrupt.
fn usual(template: u32, clone: u32, batch: u32) -> f64 {
    let interrupt = if batch % 5 == 4 { 400.0 } else { 0.0 };
    PATH + f64::from((7 * template + 3 * clone) % 5) + interrupt
}

#[test]
fn decisions() {
    use Decision::{Better, Regression, Unchanged, Worse};
    let table: [(&str, Count, &str, Decision, Decision, Verdict); 8] = [
        ("same", usual, "+0.00", Unchanged, Unchanged, Verdict::Promote),
        ("9 more", |t, c, b| usual(t, c, b) + 9.0, "+0.09", Unchanged, Unchanged, Verdict::Promote),
        ("30 more", |t, c, b| usual(t, c, b) + 30.0, "+0.30", Worse, Unchanged, Verdict::Promote),
        ("30 less", |t, c, b| usual(t, c, b) - 30.0, "-0.30", Better, Unchanged, Verdict::Promote),
        ("600 more", |t, c, b| usual(t, c, b) + 600.0, "+6.00", Regression, Worse, Verdict::Reject),
        ("300 less", |t, c, b| usual(t, c, b) - 300.0, "-3.00", Better, Better, Verdict::Promote),
        (
            "dearer interrupts",
            |t, c, b| usual(t, c, b) + if b % 5 == 4 { 350.0 } else { 0.0 },
            "+0.00",
            Unchanged,
            Worse,
            Verdict::Promote,
        ),
        (
            "far dearer interrupts",
            |t, c, b| usual(t, c, b) + if b % 5 == 4 { 6000.0 } else { 0.0 },
            "+0.00",
            Unchanged,
            Regression,
            Verdict::Reject,
        ),
    ];
    for (name, candidate, change, path, mean, verdict) in table {
        let (of_path, path_change, of_mean, mean_change, of_run) =
            told(&counted(2, usual, candidate));
        assert_eq!(
            (of_path, path_change.as_str(), of_mean, of_run),
            (path, change, mean, verdict),
            "{name}; mean {mean_change}"
        );
    }
}

#[test]
fn no_noise_at_all_needs_relevance_still() {
    let plain: Count = |_, _, _| 1000.0;
    assert_eq!(told(&counted(2, plain, plain)).0, Decision::Unchanged);
    // Two instructions of 1000 are the limit, to the last bit; one of 10,000 is below it.
    assert_eq!(told(&counted(2, plain, |_, _, _| 1002.0)).0, Decision::Worse);
    assert_eq!(told(&counted(2, plain, |_, _, _| 1001.0)).0, Decision::Unchanged);
    assert_eq!(told(&counted(2, |_, _, _| PATH, |_, _, _| PATH + 1.0)).0, Decision::Unchanged);
}

#[test]
fn templates_that_differ_as_much_as_the_kernels_prevent_a_claim() {
    let base: Count = |template, _, _| PATH + 200.0 * f64::from(template);
    let new: Count = |template, _, _| PATH + 200.0 * f64::from(template) + 200.0;
    let record = counted(2, base, new);
    let assessment = assess(&record, &Policy::default(), &[]);
    let path = assessment.performance().next().unwrap();
    assert_eq!(path.decision, Decision::Inconclusive);
    assert_eq!(assessment.families.templates, 2);
    assert!(path.doubt.starts_with("templates"), "{}", path.doubt);
    assert_eq!(assessment.verdict, Verdict::Inconclusive);
}

#[test]
fn one_template_decides_nothing() {
    let (decision, .., verdict) = told(&counted(1, usual, |t, c, b| usual(t, c, b) * 2.0));
    assert_eq!((decision, verdict), (Decision::Inconclusive, Verdict::Inconclusive));
}

#[test]
fn a_self_check_that_fails_or_is_missing_makes_the_mode_invalid() {
    let twice: Count = |t, c, b| usual(t, c, b) * 2.0;
    let mut record = counted(2, usual, twice);
    record.boots[1].self_check = Some(Err("pipe: 10012 and 10013".to_owned()));
    let check = |record: &RunRecord, what: &str| {
        let assessment = assess(record, &Policy::default(), &[]);
        assert_eq!(assessment.verdict, Verdict::Inconclusive);
        let reasons: Vec<_> = assessment.reasons.iter().filter(|r| r.text.contains(what)).collect();
        assert_eq!(reasons.len(), 1, "{:?}", assessment.reasons);
        assert!(assessment.performance().all(|c| c.effect == Effect::None));
    };
    check(&record, "10012 and 10013");
    record.boots.iter_mut().for_each(|boot| boot.self_check = None);
    check(&record, "no clone was carried out twice");
}

#[test]
fn limits_of_exact_mode_are_those_of_its_policy() {
    let mut policy = Policy::default();
    let record = counted(2, usual, |t, c, b| usual(t, c, b) + 30.0);
    let decision = |policy: &Policy| {
        assess(&record, policy, &[]).performance().next().map(|c| c.decision).unwrap()
    };
    policy.exact.path.fail.0 = 0.2;
    assert_eq!(decision(&policy), Decision::Regression);
    policy.exact.t = 100.0;
    assert_ne!(decision(&policy), Decision::Regression);
}

/// The scenario as a workload selects it.
fn selected(batch: u32) -> Vec<Selected> {
    let text = format!(
        "kind: performance\nsummary: s\nsteps: [{{ measure: pipe, batch: {batch}, batches: 10000 }}]\n"
    );
    let library = Library::load([(PathBuf::from(format!("{PIPE}.yaml")), text)])
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let workload = format!("summary: s\nscenarios: [{PIPE}]\n");
    let workload = Workload::load(Path::new("w.yaml"), &workload, &library)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    library.select(&workload)
}

/// Latencies in eight boots of each kernel, of which the candidate's slowest few take longer.
fn latencies(samples: u32, slowest: f64) -> RunRecord {
    let mut random = fastrand::Rng::with_seed(5);
    let mut run = Run::new(8, &[PIPE]);
    for role in Role::ALL {
        for boot in 1..=8 {
            let shift = 1000.0 * (1.0 + 0.02 * random.f64());
            let values = (0..samples)
                .map(|_| {
                    let slow = random.f64() < 0.02;
                    let factor = if slow && role == Candidate { slowest } else { 1.0 };
                    shift * (1.0 + 0.1 * random.f64()) * factor
                })
                .collect();
            let (metric, unit) = ("pipe".to_owned(), "ns".to_owned());
            let samples = Samples { metric, unit, better: Better::Lower, values };
            run.samples.insert((PIPE.to_owned(), role, boot), vec![samples]);
        }
    }
    run.record()
}

#[test]
fn tails_are_compared_where_a_sample_is_one_operation_and_there_are_enough() {
    let labels = |record: &RunRecord, batch: u32| -> Vec<(String, Decision)> {
        let assessment = assess(record, &Policy::default(), &selected(batch));
        assessment.performance().map(|c| (c.label(), c.decision)).collect()
    };
    let names = |told: &[(String, Decision)]| -> Vec<String> {
        told.iter().map(|(label, _)| label.clone()).collect()
    };
    assert_eq!(names(&labels(&latencies(2000, 1.0), 20)), ["pipe"]);
    assert_eq!(names(&labels(&latencies(500, 1.0), 1)), ["pipe", "pipe mean", "pipe p50"]);
    let equal = labels(&latencies(2000, 1.0), 1);
    assert_eq!(names(&equal), ["pipe", "pipe mean", "pipe p50", "pipe p99"]);
    assert!(equal.iter().all(|(_, decision)| *decision == Decision::Unchanged), "{equal:?}");
    let slow = labels(&latencies(2000, 3.0), 1);
    let of = |label: &str| slow.iter().find(|(name, _)| name == label).unwrap().1;
    assert_eq!((of("pipe"), of("pipe p50")), (Decision::Unchanged, Decision::Unchanged));
    assert_eq!(of("pipe p99"), Decision::Regression);
    assert!(labels(&latencies(10_000, 1.0), 1).iter().any(|(label, _)| label == "pipe p99.9"));
}

#[test]
fn too_few_boots_say_how_many_would_do() {
    let mut run = Run::new(4, &[PIPE]);
    for (role, factor) in [(Baseline, 1.0), (Candidate, 1.04)] {
        run = run.metric(
            PIPE,
            "pipe",
            Better::Lower,
            role,
            &[100.0, 112.0, 94.0, 103.0].map(|v| v * factor),
        );
    }
    let assessment = run.assess();
    let pipe = assessment.performance().next().unwrap();
    assert_eq!(pipe.decision, Decision::Inconclusive);
    let Some(Evidence::Boots { enough: Some(enough), .. }) = pipe.evidence else {
        panic!("{pipe:?}")
    };
    assert!((20..500).contains(&enough), "{enough}");
    assert!(pipe.doubt.contains(&format!("about {enough} would do")), "{}", pipe.doubt);
    assert!(pipe.detectable.unwrap() > 0.05);
}

#[test]
fn slab_caches_that_moved_are_told() {
    let mut record = Run::new(3, &[PIPE]).record();
    for boot in &mut record.boots {
        let more = if boot.planned.role == Candidate { 300_000 } else { 0 };
        let caches =
            [("dentry", 900_000 + more), ("kmalloc-64", 70_000 * u64::from(boot.planned.number))];
        let caches: BTreeMap<String, u64> = caches.map(|(n, b)| (n.to_owned(), b)).into();
        boot.after_boot.as_mut().unwrap().slab = caches;
    }
    let assessment = assess(&record, &Policy::default(), &[]);
    let [moves] = assessment.slab.as_slice() else { panic!("{:?}", assessment.slab) };
    assert_eq!(moves.place.to_string(), "memory after boot (base)");
    assert_eq!(moves.caches.len(), 1);
    assert_eq!(
        (moves.caches[0].name.as_str(), moves.caches[0].difference()),
        ("dentry", 300_000.0)
    );
}
