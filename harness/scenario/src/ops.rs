//! The operations that a `measure` step can name: those of the in-guest program in `workloads/ops`.
//!
//! Kept here as a table so that reading a file needs no program of the guest; a test compares the
//! two.

/// Largest number of batches, also of warm-up batches.
pub const MAX_BATCHES: u32 = 10_000;

/// One operation: its name, which is also its metric's, and how it is measured by default.
///
/// Its samples are nanoseconds per operation, or instructions where it is counted exactly; less is
/// better.
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
    /// Whether most of its instructions are iterations of REP string instructions, which count bytes
    /// and not time.
    pub copies: bool,
}

impl Op {
    const fn copies(self) -> Self {
        Self { copies: true, ..self }
    }
}

const fn op(name: &'static str, batch: u32, batches: u32, warmup: u32, max_batch: u32) -> Op {
    Op { name, batch, batches, warmup, max_batch, copies: false }
}

/// Every operation.
pub const OPS: &[Op] = &[
    op("getppid", 500, 120, 8, 1_000_000),
    op("clock-gettime", 3000, 105, 7, 1_000_000),
    op("signal-self", 40, 120, 8, 1_000_000),
    op("getrandom", 80, 120, 8, 1_000_000),
    op("timer-settime", 120, 110, 7, 1_000_000),
    op("timerfd-settime", 80, 120, 8, 1_000_000),
    op("seccomp-list", 400, 100, 7, 1_000_000),
    op("seccomp-arguments", 300, 120, 8, 1_000_000),
    op("fork-exit", 1, 80, 5, 10_000),
    op("fork-exec", 1, 20, 1, 10_000),
    op("vfork-exec", 1, 25, 2, 10_000),
    op("thread-create", 2, 105, 7, 10_000),
    op("context-switch", 16, 115, 8, 100_000),
    op("futex-switch", 20, 120, 8, 100_000),
    op("clone3-exit", 1, 95, 6, 10_000),
    op("clone-mount-ns", 1, 65, 4, 10_000),
    op("clone-net-ns", 1, 20, 1, 1000),
    op("clone-pid-ns", 1, 95, 6, 10_000),
    op("clone-user-ns", 1, 85, 6, 10_000),
    op("cgroup-mkdir", 2, 60, 4, 1000),
    op("cgroup-migrate", 6, 75, 5, 10_000),
    op("cgroup-fault", 8, 110, 7, 16_384).copies(),
    op("mmap-fault", 25, 115, 8, 16_384).copies(),
    op("munmap", 1, 120, 8, 1024),
    op("mmap-munmap", 12, 110, 7, 1_000_000),
    op("mprotect", 16, 120, 8, 1_000_000),
    op("madvise-dontneed", 1, 120, 8, 100_000).copies(),
    op("thp-fault", 1, 20, 1, 10_000).copies(),
    op("file-fault", 3, 120, 8, 64),
    op("cow-fault", 4, 115, 8, 1024).copies(),
    op("pipe", 80, 115, 8, 1_000_000),
    op("eventfd", 120, 115, 8, 1_000_000),
    op("futex-wake", 300, 120, 8, 1_000_000),
    op("epoll-wait", 60, 120, 8, 1_000_000),
    op("unix-stream", 30, 110, 7, 1_000_000),
    op("epoll-ctl", 60, 105, 7, 1_000_000),
    op("unix-dgram", 30, 110, 7, 1_000_000),
    op("unix-connect", 8, 110, 7, 1_000_000),
    op("unix-descriptor", 16, 110, 7, 1_000_000),
    op("open-close", 16, 120, 8, 1_000_000),
    op("stat", 20, 120, 8, 1_000_000),
    op("create-unlink", 6, 120, 8, 1_000_000),
    op("rename", 10, 120, 8, 1_000_000),
    op("readdir", 5, 115, 8, 100_000),
    op("page-cache-read", 30, 115, 8, 1_000_000).copies(),
    op("page-cache-write", 30, 105, 7, 1_000_000).copies(),
    op("overlay-open", 12, 110, 8, 1_000_000),
    op("overlay-create", 4, 100, 8, 100_000),
    op("overlay-copy-up", 2, 60, 4, 100),
    op("ext4-create", 2, 60, 4, 10_000),
    op("ext4-write", 20, 60, 4, 100_000).copies(),
    op("ext4-fsync", 1, 50, 4, 10_000),
    op("xfs-create", 4, 40, 3, 10_000),
    op("xfs-write", 20, 60, 4, 100_000).copies(),
    op("xfs-fsync", 2, 60, 4, 10_000),
    op("inotify", 12, 50, 3, 1_000_000),
    op("fanotify", 12, 50, 3, 1_000_000),
    op("uring-nop", 200, 110, 7, 1_000_000),
    op("uring-read", 30, 95, 6, 1_000_000).copies(),
    op("uring-write", 12, 105, 7, 1_000_000),
    op("uring-accept", 2, 95, 6, 2000),
    op("tcp-connect", 2, 120, 8, 2000),
    op("tcp-rr", 8, 110, 7, 100_000),
    op("udp-rr", 12, 110, 7, 100_000),
    op("tcp-stream", 4, 105, 7, 100_000).copies(),
    op("tcp-zerocopy", 2, 120, 8, 100_000).copies(),
    op("sendfile", 5, 105, 7, 100_000),
    op("splice", 5, 105, 7, 100_000),
    op("reuseport", 2, 120, 8, 2000),
    op("udp-gso", 2, 120, 8, 100_000),
    op("veth-tcp-connect", 2, 105, 7, 2000),
    op("veth-tcp-rr", 6, 115, 8, 100_000),
    op("veth-tcp-stream", 4, 90, 6, 100_000).copies(),
    op("wireguard-rr", 2, 120, 8, 100_000),
    op("packet", 30, 55, 4, 100_000),
    op("ktls-send", 1, 45, 3, 100_000),
    op("ktls", 1, 40, 3, 100_000),
    op("nft-10", 10, 105, 7, 100_000),
    op("nft-1000", 1, 70, 5, 100_000),
    op("conntrack", 10, 100, 7, 100_000),
    op("conntrack-new", 16, 105, 7, 100),
    op("nat", 8, 110, 7, 100_000),
    op("tc-fq-codel", 10, 105, 7, 100_000),
    op("tc-bpf", 12, 100, 7, 100_000),
    op("xdp-pass", 12, 80, 5, 100_000),
    op("xdp-drop", 16, 80, 5, 100_000),
    op("bpf-map", 25, 120, 8, 1_000_000),
    op("socket-filter", 12, 105, 7, 100_000),
    op("alg-cbc", 1, 120, 8, 100_000),
    op("alg-gcm", 1, 75, 5, 100_000),
    op("dm-crypt-read", 1, 110, 7, 100_000),
    op("dm-crypt-write", 1, 110, 7, 100_000),
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
                Op {
                    copies: there.copies,
                    ..op(there.name, batch, batches, warmup, there.max_batch)
                }
            })
            .collect();
        assert_eq!(OPS, theirs);
        assert_eq!(MAX_BATCHES, kgate_ops::MAX_BATCHES);
    }
}
