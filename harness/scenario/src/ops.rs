//! The operations that a `measure` step can name: those of the in-guest program in `workloads/ops`.
//!
//! Kept here as a table so that reading a file needs no program of the guest; a test compares the
//! two.

/// Largest number of batches, also of warm-up batches.
pub const MAX_BATCHES: u32 = 10_000;

/// One operation: its name, which is also its metric's, and how it is measured by default.
///
/// Its samples are nanoseconds per operation, less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Name of the operation and of its metric.
    pub name: &'static str,
    /// Operations per sample.
    pub batch: u32,
    /// Samples.
    pub batches: u32,
    /// Batches before the first sample.
    pub warmup: u32,
    /// Largest batch.
    pub max_batch: u32,
}

const fn op(name: &'static str, batch: u32, batches: u32, warmup: u32, max_batch: u32) -> Op {
    Op { name, batch, batches, warmup, max_batch }
}

/// Every operation.
pub const OPS: &[Op] = &[
    op("getppid", 2000, 40, 4, 1_000_000),
    op("clock-gettime", 5000, 40, 4, 1_000_000),
    op("signal-self", 500, 40, 4, 1_000_000),
    op("fork-exit", 20, 20, 2, 10_000),
    op("fork-exec", 10, 20, 2, 10_000),
    op("thread-create", 50, 20, 2, 10_000),
    op("context-switch", 100, 40, 4, 100_000),
    op("mmap-fault", 500, 40, 4, 16_384),
    op("munmap", 50, 40, 4, 1024),
    op("mmap-munmap", 500, 40, 4, 1_000_000),
    op("pipe", 1000, 40, 4, 1_000_000),
    op("eventfd", 1000, 40, 4, 1_000_000),
    op("futex-wake", 2000, 40, 4, 1_000_000),
    op("epoll-wait", 500, 40, 4, 1_000_000),
    op("unix-stream", 500, 40, 4, 1_000_000),
    op("open-close", 500, 40, 4, 1_000_000),
    op("stat", 1000, 40, 4, 1_000_000),
    op("create-unlink", 200, 40, 4, 1_000_000),
    op("readdir", 100, 40, 4, 100_000),
    op("page-cache-read", 1000, 40, 4, 1_000_000),
    op("page-cache-write", 1000, 40, 4, 1_000_000),
    op("tcp-connect", 100, 40, 2, 2000),
    op("tcp-rr", 200, 40, 4, 100_000),
    op("udp-rr", 300, 40, 4, 100_000),
];

/// The operation called `name`.
pub fn find(name: &str) -> Option<&'static Op> {
    OPS.iter().find(|op| op.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_program() {
        let theirs: Vec<Op> = kgate_ops::ops()
            .map(|there| {
                let kgate_ops::Shape { batch, batches, warmup } = there.shape;
                op(there.name, batch, batches, warmup, there.max_batch)
            })
            .collect();
        assert_eq!(OPS, theirs);
        assert_eq!(MAX_BATCHES, kgate_ops::MAX_BATCHES);
    }
}
