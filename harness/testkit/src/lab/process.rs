//! Processes of a stand-in: each ends with it, whatever ends it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Problem;
use super::disk::program;

/// A process and its group.
pub(super) struct Process {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `log`. It dies with the thread that starts it.
    pub(super) fn start(name: &str, args: &[String], log: &Path) -> Result<Self, Problem> {
        let path = if name.contains('/') { name.into() } else { program(name)? };
        let mut command = Command::new(program("setpriv")?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(path).args(args);
        Self::spawn(name, command, log)
    }

    /// The same for a program that starts others, which would outlive it.
    pub(super) fn family(name: &str, args: &[String], log: &Path) -> Result<Self, Problem> {
        // The shell's input ends with the stand-in, and with the shell all of its group. It must
        // not die with the stand-in's thread, as that may come before it has seen the end.
        let script = "{ \"$@\"; kill -KILL 0; } & cat >/dev/null; kill -KILL 0";
        let mut command = Command::new(program("sh")?);
        command.args(["-c", script, "sh"]).arg(program(name)?).args(args);
        Self::spawn(name, command, log)
    }

    fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self, Problem> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(|e| Problem::broken(name, e))?;
        let both = file.try_clone().map_err(|e| Problem::broken(name, e))?;
        command.stdin(Stdio::piped()).stdout(file).stderr(both).process_group(0);
        let child = command.spawn().map_err(|e| Problem::broken(name, e))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Tries `ready` until it says something, and gives up when the process ends.
    pub(super) fn until<T>(
        &mut self,
        within: Duration,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Problem> {
        let end = Instant::now() + within;
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            let why = match self.child.try_wait() {
                Ok(Some(status)) => status.to_string(),
                _ if Instant::now() > end => format!("not ready within {} s", within.as_secs()),
                _ => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            return Err(Problem::broken(&self.name, format!("{why}: {said}")));
        }
    }

    /// Sends a signal to the process and those that it started.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
