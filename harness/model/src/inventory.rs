//! The inventory of a lab as types: the hosts, and how each is reached, powered, listened to and
//! booted. What a file says is read and checked by `scenario`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The lab hosts that kgate may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By name, in the order of the file.
    pub hosts: Vec<LabHost>,
}

impl Inventory {
    /// The host with this name.
    pub fn host(&self, name: &str) -> Option<&LabHost> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The hosts that one of `words` is the name or a tag of, in the order of the file; all of them
    /// without words.
    ///
    /// # Errors
    /// The first word that is neither.
    pub fn select(&self, words: &[String]) -> Result<Vec<&LabHost>, String> {
        if let Some(word) = words.iter().find(|word| !self.hosts.iter().any(|host| host.is(word))) {
            return Err(word.clone());
        }
        let chosen = |host: &&LabHost| words.is_empty() || words.iter().any(|word| host.is(word));
        Ok(self.hosts.iter().filter(chosen).collect())
    }
}

/// A bare-metal machine under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabHost {
    /// Its name: letters, digits, `-`, `_` and `.`; files are called by it.
    pub name: String,
    /// Words to select it by.
    pub tags: Vec<String>,
    /// How to log in.
    pub ssh: Ssh,
    /// How to switch it on and off; without it a host that hangs can't be brought back.
    pub power: Option<Power>,
    /// Where its console is heard; several may be given, the first is the record.
    pub consoles: Vec<ConsoleSource>,
    /// How a kernel is booted once.
    pub boot: Boot,
    /// What a site does with a host beside its kernel.
    pub hooks: Hooks,
    /// Who keeps others away.
    pub reservation: Reservation,
    /// Deadlines.
    pub limits: Limits,
}

impl LabHost {
    /// Whether `word` is its name or one of its tags.
    pub fn is(&self, word: &str) -> bool {
        self.name == word || self.tags.iter().any(|tag| tag == word)
    }
}

/// How to log in to a host. kgate needs to be root there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Name or address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// User, `root` by default.
    pub user: String,
    /// File with the private key; the user's own keys and agent when `None`.
    pub identity: Option<PathBuf>,
    /// What the host must prove to be.
    pub host_key: HostKey,
    /// Host to jump over, as `ssh -J` takes it.
    pub jump: Option<String>,
}

/// What a host must prove to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKey {
    /// These lines, such as `ssh-ed25519 AAAA…`, without a host name.
    Pinned(Vec<String>),
    /// A file in the format of `known_hosts`; the user's own when `None`.
    KnownHosts(Option<PathBuf>),
}

/// A secret, by where it is. Its value is never part of the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// Value of this environment variable.
    Env(String),
    /// First line of this file, which nobody but its owner may read (0600).
    File(PathBuf),
    /// First line of what this command prints.
    Command(String),
}

/// How a host is switched on and off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// A BMC that speaks Redfish.
    Redfish {
        /// Such as `https://bmc7.example`.
        url: String,
        /// Id of the system below `/redfish/v1/Systems`; the only one when `None`.
        system: Option<String>,
        /// User.
        user: String,
        /// Password.
        password: SecretRef,
        /// Whether to believe that it is the BMC.
        tls: Tls,
    },
    /// A BMC that speaks IPMI 2.0 over LAN, through `ipmitool`.
    Ipmi(Ipmi),
    /// The site's own command.
    Command(PowerCommands),
}

/// How a BMC is reached through `ipmitool -I lanplus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipmi {
    /// Name or address.
    pub address: String,
    /// UDP port, 623 by default.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password; given to `ipmitool` by environment.
    pub password: SecretRef,
    /// Cipher suite, `ipmitool`'s own default when `None`.
    pub cipher_suite: Option<u8>,
}

/// Whether to believe that a BMC is what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// By the system's authorities.
    System,
    /// By the authorities in this PEM file.
    Ca(PathBuf),
    /// The SHA-256 of its certificate (DER) is this.
    Pinned([u8; 32]),
    /// Whoever answers.
    Insecure,
}

/// Shell commands on the controller, each given `KGATE_HOST`; what isn't there can't be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerCommands {
    /// Prints `on` or `off`.
    pub state: Option<String>,
    /// Switches on.
    pub on: Option<String>,
    /// Switches off at once.
    pub off: Option<String>,
    /// Asks the operating system to switch off.
    pub soft_off: Option<String>,
    /// Resets.
    pub reset: Option<String>,
    /// Off and on again.
    pub cycle: Option<String>,
    /// Sends an NMI.
    pub nmi: Option<String>,
    /// Makes the next boot, and only that, one from the network.
    pub pxe_once: Option<String>,
}

/// Where a console is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleSource {
    /// Serial over LAN by IPMI.
    Sol(Ipmi),
    /// A TCP port of a serial server.
    Tcp {
        /// Name or address.
        address: String,
        /// Port.
        port: u16,
        /// It speaks telnet: its commands are answered and taken out.
        telnet: bool,
    },
    /// A console of a conserver.
    Conserver {
        /// Name or address of the conserver.
        server: String,
        /// Its port, 782 by default.
        port: u16,
        /// Name of the console there.
        console: String,
    },
    /// What a command prints.
    Command(String),
    /// Messages that the host's kernel sends over UDP.
    Netconsole {
        /// Port of the controller.
        port: u16,
        /// The controller's address as the host reaches it.
        address: String,
        /// Interface of the host that sends.
        device: String,
    },
}

/// How a kernel is booted once, and production after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Who chooses the kernel.
    pub method: BootMethod,
    /// Where kgate keeps its own files on the host's root file system.
    pub directory: PathBuf,
    /// Added to the command line of staged kernels: console, panic and what the site needs. kgate adds
    /// `panic=` where it is missing.
    pub command_line: Vec<String>,
    /// Root of the host as the kernel is told; as production was told when `None`.
    pub root: Option<String>,
    /// What the initrd loads before it mounts the root, beside what is found out on the host.
    pub initrd_modules: Vec<String>,
    /// Which modules of a kernel are staged.
    pub modules: Modules,
    /// A watchdog in the host reboots it into production when the controller was not heard of for so
    /// long.
    pub guard: Duration,
}

/// Which modules of a kernel are put on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// All.
    All,
    /// Those that production has loaded, those that the scenarios need, and what they depend on.
    Needed,
}

/// Who chooses the kernel of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootMethod {
    /// GRUB, by an entry that is booted once.
    Grub {
        /// Directory of `grub.cfg` and `grubenv`; `/boot/grub` or `/boot/grub2`, whichever there is,
        /// when `None`.
        directory: Option<PathBuf>,
        /// Id or title of the production entry; what `saved_entry` says when `None`.
        production: Option<String>,
    },
    /// The production kernel, by kexec: firmware and boot loader see nothing of it.
    Kexec,
    /// The BMC, by a boot from the network that it is asked for once.
    Pxe {
        /// Directory of the controller that the site's server offers.
        directory: PathBuf,
        /// The iPXE script there that the host runs, such as `boot.ipxe` or `hosts/7.ipxe`.
        script: PathBuf,
        /// URL of the directory as the host reaches it, such as `tftp://10.0.2.2`.
        url: String,
    },
}

/// Shell commands around a host's work, each with its time limit. All get `KGATE_HOST`,
/// `KGATE_ADDRESS` and `KGATE_RUN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// On the controller, before anything: takes the traffic away.
    pub drain: Option<Hook>,
    /// On the controller, after it: takes the host out of production.
    pub take_out: Option<Hook>,
    /// On the host, after each boot of a kernel under test: succeeds when it is as it is to be. Tried
    /// again until its time is over.
    pub ready: Option<Hook>,
    /// On the host, when it is back on production: succeeds when it is as it is to be.
    pub production_ready: Option<Hook>,
    /// On the controller, when the host is verified to be back on production: puts it back.
    pub undrain: Option<Hook>,
}

/// A command with its time limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// For `sh -c`.
    pub command: String,
    /// It may take so long.
    pub timeout: Duration,
}

/// Who keeps others away from a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reservation {
    /// kgate's own lock, on the controller and on the host.
    #[default]
    Own,
    /// A place of a labgrid coordinator.
    Labgrid {
        /// Address of the coordinator with its port.
        coordinator: String,
        /// Name of the place.
        place: String,
    },
}

/// Deadlines of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From a reboot to a login.
    pub boot: Duration,
    /// For an orderly shutdown before a reset.
    pub shutdown: Duration,
    /// From an NMI to the reset after it.
    pub nmi: Duration,
    /// For an answer of the BMC.
    pub bmc: Duration,
}

impl Default for Limits {
    /// Those of a server whose firmware takes minutes.
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(600),
            shutdown: Duration::from_secs(60),
            nmi: Duration::from_secs(30),
            bmc: Duration::from_secs(30),
        }
    }
}

/// State of a lab host that changes what it measures, by name, such as `governor` to `performance on
/// 64 CPUs`.
pub type Conditions = BTreeMap<String, String>;
