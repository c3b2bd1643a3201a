//! How long the statistics of a large run take. `ci/compare-scipy` runs the same permutation test by
//! SciPy and tells the ratio.

use std::hint::black_box;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use kgate_compare::Statistic;
use kgate_compare::stats::{Metric, changes, test};
use kgate_model::sample::Better;

const METRICS: usize = 1000;
const SAMPLES: usize = 40;

fn boots(count: usize, random: &mut fastrand::Rng) -> Vec<Vec<f64>> {
    let boot = |random: &mut fastrand::Rng| {
        let shift = 1000.0 + 30.0 * random.f64();
        (0..SAMPLES).map(|_| shift * (1.0 + 0.1 * random.f64())).collect()
    };
    (0..count).map(|_| boot(random)).collect()
}

fn metrics(boots_each: usize) -> Vec<Metric> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..METRICS)
        .map(|seed| Metric {
            baseline: boots(boots_each, &mut random),
            candidate: boots(boots_each, &mut random),
            machines: Default::default(),
            statistic: Statistic::BestDecile,
            better: Better::Lower,
            seed: seed as u64,
        })
        .collect()
}

fn speed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("statistics");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    for each in [8, 16] {
        let metrics = metrics(each);
        group.bench_function(format!("1000 metrics of {each} boots"), |bencher| {
            bencher.iter(|| black_box(changes(black_box(&metrics), METRICS)));
        });
    }
    // What ci/compare-scipy does: 10,000 random arrangements of 16 and 16 boots, one thread.
    let mut random = fastrand::Rng::with_seed(2);
    let mut values = || -> Vec<f64> { (0..16).map(|_| 1000.0 + random.f64()).collect() };
    let (base, new) = (values(), values());
    group.bench_function("permutation test", |bencher| {
        bencher.iter(|| black_box(test(black_box(&base), black_box(&new), 1, 1)));
    });
    group.finish();
}

criterion_group!(benches, speed);
criterion_main!(benches);
