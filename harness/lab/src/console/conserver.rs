//! Consoles of a conserver, through its client `console`: it knows how a site encrypts and who it is, and a
//! conserver talks to nobody else by default.

use std::io::Cursor;
use std::time::Duration;

use kgate_machine::process::{Piped, Process, output};
use kgate_model::host::HostCommand;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::watch;
use tokio::time::timeout;

use super::command::ended;
use super::{Failed, Link, Protocol, State, silence};

/// The client says this when all that follows is the console's.
const CONNECTED: &str = "[Enter `";
/// The conserver says this next when somebody else may type.
const TAKEN: &[u8] = b"[no, ";
/// It says so within this time.
const SAYS: Duration = Duration::from_millis(500);
/// No line of the client is longer.
const LINE: u64 = 4096;
/// What waiting doesn't mend.
const MISTAKES: &[(&str, &str)] =
    &[("not found", ""), ("assword", ": let the conserver trust the controller")];
/// Limit of a question to the conserver.
const ANSWER: Duration = Duration::from_secs(10);

/// A console of a conserver.
#[derive(Clone)]
pub(super) struct At {
    pub(super) server: String,
    pub(super) port: u16,
    pub(super) console: String,
}

impl At {
    fn command(&self, limit: Duration, how: &[&str]) -> HostCommand {
        // -U: also without encryption, if the conserver has none.
        let command = HostCommand::new("console", limit).args(["-U", "-M", &self.server, "-p"]);
        command.arg(self.port.to_string()).args(how).arg("--").arg(&self.console)
    }

    /// Whether its line is up; `None` when nobody says.
    async fn is_up(&self) -> Option<bool> {
        let said = output(&self.command(ANSWER, &["-i"])).await.ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = said.lines().find(|line| line.starts_with(&format!("{}:", self.console)))?;
        Some(!line.contains(":down:"))
    }
}

pub(super) async fn connect(at: &At, state: watch::Receiver<State>) -> Result<Link, Failed> {
    // -k: not while its line is down.
    let Piped { mut process, stdin, stdout } =
        Process::piped(&at.command(Duration::ZERO, &["-k", "-a"]))
            .map_err(|error| Failed::unstarted("conserver's client `console`", &error))?;
    let mut stdout = BufReader::new(stdout);
    let mut said = String::new();
    loop {
        let line = line(&mut stdout).await;
        if line.is_empty() {
            return Err(failed(&said, &mut process).await);
        }
        if line.starts_with(CONNECTED) {
            break;
        }
        said = line;
    }
    // Whatever there is of a line when the time is over is kept.
    let mut next = Vec::new();
    let _ = timeout(SAYS, (&mut stdout).take(LINE).read_until(b'\n', &mut next)).await;
    let taken = next.starts_with(TAKEN);
    if taken {
        next.clear();
    }
    let link = Link::new(Cursor::new(next).chain(stdout)).speaking(Conserver).of(process);
    let link = link.watched(watch(at.clone(), state));
    Ok(if taken { link.keeping(stdin) } else { link.writing(stdin) })
}

/// A line of what the client says; empty when it has ended.
async fn line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = Vec::new();
    // A read error ends it just as its end does.
    let _ = stdout.take(LINE).read_until(b'\n', &mut line).await;
    String::from_utf8_lossy(&line).into_owned()
}

async fn failed(said: &str, process: &mut Process) -> Failed {
    let how = ended(process).await;
    let complaint = process.complaint().text();
    let why = if said.is_empty() { how } else { said.trim().to_owned() };
    let mistake = MISTAKES.iter().find(|(text, _)| said.contains(text) || complaint.contains(text));
    match mistake {
        Some((_, help)) => Failed::mistake(format!("{why}{help}")),
        None => Failed::now(why),
    }
}

/// Returns when nothing more can come, and why that is: the client isn't told when the conserver's own line
/// is down, nor when its other end is gone.
async fn watch(at: At, state: watch::Receiver<State>) -> String {
    loop {
        silence(&state).await;
        let up = match at.is_up().await {
            // It may have been busy.
            None => at.is_up().await,
            said => said,
        };
        match up {
            Some(true) => {}
            Some(false) => return "the conserver's line is down".to_owned(),
            None => return "the conserver does not answer any more".to_owned(),
        }
    }
}

/// What is typed may not be taken for an escape.
struct Conserver;

impl Protocol for Conserver {
    fn typed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sent = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                // An escape begins with it, and there is one for a byte by its octal number.
                0x05 => sent.extend(b"\x05c\\005"),
                _ => sent.push(byte),
            }
        }
        sent
    }
}
