//! Processes and threads: making them, ending them, switching between them.
#![expect(unsafe_code, reason = "fork and exec")]

use std::ffi::{CString, c_void};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::{Errno, read, write};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::pipe::pipe;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use rustix::thread::futex;

use crate::meter::{During as _, all};
use crate::sys::check;
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "fork-exit",
        summary: "fork, exit of the child, wait",
        shape: Shape::new(1, 80, 5),
        max_batch: 10_000,
        copies: false,
        run: |meter| meter.each(|| fork(|| 0)?.wait()),
    },
    Op {
        name: "fork-exec",
        summary: "fork, exec of this program, which exits, wait",
        shape: Shape::new(1, 20, 1),
        max_batch: 10_000,
        copies: false,
        run: fork_exec,
    },
    Op {
        name: "vfork-exec",
        summary: "vfork, exec of this program, which exits, wait",
        shape: Shape::new(1, 25, 2),
        max_batch: 10_000,
        copies: false,
        run: vfork_exec,
    },
    Op {
        name: "thread-create",
        summary: "pthread_create and pthread_join",
        shape: Shape::new(2, 105, 7),
        max_batch: 10_000,
        copies: false,
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
        shape: Shape::new(16, 115, 8),
        max_batch: 100_000,
        copies: false,
        run: context_switch,
    },
    Op {
        name: "futex-switch",
        summary: "futex wake of another process on the same CPU and wait for its answer",
        shape: Shape::new(20, 120, 8),
        max_batch: 100_000,
        copies: false,
        run: futex_switch,
    },
];

/// The argument that makes the binary exit at once with code 0: what `fork-exec` executes.
pub(crate) const EXIT: &str = "--exit";

/// A child process that has to be waited for; one that is dropped is killed.
pub(crate) struct Child(Pid);

impl Child {
    /// Waits until the child is gone; one that didn't exit with 0 is an error.
    pub(crate) fn wait(self) -> Result<()> {
        let child = std::mem::ManuallyDrop::new(self);
        let ended = waitpid(Some(child.0), WaitOptions::empty()).during("waitpid")?;
        match ended.and_then(|(_, status)| status.exit_status()) {
            Some(0) => Ok(()),
            _ => Err(Error::Wrong { call: "waitpid", what: "the child failed" }),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// Forks. The child runs `body` and exits with its answer, without unwinding or cleaning up.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> Result<Child> {
    // SAFETY: this program has one thread when it forks, and the bodies only make system
    // calls.
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
    let program = Program::this()?;
    meter.each(|| fork(|| program.exec())?.wait())
}

fn vfork_exec(meter: &mut Meter) -> Result<()> {
    let program = Program::this()?;
    meter.each(|| vfork(&program)?.wait())
}

/// Starts `program` in a child that borrows our memory until then.
fn vfork(program: &Program) -> Result<Child> {
    let mut stack = [0u64; 1024];
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let program: *const Program = program;
    // SAFETY: as `posix_spawn` does it: the child runs on a stack of its own, which is aligned, while
    // we wait for its exec or exit, and it changes nothing of ours.
    let pid = unsafe { libc::clone(exec_or_exit, top.cast(), flags, program.cast_mut().cast()) };
    Ok(Child(child_pid(pid, "clone CLONE_VFORK")?))
}

extern "C" fn exec_or_exit(program: *mut libc::c_void) -> libc::c_int {
    // SAFETY: what `vfork` passed, still borrowed there.
    unsafe { &*program.cast::<Program>() }.exec()
}

fn child_pid(answer: i32, call: &'static str) -> Result<Pid> {
    let pid = check(answer, call)?;
    Pid::from_raw(pid as i32).ok_or(Error::Wrong { call, what: "answered 0" })
}

/// This program, ready to be executed so that it exits at once.
struct Program {
    path: CString,
    exit: CString,
}

impl Program {
    fn this() -> Result<Self> {
        let path = std::env::current_exe().during("readlink /proc/self/exe")?;
        let c_string = |bytes: Vec<u8>| {
            CString::new(bytes).map_err(|_| Error::Wrong { call: "execv", what: "NUL in the path" })
        };
        let path = c_string(path.into_os_string().into_vec())?;
        Ok(Self { path, exit: c_string(EXIT.into())? })
    }

    /// Becomes it; answers only on failure.
    fn exec(&self) -> i32 {
        let args = [self.path.as_ptr(), self.exit.as_ptr(), std::ptr::null()];
        // SAFETY: `path` and `args` outlive the call, and `args` ends with a null pointer.
        unsafe { libc::execv(self.path.as_ptr(), args.as_ptr()) };
        127
    }
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

/// Two words that two processes share.
struct Words(*mut c_void);

impl Words {
    fn new() -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, access, MapFlags::SHARED) }
            .during("mmap")
            .map(Self)
    }

    fn get(&self) -> &[AtomicU32; 2] {
        // SAFETY: the mapping is longer than that, aligned, zeroed, and lives as long as `self`.
        unsafe { &*self.0.cast() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { rustix::mm::munmap(self.0, 4096) };
    }
}

fn futex_switch(meter: &mut Meter) -> Result<()> {
    const END: u32 = 2;
    let words = Words::new()?;
    let [go, back] = words.get();
    let child = fork(|| {
        loop {
            match wait_for(go) {
                Ok(1) if set(back, 1).is_ok() => {}
                Ok(END) => return 0,
                _ => return 1,
            }
        }
    })?;
    let measured = meter.each(|| {
        set(go, 1)?;
        wait_for(back).map(drop)
    });
    measured?;
    set(go, END)?;
    child.wait()
}

/// Sets a word and wakes who waits for it.
fn set(word: &AtomicU32, value: u32) -> Result<()> {
    word.store(value, Ordering::Release);
    futex::wake(word, futex::Flags::empty(), 1).during("futex FUTEX_WAKE").map(drop)
}

/// Waits until the word isn't 0; answers what it was and makes it 0 again.
fn wait_for(word: &AtomicU32) -> Result<u32> {
    loop {
        match word.swap(0, Ordering::Acquire) {
            0 => match futex::wait(word, futex::Flags::empty(), 0, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno).during("futex FUTEX_WAIT"),
            },
            value => return Ok(value),
        }
    }
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
