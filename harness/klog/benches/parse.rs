//! How fast logs are parsed: a public corpus of crashes where it is at hand, the same joined into
//! one log, and 64 MB of a healthy boot.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use kgate_klog::{Source, parse};

/// What a healthy machine's log is made of here.
const HEALTHY: &[u8] = include_bytes!("../tests/cases/boot-healthy-smp.txt");
const HEALTHY_SIZE: usize = 64 << 20;
/// So many logs in one show whether time grows with the length alone.
const JOINED: usize = 200;

/// The logs of the corpus; none where it is not at hand.
fn corpus() -> Vec<Vec<u8>> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/klog-dev/files");
    let entries = std::fs::read_dir(files).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| after_header(&std::fs::read(path).unwrap_or_default())).collect()
}

/// A case file without what describes it: up to the first empty line.
fn after_header(file: &[u8]) -> Vec<u8> {
    let end = file.windows(2).position(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
    file[end..].to_vec()
}

fn apart(logs: &[Vec<u8>]) {
    for log in logs {
        black_box(parse(Source::Console, black_box(log)));
    }
}

#[expect(clippy::print_stderr, reason = "a benchmark that is skipped says so")]
fn speed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    let logs = corpus();
    if logs.is_empty() {
        eprintln!("skipped: the corpus of crashes is not at hand");
    }
    if let Some(some) = logs.get(..JOINED) {
        let joined = some.concat();
        let bytes: usize = logs.iter().map(Vec::len).sum();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("corpus", |bencher| bencher.iter(|| apart(&logs)));
        group.throughput(Throughput::Bytes(joined.len() as u64));
        group.bench_function("200 logs apart", |bencher| bencher.iter(|| apart(some)));
        group.bench_function("200 logs joined", |bencher| {
            bencher.iter(|| black_box(parse(Source::Console, black_box(&joined))));
        });
    }
    let boot = after_header(HEALTHY);
    let healthy = boot.repeat(HEALTHY_SIZE / boot.len() + 1);
    group.throughput(Throughput::Bytes(healthy.len() as u64));
    group.bench_function("64 MB healthy", |bencher| {
        bencher.iter(|| assert_eq!(parse(Source::Console, black_box(&healthy)), []));
    });
    group.finish();
}

criterion_group!(benches, speed);
criterion_main!(benches);
