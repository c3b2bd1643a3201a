//! Entering the kernel and leaving it again.
#![expect(unsafe_code, reason = "installs a signal handler")]

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use rustix::time::ClockId;

use crate::meter::During as _;
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "getppid",
        summary: "getppid: the price of entering the kernel",
        shape: Shape::new(2000, 40, 4),
        max_batch: 1_000_000,
        run: |meter| {
            meter.each(|| {
                std::hint::black_box(rustix::process::getppid());
                Ok(())
            })
        },
    },
    Op {
        name: "clock-gettime",
        summary: "clock_gettime(CLOCK_MONOTONIC), by vDSO where the kernel has one",
        shape: Shape::new(5000, 40, 4),
        max_batch: 1_000_000,
        run: |meter| {
            meter.each(|| {
                std::hint::black_box(rustix::time::clock_gettime(ClockId::Monotonic));
                Ok(())
            })
        },
    },
    Op {
        name: "signal-self",
        summary: "a signal to oneself, delivered to a handler",
        shape: Shape::new(500, 40, 4),
        max_batch: 1_000_000,
        run: signal_self,
    },
];

static DELIVERED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    DELIVERED.fetch_add(1, Ordering::Relaxed);
}

fn signal_self(meter: &mut Meter) -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = count;
    // SAFETY: the handler only touches an atomic; an all-zero `sigaction` is valid.
    let answer = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut())
    };
    if answer != 0 {
        return Err(std::io::Error::last_os_error()).during("sigaction");
    }
    let me = rustix::process::getpid();
    meter.each(|| {
        let before = DELIVERED.load(Ordering::Relaxed);
        rustix::process::kill_process(me, Signal::USR1).during("kill")?;
        // A signal to oneself is delivered before `kill` returns: the process has one thread.
        if DELIVERED.load(Ordering::Relaxed) == before.wrapping_add(1) {
            Ok(())
        } else {
            Err(Error::Wrong { call: "kill", what: "the signal was not delivered" })
        }
    })
}
