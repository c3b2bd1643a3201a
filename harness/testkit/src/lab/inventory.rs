//! The stand-in as an entry of a lab's inventory, as types and as the text of `lab.yaml`.

use std::path::PathBuf;
use std::time::Duration;

use kgate_model::inventory::{
    Boot as BootOf, BootMethod, ConsoleSource, Hooks, HostKey, Ipmi, LabHost, Limits, Modules,
    Power as PowerOf, PowerCommands, Reservation, SecretRef, Ssh, Tls,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Boot, Console, Power, StandIn, disk, peers};

/// Where kgate keeps its files on a stand-in.
const DIRECTORY: &str = "/var/lib/kgate";
const LOOPBACK: &str = "127.0.0.1";

impl StandIn {
    /// It as the types of an inventory have it.
    ///
    /// # Panics
    /// When its files can't be read.
    #[must_use]
    pub fn lab_host(&self) -> LabHost {
        LabHost {
            name: self.name().to_owned(),
            tags: vec!["stand-in".into()],
            ssh: Ssh {
                address: LOOPBACK.into(),
                port: self.ssh_port(),
                user: "root".into(),
                identity: Some(self.identity_file()),
                host_key: HostKey::Pinned(vec![self.host_key()]),
                jump: None,
            },
            power: Some(self.power_of()),
            consoles: vec![self.console_of()],
            boot: BootOf {
                method: self.method(),
                directory: DIRECTORY.into(),
                command_line: Vec::new(),
                root: None,
                initrd_modules: Vec::new(),
                modules: Modules::Needed,
                guard: Duration::from_secs(120),
            },
            hooks: Hooks::default(),
            reservation: Reservation::Own,
            limits: Limits {
                boot: Duration::from_secs(90),
                shutdown: Duration::from_secs(15),
                nmi: Duration::from_secs(15),
                bmc: Duration::from_secs(10),
            },
        }
    }

    fn power_of(&self) -> PowerOf {
        match self.setup.power {
            Power::Redfish => PowerOf::Redfish {
                url: self.redfish_url(),
                system: None,
                user: peers::USER.into(),
                password: SecretRef::File(self.password_file()),
                tls: Tls::Pinned(self.certificate_sha256()),
            },
            Power::Ipmi => PowerOf::Ipmi(self.ipmi()),
            Power::Command => {
                let press = |verb: &str| Some(format!("{} {verb}", self.button().display()));
                PowerOf::Command(PowerCommands {
                    state: press("status"),
                    on: press("on"),
                    off: press("off"),
                    soft_off: press("soft"),
                    reset: press("reset"),
                    cycle: press("cycle"),
                    nmi: press("nmi"),
                    pxe_once: press("boot pxe once"),
                })
            }
        }
    }

    fn console_of(&self) -> ConsoleSource {
        match self.setup.console {
            Console::Tcp => ConsoleSource::Tcp {
                address: LOOPBACK.into(),
                port: self.serial_port(),
                telnet: false,
            },
            Console::Sol => ConsoleSource::Sol(self.ipmi()),
            Console::Conserver => ConsoleSource::Conserver {
                server: LOOPBACK.into(),
                port: self.peers.borrow().conserver.as_ref().map_or(0, |peer| peer.port),
                console: self.name().to_owned(),
            },
            Console::Command => {
                let port = self.serial_port();
                ConsoleSource::Command(format!("bash -c 'exec cat </dev/tcp/{LOOPBACK}/{port}'"))
            }
        }
    }

    fn method(&self) -> BootMethod {
        match self.setup.boot {
            Boot::Grub => BootMethod::Grub { directory: None, production: None },
            Boot::Kexec => BootMethod::Kexec,
            Boot::Pxe => BootMethod::Pxe {
                directory: self.tftp_dir(),
                script: "boot.ipxe".into(),
                url: "tftp://10.0.2.2".into(),
            },
        }
    }

    /// Its BMC for `ipmitool`; port 0 when it has none.
    #[must_use]
    pub fn ipmi(&self) -> Ipmi {
        Ipmi {
            address: LOOPBACK.into(),
            port: self.peers.borrow().ipmi.as_ref().map_or(0, |peer| peer.port),
            user: peers::USER.into(),
            password: SecretRef::File(self.password_file()),
            // The only one that `ipmi_sim` has.
            cipher_suite: Some(3),
        }
    }

    /// Its BMC for Redfish; port 0 when it has none.
    #[must_use]
    pub fn redfish_url(&self) -> String {
        let port = self.peers.borrow().redfish.as_ref().map_or(0, |peer| peer.port);
        format!("https://{LOOPBACK}:{port}")
    }

    /// The certificate of its BMC, which is its own authority.
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.made.dir.join("bmc.pem")
    }

    /// SHA-256 of that certificate in DER.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn certificate_sha256(&self) -> [u8; 32] {
        let der = std::fs::read(self.made.dir.join("bmc.der")).expect("a certificate");
        Sha256::digest(der).into()
    }

    /// The password of its BMC's user `admin`, in a file that only its owner may read.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        self.dir().join("bmc-password")
    }

    /// What it offers by TFTP as `tftp://10.0.2.2`; it runs `boot.ipxe` when it starts from the network.
    #[must_use]
    pub fn tftp_dir(&self) -> PathBuf {
        self.dir().join("tftp")
    }

    /// The command that presses its buttons.
    #[must_use]
    pub fn button(&self) -> PathBuf {
        self.dir().join("power")
    }

    /// The kernel's command line of production as its boot loader has it, without image and root.
    #[must_use]
    pub fn production_command_line(&self) -> &'static str {
        disk::COMMAND_LINE
    }
}

/// The text of a `lab.yaml` with these hosts.
#[must_use]
pub fn inventory(hosts: &[&StandIn]) -> String {
    let hosts: serde_json::Map<String, Value> =
        hosts.iter().map(|host| (host.name().to_owned(), entry(&host.lab_host()))).collect();
    // All JSON is YAML.
    format!("{:#}\n", json!({ "hosts": hosts }))
}

/// A host's entry. Only what stand-ins are is written.
fn entry(host: &LabHost) -> Value {
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let HostKey::Pinned(keys) = &host.ssh.host_key else { unreachable!("stand-ins are pinned") };
    json!({
        "tags": host.tags,
        "ssh": {
            "address": host.ssh.address, "port": host.ssh.port, "identity": host.ssh.identity,
            "host-key": keys,
        },
        "power": host.power.as_ref().map(power),
        "console": host.consoles.iter().map(console).collect::<Vec<_>>(),
        "boot": boot(&host.boot),
        "limits": {
            "boot": seconds(host.limits.boot), "shutdown": seconds(host.limits.shutdown),
            "nmi": seconds(host.limits.nmi), "bmc": seconds(host.limits.bmc),
        },
    })
}

fn power(power: &PowerOf) -> Value {
    match power {
        PowerOf::Redfish { url, user, password, tls, .. } => {
            let Tls::Pinned(digest) = tls else { unreachable!("stand-ins are pinned") };
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({
                "redfish": url, "user": user, "password": secret(password),
                "certificate-sha256": hex,
            })
        }
        PowerOf::Ipmi(ipmi) => bmc("ipmi", ipmi),
        PowerOf::Command(commands) => json!({ "command": {
            "state": commands.state, "on": commands.on, "off": commands.off,
            "soft-off": commands.soft_off, "reset": commands.reset, "cycle": commands.cycle,
            "nmi": commands.nmi, "pxe-once": commands.pxe_once,
        } }),
    }
}

fn console(console: &ConsoleSource) -> Value {
    match console {
        ConsoleSource::Sol(ipmi) => bmc("sol", ipmi),
        ConsoleSource::Tcp { address, port, telnet } => {
            let key = if *telnet { "telnet" } else { "tcp" };
            json!({ key: format!("{address}:{port}") })
        }
        ConsoleSource::Conserver { server, port, console } => {
            json!({ "conserver": format!("{server}:{port}"), "name": console })
        }
        ConsoleSource::Command(command) => json!({ "command": command }),
        ConsoleSource::Netconsole { port, address, device } => {
            json!({ "netconsole": format!("{address}:{port}"), "device": device })
        }
    }
}

fn boot(boot: &BootOf) -> Value {
    let method = match &boot.method {
        BootMethod::Grub { .. } => json!({ "method": "grub" }),
        BootMethod::Kexec => json!({ "method": "kexec" }),
        BootMethod::Pxe { directory, script, url } => json!({
            "method": "pxe",
            "pxe": { "directory": directory, "script": script, "url": url },
        }),
    };
    let modules = if boot.modules == Modules::All { "all" } else { "needed" };
    let guard = format!("{}s", boot.guard.as_secs());
    let mut all = json!({ "directory": boot.directory, "modules": modules, "guard": guard });
    if let (Value::Object(all), Value::Object(method)) = (&mut all, method) {
        all.extend(method);
    }
    all
}

fn bmc(key: &str, ipmi: &Ipmi) -> Value {
    json!({
        key: format!("{}:{}", ipmi.address, ipmi.port), "user": ipmi.user,
        "password": secret(&ipmi.password), "cipher-suite": ipmi.cipher_suite,
    })
}

fn secret(secret: &SecretRef) -> Value {
    let SecretRef::File(file) = secret else { unreachable!("stand-ins have files") };
    json!({ "file": file })
}
