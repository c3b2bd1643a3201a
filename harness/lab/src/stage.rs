//! Staging: what a kernel needs on a host to be booted once, put there and taken away again.
//!
//! Nothing of it is where the host's own kernels are: production doesn't see it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kgate_image::Busybox;
use kgate_kernel::Kernel;
use kgate_model::inventory::LabHost;
use kgate_model::outcome::Role;

use crate::boot::SelectError;
use crate::host::HostFacts;
use crate::ssh::Ssh;

/// What is to be put on a host.
#[derive(Clone, Copy, Debug)]
pub struct Staging<'a> {
    /// Which of the two.
    pub role: Role,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Modules that scenarios load.
    pub modules: &'a BTreeSet<String>,
    /// Added to the command line, behind production's and the inventory's.
    pub kernel_args: &'a [String],
    /// What the initrd is made of.
    pub busybox: &'a Busybox,
    /// kgate's agent, a static program.
    pub agent: &'a [u8],
    /// kgate's measuring programs, a static program.
    pub ops: &'a [u8],
}

/// A kernel that is on a host and may be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Which of the two.
    pub role: Role,
    /// `uname -r` of it.
    pub release: String,
    /// Its banner, which holds `uname -v`.
    pub banner: String,
    /// Hash of everything that was staged.
    pub digest: String,
    /// The image, on the host.
    pub image: PathBuf,
    /// The initrd, on the host.
    pub initrd: PathBuf,
    /// The command line, without what names a single boot.
    pub command_line: String,
    /// The agent, on the host.
    pub agent: PathBuf,
    /// The measuring programs, on the host.
    pub ops: PathBuf,
    /// Paths of the staged modules below `/lib/modules/RELEASE` as the booted kernel sees it, by name.
    pub modules: std::collections::BTreeMap<String, PathBuf>,
}

impl Staged {
    /// Whether the kernel that runs is this one, booted by the boot with this id.
    #[must_use]
    pub fn is(&self, identity: &kgate_model::wire::Identity, boot: &str) -> bool {
        let marked = format!("kgate.boot={boot}");
        identity.release == self.release
            && self.banner.contains(&identity.version)
            && identity.command_line.split_whitespace().any(|word| word == marked)
    }
}

/// Puts a kernel on a host that runs production. What is there already is not sent again.
///
/// # Errors
/// See [`SelectError`].
pub async fn stage(
    ssh: &Ssh,
    host: &LabHost,
    facts: &HostFacts,
    staging: &Staging<'_>,
    within: Duration,
) -> Result<Staged, SelectError> {
    let _ = (ssh, host, facts, staging, within);
    Err(SelectError::Refused("not there yet".into()))
}

/// Takes away everything that was staged. Nothing there is no error.
///
/// # Errors
/// See [`SelectError`].
pub async fn unstage(ssh: &Ssh, host: &LabHost) -> Result<(), SelectError> {
    let _ = (ssh, host);
    Ok(())
}
