//! The inventory of a lab as its file says it, when its defaults are under each host and what is
//! written short is written out.

use std::borrow::Cow;
use std::time::Duration;

use kgate_model::inventory::Modules;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::Deserializer;

use super::List;
use crate::read::{Entries, Field, Many, Of};
use crate::texts::inventory::{
    Address, BootWord, DeviceName, Fingerprint, HostKeyLine, HostPath, JumpHosts, KernelArguments,
    LocalPath, PathBelow, Server, Shell, Tag, Url, UserName,
};
use crate::texts::{KernelArgument, Line, ModuleName, VariableName};

/// The inventory of a lab: the hosts that kgate may use, and how.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an inventory")]
#[schemars(extend("required" = ["hosts"]))]
pub(crate) struct Inventory {
    /// What holds for each host that doesn't say otherwise: maps are put together key by key; of anything else the host's own stands.
    pub(crate) defaults: Field<Host>,
    /// The hosts, by name.
    #[schemars(extend("minProperties" = 1))]
    pub(crate) hosts: Field<Entries<Host>>,
}

/// A bare-metal machine under test.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a host")]
pub(crate) struct Host {
    /// Words to select it by.
    pub(crate) tags: List<Tag>,
    /// How to log in, as root.
    pub(crate) ssh: Field<Ssh>,
    /// How it is switched on and off. Without it a host that hangs can't be brought back.
    pub(crate) power: Field<Power>,
    /// Where its console is heard, one or a list of which the first is the record.
    pub(crate) console: Field<Many<Short<Console>>>,
    /// How a kernel is booted once.
    pub(crate) boot: Field<Boot>,
    /// What the site does with a host beside its kernel.
    pub(crate) hooks: Field<Hooks>,
    /// Who keeps others away. Default: kgate's own lock.
    pub(crate) reservation: Field<Reservation>,
    /// Deadlines.
    pub(crate) limits: Field<HostLimits>,
}

/// How to log in, as root.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`ssh`")]
pub(crate) struct Ssh {
    /// Name or address. Default: the host's name.
    pub(crate) address: Field<Of<Address>>,
    /// Port. Default: 22.
    #[schemars(range(min = 1, max = 65_535))]
    pub(crate) port: Field<u64>,
    /// User. Default: root.
    pub(crate) user: Field<Of<UserName>>,
    /// File with the private key. Default: your own keys and agent.
    pub(crate) identity: Field<Of<LocalPath>>,
    /// The host's public key or keys, such as `ssh-ed25519 AAAA…`.
    pub(crate) host_key: Field<Many<Of<HostKeyLine>>>,
    /// File in the format of known_hosts, instead of host-key. Default: your own.
    pub(crate) known_hosts: Field<Of<LocalPath>>,
    /// Hosts to jump over, as `ssh -J` takes them.
    pub(crate) jump: Field<Of<JumpHosts>>,
}

/// How a host is switched on and off: exactly one of redfish, ipmi and command.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`power`")]
pub(crate) struct Power {
    /// URL of a BMC that speaks Redfish, such as https://bmc7.lab.
    pub(crate) redfish: Field<Of<Url>>,
    /// Name or address of a BMC that speaks IPMI 2.0; a port may follow.
    pub(crate) ipmi: Field<Of<Server>>,
    /// The site's own commands.
    pub(crate) command: Field<PowerCommands>,
    /// User of the BMC.
    pub(crate) user: Field<Of<UserName>>,
    /// The user's password, by where it is.
    pub(crate) password: Field<Secret>,
    /// Redfish: id of the system, where there are several.
    pub(crate) system: Field<Of<Tag>>,
    /// Redfish: PEM file with the authorities that the BMC's certificate is from. Default: the system's.
    pub(crate) ca: Field<Of<LocalPath>>,
    /// Redfish: SHA-256 of the BMC's certificate (DER), in hex.
    pub(crate) certificate_sha256: Field<Of<Fingerprint>>,
    /// Redfish: believe whoever answers.
    pub(crate) insecure: Field<bool>,
    /// IPMI: cipher suite. Default: that of ipmitool.
    #[schemars(range(min = 0, max = 255))]
    pub(crate) cipher_suite: Field<u64>,
}

/// Shell commands of the site, run beside the inventory's file with KGATE_HOST.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "power commands")]
pub(crate) struct PowerCommands {
    /// Prints on or off.
    pub(crate) state: Field<Of<Shell>>,
    /// Switches on.
    pub(crate) on: Field<Of<Shell>>,
    /// Switches off at once.
    pub(crate) off: Field<Of<Shell>>,
    /// Asks the operating system to switch off.
    pub(crate) soft_off: Field<Of<Shell>>,
    /// Resets.
    pub(crate) reset: Field<Of<Shell>>,
    /// Off and on again.
    pub(crate) cycle: Field<Of<Shell>>,
    /// Sends an NMI.
    pub(crate) nmi: Field<Of<Shell>>,
    /// Makes the next boot, and only that, one from the network.
    pub(crate) pxe_once: Field<Of<Shell>>,
}

/// Where a secret is: exactly one of env, file and command.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a secret")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct Secret {
    /// In this environment variable.
    pub(crate) env: Field<Of<VariableName>>,
    /// In the first line of this file, which nobody but its owner may read (chmod 600).
    pub(crate) file: Field<Of<LocalPath>>,
    /// In the first line that this shell command prints.
    pub(crate) command: Field<Of<Shell>>,
}

/// Where a console is heard: exactly one of sol, tcp, telnet, conserver, command and netconsole.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "a console")]
pub(crate) struct Console {
    /// Serial over LAN of this BMC, or true for the BMC that has the power.
    pub(crate) sol: Field<Of<Sol>>,
    /// A TCP port of a serial server, ADDRESS:PORT.
    pub(crate) tcp: Field<Of<Server>>,
    /// The same, with telnet spoken.
    pub(crate) telnet: Field<Of<Server>>,
    /// Name or address of a conserver; a port may follow.
    pub(crate) conserver: Field<Of<Server>>,
    /// A shell command that prints it.
    pub(crate) command: Field<Of<Shell>>,
    /// ADDRESS:PORT of the controller, as the host reaches it, to which the host's kernel sends its messages by UDP. Default port: 6666.
    pub(crate) netconsole: Field<Of<Server>>,
    /// Sol: user of the BMC. Default: that of power.
    pub(crate) user: Field<Of<UserName>>,
    /// Sol: the user's password. Default: that of power.
    pub(crate) password: Field<Secret>,
    /// Sol: cipher suite. Default: that of power.
    #[schemars(range(min = 0, max = 255))]
    pub(crate) cipher_suite: Field<u64>,
    /// Conserver: name of the console there. Default: the host's name.
    pub(crate) name: Field<Of<Tag>>,
    /// Netconsole: interface of the host that sends.
    pub(crate) device: Field<Of<DeviceName>>,
}

/// Whose serial over LAN.
pub(crate) enum Sol {
    /// Of the BMC that has the power.
    OfPower,
    /// Of this one.
    Of(Server),
}

/// How a kernel is booted once.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`boot`")]
pub(crate) struct Boot {
    /// Who chooses the kernel. Default: grub.
    pub(crate) method: Field<Of<BootWord>>,
    /// Where kgate keeps its files on the host's root file system. Default: /var/lib/kgate.
    pub(crate) directory: Field<Of<HostPath>>,
    /// Arguments of both kernels beside those of production, such as `console=ttyS1,115200 panic=10`.
    pub(crate) command_line: Field<Many<Of<KernelArguments>>>,
    /// The host's root as the kernel is told. Default: as production was told.
    pub(crate) root: Field<Of<KernelArgument>>,
    /// Modules that the root needs, beside those that are found out on the host.
    pub(crate) initrd_modules: List<ModuleName>,
    /// Which modules of a kernel are put on the host. Default: all.
    pub(crate) modules: Field<Of<Modules>>,
    /// A watchdog in the host reboots it into production when kgate was not heard of for so long. Default: 10m.
    pub(crate) guard: Field<Of<Duration>>,
    /// With method grub.
    pub(crate) grub: Field<Grub>,
    /// With method pxe.
    pub(crate) pxe: Field<Pxe>,
}

/// What GRUB is told.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`grub`")]
pub(crate) struct Grub {
    /// Directory of grub.cfg and grubenv. Default: /boot/grub or /boot/grub2, whichever there is.
    pub(crate) directory: Field<Of<HostPath>>,
    /// Id or title of the production entry. Default: what saved_entry says.
    pub(crate) production: Field<Of<Line>>,
}

/// What is offered over the network.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`pxe`")]
#[schemars(extend("required" = ["directory", "script", "url"]))]
pub(crate) struct Pxe {
    /// Directory of the controller that the site's server offers.
    pub(crate) directory: Field<Of<LocalPath>>,
    /// The iPXE script there that the host runs, such as hosts/7.ipxe.
    pub(crate) script: Field<Of<PathBelow>>,
    /// URL of the directory as the host reaches it, such as http://10.0.0.1/kgate.
    pub(crate) url: Field<Of<Url>>,
}

/// Shell commands around a host's work, each with KGATE_HOST, KGATE_ADDRESS and KGATE_RUN.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`hooks`")]
pub(crate) struct Hooks {
    /// On the controller, before anything: takes the traffic away.
    pub(crate) drain: Field<Short<Hook>>,
    /// On the controller, after it: takes the host out of production.
    pub(crate) take_out: Field<Short<Hook>>,
    /// On the host, after each boot of a kernel under test: succeeds when all is ready. Tried again until its time is over.
    pub(crate) ready: Field<Short<Hook>>,
    /// On the host, back on production: succeeds when all is ready. Tried again until its time is over.
    pub(crate) production_ready: Field<Short<Hook>>,
    /// On the controller, when the host is verified to be back on production: puts it back.
    pub(crate) undrain: Field<Short<Hook>>,
}

/// A command with its time limit.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a hook")]
#[schemars(extend("required" = ["run"]))]
pub(crate) struct Hook {
    /// Text for sh -c.
    pub(crate) run: Field<Of<Shell>>,
    /// It may take so long. Default: 5m.
    pub(crate) timeout: Field<Of<Duration>>,
}

/// A place of a labgrid coordinator.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`reservation`")]
#[schemars(extend("required" = ["labgrid"]))]
pub(crate) struct Reservation {
    /// Name or address of the coordinator; a port may follow. Default port: 20408.
    pub(crate) labgrid: Field<Of<Server>>,
    /// Name of the place there. Default: the host's name.
    pub(crate) place: Field<Of<Tag>>,
}

/// Deadlines of a host.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`limits`")]
pub(crate) struct HostLimits {
    /// From a reboot to a login. Default: 10m.
    pub(crate) boot: Field<Of<Duration>>,
    /// For an orderly shutdown before a reset. Default: 1m.
    pub(crate) shutdown: Field<Of<Duration>>,
    /// From an NMI to the reset after it. Default: 30s.
    pub(crate) nmi: Field<Of<Duration>>,
    /// For an answer of the BMC. Default: 30s.
    pub(crate) bmc: Field<Of<Duration>>,
}

/// A map that may be written as one piece of text. It has been written out when it is read.
pub(crate) struct Short<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Short{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, long] })
    }
}
