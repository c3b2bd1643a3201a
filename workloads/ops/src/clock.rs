//! What a batch is measured with: the kernel's clock, or the processor's counter.

use rustix::time::{ClockId, clock_gettime};

/// What a batch is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Nanoseconds of `CLOCK_MONOTONIC_RAW`, which nothing slews.
    Nanoseconds,
    /// The time stamp counter. It counts instructions where the machine makes it so, as QEMU does
    /// with `-icount shift=0`, and then idle time too, at one per nanosecond.
    Instructions,
}

impl Clock {
    /// The unit of its samples, as samples name it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Instructions => "instructions",
        }
    }

    /// Whether this machine has the clock.
    pub fn is_here(self) -> bool {
        match self {
            Self::Nanoseconds => true,
            Self::Instructions => cfg!(target_arch = "x86_64"),
        }
    }

    /// Tells whoever watches the instruction stream that an operation begins.
    pub(crate) fn announce(self) {
        match self {
            Self::Nanoseconds => {}
            Self::Instructions => counter::announce(),
        }
    }

    /// The clock's reading where a batch begins. `marked` for a batch that is measured.
    #[inline(always)]
    pub(crate) fn start(self, marked: bool) -> u64 {
        match self {
            Self::Nanoseconds => now(),
            Self::Instructions if marked => counter::start_marked(),
            Self::Instructions => counter::read(),
        }
    }

    /// The clock's reading where a batch ends.
    #[inline(always)]
    pub(crate) fn end(self, marked: bool) -> u64 {
        match self {
            Self::Nanoseconds => now(),
            Self::Instructions if marked => counter::end_marked(),
            Self::Instructions => counter::read(),
        }
    }
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    // A clock that counts from boot isn't negative.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// The counter and the markers around its readings: `nopl 0x4b544bNN(%rax,%rax)`, instructions
/// that do nothing and that no compiler makes.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "reads the counter and executes the markers")]
mod counter {
    use std::arch::asm;

    /// One reading, with markers before and after it.
    macro_rules! reading {
        ($before:literal, $after:literal) => {{
            let (low, high): (u32, u32);
            // SAFETY: reads the counter; the markers do nothing. Memory is taken as changed, so
            // that nothing of the batch moves across.
            unsafe {
                asm!($before, "rdtsc", $after, out("eax") low, out("edx") high, options(nostack, preserves_flags));
            }
            u64::from(high) << 32 | u64::from(low)
        }};
    }

    #[inline(always)]
    pub(super) fn read() -> u64 {
        reading!("", "")
    }

    #[inline(always)]
    pub(super) fn start_marked() -> u64 {
        reading!(".byte 0x0f, 0x1f, 0x84, 0x00, 0x01, 0x4b, 0x54, 0x4b", "")
    }

    #[inline(always)]
    pub(super) fn end_marked() -> u64 {
        reading!("", ".byte 0x0f, 0x1f, 0x84, 0x00, 0x02, 0x4b, 0x54, 0x4b")
    }

    pub(super) fn announce() {
        // SAFETY: the instruction does nothing.
        unsafe {
            asm!(".byte 0x0f, 0x1f, 0x84, 0x00, 0x03, 0x4b, 0x54, 0x4b", options(nostack));
        }
    }
}

/// Elsewhere [`Clock::is_here`] is false, and nothing comes this far.
#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn read() -> u64 {
        0
    }
    pub(super) use read as start_marked;
    pub(super) use read as end_marked;
    pub(super) fn announce() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_go_up_by_either_clock_marked_or_not() {
        for clock in [Clock::Nanoseconds, Clock::Instructions] {
            for marked in [false, true] {
                let start = clock.start(marked);
                std::thread::sleep(std::time::Duration::from_millis(1));
                assert!(clock.end(marked) > start, "{clock:?} {marked}");
            }
        }
    }
}
