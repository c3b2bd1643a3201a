//! Work grows with the length of the log, whatever is in it: an input says how a log begins and what
//! is repeated in it, and four times as many repetitions must take about four times as long.
#![no_main]

use std::hint::black_box;

use kgate_fuzz::source;
use kgate_klog::{Source, parse};
use libfuzzer_sys::fuzz_target;
use rustix::time::{ClockId, clock_gettime};

/// Bytes of the shorter log; the longer one has four times as many.
const LENGTH: usize = 48 << 10;
/// Quadratic work would take 16 times as long, cubic 64 times.
const WORST: u64 = 9;
/// Shorter times say nothing.
const LEAST: u64 = 4_000_000;
/// Nanoseconds for a byte, with the fuzzer's own work: far more than for any real log.
const SLOW: u64 = 20_000;

fuzz_target!(|input: &[u8]| {
    // Of what is before the first line of a single `=`, once; of the rest, again and again.
    let at = input.windows(3).position(|window| window == b"\n=\n");
    let (begin, again) = at.map_or((&input[..0], input), |at| (&input[..=at], &input[at + 3..]));
    if again.is_empty() || input.len() > LENGTH {
        return;
    }
    let source = source(input);
    let log = |length: usize| {
        let mut log = begin.to_vec();
        while log.len() < length {
            log.extend_from_slice(again);
        }
        log
    };
    let (short, long) = (log(LENGTH), log(4 * LENGTH));
    let mut best = [u64::MAX; 2];
    // Something else may have been in the way: only what is slow every time is.
    for _ in 0..5 {
        best[0] = best[0].min(time(source, &short));
        best[1] = best[1].min(time(source, &long));
        if best[1] < LEAST || best[1] < WORST * best[0].max(1) && !is_slow(best[1], &long) {
            return;
        }
    }
    panic!("{} bytes took {} ns, {} bytes {} ns", short.len(), best[0], long.len(), best[1]);
});

fn is_slow(nanoseconds: u64, log: &[u8]) -> bool {
    nanoseconds > SLOW * log.len() as u64
}

/// CPU time in nanoseconds.
fn time(source: Source, log: &[u8]) -> u64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
    };
    let start = now();
    black_box(parse(source, black_box(log)));
    now() - start
}
