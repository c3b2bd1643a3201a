//! The timed loop, and the errors that can end it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{Clock, Op};

/// What setting up or measuring an operation answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation gave no samples.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// Name of the system call, with what it was about where that helps.
        call: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A system call did something else than it must.
    #[error("{call}: {what}")]
    Wrong {
        /// Name of the system call.
        call: &'static str,
        /// What it did.
        what: &'static str,
    },
    /// What the operation works on is missing on this machine.
    #[error("{0}")]
    Missing(&'static str),
    /// A batch was too short to be seen by the clock.
    #[error("the clock did not move during a batch of {batch} operations; use a larger --batch")]
    Clock {
        /// Operations in the batch.
        batch: u32,
    },
}

impl Error {
    /// Whether this means that the kernel lacks the feature, not that the feature is broken.
    pub fn is_missing_feature(&self) -> bool {
        match self {
            Self::Call { errno, .. } => {
                [Errno::NOSYS, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::PERM].contains(errno)
            }
            Self::Missing(_) => true,
            Self::Wrong { .. } | Self::Clock { .. } => false,
        }
    }
}

/// Names the system call that an error came from.
pub(crate) trait During<T> {
    fn during(self, call: &'static str) -> Result<T>;
}

impl<T> During<T> for rustix::io::Result<T> {
    #[inline]
    fn during(self, call: &'static str) -> Result<T> {
        self.map_err(|errno| Error::Call { call, errno })
    }
}

impl<T> During<T> for std::io::Result<T> {
    #[inline]
    fn during(self, call: &'static str) -> Result<T> {
        self.map_err(|e| Error::Call { call, errno: Errno::from_io_error(&e).unwrap_or(Errno::IO) })
    }
}

/// Refuses a transfer that was shorter than asked for.
#[inline]
pub(crate) fn all(call: &'static str, wanted: usize, got: usize) -> Result<()> {
    if got == wanted { Ok(()) } else { Err(Error::Wrong { call, what: "short transfer" }) }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Operations in a batch.
    pub batch: u32,
    /// Batches measured, each giving one sample.
    pub batches: u32,
    /// Batches run and thrown away beforehand.
    pub warmup: u32,
}

impl Shape {
    pub(crate) const fn new(batch: u32, batches: u32, warmup: u32) -> Self {
        Self { batch, batches, warmup }
    }
}

/// Long enough for what the kernel puts off until RCU lets it.
const REST: std::time::Duration = std::time::Duration::from_millis(20);

/// Runs an operation in batches and keeps one sample of each.
#[derive(Debug)]
pub struct Meter {
    shape: Shape,
    clock: Clock,
    dir: Option<PathBuf>,
    samples: Vec<f64>,
}

impl Meter {
    /// A meter for `shape` by `clock`; operations on files work in `dir`, or on a tmpfs they find.
    pub fn new(shape: Shape, clock: Clock, dir: Option<PathBuf>) -> Self {
        Self { shape, clock, dir, samples: Vec::with_capacity(shape.batches as usize) }
    }

    /// Sets up, measures and cleans up `op`.
    ///
    /// # Errors
    /// When the operation fails, or the kernel lacks it; [`Meter::samples`] has those made before.
    pub fn measure(&mut self, op: &Op) -> Result<()> {
        if !self.clock.is_here() {
            return Err(Error::Missing("this processor has no counter of instructions"));
        }
        self.clock.announce();
        (op.run)(self)
    }

    /// How much it measures.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What it measures by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The directory that operations on files shall work in, if one was named.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// What one operation took, in the unit of the clock; one number for each batch measured so far.
    pub fn samples(&self) -> &[f64] {
        &self.samples
    }

    /// Measures `op`, called once per operation.
    pub(crate) fn each(&mut self, op: impl FnMut() -> Result<()>) -> Result<()> {
        self.each_after(|| {}, op)
    }

    /// As [`Meter::each`], with a rest before each batch, which isn't timed: for operations whose
    /// remains the kernel clears away in a thread of its own, which would run in the next batch.
    pub(crate) fn each_rested(&mut self, op: impl FnMut() -> Result<()>) -> Result<()> {
        self.each_after(|| std::thread::sleep(REST), op)
    }

    fn each_after(
        &mut self,
        mut before: impl FnMut(),
        mut op: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        self.batches(
            |_| {
                before();
                Ok(())
            },
            |(), batch| {
                for _ in 0..batch {
                    op()?;
                }
                Ok(())
            },
        )
    }

    /// Measures `run`, which performs a whole batch on what `prepare` made for it. Both are told
    /// the size of the batch; preparing, and dropping what was prepared, is not timed.
    pub(crate) fn batches<T>(
        &mut self,
        mut prepare: impl FnMut(u32) -> Result<T>,
        mut run: impl FnMut(&mut T, u32) -> Result<()>,
    ) -> Result<()> {
        let Shape { batch, batches, warmup } = self.shape;
        for number in 0..warmup + batches {
            let measured = number >= warmup;
            let mut state = prepare(batch)?;
            let start = self.clock.start(measured);
            let done = run(&mut state, batch);
            let end = self.clock.end(measured);
            done?;
            let elapsed = end.wrapping_sub(start);
            if elapsed == 0 || elapsed > i64::MAX as u64 {
                return Err(Error::Clock { batch });
            }
            if measured {
                self.samples.push(elapsed as f64 / f64::from(batch));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn warm_up_is_run_and_not_sampled_and_preparing_is_not_timed() {
        let mut meter = Meter::new(Shape::new(3, 4, 2), Clock::Nanoseconds, None);
        let (mut prepared, mut ran) = (0, 0);
        meter
            .batches(
                |batch| {
                    assert_eq!(batch, 3);
                    prepared += 1;
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    Ok(())
                },
                |(), batch| {
                    for _ in 0..batch {
                        ran += 1;
                        let _ = clock_gettime(ClockId::Monotonic);
                    }
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!((prepared, ran), (6, 18));
        assert_eq!(meter.samples().len(), 4);
        let least = meter.samples().iter().copied().fold(f64::INFINITY, f64::min);
        assert!(least > 0.0 && least < 5e6, "{least}");
    }

    #[test]
    fn an_error_ends_the_loop_and_is_classified() {
        let mut meter = Meter::new(Shape::new(1, 5, 0), Clock::Nanoseconds, None);
        let mut left = 2;
        let error = meter
            .each(|| {
                if left == 0 {
                    return Err(Errno::CONNREFUSED).during("connect");
                }
                left -= 1;
                Ok(())
            })
            .unwrap_err();
        assert_eq!(meter.samples().len(), 2);
        assert_eq!(error.to_string(), "connect: Connection refused (os error 111)");
        assert!(!error.is_missing_feature());
        for errno in [Errno::NOSYS, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::PERM] {
            assert!(Error::Call { call: "socket", errno }.is_missing_feature());
        }
    }
}
