//! What the statistics see, and what they must not see.

mod support;

use kgate_compare::{Decision, Verdict, at_least_as_often};
use kgate_model::outcome::Role;
use kgate_model::sample::{Better, Samples};
use kgate_scenario::{Percent, PerformanceLimits, Policy};
use support::Run;

use Role::{Baseline, Candidate};

const TCP: &str = "performance/tcp";

/// Normal deviates by the sum of twelve uniform ones: no tail beyond six, which is enough here.
fn normal(random: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

/// `metrics` metrics in `boots` boots of each role, each boot scattering by `noise` around its
/// kernel's mean: 1000 for the baseline, `shift` more for the candidate.
fn measured(boots: u32, metrics: u32, noise: f64, shift: f64, random: &mut fastrand::Rng) -> Run {
    let mut run = Run::new(boots, &[TCP]);
    for metric in 0..metrics {
        for (role, mean) in [(Baseline, 1000.0), (Candidate, 1000.0 * (1.0 + shift))] {
            let values: Vec<f64> =
                (0..boots).map(|_| mean * (1.0 + noise * normal(random))).collect();
            run = run.metric(TCP, &format!("m{metric}"), Better::Lower, role, &values);
        }
    }
    run
}

#[test]
fn fisher() {
    for (candidate, baseline, expected) in [
        ((1, 3), (0, 3), 0.5),
        ((3, 3), (0, 3), 0.05),
        ((5, 5), (0, 5), 1.0 / 252.0),
        ((4, 5), (0, 5), 5.0 / 210.0),
        ((0, 5), (3, 5), 1.0),
        ((0, 0), (0, 0), 1.0),
        ((2, 2), (2, 2), 1.0),
    ] {
        let p = at_least_as_often(candidate, baseline);
        assert!((p - expected).abs() < 1e-9, "{candidate:?} {baseline:?}: {p}");
    }
}

/// Share of runs rejected, and of intervals that hold the truth, between equal kernels. The noise is
/// as large as the fail limit: relevance alone lets differences pass.
fn equal_kernels(boots: u32, runs: u32) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut rejected, mut covered, mut compared) = (0, 0, 0);
    for _ in 0..runs {
        let assessment = measured(boots, 8, 0.05, 0.0, &mut random).assess();
        rejected += u32::from(assessment.verdict == Verdict::Reject);
        for comparison in assessment.performance() {
            let (low, high) = comparison.interval.unwrap();
            compared += 1;
            covered += u32::from(low <= 0.0 && 0.0 <= high);
        }
    }
    (f64::from(rejected) / f64::from(runs), f64::from(covered) / f64::from(compared))
}

#[test]
fn equal_kernels_are_rejected_in_at_most_one_run_of_twenty() {
    for (boots, runs) in [(3, 80), (5, 80)] {
        let (rejected, covered) = equal_kernels(boots, runs);
        assert!(rejected <= 0.05, "{boots} boots: {rejected} of runs are rejected");
        assert!(covered > 0.93, "{boots} boots: the 95 % interval holds the truth in {covered}");
    }
}

#[test]
fn ten_percent_is_found_among_ten_metrics_at_one_percent_of_noise() {
    let mut random = fastrand::Rng::with_seed(8);
    let mut found = 0;
    for _ in 0..40 {
        let mut run = measured(5, 9, 0.01, 0.0, &mut random);
        for (role, mean) in [(Baseline, 1000.0), (Candidate, 1100.0)] {
            let values: Vec<f64> =
                (0..5).map(|_| mean * (1.0 + 0.01 * normal(&mut random))).collect();
            run = run.metric(TCP, "slow", Better::Lower, role, &values);
        }
        let assessment = run.assess();
        let regressions: Vec<_> =
            assessment.performance().filter(|c| c.decision == Decision::Regression).collect();
        assert!(regressions.iter().all(|c| c.metric == "slow"));
        found += usize::from(!regressions.is_empty());
    }
    assert!(found >= 38, "{found} of 40");
}

/// Like [`measured`] with one metric, whose boots scatter by 1 % and have 40 samples each. Half of
/// the samples, chosen at random, are disturbed: they cost twice as much.
fn disturbed(better: Better, shift: f64, random: &mut fastrand::Rng) -> Run {
    let mut run = Run::new(3, &[TCP]);
    for (role, mean) in [(Baseline, 1000.0), (Candidate, 1000.0 * (1.0 + shift))] {
        for boot in 1..=3 {
            let mean = mean * (1.0 + 0.01 * normal(random));
            let values = (0..40)
                .map(|_| {
                    let time = mean * (1.0 + 0.01 * normal(random)) * f64::from(random.u8(1..=2));
                    if better == Better::Lower { time } else { 1e6 / time }
                })
                .collect();
            let samples = Samples { metric: "m".to_owned(), unit: "ns".to_owned(), better, values };
            run.samples.insert((TCP.to_owned(), role, boot), vec![samples]);
        }
    }
    run
}

#[test]
fn half_of_the_samples_disturbed_neither_hides_nor_feigns_a_change() {
    let mut random = fastrand::Rng::with_seed(9);
    for better in [Better::Lower, Better::Higher] {
        let promoted = (0..60)
            .filter(|_| disturbed(better, 0.0, &mut random).assess().verdict == Verdict::Promote)
            .count();
        // The rest is inconclusive: three boots are few to be sure that 5 % would have been seen.
        assert!(promoted >= 54, "{better:?}: of 60 equal pairs {promoted} are promoted");
        let rejected = (0..60)
            .filter(|_| disturbed(better, 0.15, &mut random).assess().verdict == Verdict::Reject)
            .count();
        assert!(rejected >= 57, "{better:?}: of 60 slower ones {rejected} are rejected");
    }
}

#[test]
fn decisions() {
    // Baseline, candidate, direction, decision; warn 1 %, fail 5 %.
    let calm = [100.0, 100.2, 100.1, 99.9, 100.0];
    let scaled = |by: f64| calm.map(|v| v * by);
    let wild = [60.0, 140.0, 100.0, 75.0, 130.0];
    for (name, baseline, candidate, better, expected) in [
        ("same", calm.to_vec(), calm.to_vec(), Better::Lower, Decision::Unchanged),
        (
            "half a percent",
            calm.to_vec(),
            scaled(1.005).to_vec(),
            Better::Lower,
            Decision::Unchanged,
        ),
        ("2 % slower", calm.to_vec(), scaled(1.02).to_vec(), Better::Lower, Decision::Worse),
        ("2 % more", calm.to_vec(), scaled(1.02).to_vec(), Better::Higher, Decision::Better),
        ("2 % less", calm.to_vec(), scaled(0.98).to_vec(), Better::Higher, Decision::Worse),
        ("10 % slower", calm.to_vec(), scaled(1.1).to_vec(), Better::Lower, Decision::Regression),
        ("10 % less", calm.to_vec(), scaled(0.9).to_vec(), Better::Higher, Decision::Regression),
        (
            "noise",
            wild.to_vec(),
            wild.iter().rev().copied().collect(),
            Better::Lower,
            Decision::Inconclusive,
        ),
        (
            "two boots",
            calm[..2].to_vec(),
            scaled(1.5)[..2].to_vec(),
            Better::Lower,
            Decision::Inconclusive,
        ),
        ("zero", vec![0.0; 5], vec![0.0; 5], Better::Lower, Decision::Unchanged),
        ("from zero", vec![0.0; 5], calm.to_vec(), Better::Lower, Decision::Missing),
        ("none", calm.to_vec(), Vec::new(), Better::Lower, Decision::Missing),
        ("exact, same", vec![7.0; 3], vec![7.0; 3], Better::Lower, Decision::Unchanged),
        ("exact, 6 % more", vec![100.0; 3], vec![106.0; 3], Better::Lower, Decision::Regression),
    ] {
        let run = Run::new(5, &[TCP])
            .metric(TCP, "m", better, Baseline, &baseline)
            .metric(TCP, "m", better, Candidate, &candidate);
        let assessment = run.assess();
        let comparison = assessment.performance().next().unwrap();
        assert_eq!(comparison.decision, expected, "{name}: {comparison:?}");
    }
}

#[test]
fn limits_of_single_metrics_hold() {
    let values = [100.0, 100.2, 100.1, 99.9, 100.0];
    let run = Run::new(5, &[TCP]).metric(TCP, "m", Better::Lower, Baseline, &values).metric(
        TCP,
        "m",
        Better::Lower,
        Candidate,
        &values.map(|v| v * 1.1),
    );
    let performance = PerformanceLimits { warn: Percent(15.0), fail: Percent(20.0) };
    let policy = Policy { performance, ..Policy::default() };
    let assessment = run.assess_with(&policy, &[], Vec::new());
    assert_eq!(assessment.performance().next().unwrap().decision, Decision::Unchanged);
    assert_eq!(run.assess().verdict, Verdict::Reject);
}

#[test]
fn memory_is_compared_but_pages_of_noise_are_not() {
    let mut run = Run::new(3, &["integration/nat"]);
    let slab = |run: &Run| {
        let assessment = run.assess();
        let decision = |name| assessment.memory().find(|c| c.metric == name).unwrap().decision;
        assert_eq!(decision("PageTables"), Decision::Unchanged);
        (decision("Slab"), assessment.verdict)
    };
    assert_eq!(slab(&run), (Decision::Unchanged, Verdict::Promote));
    run.slab_growth = 1400;
    assert_eq!(slab(&run), (Decision::Worse, Verdict::Promote));
    run.slab_growth = 4000;
    assert_eq!(slab(&run), (Decision::Regression, Verdict::Reject));
}

#[test]
fn another_metric_changes_nothing_for_the_first() {
    let values = [100.0, 101.0, 102.0, 99.0, 98.0];
    let one = Run::new(5, &[TCP]).metric(TCP, "a", Better::Lower, Baseline, &values).metric(
        TCP,
        "a",
        Better::Lower,
        Candidate,
        &values,
    );
    let two = one.clone().metric(TCP, "b", Better::Lower, Baseline, &values);
    let interval = |run: &Run| run.assess().performance().next().unwrap().interval;
    assert_eq!(interval(&one), interval(&two));
}
