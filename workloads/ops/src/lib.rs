//! In-guest measuring programs: a table of operations, each one honest loop around the kernel.
//!
//! A new operation is one entry in its family's table; a new family is one small file and one line
//! in [`ops`]. What an operation makes, it removes again, also when it fails: directories, disks and
//! groups when their values are dropped, name spaces, mounts and filters with the process.
//!
//! # How an operation is measured
//! Warm-up batches run and are thrown away. Then come M batches of N operations, each batch timed
//! by `CLOCK_MONOTONIC_RAW`, which nothing slews. One batch gives one sample: nanoseconds per
//! operation. What a batch needs beforehand is made, and undone, outside the timed span. The
//! process is pinned to the CPU it starts on, so that a sample is the length of a path and not the
//! luck of a placement. Everything single-process is chosen so that it
//! doesn't sleep, where the kernel allows it.
//!
//! # Exactly
//! With `--exact` a batch is measured by the time stamp counter, and a sample's unit is
//! `instructions`. That is what the counter counts in a guest of QEMU under
//! `-icount shift=0,sleep=off`; anywhere else it is only another clock. For a tool that watches the
//! instructions go by, three markers are executed, each an 8-byte NOP `0f 1f 84 00 NN 4b 54 4b`:
//!
//! | NN | where |
//! |---|---|
//! | 03 | once, before the operation's set-up |
//! | 01 | right before the first reading of the counter for a measured batch, not one of warm-up |
//! | 02 | right after the last reading for that batch |
//!
//! The meter does all of it: no operation knows how it is measured.
//!
//! # Where samples go
//! Samples are not printed. They are written to the file descriptor whose number is in the
//! environment variable `KGATE_SAMPLES_FD` (3 when unset), one JSON object a line, one `write` a
//! line:
//!
//! ```json
//! {"metric":"tcp-connect","value":1234.5,"unit":"ns","better":"lower"}
//! ```
//!
//! | key | meaning |
//! |---|---|
//! | `metric` | name of what was measured; here, the operation's name |
//! | `value` | a finite number |
//! | `unit` | `ns`, with `--exact` `instructions`: of one operation |
//! | `better` | `lower` or `higher` |
//!
//! Any program that a scenario runs may report samples of its own this way. A line of up to 4096
//! bytes written by one `write` arrives whole, also when several programs share the descriptor.
//! When the descriptor isn't open for writing, samples go to standard output. Standard output
//! otherwise carries one line for people.
//!
//! # Exit codes
//! | code | meaning |
//! |---|---|
//! | 0 | measured: exactly M samples were written |
//! | 1 | a system call failed; standard error names it and its error |
//! | 2 | usage |
//! | 4 | skipped: this kernel lacks the feature (as in the kernel's own self-tests) |

mod bpf;
mod clock;
mod crypto;
mod disk;
mod file;
mod filter;
mod ipc;
mod isolation;
mod mapper;
mod memory;
mod meter;
mod net;
mod netlink;
mod netns;
mod notify;
mod process;
mod samples;
mod sys;
mod syscall;
mod uring;
mod wireguard;

pub use clock::Clock;
pub use meter::{Error, Meter, Result, Shape};
pub use samples::Samples;

/// Largest number of batches, also of warm-up batches, that may be asked for.
pub const MAX_BATCHES: u32 = 10_000;

/// One operation that can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Name on the command line, in scenarios, and of the metric.
    pub name: &'static str,
    /// What one operation is, in half a line.
    pub summary: &'static str,
    /// Batches and their size when nothing else is asked for.
    pub shape: Shape,
    /// Largest batch: what memory, or a table of the kernel's, leaves room for.
    pub max_batch: u32,
    /// Whether most of its instructions are iterations of REP string instructions, which count bytes
    /// and not time. Such is what takes more than 7/16 fewer instructions on a processor without
    /// `erms`, where the kernel copies 8 bytes per iteration: counted on Linux 6.1.192.
    pub copies: bool,
    /// Sets up, measures through the meter, and cleans up.
    pub run: fn(&mut Meter) -> Result<()>,
}

/// Every operation, family by family.
pub fn ops() -> impl Iterator<Item = &'static Op> {
    let families: [&[Op]; 14] = [
        syscall::OPS,
        process::OPS,
        isolation::OPS,
        memory::OPS,
        ipc::OPS,
        file::OPS,
        disk::OPS,
        notify::OPS,
        uring::OPS,
        net::OPS,
        filter::OPS,
        bpf::OPS,
        crypto::OPS,
        mapper::OPS,
    ];
    families.into_iter().flatten()
}

/// The operation called `name`.
pub fn find(name: &str) -> Option<&'static Op> {
    ops().find(|op| op.name == name)
}

/// The operations whose names are nearest to `name`, best first, three at most.
pub fn nearest(name: &str) -> Vec<&'static str> {
    let mut near: Vec<(f64, &str)> =
        ops().map(|op| (strsim::jaro_winkler(name, op.name), op.name)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().filter(|(score, _)| *score > 0.8).take(3).map(|(_, name)| name).collect()
}

/// Pins the process to the CPU it is on.
///
/// # Errors
/// When `sched_setaffinity` fails.
pub fn pin_to_current_cpu() -> Result<()> {
    use meter::During as _;
    let mut only = rustix::thread::CpuSet::new();
    only.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &only).during("sched_setaffinity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_plain_words_and_defaults_are_within_bounds() {
        let mut seen = std::collections::BTreeSet::new();
        for op in ops() {
            assert!(seen.insert(op.name), "{} is there twice", op.name);
            assert!(
                op.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{}",
                op.name
            );
            assert!(!op.summary.is_empty() && op.summary.len() < 80, "{}", op.name);
            assert!((1..=op.max_batch).contains(&op.shape.batch), "{}", op.name);
            assert!((1..=MAX_BATCHES).contains(&op.shape.batches), "{}", op.name);
            assert!(op.shape.warmup <= MAX_BATCHES, "{}", op.name);
        }
        assert!(seen.len() >= 40);
    }

    #[test]
    fn nearest_finds_slips_and_nothing_for_noise() {
        assert_eq!(nearest("tcp-conect").first(), Some(&"tcp-connect"));
        assert_eq!(nearest("fork").first(), Some(&"fork-exit"));
        assert!(nearest("zzzzqqqq").is_empty());
    }
}
