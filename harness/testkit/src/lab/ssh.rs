//! SSH to a stand-in, by OpenSSH's own client and independent of kgate.

use std::path::Path;
use std::time::{Duration, Instant};

use kgate_model::host::{Host, HostCommand, HostOutput};

use crate::host::TestHost;

use super::Problem;
use super::disk::{program, write};

/// A command of a test takes no longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A session takes half a second under emulation, and several when the machine is busy.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);

/// Whom to talk to.
pub(super) struct Target<'a> {
    pub(super) port: u16,
    /// Where the key `id` and the public host keys are.
    pub(super) dir: &'a Path,
    /// File of the public host key that is expected.
    pub(super) host_key: &'a str,
}

impl Target<'_> {
    /// The line of `known_hosts` that pins the host.
    pub(super) fn known_host(&self) -> Result<String, Problem> {
        let key = std::fs::read_to_string(self.dir.join(self.host_key))
            .map_err(|e| Problem::broken(self.host_key, e))?;
        Ok(format!("[127.0.0.1]:{} {key}\n", self.port))
    }

    /// What `ssh` is told before the command.
    pub(super) fn options(&self, known_hosts: &Path) -> Vec<String> {
        let file = format!("UserKnownHostsFile={}", known_hosts.display());
        let (id, port) = (self.dir.join("id").display().to_string(), self.port.to_string());
        [
            "-F",
            "/dev/null",
            "-i",
            &id,
            "-p",
            &port,
            "-o",
            &file,
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ConnectTimeout=5",
            "-o",
            "ServerAliveInterval=3",
            "root@127.0.0.1",
        ]
        .map(str::to_owned)
        .into()
    }

    /// Runs a shell command.
    pub(super) fn command(&self, shell: &str, within: Duration) -> Result<HostOutput, Problem> {
        let known =
            tempfile::NamedTempFile::new().map_err(|e| Problem::broken("known_hosts", e))?;
        write(known.path(), 0o600, self.known_host()?.as_bytes())?;
        let command = HostCommand::new(program("ssh")?, within);
        let command = command.args(self.options(known.path())).arg(shell);
        TestHost.run(&command).map_err(|e| Problem::broken("ssh", e))
    }

    /// Runs a shell command that succeeds, and returns what it printed.
    pub(super) fn run(&self, shell: &str) -> Result<String, Problem> {
        let output = self.command(shell, PATIENCE)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.code {
            Some(0) => Ok(text(&output.stdout)),
            code => {
                let said = text(&output.stderr);
                Err(Problem::broken("ssh", format!("`{shell}` ended with {code:?}: {said}")))
            }
        }
    }

    /// Waits until the host answers and says that it is ready.
    pub(super) fn until_up(&self, within: Duration) -> Result<(), Problem> {
        self.until("test -e /run/ready", within)
    }

    /// Tries a shell command until it succeeds.
    pub(super) fn until(&self, shell: &str, within: Duration) -> Result<(), Problem> {
        let end = Instant::now() + within;
        loop {
            let output = self.command(shell, ANSWERS_WITHIN);
            match output {
                Ok(HostOutput { code: Some(0), .. }) => return Ok(()),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(100)),
                other => {
                    let why = format!("`{shell}` fails for {} s: {other:?}", within.as_secs());
                    return Err(Problem::broken("ssh", why));
                }
            }
        }
    }
}
