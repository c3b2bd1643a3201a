//! Starting a process: everything between `clone` and `exec`.
//!
//! std's `Command` collects a child that failed to start by itself, which PID 1's reaper would race,
//! and waits for the `exec` without a limit, which a frozen cgroup or a dead file system never ends.
//! So this is our own: the child reports its failure through a pipe that closes with `exec`.
//!
//! In a guest the child runs in the agent's memory until then, on a stack of its own. Copying page
//! tables, and each page that one of the two writes to, is most of what starting a program costs.

use std::arch::asm;
use std::ffi::{CString, c_char, c_long};
use std::io;
use std::mem::ManuallyDrop;
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

/// The stack of a child, in units of what it has to be aligned to: 32 KiB.
const STACK: usize = 2048;

/// Strings as `exec` wants them.
struct Strings {
    _held: Vec<CString>,
    /// To each of them, and a null.
    pointers: Vec<*const c_char>,
}

impl Strings {
    fn new(held: Vec<CString>) -> Self {
        let pointers = held.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _held: held, pointers }
    }
}

/// All that the child looks at, which may be while its parent goes on.
struct Plan {
    programs: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    directory: CString,
    limits: Vec<(Resource, Rlimit)>,
    standard: [RawFd; 3],
    samples: RawFd,
    terminal: bool,
    report: RawFd,
    /// The directory of the control group that it enters by itself.
    enter: Option<RawFd>,
    /// It runs in its parent's memory.
    shares: bool,
    stack: Vec<u128>,
}

/// A command, ready to be started.
pub(crate) struct Prepared {
    plan: Box<Plan>,
    /// The directory of its control group.
    group: Option<OwnedFd>,
    /// Only kept open until there is the child, which has its own.
    _theirs: (Streams, OwnedFd),
    program: Program,
}

/// A child that may not run its program yet.
pub(crate) struct Started {
    /// Left as it is, should the child never be known to have done with it.
    plan: ManuallyDrop<Box<Plan>>,
    program: Program,
}

/// What was asked for, for the words of a failure.
struct Program {
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
        let plan = Plan {
            programs,
            arguments: Strings::new(arguments),
            environment: Strings::new(environment),
            directory: text("working directory", directory)?,
            limits,
            standard: streams.standard.each_ref().map(AsRawFd::as_raw_fd),
            samples: streams.samples.as_raw_fd(),
            terminal: streams.terminal,
            report: report.as_raw_fd(),
            enter: None,
            shares: false,
            stack: Vec::with_capacity(STACK),
        };
        let prepared = Self {
            plan: Box::new(plan),
            group,
            _theirs: (streams, report),
            program: Program {
                name: program.clone(),
                path: path.to_owned(),
                directory: directory.to_owned(),
            },
        };
        Ok((prepared, pipe))
    }

    /// Starts the child; gives its process number. With `share`, it runs in this process's memory
    /// until it has a program of its own.
    #[expect(unsafe_code, reason = "no safe wrapper offers the system calls")]
    pub(crate) fn start(&mut self, share: bool) -> io::Result<i32> {
        // The type of libc's own is too small for it.
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        let plan = &mut *self.plan;
        plan.shares = share;
        let memory = if share { libc::CLONE_VM } else { 0 };
        let stack = plan.stack.as_mut_ptr();
        if let Some(group) = &self.group {
            // Moving a process to a group makes the kernel wait until all CPUs have passed through the
            // scheduler, some tens of milliseconds; being born in it costs nothing.
            let how = libc::clone_args {
                flags: CLONE_INTO_CGROUP | memory as u64,
                exit_signal: libc::SIGCHLD as u64,
                stack: stack as u64,
                stack_size: (STACK * size_of::<u128>()) as u64,
                cgroup: group.as_raw_fd() as u64,
                pidfd: 0,
                child_tid: 0,
                parent_tid: 0,
                tls: 0,
                set_tid: 0,
                set_tid_size: 0,
            };
            // SAFETY: it is born with that stack, and keeps to what `begin` says.
            let pid = unsafe {
                clone(libc::SYS_clone3, [&raw const how as usize, size_of_val(&how)], plan)
            };
            if pid >= 0 {
                return Ok(pid);
            }
            // A kernel before 5.7, or a sandbox that doesn't know the call.
            plan.enter = Some(group.as_raw_fd());
        }
        // SAFETY: as above; this call wants the end of the stack, where it begins.
        let pid = unsafe {
            let top = stack.add(STACK) as usize;
            clone(libc::SYS_clone, [(memory | libc::SIGCHLD) as usize, top], plan)
        };
        if pid < 0 { Err(io::Error::from_raw_os_error(-pid)) } else { Ok(pid) }
    }

    /// Closes the child's ends of its streams.
    pub(crate) fn into_started(self) -> Started {
        Started { plan: ManuallyDrop::new(self.plan), program: self.program }
    }
}

/// Makes a child, which runs `plan` on the stack that `arguments` name to the system call `number`.
/// Gives its process number, or an error's, negative.
///
/// # Safety
/// The stack is the child's alone and, like `plan`, there for as long as it needs them.
#[expect(unsafe_code, reason = "what runs on another stack can't be told in Rust")]
unsafe fn clone(number: c_long, arguments: [usize; 2], plan: *const Plan) -> i32 {
    let pid: isize;
    // SAFETY: the parent sees a system call that changes the registers named. The child never gets past
    // `ud2`: it begins a function that does not return, with its stack aligned as a call wants it.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number as isize => pid,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("r12") plan,
            in("r13") begin as extern "C" fn(*const Plan) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // A process number fits.
    pid as i32
}

/// A system call; gives what it gives, or the error's number.
///
/// libc's functions write to `errno`, which a child that shares its parent's memory shares too.
///
/// # Safety
/// As for the call.
#[expect(unsafe_code, reason = "a system call")]
unsafe fn call(number: c_long, arguments: [usize; 4]) -> Result<usize, i32> {
    let result: isize;
    // SAFETY: the kernel changes these registers, and memory as the call says.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // Error numbers are below 4096.
    if result < 0 { Err(-result as i32) } else { Ok(result as usize) }
}

/// The child's first function. It may be in its parent's memory, with its parent's thread-local storage:
/// until it runs a program or ends, nothing allocates, panics, or calls into libc.
extern "C" fn begin(plan: *const Plan) -> ! {
    #[expect(unsafe_code, reason = "runs between clone and exec")]
    // SAFETY: the plan is left alone until this process has other memory, or none.
    unsafe {
        let Err((stage, errno)) = run(&*plan);
        let message = (stage as u64) << 32 | u64::from(errno.cast_unsigned());
        let message = message.to_ne_bytes();
        let report = (*plan).report as usize;
        let _ = call(libc::SYS_write, [report, message.as_ptr() as usize, message.len(), 0]);
        loop {
            let _ = call(libc::SYS_exit_group, [127, 0, 0, 0]);
        }
    }
}

/// Does everything up to the program. Gives the failed stage and the error's number.
///
/// # Safety
/// Only for [`begin`].
#[expect(unsafe_code, reason = "runs between clone and exec")]
unsafe fn run(plan: &Plan) -> Result<std::convert::Infallible, (Stage, i32)> {
    let at = |stage: Stage| move |errno: i32| (stage, errno);
    // SAFETY: system calls with what they want; every pointer is to `plan` or constant.
    unsafe {
        // A zeroed action is the default one; the last number is the size of its mask.
        let default = [0_usize; 4];
        for signal in 1..=64 {
            let _ = call(libc::SYS_rt_sigaction, [signal, default.as_ptr() as usize, 0, 8]);
        }
        let how = libc::SIG_SETMASK as usize;
        let _ = call(libc::SYS_rt_sigprocmask, [how, default.as_ptr() as usize, 0, 8]);
        let _ = call(libc::SYS_setsid, [0; 4]);
        if let Some(group) = plan.enter {
            let name = c"cgroup.procs".as_ptr() as usize;
            let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as usize;
            call(libc::SYS_openat, [group as usize, name, flags, 0])
                .and_then(|entry| call(libc::SYS_write, [entry, c"0".as_ptr() as usize, 1, 0]))
                .map_err(at(Stage::Group))?;
        }
        // No descriptor of the agent's is below 4, so nothing is overwritten.
        let [input, output, error] = plan.standard;
        for (fd, wanted) in [(input, 0), (output, 1), (error, 2)] {
            call(libc::SYS_dup2, [fd as usize, wanted, 0, 0]).map_err(at(Stage::Streams))?;
        }
        if plan.terminal {
            call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 0, 0])
                .map_err(at(Stage::Terminal))?;
        }
        let samples = [plan.samples as usize, SAMPLES.0 as usize, 0, 0];
        call(libc::SYS_dup2, samples).map_err(at(Stage::Streams))?;
        // The agent's own are closed by exec anyway; what somebody left open to it too. Kernels
        // before 5.11 don't know the call.
        let most = libc::c_uint::MAX as usize;
        let how = libc::CLOSE_RANGE_CLOEXEC as usize;
        let _ = call(libc::SYS_close_range, [4, most, how, 0]);
        // A guest's agent has none that would be inherited; and what is set is set for all who share the
        // memory.
        if !plan.shares {
            let name = c"/proc/self/oom_score_adj".as_ptr() as usize;
            let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as usize;
            let here = libc::AT_FDCWD as usize;
            let _ = call(libc::SYS_openat, [here, name, flags, 0])
                .and_then(|file| call(libc::SYS_write, [file, c"0".as_ptr() as usize, 1, 0]));
        }
        for (which, limit) in &plan.limits {
            // Without libc, rustix's calls are plain system calls.
            setrlimit(*which, *limit).map_err(|e| (Stage::Limit, e.raw_os_error()))?;
        }
        let _ = call(libc::SYS_umask, [0o022, 0, 0, 0]);
        call(libc::SYS_chdir, [plan.directory.as_ptr() as usize, 0, 0, 0])
            .map_err(at(Stage::Directory))?;
        let [arguments, environment] =
            [&plan.arguments, &plan.environment].map(|s| s.pointers.as_ptr() as usize);
        let mut why = libc::ENOENT;
        for program in &plan.programs {
            let program = program.as_ptr() as usize;
            let here = libc::AT_FDCWD as usize;
            // A kernel that is to run a program has much done before it finds that there is none.
            let run = call(libc::SYS_faccessat, [here, program, libc::F_OK as usize, 0])
                .and_then(|_| call(libc::SYS_execve, [program, arguments, environment, 0]));
            match run {
                // Like a shell: go on looking, and remember what was there but may not run.
                Err(libc::EACCES) => why = libc::EACCES,
                Err(libc::ENOENT | libc::ENOTDIR) | Ok(_) => {}
                Err(other) => return Err((Stage::Execute, other)),
            }
        }
        Err((Stage::Execute, why))
    }
}

impl Started {
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
            Stage::Directory => format!("change to {}", self.program.directory),
            Stage::Execute if self.program.name.contains('/') => {
                format!("execute {}", self.program.name)
            }
            Stage::Execute => {
                format!("execute {} (looked for in {})", self.program.name, self.program.path)
            }
        };
        crate::trouble::failed(what, io::Error::from_raw_os_error(errno))
    }

    /// Frees what the child needed: it runs its program, or has ended.
    pub(crate) fn free(mut self) {
        #[expect(unsafe_code, reason = "the counterpart of leaving it as it is")]
        // SAFETY: `self` is gone with this.
        unsafe {
            ManuallyDrop::drop(&mut self.plan);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use kgate_model::wire::{Limits, Stdin};
    use rustix::process::{Pid, WaitOptions, waitpid};

    use super::*;

    /// Runs a command to its end: its output, its exit code, and what it reported of a failure.
    fn run(share: bool, argv: &[&str], dir: &str) -> (String, Option<i32>, Option<String>) {
        let command = Command {
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            env: [("WHO", "me")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            dir: dir.into(),
            stdin: Stdin::Null,
            timeout_ms: None,
            output_limit: 0,
            limits: Limits::default(),
            background: false,
        };
        let (mut output, theirs) = std::io::pipe().unwrap();
        let null =
            || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
        let streams =
            Streams { standard: [null(), theirs.into(), null()], samples: null(), terminal: false };
        let (mut prepared, report) =
            Prepared::new(&command, streams, None, vec![(Resource::Nofile, 77)], None).unwrap();
        let pid = prepared.start(share).unwrap();
        let started = prepared.into_started();
        // The test may not end before the child has done with what it shares.
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let status = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap().1;
        let mut said = Vec::new();
        // Other tests' children may have it open for a moment.
        rustix::io::ioctl_fionbio(&report, false).unwrap();
        File::from(report).read_to_end(&mut said).unwrap();
        let failure = (!said.is_empty()).then(|| started.explain(&said).message);
        started.free();
        (text, status.exit_status(), failure)
    }

    #[test]
    fn a_child_does_the_same_in_its_parents_memory() {
        for share in [false, true] {
            let script = "echo $WHO in $PWD may open $(ulimit -n); exit 7";
            let (output, code, failure) = run(share, &["sh", "-c", script], "/usr");
            assert_eq!(output, "me in /usr may open 77\n");
            assert_eq!((code, failure), (Some(7), None));
        }
    }

    #[test]
    fn a_child_that_can_not_run_its_program_says_why() {
        for share in [false, true] {
            let why = |argv: &[&str], dir: &str| run(share, argv, dir).2.unwrap_or_default();
            assert_eq!(
                [why(&["nowhere"], "/"), why(&["/etc/passwd"], "/"), why(&["true"], "/nowhere")],
                [
                    &format!(
                        "execute nowhere (looked for in {DEFAULT_PATH}): No such file or directory \
                         (os error 2)"
                    ),
                    "execute /etc/passwd: Permission denied (os error 13)",
                    "change to /nowhere: No such file or directory (os error 2)",
                ]
            );
        }
    }

    #[test]
    fn many_children_at_a_time_leave_their_parent_as_it_was() {
        std::thread::scope(|scope| {
            for n in 0..8 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        let number = n.to_string();
                        let (output, ..) = run(true, &["echo", &number], "/");
                        assert_eq!(output.trim_end(), number);
                    }
                });
            }
        });
    }
}
