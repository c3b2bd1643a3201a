//! How long planning takes, and how fast the journal grows.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kgate_model::journal::{Entry, Event};
use kgate_model::outcome::Outcome;
use kgate_runner::{Journal, Placement, RunDir, make_plan};
use support::{Lacking, inputs, kernel};

/// 100 scenarios in 5 boots of each role.
fn hundred() -> kgate_runner::Inputs {
    let texts: Vec<_> = (0..100)
        .map(|at| {
            let (kind, steps) = match at % 3 {
                0 => ("performance", "measure: getppid"),
                1 => ("integration", "run: 'true'"),
                _ => ("subsystem", "run: 'true'"),
            };
            let image = ["base", "edge", "storage", "kselftest"][at % 4];
            (format!("{kind}/s{at}"), format!("image: {image}\nsteps:\n  - {steps}\n"))
        })
        .collect();
    let files: Vec<_> = texts.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    inputs(&files, "scenarios: ['**']\npolicy: { boots: 5 }\n")
}

fn plan(criterion: &mut Criterion) {
    let inputs = hundred();
    criterion.bench_function("plan 100 scenarios x 5 boots", |bencher| {
        bencher.iter(|| {
            let inputs = black_box(&inputs);
            make_plan(
                inputs,
                kernel("6.1.1"),
                kernel("6.1.2"),
                &Lacking::default(),
                &Placement::default(),
                4,
            )
        });
    });
}

fn journal(criterion: &mut Criterion) {
    let inputs = hundred();
    let plan = make_plan(
        &inputs,
        kernel("6.1.1"),
        kernel("6.1.2"),
        &Lacking::default(),
        &Placement::default(),
        1,
    );
    let temp = tempfile::tempdir().unwrap();
    let dir = RunDir::create(&temp.path().join("run"), plan, inputs).unwrap();
    let mut journal = Journal::open(&dir).unwrap();
    let entry = Entry {
        at: 1_790_000_000_000,
        event: Event::TrialEnded {
            trial: "integration/nat-conntrack@candidate-2-edge".into(),
            outcome: Outcome::Passed,
            wall_ms: 1234,
            subtests: Vec::new(),
            before: None,
            after: None,
            log: Some("logs/integration/nat-conntrack@candidate-2-edge.log".into()),
            diagnosis: None,
        },
    };
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(1));
    group.bench_function("append", |bencher| {
        bencher.iter(|| journal.append(black_box(&entry)).unwrap());
    });
    group.bench_function("append and sync", |bencher| {
        bencher.iter(|| {
            journal.append(black_box(&entry)).unwrap();
            journal.sync().unwrap();
        });
    });
}

criterion_group!(benches, plan, journal);
criterion_main!(benches);
