//! What can go wrong with a command, and the exit code that says so.

use std::fmt;
use std::io;
use std::process::ExitCode;

use kgate_image::ImageError;
use kgate_kernel::KernelError;
use kgate_machine::BootError;
use kgate_model::outcome::Blame;
use kgate_qemu::{KitError, QemuError};
use kgate_runner::{RunDirError, RunError};
use kgate_scenario::Mistakes;

/// The candidate may replace the baseline; or, for commands without a verdict, all went well.
pub(crate) const PROMOTE: u8 = 0;
/// The candidate must not replace the baseline; for `boot`: the kernel or the command failed.
pub(crate) const REJECT: u8 = 1;
/// The command line or a file of the user's is wrong.
pub(crate) const USAGE: u8 = 2;
/// It could not be decided.
pub(crate) const INCONCLUSIVE: u8 = 3;
/// A lab host that is needed is somebody else's: nothing was decided either.
pub(crate) const HELD: u8 = INCONCLUSIVE;
/// Something of ours failed, or of the machine that kgate runs on.
pub(crate) const INFRASTRUCTURE: u8 = 4;
/// Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// A command that could not be carried out.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl CommandError {
    /// The user's mistake.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into(), hint: None }
    }

    /// Ours, or the controller's.
    pub(crate) fn infrastructure(message: impl Into<String>) -> Self {
        Self { code: INFRASTRUCTURE, message: message.into(), hint: None }
    }

    /// Somebody else has what is needed.
    pub(crate) fn held(message: impl Into<String>) -> Self {
        Self { code: HELD, message: message.into(), hint: None }
    }

    /// Ctrl-C.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self { code: INTERRUPTED, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says where it happened.
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What happened, without what to do next.
    pub(crate) fn first_line(&self) -> String {
        self.message.lines().next().unwrap_or_default().to_owned()
    }

    /// The number of the exit code.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    /// Whether it is the user's mistake.
    pub(crate) fn is_usage(&self) -> bool {
        self.code == USAGE
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<KernelError> for CommandError {
    fn from(error: KernelError) -> Self {
        if matches!(error, KernelError::NotOffered { .. }) {
            Self::usage(error.to_string())
                .hint("`kgate kernel list` shows the kernels that apt offers")
        } else if error.is_infrastructure() {
            Self::infrastructure(error.to_string())
        } else {
            Self::usage(error.to_string())
        }
    }
}

impl From<ImageError> for CommandError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Recipe { .. } => Self::usage(error.to_string()),
            _ => Self::infrastructure(error.to_string()),
        }
    }
}

impl From<KitError> for CommandError {
    fn from(error: KitError) -> Self {
        match error {
            KitError::Kernel(error) => error.into(),
            other => Self::infrastructure(other.to_string()),
        }
    }
}

impl From<QemuError> for CommandError {
    fn from(error: QemuError) -> Self {
        Self::infrastructure(error.to_string()).hint("`kgate doctor` checks the whole machine")
    }
}

impl From<Mistakes> for CommandError {
    fn from(mistakes: Mistakes) -> Self {
        Self::usage(mistakes.to_string())
    }
}

impl From<BootError> for CommandError {
    fn from(error: BootError) -> Self {
        let code = match error.fault.blame {
            Blame::Kernel => REJECT,
            Blame::Scenario => USAGE,
            Blame::Harness => INFRASTRUCTURE,
        };
        Self { code, message: error.fault.to_string(), hint: None }
    }
}

impl From<RunDirError> for CommandError {
    fn from(error: RunDirError) -> Self {
        RunError::from(error).into()
    }
}

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        match &error {
            RunError::RunDir(RunDirError::Io { source, .. }) if !is_mistake(source) => {
                Self::infrastructure(error.to_string())
            }
            _ => Self::usage(error.to_string()),
        }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::infrastructure(error.to_string())
    }
}

impl From<serde_json::Error> for CommandError {
    /// What can't be written: what can't be read is told with its place.
    fn from(error: serde_json::Error) -> Self {
        Self::infrastructure(error.to_string())
    }
}

/// Whether the wrong path was named, rather than something of the machine's failed.
fn is_mistake(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), AlreadyExists | IsADirectory | NotADirectory | NotFound)
}

/// Puts the file's name before what the operating system answered.
pub(crate) fn at(path: &std::path::Path) -> impl FnOnce(io::Error) -> CommandError {
    // A name may come from elsewhere as well: a pattern takes in what a download unpacked.
    let path = crate::text::line(&path.display().to_string());
    move |error| {
        let mistake = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory",
            io::ErrorKind::IsADirectory => "a directory, where a file is needed",
            // A directory that was to be made, and is something else.
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "a file, where a directory is needed"
            }
            io::ErrorKind::PermissionDenied => "you have no permission",
            _ => return CommandError::infrastructure(format!("{path}: {error}")),
        };
        CommandError::usage(format!("{path}: {mistake}"))
    }
}
