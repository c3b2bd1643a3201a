//! Serial over LAN, through `ipmitool`.

use std::future::pending;
use std::io;
use std::time::Duration;

use kgate_machine::process::{Piped, Process, output};
use kgate_model::host::{HostCommand, HostOutput};
use kgate_model::inventory::Ipmi;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::watch;
use tokio::time::sleep;

use super::command::ended;
use super::{Failed, Heard, Link, Protocol, State};

/// `ipmitool` says this when the session is there, and only then.
const OPERATIONAL: &str = "[SOL Session operational";
/// With `-v` it says one of these when the BMC doesn't know the user or the password, which BMCs punish when
/// it is tried again and again.
const REFUSED: &[&str] = &["HMAC is invalid", "unauthorized name", "unauthorized role"];
/// It says this when somebody has the console; often that is a session that nobody ended.
const TAKEN: &str = "already active";
/// Limit of a question to the BMC.
const ANSWER: Duration = Duration::from_secs(10);
/// A console that is silent for so long is asked whose it is: a session whose console another one took is
/// told nothing. A BMC that answered before, and twice doesn't, is gone.
const SILENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(1);
/// Asks whose session the console belongs to ("get payload instance info" of SOL's first instance).
const WHOSE: &[&str] = &["raw", "0x06", "0x4b", "0x01", "0x01"];

/// How a BMC is asked.
#[derive(Clone)]
pub(super) struct Bmc {
    pub(super) ipmi: Ipmi,
    pub(super) password: SecretString,
}

impl Bmc {
    /// The command line; the password is in the environment.
    fn command(&self, program: HostCommand, words: &[&str]) -> HostCommand {
        let Ipmi { address, port, user, cipher_suite, .. } = &self.ipmi;
        let mut command = program.args(["-I", "lanplus", "-v", "-E"]);
        // It asks so often, waiting so long, also when it looks whether the BMC is still there.
        command = command.args(["-N", "1", "-R", "2", "-H", address, "-U", user, "-p"]);
        command = command.arg(port.to_string());
        if let Some(suite) = cipher_suite {
            command = command.arg("-C").arg(suite.to_string());
        }
        // It reads either, and prefers what may be in the environment already.
        for name in ["IPMITOOL_PASSWORD", "IPMI_PASSWORD"] {
            command.env.push((name.into(), self.password.expose_secret().into()));
        }
        command.args(words)
    }

    async fn ask(&self, words: &[&str]) -> io::Result<HostOutput> {
        output(&self.command(HostCommand::new("ipmitool", ANSWER), words)).await
    }

    /// Id of the session that the console belongs to; `None` when the BMC doesn't say.
    async fn whose(&self) -> Option<Vec<u8>> {
        let said = self.ask(WHOSE).await.ok().filter(|said| said.code == Some(0))?;
        let bytes: Option<Vec<u8>> = String::from_utf8_lossy(&said.stdout)
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        bytes?.get(..4).map(<[u8]>::to_vec)
    }
}

pub(super) async fn connect(bmc: &Bmc, state: watch::Receiver<State>) -> Result<Link, Failed> {
    let link = match activate(bmc).await {
        Err(failed) if failed.why.contains(TAKEN) => {
            // If that fails, the next attempt says so.
            let _ = bmc.ask(&["sol", "deactivate"]).await;
            activate(bmc).await?
        }
        other => other?,
    };
    Ok(link.watched(watch_session(bmc.clone(), state)))
}

async fn activate(bmc: &Bmc) -> Result<Link, Failed> {
    // What ipmitool says to a pipe would stay in its buffer until the console says something.
    let program = HostCommand::new("stdbuf", Duration::ZERO).args(["-oL", "ipmitool"]);
    let command = bmc.command(program, &["sol", "activate"]);
    let Piped { mut process, stdin, stdout } =
        Process::piped(&command).map_err(|error| Failed::mistake(format!("stdbuf: {error}")))?;
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = (&mut stdout).take(4096).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) {
            let why = ended(&mut process).await;
            // What `env` and its like end with when there is no such program.
            let code = process.wait().await.ok().and_then(|status| status.code());
            let complaint = process.complaint();
            let refused = REFUSED.iter().any(|said| complaint.contains(said));
            return Err(match code {
                Some(127) => Failed::mistake(why),
                _ if refused => Failed::mistake("the BMC refused the login".to_owned()),
                _ => Failed::now(why),
            });
        }
        if String::from_utf8_lossy(&line).starts_with(OPERATIONAL) {
            return Ok(Link::new(stdout).writing(stdin).speaking(Sol::default()).of(process));
        }
    }
}

/// Returns when the console belongs to another session, and why that is.
async fn watch_session(bmc: Bmc, state: watch::Receiver<State>) -> String {
    let Some(ours) = bmc.whose().await else { return pending().await };
    loop {
        let before = state.borrow().bytes;
        sleep(SILENCE).await;
        if state.borrow().bytes != before {
            continue;
        }
        match bmc.whose().await {
            Some(now) if now != ours => {
                return "the BMC gave the console to another session".to_owned();
            }
            Some(_) => {}
            None => {
                sleep(AGAIN).await;
                if bmc.whose().await.is_none() {
                    return "the BMC does not answer any more".to_owned();
                }
            }
        }
    }
}

/// What is typed: `ipmitool` takes a `~` at the beginning of a line for itself unless there are two.
struct Sol {
    at_line: bool,
}

impl Default for Sol {
    fn default() -> Self {
        Self { at_line: true }
    }
}

impl Protocol for Sol {
    fn heard(&mut self, bytes: &[u8], heard: &mut Heard) {
        heard.text.extend(bytes);
    }

    fn typed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sent = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte == b'~' && self.at_line {
                sent.push(b'~');
            }
            sent.push(byte);
            self.at_line = matches!(byte, b'\r' | b'\n');
        }
        sent
    }
}
