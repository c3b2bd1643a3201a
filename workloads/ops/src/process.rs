//! Processes and threads: making them, ending them, switching between them.
#![expect(unsafe_code, reason = "fork and exec")]

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::io::{read, write};
use rustix::pipe::pipe;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::meter::{During as _, all};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "fork-exit",
        summary: "fork, exit of the child, wait",
        shape: Shape::new(20, 20, 2),
        max_batch: 10_000,
        run: |meter| meter.each(|| fork(|| 0)?.wait()),
    },
    Op {
        name: "fork-exec",
        summary: "fork, exec of this program, which exits, wait",
        shape: Shape::new(10, 20, 2),
        max_batch: 10_000,
        run: fork_exec,
    },
    Op {
        name: "thread-create",
        summary: "pthread_create and pthread_join",
        shape: Shape::new(50, 20, 2),
        max_batch: 10_000,
        run: |meter| {
            meter.each(|| {
                let thread = std::thread::Builder::new().spawn(|| ()).during("clone")?;
                thread.join().map_err(|_| Error::Wrong { call: "clone", what: "thread failed" })
            })
        },
    },
    Op {
        name: "context-switch",
        summary: "a byte to another process on the same CPU and back: two switches",
        shape: Shape::new(100, 40, 4),
        max_batch: 100_000,
        run: context_switch,
    },
];

/// The argument that makes the binary exit at once with code 0: what `fork-exec` executes.
pub(crate) const EXIT: &str = "--exit";

/// A child process that has to be waited for.
struct Child(Pid);

impl Child {
    /// Waits until the child is gone; one that didn't exit with 0 is an error.
    fn wait(self) -> Result<()> {
        let ended = waitpid(Some(self.0), WaitOptions::empty()).during("waitpid")?;
        match ended.and_then(|(_, status)| status.exit_status()) {
            Some(0) => Ok(()),
            _ => Err(Error::Wrong { call: "waitpid", what: "the child failed" }),
        }
    }
}

/// Forks. The child runs `body` and exits with its answer, without unwinding or cleaning up.
fn fork(body: impl FnOnce() -> i32) -> Result<Child> {
    // SAFETY: this program has one thread when it forks, and the bodies in this file only make
    // system calls.
    match unsafe { libc::fork() } {
        0 => {
            let code = body();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        pid => match Pid::from_raw(pid) {
            Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Child(pid)),
            _ => Err(std::io::Error::last_os_error()).during("fork"),
        },
    }
}

fn fork_exec(meter: &mut Meter) -> Result<()> {
    let path = std::env::current_exe().during("readlink /proc/self/exe")?;
    let c_string = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| Error::Wrong { call: "execv", what: "NUL in the path" })
    };
    let path = c_string(path.into_os_string().into_vec())?;
    let exit = c_string(EXIT.into())?;
    let args = [path.as_ptr(), exit.as_ptr(), std::ptr::null()];
    meter.each(|| {
        fork(|| {
            // SAFETY: `path` and `args` outlive the call, and `args` ends with a null pointer.
            unsafe { libc::execv(path.as_ptr(), args.as_ptr()) };
            127
        })?
        .wait()
    })
}

fn context_switch(meter: &mut Meter) -> Result<()> {
    let (there, go) = pipe().during("pipe")?;
    let (back, come) = pipe().during("pipe")?;
    // The child inherits the parent's CPU, which is the only one it may run on.
    let mut ends = Some((go, back));
    let child = fork(|| {
        // Without its own copies of the parent's ends, the child sees the parent leave.
        drop(ends.take());
        echo(&there, &come)
    })?;
    drop((there, come));
    let measured = ends.as_ref().map_or(Ok(()), |(go, back)| {
        let mut byte = [0];
        meter.each(|| {
            all("write to pipe", 1, write(go, b"x").during("write to pipe")?)?;
            all("read from pipe", 1, read(back, &mut byte).during("read from pipe")?)
        })
    });
    drop(ends);
    measured.and(child.wait())
}

/// Sends every byte back until the other side closes.
fn echo(from: &OwnedFd, to: &OwnedFd) -> i32 {
    let mut byte = [0];
    loop {
        match read(from, &mut byte) {
            Ok(0) => return 0,
            Ok(_) if write(to, &byte).is_ok() => {}
            _ => return 1,
        }
    }
}
