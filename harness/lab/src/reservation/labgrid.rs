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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use kgate_machine::process::{Piped, Process};
    use tempfile::TempDir;

    use super::*;

    fn who(user: &str) -> Holder {
        Holder::this(user, "r1")
    }

    async fn coordinator() -> Option<(Piped, TempDir, String)> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
        let address = format!("127.0.0.1:{port}");
        // It keeps its places where it is started.
        let dir = tempfile::tempdir().unwrap();
        let mut command = HostCommand::new("labgrid-coordinator", ANSWER).args(["-l", &address]);
        command.dir = Some(dir.path().to_owned());
        let Ok(piped) = Process::piped(&command) else {
            eprintln!("SKIP: no labgrid-coordinator in PATH (ci/tools installs it)");
            return None;
        };
        for _ in 0..300 {
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                return Some((piped, dir, address));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the coordinator says: {}", piped.process.complaint().text());
    }

    #[tokio::test]
    async fn a_place_is_acquired_once_and_its_holder_shown() {
        let Some((_process, _dir, at)) = coordinator().await else { return };
        let (alice, bob) = (who("alice"), who("bob"));
        assert_eq!(run("h", &at, "p1", &alice, &["create"]).await.unwrap().code, Some(0));
        assert_eq!(holder("h", &at, "p1", &alice).await.unwrap(), None);
        assert!(acquire("h", &at, "p1", &alice, false).await.unwrap());
        // After a kgate that was killed it is still ours.
        assert!(!acquire("h", &at, "p1", &alice, false).await.unwrap());
        let error = acquire("h", &at, "p1", &bob, false).await.unwrap_err();
        assert!(matches!(error, ReservationError::Held { .. }), "{error}");
        let by = format!("{}/alice-kgate", alice.controller);
        assert_eq!(
            error.to_string(),
            format!("h is reserved by {by}, who has acquired the labgrid place p1")
        );
        // What somebody else has is not released.
        release("h", &at, "p1", &bob).await.unwrap();
        assert_eq!(holder("h", &at, "p1", &bob).await.unwrap(), Some(by));
        assert!(acquire("h", &at, "p1", &bob, true).await.unwrap());
        release("h", &at, "p1", &bob).await.unwrap();
        assert_eq!(holder("h", &at, "p1", &bob).await.unwrap(), None);
        let error = acquire("h", &at, "p2", &bob, false).await.unwrap_err().to_string();
        assert!(error.contains("p2") && error.contains("not"), "{error}");
    }

    #[tokio::test]
    async fn a_coordinator_that_is_not_there_is_told() {
        if process::output(&HostCommand::new("labgrid-client", ANSWER).arg("--help")).await.is_err()
        {
            eprintln!("SKIP: no labgrid-client in PATH (ci/tools installs it)");
            return;
        }
        let error = acquire("h", "127.0.0.1:1", "p1", &who("alice"), false).await.unwrap_err();
        assert!(matches!(error, ReservationError::Failed { .. }), "{error}");
    }
}
