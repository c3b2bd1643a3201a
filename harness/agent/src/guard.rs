//! The guard: a dead man's switch of a lab host that runs a kernel under test. It reboots the host, into
//! production then, when nothing was heard of the controller for too long.
//!
//! It outlives what it guards against: a controller that is gone, memory that has run out, CPUs kept by
//! real-time tasks, a disk that takes no more writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, clock_gettime};

/// The file that the controller touches while it is there.
const LEASE: &str = "/run/kgate/lease";
const TICK: Duration = Duration::from_millis(500);
/// What is in memory still gets to the disk if that takes no longer.
const SYNC: Duration = Duration::from_secs(10);
/// Drivers are shut down if that takes no longer.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// Watches the lease below `root` and reboots this machine when it was not touched for `limit`.
///
/// # Errors
/// It can't begin to watch; afterwards it never returns.
pub fn guard(limit: Duration, root: Option<&Path>) -> io::Result<std::convert::Infallible> {
    // What can't be had of these makes it less robust, not useless. Both files are where they are now,
    // whatever is mounted where later.
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
    let mut sysrq = OpenOptions::new().write(true).open("/proc/sysrq-trigger").ok();
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    if let Some(root) = root {
        rustix::process::chroot(root)?;
    }
    rustix::process::chdir("/")?;
    rustix::process::setsid().ok();
    schedule_before_all();

    let mut touched = lease();
    let mut heard = now();
    while now().saturating_sub(heard) < limit {
        std::thread::sleep(TICK);
        let lease = lease();
        if lease != touched && lease.is_some() {
            (touched, heard) = (lease, now());
        }
    }
    say(&mut log, &format!("nothing heard of the controller for {} s: rebooting", limit.as_secs()));
    within(SYNC, rustix::fs::sync);
    within(SHUTDOWN, || {
        let _ = reboot(RebootCommand::Restart);
    });
    say(&mut log, "the reboot hangs: resetting");
    loop {
        if let Some(sysrq) = &mut sysrq {
            let _ = sysrq.write_all(b"b");
        }
        std::thread::sleep(TICK);
    }
}

/// When the lease was touched. The host's clock may be set at any time: only that it differs counts.
fn lease() -> Option<(i64, u64)> {
    let found = rustix::fs::stat(LEASE).ok()?;
    Some((found.st_mtime, found.st_mtime_nsec))
}

/// Time since the start of the machine.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Waits for `act` on a thread of its own, which may never end.
fn within(limit: Duration, act: impl FnOnce() + Send + 'static) {
    let (done, waits) = mpsc::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        act();
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = waits.recv_timeout(limit);
    }
}

fn say(log: &mut Option<File>, what: &str) {
    if let Some(log) = log {
        let _ = log.write_all(format!("<2>kgate: guard: {what}\n").as_bytes());
    }
}

/// Has this thread scheduled before all others, real-time ones included. Its children are ordinary.
#[expect(unsafe_code, reason = "there is no safe wrapper of sched_setattr")]
fn schedule_before_all() {
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SCHED_DEADLINE: u32 = 6;
    const RESET_ON_FORK: u64 = 1;
    const SECOND: u64 = 1_000_000_000;
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: SCHED_DEADLINE,
        flags: RESET_ON_FORK,
        nice: 0,
        priority: 0,
        runtime: SECOND / 4,
        deadline: SECOND,
        period: SECOND,
    };
    // SAFETY: the kernel only reads `attributes`, whose size it is told. It may refuse.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}
