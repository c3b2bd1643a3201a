//! Which kernel a host boots: production always, another one once.
//!
//! What holds, whatever ends kgate and whenever:
//! - the default is production, which was asserted before and is asserted again by the host itself right
//!   before it arms;
//! - only the production kernel arms, by one script that arms, reboots and, when no reboot comes,
//!   disarms;
//! - what was armed is gone when the armed kernel starts.

mod grub;
mod kexec;
pub(crate) mod pxe;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_model::inventory::{BootMethod, LabHost};
use kgate_model::wire::Identity;

use crate::host::HostFacts;
use crate::power::{Firmware, Power, PowerError};
use crate::ssh::{ANSWER, Ssh, SshError, quote};
use crate::stage::Staged;

/// Word on the command line that names a single boot.
pub(crate) const BOOT: &str = "kgate.boot";
/// Where programs are that a login by SSH may not find.
const PATH: &str = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin";

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
    /// The inventory names what isn't there.
    #[error("{0}")]
    Inventory(String),
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
    /// What the host asserts again before it arms.
    assertions: Vec<Assertion>,
    efi: bool,
}

/// A shell condition, and what is wrong when it doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Assertion {
    holds: String,
    otherwise: String,
}

impl Assertion {
    fn new(holds: String, otherwise: &str) -> Self {
        Self { holds, otherwise: otherwise.into() }
    }
}

/// What a host does to boot another kernel once, as shell.
struct Armament {
    assertions: Vec<Assertion>,
    arm: String,
    disarm: String,
    reboot: String,
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
    /// [`SelectError::NotSafe`] and [`SelectError::Inventory`] say what to mend.
    pub async fn production(
        &self,
        ssh: &Ssh,
        facts: &HostFacts,
        power: Option<&dyn Power>,
    ) -> Result<Production, SelectError> {
        let identity = &facts.identity;
        if is_ours(identity) {
            return Err(SelectError::NotSafe(format!(
                "{} runs, a kernel under test and not production: `kgate lab recover {}`",
                identity.release, self.host.name
            )));
        }
        if network_once(power).await? {
            return Err(SelectError::NotSafe(format!(
                "the BMC is told to boot from the network next: `kgate lab recover {}`",
                self.host.name
            )));
        }
        let mut production = match &self.host.boot.method {
            BootMethod::Grub { production, .. } => {
                grub::production(ssh, facts, production.as_deref()).await?
            }
            BootMethod::Kexec => kexec::production(ssh).await?,
            BootMethod::Pxe { directory, .. } => {
                pxe::assert_offered(directory)?;
                Production {
                    proof: "the firmware boots it; from the network only when the BMC is told so"
                        .into(),
                    ..Production::default()
                }
            }
        };
        production.release.clone_from(&identity.release);
        production.version.clone_from(&identity.version);
        production.efi = facts.efi;
        production.assertions.push(Assertion::new(
            format!(
                "[ \"$(cat /proc/sys/kernel/random/boot_id)\" = {} ]",
                quote(&identity.boot_id)
            ),
            "another kernel was booted meanwhile",
        ));
        Ok(production)
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
        let command_line = format!("{} {}", staged.command_line, mark(boot));
        let mut armament = match &self.host.boot.method {
            BootMethod::Grub { .. } => grub::armament(ssh, staged, &command_line).await?,
            BootMethod::Kexec => kexec::armament(staged, &command_line),
            BootMethod::Pxe { directory, script, url } => {
                let power = power.ok_or_else(without_power)?;
                pxe::offer(directory, script, url, &self.host.name, staged, &command_line)?;
                let firmware = if production.efi { Firmware::Uefi } else { Firmware::Bios };
                if let Err(error) = power.boot_from_network_once(firmware).await {
                    // It may have understood all the same.
                    pxe::withdraw(directory, script)?;
                    return Err(error.into());
                }
                Armament {
                    assertions: Vec::new(),
                    arm: ":".into(),
                    disarm: ":".into(),
                    reboot: "reboot".into(),
                }
            }
        };
        armament.assertions.splice(0..0, production.assertions.iter().cloned());
        let begun = begin(ssh, &armament, shutdown).await;
        if matches!(begun, Err(SelectError::NotSafe(_))) {
            self.started(power).await?;
        }
        begun
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
        match &self.host.boot.method {
            BootMethod::Grub { .. } => grub::armed(ssh, facts).await,
            BootMethod::Kexec => kexec::armed(ssh).await,
            BootMethod::Pxe { .. } => {
                let once = network_once(power).await?;
                Ok(once.then(|| "a boot from the network".into()))
            }
        }
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
        self.started(power).await?;
        match &self.host.boot.method {
            BootMethod::Grub { .. } => grub::disarm(ssh, facts).await,
            BootMethod::Kexec => kexec::disarm(ssh).await,
            BootMethod::Pxe { .. } => Ok(()),
        }
    }

    /// What the controller itself has to do when the booted kernel is known to have started, or when a
    /// host is to be left alone: it offers no kernel any more. Nothing is done where hosts boot from
    /// their own disks.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub async fn started(&self, power: Option<&dyn Power>) -> Result<(), SelectError> {
        let BootMethod::Pxe { directory, script, .. } = &self.host.boot.method else {
            return Ok(());
        };
        pxe::withdraw(directory, script)?;
        if network_once(power).await?
            && let Some(power) = power
        {
            power.boot_from_disk().await?;
        }
        Ok(())
    }

    /// Directory of the host where image and initrd of a role go; `None` when the controller offers them.
    pub(crate) fn images(&self, facts: &HostFacts) -> Result<Option<PathBuf>, SelectError> {
        match &self.host.boot.method {
            BootMethod::Grub { .. } => Ok(Some(grub::images(facts)?)),
            BootMethod::Kexec => Ok(Some(self.host.boot.directory.join("images"))),
            BootMethod::Pxe { .. } => Ok(None),
        }
    }

    /// Takes away what was written for the boot loader or the network.
    pub(crate) async fn clean(&self, ssh: &Ssh, facts: &HostFacts) -> Result<(), SelectError> {
        match &self.host.boot.method {
            BootMethod::Grub { .. } => grub::clean(ssh, facts).await,
            BootMethod::Kexec => Ok(()),
            BootMethod::Pxe { directory, script, .. } => {
                pxe::withdraw(directory, script)?;
                pxe::clean(directory, &self.host.name)
            }
        }
    }
}

/// The word on a kernel's command line that tells the boot with this id from all others.
pub(crate) fn mark(id: &str) -> String {
    format!("{BOOT}={id}")
}

/// Whether a kernel was booted by kgate.
pub(crate) fn is_ours(identity: &Identity) -> bool {
    let marked = |word: &str| word.strip_prefix(BOOT).is_some_and(|rest| rest.starts_with('='));
    identity.command_line.split_whitespace().any(marked)
}

/// Reboots a host in an orderly way into whatever it boots by default. Returns when it has begun.
///
/// # Errors
/// See [`SshError`].
pub async fn reboot(ssh: &Ssh, within: Duration) -> Result<(), SshError> {
    let script = format!(
        "{PATH}\n(trap '' HUP TERM; sync; sleep 1; reboot || {{ echo s; echo b; }} >/proc/sysrq-trigger) \
         </dev/null >/dev/null 2>&1 &"
    );
    ssh.ask("rebooting", &script, within).await.map(drop)
}

/// Has a host reboot that asks nobody any more. Returns when it has begun.
///
/// # Errors
/// See [`SshError`].
pub(crate) async fn force_reboot(ssh: &Ssh, within: Duration) -> Result<(), SshError> {
    const SCRIPT: &str = "(sleep 1; echo s >/proc/sysrq-trigger; sleep 2; \
        echo b >/proc/sysrq-trigger) </dev/null >/dev/null 2>&1 &";
    ssh.ask("rebooting", SCRIPT, within).await.map(drop)
}

pub(crate) fn without_power() -> SelectError {
    SelectError::Refused(
        "a boot from the network takes a BMC that can be told so: `power` is missing".into(),
    )
}

/// Whether the BMC is told to boot from the network next; not when it can't tell.
async fn network_once(power: Option<&dyn Power>) -> Result<bool, SelectError> {
    let Some(power) = power else { return Ok(false) };
    match power.boots_from_network().await {
        Ok(once) => Ok(once == Some(true)),
        Err(PowerError::Unsupported(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Has the host assert, arm and reboot, by a script that goes on whatever becomes of the connection.
async fn begin(ssh: &Ssh, armament: &Armament, shutdown: Duration) -> Result<(), SelectError> {
    let output = ssh.ask("arming", &script(armament, shutdown), ANSWER).await?;
    match output.lines().last() {
        Some("armed") => Ok(()),
        Some(why) => Err(SelectError::NotSafe(why.to_owned())),
        None => Err(SshError::Silent(ANSWER).into()),
    }
}

/// The script of [`begin`]: its last line is `armed`, or why it did not arm.
fn script(armament: &Armament, shutdown: Duration) -> String {
    let Armament { assertions, arm, disarm, reboot } = armament;
    let mut asserted = String::new();
    for Assertion { holds, otherwise } in assertions {
        let _ = writeln!(asserted, "{holds} || {{ say {}; exit 1; }}", quote(otherwise));
    }
    let shutdown = shutdown.as_secs().max(1);
    let detached = format!(
        "{PATH}
say() {{ echo \"$*\" >>/run/kgate/boot.log; }}
disarm() {{
{disarm}
sync
}}
# The connection ends, and a shutdown begins by asking everybody to end.
trap '' HUP TERM PIPE
{asserted}{{
{arm}
}} || {{ disarm; say 'it could not be armed'; exit 1; }}
sync
say armed
sleep 2
{reboot}
sleep {shutdown}
disarm
"
    );
    format!(
        "umask 077; mkdir -p /run/kgate || exit; rm -f /run/kgate/boot.log
cat >/run/kgate/boot.sh <<'KGATE-END'
{detached}KGATE-END
{PATH}
setsid sh /run/kgate/boot.sh </dev/null >/dev/null 2>&1 &
n=0
until [ -s /run/kgate/boot.log ] || [ $n = 200 ]; do sleep 0.1; n=$((n + 1)); done
cat /run/kgate/boot.log"
    )
}

/// Condition that a file of the host is what it was.
fn unchanged(path: &Path, sha256: &str) -> String {
    let path = quote(&path.to_string_lossy());
    format!("case $(sha256sum <{path}) in {sha256}*) ;; *) false ;; esac")
}
