//! The seam through which crates that start no processes themselves have one started.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A program to run on the controller, to its end, with its output collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCommand {
    /// Program name, looked up in `PATH`.
    pub program: OsString,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Working directory; the caller's own when `None`.
    pub dir: Option<PathBuf>,
    /// Variables added to the inherited environment.
    pub env: Vec<(OsString, OsString)>,
    /// The process group is killed when it runs longer than this.
    pub timeout: Duration,
}

impl HostCommand {
    /// `program` with no arguments, in the caller's directory, for at most `timeout`.
    pub fn new(program: impl Into<OsString>, timeout: Duration) -> Self {
        Self { program: program.into(), args: Vec::new(), dir: None, env: Vec::new(), timeout }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
}

/// What a [`HostCommand`] left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOutput {
    /// Exit code; `None` when a signal or the timeout ended it.
    pub code: Option<i32>,
    /// Standard output, cut at the implementation's bound.
    pub stdout: Vec<u8>,
    /// Standard error, cut at the implementation's bound.
    pub stderr: Vec<u8>,
}

/// Starts host processes and waits for them. `machine::process` implements it for real.
pub trait Host {
    /// Runs `command` to its end.
    ///
    /// # Errors
    /// `NotFound` when there is no such program, `TimedOut` when it ran too long, otherwise what
    /// the operating system answered.
    fn run(&self, command: &HostCommand) -> io::Result<HostOutput>;
}
