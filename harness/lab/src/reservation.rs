//! Who has a lab host: a lock on the controller that ends with its process, a marker on the host itself,
//! by which two controllers meet, and the place of a labgrid coordinator where the inventory names one.

pub mod labgrid;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use kgate_model::inventory::{LabHost, Reservation};
use serde::{Deserialize, Serialize};

use crate::ssh::{Ssh, SshError, quote};

/// No marker or lock file is read further.
const LONGEST: u64 = 4 << 10;
/// The marker is made, looked at and removed within this time.
const MARKER: Duration = Duration::from_secs(30);

/// Who has a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// User on the controller.
    pub user: String,
    /// Name of the controller.
    pub controller: String,
    /// Number of the process there.
    pub pid: u32,
    /// What it wants the host for.
    pub run: String,
    /// Since when.
    pub since: Timestamp,
    /// Tells this reservation from every other one.
    pub token: String,
}

impl Holder {
    /// This process, for `run`; `user` is whoever started it.
    pub fn this(user: &str, run: &str) -> Self {
        let uname = rustix::system::uname();
        Self {
            user: user.to_owned(),
            controller: uname.nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            run: run.to_owned(),
            since: Timestamp::now(),
            token: unique(),
        }
    }

    /// In a few words. May hold text of another controller: escape it before printing.
    pub fn describe(&self) -> String {
        let Self { user, controller, pid, run, since, .. } = self;
        format!("{user} on {controller} (process {pid}, run {run}) since {since:.0}")
    }
}

/// Sixteen hexadecimal digits that were never used before.
pub(crate) fn unique() -> String {
    let mut bytes = [0; 8];
    // The kernel has enough from early boot on; a shorter answer there is not.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

/// Why a host can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ReservationError {
    /// Somebody else has it.
    #[error("{host} is reserved by {by}")]
    Held {
        /// The host.
        host: String,
        /// Who has it, in words. May hold text of others: escape it before printing.
        by: String,
    },
    /// It could not be found out, or done.
    #[error("{host} can't be reserved: {why}")]
    Failed {
        /// The host.
        host: String,
        /// What went wrong.
        why: String,
    },
    /// The host can't be reached.
    #[error("{host} can't be reserved: {source}")]
    Ssh {
        /// The host.
        host: String,
        /// Why.
        source: SshError,
    },
}

/// The lock on a host among the processes of this controller that have the same state directory. Free
/// again when it is dropped, or its process is no more.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

fn lock_path(state: &Path, host: &str) -> PathBuf {
    state.join(format!("{host}.lock"))
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another process has it, or the file can't be made.
    pub fn take(state: &Path, host: &str, holder: &Holder) -> Result<Self, ReservationError> {
        let path = lock_path(state, host);
        let failed = |e: std::io::Error| ReservationError::Failed {
            host: host.to_owned(),
            why: format!("{}: {e}", path.display()),
        };
        fs::create_dir_all(state).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let by = read_holder(&mut file).map_or("another kgate".into(), |h| h.describe());
                return Err(ReservationError::Held { host: host.to_owned(), by });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        // For people only: a disk that is full keeps nobody from the lock.
        let _ = file.set_len(0).and_then(|()| file.write_all(&json(holder)));
        Ok(Self { file })
    }

    /// Who has it now, if anybody.
    pub fn holder(state: &Path, host: &str) -> Option<String> {
        let mut file = File::open(lock_path(state, host)).ok()?;
        match file.try_lock_shared() {
            Err(fs::TryLockError::WouldBlock) => {
                Some(read_holder(&mut file).map_or("another kgate".into(), |h| h.describe()))
            }
            _ => None,
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

fn json(holder: &Holder) -> Vec<u8> {
    serde_json::to_vec(holder).unwrap_or_default()
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Reserves a host beyond this controller: its marker, and its place where the inventory names one.
/// With `steal` whoever has it loses it.
///
/// # Errors
/// Somebody else has it, or it can't be done; then no more of it is ours than was before.
pub async fn acquire(
    host: &LabHost,
    ssh: &Ssh,
    holder: &Holder,
    steal: bool,
) -> Result<(), ReservationError> {
    let mut new = false;
    if let Reservation::Labgrid { coordinator, place } = &host.reservation {
        new = labgrid::acquire(&host.name, coordinator, place, holder, steal).await?;
    }
    let marked = mark(host, ssh, holder, steal).await;
    if marked.is_err()
        && new
        && let Reservation::Labgrid { coordinator, place } = &host.reservation
    {
        let _ = labgrid::release(&host.name, coordinator, place, holder).await;
    }
    marked
}

/// Gives back what [`acquire`] took; nothing that somebody else has by now.
///
/// # Errors
/// It can't be given back.
pub async fn release(host: &LabHost, ssh: &Ssh, holder: &Holder) -> Result<(), ReservationError> {
    unmark(host, ssh, &holder.token).await?;
    if let Reservation::Labgrid { coordinator, place } = &host.reservation {
        labgrid::release(&host.name, coordinator, place, holder).await?;
    }
    Ok(())
}

/// The token and a description of who has a host, as its marker says. A marker that can't be read is
/// somebody's, too.
///
/// # Errors
/// It can't be asked.
pub async fn marked(
    host: &LabHost,
    ssh: &Ssh,
) -> Result<Option<(String, String)>, ReservationError> {
    let marker = marker(host);
    let script = format!("[ ! -e {marker} ] || {{ echo held; cat {marker}; }}");
    Ok(held(&ask(host, ssh, &script).await?))
}

/// What a script has said of a marker that it found, if it has.
fn held(said: &str) -> Option<(String, String)> {
    let holder = serde_json::from_str::<Holder>(said.strip_prefix("held")?.trim());
    Some(match holder {
        Ok(holder) => (holder.token.clone(), holder.describe()),
        Err(_) => (String::new(), "an unknown controller".into()),
    })
}

/// The marker, as a word of the host's shell.
fn marker(host: &LabHost) -> String {
    quote(&host.boot.directory.join("holder.json").to_string_lossy())
}

async fn ask(host: &LabHost, ssh: &Ssh, script: &str) -> Result<String, ReservationError> {
    let failed = |source| ReservationError::Ssh { host: host.name.clone(), source };
    ssh.ask("the marker of its reservation", script, MARKER).await.map_err(failed)
}

async fn mark(
    host: &LabHost,
    ssh: &Ssh,
    holder: &Holder,
    steal: bool,
) -> Result<(), ReservationError> {
    let directory = quote(&host.boot.directory.to_string_lossy());
    let (marker, content) = (marker(host), quote(&String::from_utf8_lossy(&json(holder))));
    let there = if steal {
        format!("mv -f \"$new\" {marker} && sync")
    } else {
        format!("echo held; cat {marker}")
    };
    // A link is made or not: of two controllers one succeeds.
    let script = format!(
        "umask 077; full() {{ echo {directory} \"can't be written to: is the disk full?\" >&2; exit 1; }}
mkdir -p {directory} || exit 1
new={directory}/.holder.$$
trap 'rm -f \"$new\"' EXIT
printf '%s\\n' {content} > \"$new\" && sync || full
if ln \"$new\" {marker} 2>/dev/null; then sync
elif [ -e {marker} ]; then {there}
else ln \"$new\" {marker} && sync; fi"
    );
    match held(&ask(host, ssh, &script).await?) {
        None => Ok(()),
        Some((_, by)) => Err(ReservationError::Held { host: host.name.clone(), by }),
    }
}

async fn unmark(host: &LabHost, ssh: &Ssh, token: &str) -> Result<(), ReservationError> {
    let marker = marker(host);
    let script = format!(
        "if grep -q '\"token\":\"{token}\"' {marker} 2>/dev/null; then rm -f {marker} && sync; fi"
    );
    ask(host, ssh, &script).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_and_tells_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("lab");
        let holder =
            Holder { since: "2026-01-02T03:04:05Z".parse().unwrap(), ..Holder::this("eve", "r7") };
        let lock = Lock::take(&state, "h1", &holder).unwrap();
        let error = Lock::take(&state, "h1", &holder).unwrap_err().to_string();
        let Holder { controller, pid, .. } = &holder;
        let by = format!("eve on {controller} (process {pid}, run r7) since 2026-01-02T03:04:05Z");
        assert_eq!(error, format!("h1 is reserved by {by}"));
        assert_eq!(Lock::holder(&state, "h1"), Some(by));
        assert_eq!(Lock::holder(&state, "h2"), None);
        drop(lock);
        assert_eq!(Lock::holder(&state, "h1"), None);
        Lock::take(&state, "h1", &holder).unwrap();
    }
}
