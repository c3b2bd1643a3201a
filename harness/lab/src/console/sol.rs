//! Serial over LAN, through `ipmitool`.

use std::future::pending;
use std::io;
use std::time::Duration;

use kgate_machine::process::{Piped, Process, output};
use kgate_model::host::{HostCommand, HostOutput};
use kgate_model::inventory::Ipmi;
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::watch;
use tokio::time::sleep;

use super::command::ended;
use super::{Failed, Link, Protocol, State, silence};
use crate::power::ipmi::{ipmitool, mistake};

/// `ipmitool` says this when the session is there, and only then.
const OPERATIONAL: &str = "[SOL Session operational";
/// It says this when somebody has the console; often that is a session that nobody ended.
const TAKEN: &str = "already active";
/// Limit of a question to the BMC.
const ANSWER: Duration = Duration::from_secs(10);
/// A BMC that answered before, and twice doesn't, is gone.
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
    async fn ask(&self, words: &[&str]) -> io::Result<HostOutput> {
        let program = HostCommand::new("ipmitool", ANSWER);
        output(&ipmitool(program, &self.ipmi, &self.password, words)).await
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
    let command = ipmitool(program, &bmc.ipmi, &bmc.password, &["sol", "activate"]);
    let Piped { mut process, stdin, stdout } =
        Process::piped(&command).map_err(|error| Failed::unstarted("`stdbuf`", &error))?;
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = (&mut stdout).take(4096).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) {
            let why = ended(&mut process).await;
            // What `env` and its like end with when there is no such program.
            let code = process.wait().await.ok().and_then(|status| status.code());
            // BMCs punish a wrong password that is tried again and again.
            return Err(match mistake(&process.complaint().text()) {
                Some(mistake) => Failed::mistake(mistake),
                None if code == Some(127) => Failed::mistake(why),
                None => Failed::now(why),
            });
        }
        if String::from_utf8_lossy(&line).starts_with(OPERATIONAL) {
            return Ok(Link::new(stdout).writing(stdin).speaking(Sol::default()).of(process));
        }
    }
}

/// Returns when the console belongs to another session, which this one isn't told, and why that is.
async fn watch_session(bmc: Bmc, state: watch::Receiver<State>) -> String {
    let Some(ours) = bmc.whose().await else { return pending().await };
    loop {
        silence(&state).await;
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
