//! The one place that collects children: those of commands, and as PID 1 every orphan.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::command::Shared;
use crate::lock;

/// Nothing may be missed for longer than this when an orphan arrives while there is no child.
const RECHECK: Duration = Duration::from_millis(300);

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// As `wait` gives it.
    pub(crate) status: libc::c_int,
    /// User and system CPU time, in milliseconds.
    pub(crate) cpu_ms: (u64, u64),
    /// When.
    pub(crate) at: Instant,
}

/// The children that somebody waits for.
///
/// A child is looked at first and collected under the lock, so that a process number taken from the
/// table is never one that was given to somebody else meanwhile.
#[derive(Default)]
pub(crate) struct Reaper {
    children: Mutex<Children>,
    changed: Condvar,
}

#[derive(Default)]
struct Children {
    table: HashMap<i32, Arc<Shared>>,
    /// The kernel said that there is no child at all.
    none: bool,
}

impl Reaper {
    /// Runs `fork` and registers the child for `shared` before anybody can collect it.
    pub(crate) fn fork(
        &self,
        shared: &Arc<Shared>,
        fork: impl FnOnce() -> std::io::Result<i32>,
    ) -> std::io::Result<Pid> {
        let mut children = lock(&self.children);
        let pid = fork()?;
        children.table.insert(pid, Arc::clone(shared));
        children.none = false;
        self.changed.notify_all();
        Pid::from_raw(pid).ok_or_else(|| std::io::ErrorKind::Other.into())
    }

    /// Kills a command's main process and its process group, when it wasn't collected yet.
    pub(crate) fn kill(&self, pid: Pid) {
        let children = lock(&self.children);
        if children.table.contains_key(&pid.as_raw_pid()) {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Whether no child was left, waiting for it at most for `limit`. `prod` is called every few
    /// milliseconds until then.
    pub(crate) fn wait_none(&self, limit: Duration, prod: impl Fn()) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            {
                let children = lock(&self.children);
                let children = self
                    .changed
                    .wait_timeout_while(children, Duration::from_millis(10), |c| !c.none)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                if children.none || Instant::now() >= deadline {
                    return children.none;
                }
            }
            prod();
        }
    }

    /// Collects children, for ever.
    pub(crate) fn run(&self) {
        loop {
            match wait_any() {
                Some(pid) => {
                    let mut children = lock(&self.children);
                    if let Some(ended) = collect(pid)
                        && let Some(shared) = children.table.remove(&pid)
                    {
                        drop(children);
                        shared.ended(ended);
                    }
                }
                None => {
                    let mut children = lock(&self.children);
                    // A fork between the answer and the lock has filled the table.
                    if children.table.is_empty() {
                        children.none = true;
                        self.changed.notify_all();
                        drop(
                            self.changed
                                .wait_timeout_while(children, RECHECK, |c| c.table.is_empty()),
                        );
                        // What arrived meanwhile is counted again, and quickly.
                    }
                }
            }
        }
    }
}

/// Waits for any child to end and leaves it uncollected. `None`: there is no child.
#[expect(unsafe_code, reason = "rustix's waitid doesn't tell which process ended")]
fn wait_any() -> Option<i32> {
    // SAFETY: `info` is plain data that the call fills; `si_pid` reads a field of the variant that
    // waitid documents.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        while libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT) != 0 {
            if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return None;
            }
        }
        Some(info.si_pid())
    }
}

/// Collects one ended child with what it used.
#[expect(unsafe_code, reason = "rustix has no wait4, the only call that gives the CPU time")]
fn collect(pid: i32) -> Option<Ended> {
    let (status, usage) = {
        let mut status = 0;
        // SAFETY: plain data.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live data of the right type.
        let got = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if got != pid {
            return None;
        }
        (status, usage)
    };
    let ms = |time: libc::timeval| {
        u64::try_from(time.tv_sec * 1000 + time.tv_usec / 1000).unwrap_or_default()
    };
    Some(Ended { status, cpu_ms: (ms(usage.ru_utime), ms(usage.ru_stime)), at: Instant::now() })
}
