//! Entering the kernel and leaving it again.
#![expect(unsafe_code, reason = "signal handlers, timers and filters")]

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::Signal;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::meter::{During as _, all};
use crate::sys::{OrMissing as _, check};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "getppid",
        summary: "getppid: the price of entering the kernel",
        shape: Shape::new(500, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| meter.each(getppid),
    },
    Op {
        name: "clock-gettime",
        summary: "clock_gettime(CLOCK_MONOTONIC), by vDSO where the kernel has one",
        shape: Shape::new(3000, 105, 7),
        max_batch: 1_000_000,
        copies: false,
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
        shape: Shape::new(40, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: signal_self,
    },
    Op {
        name: "getrandom",
        summary: "getrandom of 32 bytes",
        shape: Shape::new(80, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let mut bytes = [0; 32];
            meter.each(|| {
                let got = getrandom(&mut bytes, GetRandomFlags::NONBLOCK).during("getrandom")?;
                all("getrandom", 32, got)
            })
        },
    },
    Op {
        name: "timer-settime",
        summary: "a POSIX timer armed for an hour and disarmed",
        shape: Shape::new(120, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: timer_settime,
    },
    Op {
        name: "timerfd-settime",
        summary: "a timerfd armed for an hour and disarmed",
        shape: Shape::new(80, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
                .during("timerfd_create")?;
            meter.each(|| {
                for seconds in [3600, 0] {
                    let value = Timespec { tv_sec: seconds, tv_nsec: 0 };
                    let value = Itimerspec { it_interval: Timespec::default(), it_value: value };
                    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value)
                        .during("timerfd_settime")?;
                }
                Ok(())
            })
        },
    },
    Op {
        name: "seccomp-list",
        summary: "getppid behind a seccomp filter that lists 64 calls",
        shape: Shape::new(400, 100, 7),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            filter_calls(&list_of_calls())?;
            meter.each(getppid)
        },
    },
    Op {
        name: "seccomp-arguments",
        summary: "getppid behind a seccomp filter that looks at 8 of its arguments",
        shape: Shape::new(300, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            filter_calls(&list_of_arguments())?;
            meter.each(getppid)
        },
    },
];

fn getppid() -> Result<()> {
    std::hint::black_box(rustix::process::getppid());
    Ok(())
}

/// A POSIX timer, deleted when dropped.
struct Timer(libc::timer_t);

impl Timer {
    fn set(&self, seconds: i64) -> Result<()> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
        let value = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the timer lives as long as `self`.
        let done =
            unsafe { libc::timer_settime(self.0, 0, &raw const value, std::ptr::null_mut()) };
        check(done, "timer_settime").map(drop)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and isn't used again.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn timer_settime(meter: &mut Meter) -> Result<()> {
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: an all-zero `sigevent` is valid; it then asks for nothing at all.
    let made = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_NONE;
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
    };
    check(made, "timer_create")?;
    let timer = Timer(timer);
    meter.each(|| {
        timer.set(3600)?;
        timer.set(0)
    })
}

/// One instruction of a filter: code, jumps, constant.
const fn filter(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const ALLOW: libc::sock_filter = filter(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);

/// Compares the call's number to 64 that nothing uses and allows everything: as container runtimes
/// do, and as the kernel can remember call by call.
fn list_of_calls() -> Vec<libc::sock_filter> {
    let unused = (0..64).map(|n| filter(JUMP_EQUAL, 0, 0, 0x4000 + n));
    [filter(LOAD, 0, 0, 0)].into_iter().chain(unused).chain([ALLOW]).collect()
}

/// Loads and compares arguments of getppid, which the kernel can't remember, and allows everything.
fn list_of_arguments() -> Vec<libc::sock_filter> {
    let mut program = vec![filter(LOAD, 0, 0, 0)];
    program.push(filter(JUMP_EQUAL, 0, 16, libc::SYS_getppid as u32));
    for n in 0..8 {
        // The first argument is at offset 16.
        program.push(filter(LOAD, 0, 0, 16 + n % 6 * 8));
        program.push(filter(JUMP_EQUAL, 0, 0, 0x4b54_4b00));
    }
    program.push(ALLOW);
    program
}

/// Lets every further system call of this process through `program`; there is no way back.
fn filter_calls(program: &[libc::sock_filter]) -> Result<()> {
    let program =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` and what it points to outlive both calls.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS")?;
        let mode = libc::SECCOMP_MODE_FILTER;
        check(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), "prctl PR_SET_SECCOMP")
            .or_missing(&[Errno::INVAL], "no seccomp filters")
            .map(drop)
    }
}

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
