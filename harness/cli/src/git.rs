//! `git` in a repository of the user's. It asks nobody anything, and nothing of it goes on after its end.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use kgate_machine::process::HOST_OUTPUT;
use kgate_model::host::{Host, HostCommand};

use crate::error::CommandError;
use crate::text::line;

/// A repository.
pub(crate) struct Git<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) dir: &'a Path,
    /// The longest that one answer may take.
    pub(crate) limit: Duration,
    /// Variables for it beside its usual ones.
    pub(crate) env: &'a [(&'a str, &'a str)],
}

/// Why there is no answer.
pub(crate) enum GitError {
    /// What it says, in one line.
    Refused(String),
    /// It was not carried out, or not to its end.
    Broken(String),
}

impl<'a> Git<'a> {
    pub(crate) fn new(host: &'a dyn Host, dir: &'a Path, limit: Duration) -> Self {
        Self { host, dir, limit, env: &[] }
    }

    /// What it prints.
    pub(crate) fn bytes(&self, args: &[impl AsRef<OsStr>]) -> Result<Vec<u8>, GitError> {
        let mut command = HostCommand::new("git", self.limit)
            .arg("-C")
            .arg(self.dir)
            .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            // A user's setting that puts more into what is read.
            .args(["-c", "log.showSignature=false"])
            .args(args.iter().map(AsRef::as_ref));
        let env = [("GIT_TERMINAL_PROMPT", "0"), ("LC_ALL", "C")];
        let env = env.iter().chain(self.env);
        command.env = env.map(|(name, value)| (name.into(), value.into())).collect();
        let output = self.host.run(&command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::Broken("git is not installed".to_owned()),
            _ => GitError::Broken(format!("git: {error}")),
        })?;
        if output.code != Some(0) {
            let said = String::from_utf8_lossy(&output.stderr);
            let mut lines = said.lines().filter(|line| !line.trim().is_empty());
            let fatal = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
            let why = lines.clone().find(fatal).or(lines.next()).unwrap_or("git failed");
            return Err(GitError::Refused(line(why)));
        }
        if output.stdout.len() as u64 >= HOST_OUTPUT {
            return Err(GitError::Broken("git says too much at once".to_owned()));
        }
        Ok(output.stdout)
    }

    /// What it prints, as text.
    pub(crate) fn text(&self, args: &[impl AsRef<OsStr>]) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.bytes(args)?).into_owned())
    }
}

impl GitError {
    /// What was asked for was the user's mistake.
    pub(crate) fn usage(self, place: &str) -> CommandError {
        match self {
            Self::Refused(why) => CommandError::usage(format!("{}: {why}", line(place))),
            Self::Broken(_) => self.infrastructure(place),
        }
    }

    /// What was asked for should have been there.
    pub(crate) fn infrastructure(self, place: &str) -> CommandError {
        let (Self::Refused(why) | Self::Broken(why)) = self;
        CommandError::infrastructure(format!("{}: {why}", line(place)))
    }
}
