//! Consoles that a command of the site prints.

use std::time::Duration;

use kgate_machine::process::{Piped, Process};
use kgate_model::host::HostCommand;
use tokio::time::timeout;

use super::{Failed, Link};

/// A command that fails does so within this time, or it counts as connected.
const FAILS: Duration = Duration::from_millis(300);

pub(super) async fn connect(host: &str, command: &str) -> Result<Link, Failed> {
    let mut shell = HostCommand::new("sh", Duration::ZERO).args(["-c", command]);
    shell.env.push(("KGATE_HOST".into(), host.into()));
    let Piped { mut process, stdin, stdout } =
        Process::piped(&shell).map_err(|error| Failed::mistake(format!("sh: {error}")))?;
    match timeout(FAILS, process.wait()).await {
        Ok(Ok(status)) if !status.success() => Err(Failed::now(ended(&mut process).await)),
        _ => Ok(Link::new(stdout).writing(stdin).of(process)),
    }
}

/// How a process ended whose output did.
pub(super) async fn ended(process: &mut Process) -> String {
    let how = match timeout(Duration::from_secs(1), process.wait()).await {
        Ok(Ok(status)) => format!("the command ended ({status})"),
        Ok(Err(error)) => format!("the command ended: {error}"),
        Err(_) => "the command closed its output".to_owned(),
    };
    match process.complaint().text().lines().last() {
        Some(last) => format!("{how}: {last}"),
        None => how,
    }
}
