//! Places of a labgrid coordinator, through `labgrid-client`.
//!
//! kgate appears there as `CONTROLLER/USER-kgate`, so that what a person acquired by hand is never taken
//! for its own.

use std::io;
use std::time::Duration;

use kgate_machine::process;
use kgate_model::host::{HostCommand, HostOutput};

use super::{Holder, ReservationError};

/// The coordinator answers within this time.
const ANSWER: Duration = Duration::from_secs(60);

fn command(coordinator: &str, place: &str, holder: &Holder, act: &[&str]) -> HostCommand {
    let arguments = ["-x", coordinator, "-p", place];
    let mut command = HostCommand::new("labgrid-client", ANSWER).args(arguments).args(act);
    for (name, value) in [
        ("LG_HOSTNAME", holder.controller.clone()),
        ("LG_USERNAME", user(holder)),
        // Those of the caller would lead elsewhere.
        ("LG_PLACE", String::new()),
        ("LG_ENV", String::new()),
    ] {
        command.env.push((name.into(), value.into()));
    }
    command
}

fn user(holder: &Holder) -> String {
    format!("{}-kgate", holder.user)
}

async fn run(
    host: &str,
    coordinator: &str,
    place: &str,
    holder: &Holder,
    act: &[&str],
) -> Result<HostOutput, ReservationError> {
    process::output(&command(coordinator, place, holder, act)).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => {
                "labgrid-client is not installed on the controller: `pip install labgrid`".into()
            }
            _ => format!("labgrid-client: {error}"),
        };
        ReservationError::Failed { host: host.to_owned(), why }
    })
}

/// Who has a place, as `CONTROLLER/USER`; `None` when nobody has.
///
/// # Errors
/// The coordinator doesn't answer, or has no such place.
pub async fn holder(
    host: &str,
    coordinator: &str,
    place: &str,
    holder: &Holder,
) -> Result<Option<String>, ReservationError> {
    let output = run(host, coordinator, place, holder, &["show"]).await?;
    if output.code != Some(0) {
        return Err(failed(host, &output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let acquired = text.lines().find_map(|line| line.trim().strip_prefix("acquired: "));
    Ok(acquired.map(str::trim).filter(|by| *by != "None" && !by.is_empty()).map(str::to_owned))
}

/// Acquires a place; `false` when this user's kgate on this controller had it already.
///
/// # Errors
/// Somebody else has it, or the coordinator can't be asked.
pub(super) async fn acquire(
    host: &str,
    coordinator: &str,
    place: &str,
    us: &Holder,
    steal: bool,
) -> Result<bool, ReservationError> {
    let ask = || holder(host, coordinator, place, us);
    let ours = format!("{}/{}", us.controller, user(us));
    match ask().await? {
        Some(by) if by == ours => return Ok(false),
        Some(by) if !steal => return Err(held(host, place, &by)),
        Some(_) => {
            run(host, coordinator, place, us, &["release", "--kick"]).await?;
        }
        None => {}
    }
    let output = run(host, coordinator, place, us, &["acquire"]).await?;
    if output.code == Some(0) {
        return Ok(true);
    }
    // Somebody may have been quicker.
    match ask().await? {
        Some(by) if by != ours => Err(held(host, place, &by)),
        _ => Err(failed(host, &output)),
    }
}

/// Releases a place that this user's kgate on this controller has.
///
/// # Errors
/// The coordinator can't be asked, or says no.
pub(super) async fn release(
    host: &str,
    coordinator: &str,
    place: &str,
    us: &Holder,
) -> Result<(), ReservationError> {
    let ours = format!("{}/{}", us.controller, user(us));
    if holder(host, coordinator, place, us).await?.is_none_or(|by| by != ours) {
        return Ok(());
    }
    let output = run(host, coordinator, place, us, &["release"]).await?;
    if output.code == Some(0) { Ok(()) } else { Err(failed(host, &output)) }
}

fn held(host: &str, place: &str, by: &str) -> ReservationError {
    let by = format!("{by}, who has acquired the labgrid place {place}");
    ReservationError::Held { host: host.to_owned(), by }
}

fn failed(host: &str, output: &HostOutput) -> ReservationError {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    let why = format!("labgrid-client said: {}", said.trim());
    ReservationError::Failed { host: host.to_owned(), why }
}
