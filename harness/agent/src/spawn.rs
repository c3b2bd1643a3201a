//! Starting a process: everything between `fork` and `exec`.
//!
//! std's `Command` collects a child that failed to start by itself, which PID 1's reaper would race,
//! and waits for the `exec` without a limit, which a frozen cgroup or a dead file system never ends.
//! So this is our own: the child reports its failure through a pipe that closes with `exec`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use kgate_model::wire::{Command, Trouble};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::trouble::refused;

/// The samples descriptor of a command, and the variable that tells it.
const SAMPLES: (RawFd, &str) = (3, "KGATE_SAMPLES_FD=3");

/// Where a program without a slash is looked for when its environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child was doing when it failed.
#[derive(Clone, Copy)]
enum Stage {
    Group,
    Streams,
    Terminal,
    Limit,
    Directory,
    Execute,
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::Group, Self::Streams, Self::Terminal, Self::Limit, Self::Directory, Self::Execute];
}

/// What the child's descriptors become.
pub(crate) struct Streams {
    /// Standard input, output, error.
    pub(crate) standard: [OwnedFd; 3],
    /// Becomes [`SAMPLES`].
    pub(crate) samples: OwnedFd,
    /// Standard input is a terminal to be controlled by.
    pub(crate) terminal: bool,
}

/// A command, ready to be forked: after the fork nothing may allocate.
pub(crate) struct Prepared {
    programs: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    limits: Vec<(Resource, Rlimit)>,
    /// The directory of its control group.
    group: Option<OwnedFd>,
    streams: Streams,
    report: OwnedFd,
    program: Program,
}

/// What was asked for, for the words of a failure.
pub(crate) struct Program {
    name: String,
    path: String,
    directory: String,
}

impl Prepared {
    /// Prepares `command`; `marker` is one more entry of its environment. Gives also the pipe that
    /// ends when the program runs, or holds the child's report of a failure.
    pub(crate) fn new(
        command: &Command,
        streams: Streams,
        group: Option<OwnedFd>,
        limits: Vec<(Resource, u64)>,
        marker: Option<&str>,
    ) -> Result<(Self, OwnedFd), Trouble> {
        let text = |what: &str, text: &str| {
            CString::new(text).map_err(|_| refused(format!("{what} holds a NUL byte: {text:?}")))
        };
        let program = command.argv.first().ok_or_else(|| refused("the command is empty"))?;
        let path = command.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let programs = if program.contains('/') {
            vec![text("program", program)?]
        } else {
            path.split(':')
                .map(|directory| {
                    let directory = if directory.is_empty() { "." } else { directory };
                    text("program", &format!("{directory}/{program}"))
                })
                .collect::<Result<_, _>>()?
        };
        let arguments =
            command.argv.iter().map(|a| text("argument", a)).collect::<Result<_, _>>()?;
        let mut environment: Vec<CString> = command
            .env
            .iter()
            .map(|(name, value)| text("environment", &format!("{name}={value}")))
            .collect::<Result<_, _>>()?;
        for entry in [Some(SAMPLES.1), marker].into_iter().flatten() {
            environment.push(text("environment", entry)?);
        }
        let directory = if command.dir.is_empty() { "/" } else { &command.dir };
        let limits = limits
            .into_iter()
            .map(|(which, most)| {
                // The kernel ends a program a second after the first warning about CPU time.
                let maximum = most.saturating_add(u64::from(which == Resource::Cpu));
                (which, Rlimit { current: Some(most), maximum: Some(maximum) })
            })
            .collect();
        let (pipe, report) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|e| crate::trouble::failed("make a pipe", e))?;
        let prepared = Self {
            programs,
            arguments,
            environment,
            directory: text("working directory", directory)?,
            limits,
            group,
            streams,
            report,
            program: Program {
                name: program.clone(),
                path: path.to_owned(),
                directory: directory.to_owned(),
            },
        };
        Ok((prepared, pipe))
    }

    /// Forks; gives the child's process number.
    #[expect(unsafe_code, reason = "fork and exec are system calls that no safe wrapper offers")]
    pub(crate) fn fork(&self) -> io::Result<i32> {
        let pointers = |strings: &[CString]| {
            strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>()
        };
        let arguments = pointers(&self.arguments);
        let environment = pointers(&self.environment);
        // SAFETY: the child calls only async-signal-safe functions on data prepared above, and ends
        // in exec or _exit; it never returns into the copied program.
        let (pid, to_enter) = match &self.group {
            Some(group) => match unsafe { fork_into(group) } {
                // A kernel before 5.7, or a sandbox that doesn't know the call.
                -1 => (unsafe { libc::fork() }, Some(group)),
                pid => (pid, None),
            },
            None => (unsafe { libc::fork() }, None),
        };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => unsafe {
                let (stage, errno) = self.child(to_enter, &arguments, &environment);
                let message = (stage as u64) << 32 | u64::from(errno.cast_unsigned());
                let message = message.to_ne_bytes();
                libc::write(self.report.as_raw_fd(), message.as_ptr().cast(), message.len());
                libc::_exit(127)
            },
            pid => Ok(pid),
        }
    }

    /// The child's part. Returns the failed stage and the error number.
    #[expect(unsafe_code, reason = "runs between fork and exec")]
    unsafe fn child(
        &self,
        to_enter: Option<&OwnedFd>,
        arguments: &[*const libc::c_char],
        environment: &[*const libc::c_char],
    ) -> (Stage, i32) {
        // SAFETY: see `fork`; every pointer is to memory that the child has its own copy of.
        unsafe {
            let errno = || *libc::__errno_location();
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            // The system call itself, because libc keeps some signals from being touched. A zeroed
            // action is the default one; the last number is the size of its mask.
            let default = [0_usize; 4];
            for signal in 1..=64 {
                let none = ptr::null_mut::<usize>();
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::setsid();
            if let Some(group) = to_enter {
                let flags = libc::O_WRONLY | libc::O_CLOEXEC;
                let entry = libc::openat(group.as_raw_fd(), c"cgroup.procs".as_ptr(), flags);
                if entry < 0 || libc::write(entry, c"0".as_ptr().cast(), 1) < 0 {
                    return (Stage::Group, errno());
                }
            }
            // No descriptor of the agent's is below 4, so nothing is overwritten.
            for (fd, wanted) in self.streams.standard.iter().zip(0..) {
                if libc::dup2(fd.as_raw_fd(), wanted) < 0 {
                    return (Stage::Streams, errno());
                }
            }
            if self.streams.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return (Stage::Terminal, errno());
            }
            if libc::dup2(self.streams.samples.as_raw_fd(), SAMPLES.0) < 0 {
                return (Stage::Streams, errno());
            }
            // The agent's own are closed by exec anyway; what somebody left open to it too. Kernels
            // before 5.11 don't know the call.
            let most = libc::c_uint::MAX;
            libc::syscall(libc::SYS_close_range, 4, most, libc::CLOSE_RANGE_CLOEXEC);
            let oom = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
            if oom >= 0 {
                libc::write(oom, c"0".as_ptr().cast(), 1);
                libc::close(oom);
            }
            for (which, limit) in &self.limits {
                // Without libc, rustix's calls are plain system calls.
                if let Err(e) = setrlimit(*which, *limit) {
                    return (Stage::Limit, e.raw_os_error());
                }
            }
            libc::umask(0o022);
            if libc::chdir(self.directory.as_ptr()) < 0 {
                return (Stage::Directory, errno());
            }
            let mut why = libc::ENOENT;
            for program in &self.programs {
                libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                // Like a shell: go on looking, and remember what was there but may not run.
                match errno() {
                    libc::ENOENT | libc::ENOTDIR => {}
                    libc::EACCES => why = libc::EACCES,
                    other => return (Stage::Execute, other),
                }
            }
            (Stage::Execute, why)
        }
    }

    /// Closes the child's ends of its streams.
    pub(crate) fn into_program(self) -> Program {
        self.program
    }
}

/// Forks a child that is born in the control group of this directory. As `fork`, but also fails on
/// kernels that can't.
///
/// Moving a process to a group makes the kernel wait until all CPUs have passed through the
/// scheduler, some tens of milliseconds; being born in it costs nothing.
///
/// # Safety
/// As for `fork` in a program with threads, and no handler registered for `fork` is called: the
/// child may only call async-signal-safe functions.
#[expect(unsafe_code, reason = "no safe wrapper offers the call")]
unsafe fn fork_into(group: &OwnedFd) -> i32 {
    // The type of libc's own is too small for it.
    const CLONE_INTO_CGROUP: libc::c_ulonglong = 0x2_0000_0000;
    // SAFETY: plain data; what isn't set means the default.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = CLONE_INTO_CGROUP;
    how.exit_signal = libc::SIGCHLD as libc::c_ulonglong;
    how.cgroup = group.as_raw_fd() as libc::c_ulonglong;
    // SAFETY: without a stack of its own, and without shared memory, it is a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut how, size_of_val(&how)) };
    // A process number fits.
    pid as i32
}

impl Program {
    /// The words for a failure that the child reported.
    pub(crate) fn explain(&self, report: &[u8]) -> Trouble {
        let Some((stage, errno)) =
            report.try_into().ok().map(u64::from_ne_bytes).and_then(|m| {
                Some((*Stage::ALL.get((m >> 32) as usize)?, (m as u32).cast_signed()))
            })
        else {
            return refused("the child ended before it ran the program");
        };
        let what = match stage {
            Stage::Group => "enter the control group".to_owned(),
            Stage::Streams => "set up standard streams".to_owned(),
            Stage::Terminal => "take the terminal".to_owned(),
            Stage::Limit => "set a resource limit".to_owned(),
            Stage::Directory => format!("change to {}", self.directory),
            Stage::Execute if self.name.contains('/') => format!("execute {}", self.name),
            Stage::Execute => {
                format!("execute {} (looked for in {})", self.name, self.path)
            }
        };
        crate::trouble::failed(what, io::Error::from_raw_os_error(errno))
    }
}
